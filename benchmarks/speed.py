"""Measures how much time and memory the package saves, against plain loops and its own exact mode.

    python -m benchmarks.speed                          # all cases, 20 to 25 minutes on two cores
    python -m benchmarks.speed --only generation_p early_end
    python -m benchmarks.speed --table                  # what has been found
    python -m benchmarks.speed --fast_dllm FOLDER       # against their code, see `speed_peers`

Both sides of a case run in this process on the same weights, in turns, after a warm-up, in float32
on the CPU; time is the median of the repeats, the spread slowest less fastest as a share of it. The
plain loops are those of tests/helpers/plain_loops.py. A speed-up is printed only where the outputs
of both sides are equal, or, for an approximation, with its score beside it. Every case is printed,
those that got slower too; what is not met is said.

P is a random model with LLaDA-8B's proportions (8 layers, width 512, MLP 1536, vocabulary 4,608), V
the same with LLaDA's own vocabulary of 126,464, tiny the shipped `tiny-llada`. Tokens are those of
the answers: up to the end of a text for texts, the options for likelihoods. Forwards are calls of
the model, whatever the batch.

Peak memory is what a side adds to the resident set beyond what it holds once the weights have been
read. Each side has a fresh process for it, which runs fewer passes of the same shapes. It needs
Linux. What limits the benchmark: other work on the machine, and that a small model spends a larger
share of its time outside of matrix products than LLaDA-8B does.

The tables come first, then a line of JSON for each case, with what it was measured with. A line
goes into the file as soon as its case is done, in the place of an older one; --quick writes none.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks import speed_peers
from benchmarks.json_lines import read_records
from benchmarks.speed_cases import CASES
from benchmarks.speed_measure import Stopwatch, added_peak, make_row, peak_apart
from benchmarks.speed_models import Scale
from lm_eval_llada.checkpoints.provenance import machine, package_commit
from lm_eval_llada.errors import require_whole, unknown_choice
from lm_eval_llada.report.document import GAP, Table, number, table
from lm_eval_llada.report.terminal import aligned

OUTPUT = Path(__file__).resolve().parent / "results" / "speed.jsonl"
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
_RECORDED = ("clock", "repeats", "patience", "threads", "questions", "needles", "quick")
_QUICK = Scale(num_questions=8, num_needles=1, shrink=8)


def time_table(rows: Sequence[dict[str, Any]]) -> Table:
    """How long the sides took and what their outputs say, from rows of `make_row`."""
    header = ["case", "against", "s", "ours", "s", "spread", "speed-up", "target", "met", "outputs"]
    return table(header, [_time_cells(row) for row in rows])


def _time_cells(row: dict[str, Any]) -> list[str]:
    sides = [
        cell
        for side in row["sides"]
        for cell in (f"{side['label']} ({side['repeats']}x)", number(side["seconds"], 2))
    ]
    speed_up, target, most_memory = row["speed_up"], row["target"], row["most_memory"]
    told = "not told" if speed_up is None else f"{number(speed_up, 2)}x"
    wanted = GAP if target is None else f">= {target:g}x"
    if most_memory is not None:
        wanted += f", memory <= {most_memory:g}x"
    return [
        row["name"],
        *sides,
        f"{max(side['spread'] for side in row['sides']):.0%}",
        told if speed_up is None or speed_up >= 1 else f"{told} SLOWER",
        wanted,
        {None: GAP, True: "yes", False: "NO"}[row["is_met"]],
        row["outputs"],
    ]


def work_table(rows: Sequence[dict[str, Any]]) -> Table:
    """What the sides did, theirs / ours in each cell, from rows of `make_row`."""
    columns = {
        "forwards": ("num_forwards", 0, 1),
        "tokens/s": ("tokens_per_second", 1, 1),
        "tokens/forward": ("tokens_per_forward", 2, 1),
        "peak beyond weights (MiB)": ("peak_bytes", 1, 2**20),
    }
    lines = []
    for row in rows:
        cells = [
            " / ".join(number(side[key] / unit, digits) for side in row["sides"])
            for key, digits, unit in columns.values()
        ]
        lines.append([row["name"], *cells, f"{row['peak_memory_share']:.2f}", row["what"]])
    return table(["case", *columns, "share", "work"], lines)


def print_tables(rows: Sequence[dict[str, Any]]) -> None:
    """Print both tables, then each row as JSON."""
    for shown in (time_table(rows), work_table(rows)):
        right = [shown.is_numeric(column) for column in range(len(shown.header))]
        print(f"{aligned(shown.header, shown.rows, right)}\n")
    print("\n".join(map(json.dumps, rows)))


def run_cases(names: Sequence[str], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure cases one by one; each row says what it was measured with."""
    settings = {name: getattr(arguments, name) for name in _RECORDED}
    run = {**settings, "dtype": "float32", "machine": machine(), "commit": package_commit()}
    peaks = measure_peaks(names, arguments)
    stopwatch = Stopwatch(arguments.repeats, arguments.patience, CLOCKS[arguments.clock])
    for name in names:
        case = CASES[name](name, _scale(arguments))
        timings = stopwatch.time(case.baseline, case.ours)
        row = {**make_row(case, timings, peaks[name]), "run": run}
        print(*_time_cells(row), sep="  ", file=sys.stderr, flush=True)
        yield row


def write_rows(path: Path, rows: Mapping[str, dict[str, Any]]) -> None:
    """Write rows in the order of the cases."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{json.dumps(rows[name])}\n" for name in CASES if name in rows)
    path.write_text(text, encoding="utf-8")


def measure_peaks(names: Sequence[str], arguments: argparse.Namespace) -> dict[str, list[int]]:
    """Peak bytes beyond the weights of both sides of each case, all in processes of their own."""
    options = [f"--threads={arguments.threads}", f"--questions={arguments.questions}"]
    options += [f"--needles={arguments.needles}", *(["--quick"] if arguments.quick else [])]

    def measure(name: str) -> list[int]:
        commands = [["--peak-of", name, "--side", str(side), *options] for side in range(2)]
        return [peak_apart(Path(__file__), command) for command in commands]

    # Nothing is timed meanwhile, so that they may share the machine.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(names, pool.map(measure, names), strict=True))


def print_peak(name: str, side: int, scale: Scale) -> None:
    """Print the peak of one side, in bytes; for a process of its own."""
    case = CASES[name](name, scale)
    print(added_peak(case.model, (case.baseline, case.ours)[side].brief))


def _scale(arguments: argparse.Namespace) -> Scale:
    if arguments.quick:
        return _QUICK
    return Scale(num_questions=arguments.questions, num_needles=arguments.needles)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--patience", type=float, default=80.0, help="seconds after which a side is not repeated"
    )
    parser.add_argument("--questions", type=int, default=200, help="of each likelihood case")
    parser.add_argument("--needles", type=int, default=5, help="of each length and depth")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for a busy machine")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--quick", action="store_true", help="a trial; not comparable")
    parser.add_argument("--table", action="store_true", help="print what is there and run nothing")
    parser.add_argument("--peak-of", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--side", type=int, choices=(0, 1), help=argparse.SUPPRESS)
    speed_peers.add_arguments(parser)
    return parser


def main() -> None:
    """The command line."""
    arguments = _parser().parse_args()
    for name in ("repeats", "questions", "needles", "threads"):
        require_whole(name, getattr(arguments, name), 1)
    for name in arguments.only or ():
        if name not in CASES:
            raise unknown_choice("case", name, CASES)
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if arguments.llada or arguments.fast_dllm:
        speed_peers.run_peers(arguments)
        return
    if arguments.peak_of:
        print_peak(arguments.peak_of, arguments.side, _scale(arguments))
        return
    rows = {row["name"]: row for row in read_records(arguments.output)}
    if arguments.table:
        print_tables(list(rows.values()))
        return
    measured = []
    for row in run_cases(arguments.only or list(CASES), arguments):
        measured.append(row)
        if not arguments.quick:
            # At once, beside those of earlier runs: a case takes minutes.
            rows[row["name"]] = row
            write_rows(arguments.output, rows)
    print_tables(measured)


if __name__ == "__main__":
    main()
