"""Measures how long the samples of every RULER task take to make.

    python -m benchmarks.ruler_generation --length 32768 --data-dir <folder>

Each task first makes one sample, which reads its corpus and fills every cache, and then
`--num-samples` more. Time is CPU time of this process, so that other work on the machine counts
little; tokenizing a text uses one thread. What limits it is the tokenizer: a sample is
encoded as a whole three to five times until one more unit does not fit. The column `100 samples`
adds the first sample's surplus to a hundred times the mean of the others. Slack is the part of the
length that is left over. `--data-dir` holds `needlebench/` and `ruler/`; without it the seven tasks
that need a corpus ask the hub. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import tokenizers

from lm_eval_llada import __version__
from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.tasks.grid import shipped_configs
from lm_eval_llada.tasks.ruler.options import RULER_TASKS
from lm_eval_llada.tasks.ruler.samples import build_ruler

PUBLISHED_SAMPLES = 100


@dataclass(frozen=True)
class Row:
    """What was measured of one task.

    Attributes:
        task: Its name.
        first: CPU seconds of the first sample, corpus included.
        each: CPU seconds of each further sample.
        whole: CPU seconds of `PUBLISHED_SAMPLES`.
        units: Mean number of units in a sample.
        slack: Mean tokens left over.
    """

    task: str
    first: float
    each: float
    whole: float
    units: float
    slack: float


def measure(tokenizer: Any, task: str, arguments: argparse.Namespace) -> Row:
    """Make the samples of a task, once for the caches and once for the clock."""
    options = {
        "task": task,
        "length": arguments.length,
        "gen_length": shipped_configs()["ruler"][f"ruler_{task}_4k"]["generation_kwargs"][
            "gen_length"
        ],
        "data_dir": arguments.data_dir,
        "seed": arguments.seed,
    }
    start = time.process_time()
    build_ruler(tokenizer, num_samples=1, **options)
    first = time.process_time() - start
    start = time.process_time()
    samples = build_ruler(tokenizer, num_samples=arguments.num_samples, **options)
    each = (time.process_time() - start) / len(samples)
    used = fmean(sample["num_tokens"] + sample["gen_length"] for sample in samples)
    return Row(
        task=task,
        first=round(first, 3),
        each=round(each, 4),
        whole=round(max(first - each, 0.0) + PUBLISHED_SAMPLES * each, 1),
        units=round(fmean(sample["num_units"] for sample in samples), 1),
        slack=round(arguments.length - used, 1),
    )


def print_row(cells: Sequence[object]) -> None:
    """Print one line of the table."""
    name, *numbers = cells
    print(f"{name!s:<16}" + "".join(f"{number!s:>14}" for number in numbers), flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=32768, help="tokens of a sample")
    parser.add_argument("--num-samples", type=int, default=PUBLISHED_SAMPLES)
    parser.add_argument("--tasks", nargs="+", choices=RULER_TASKS, default=list(RULER_TASKS))
    parser.add_argument("--pretrained", help="whose tokenizer counts (default: tiny-llada)")
    parser.add_argument("--data-dir", help="folder with needlebench/ and ruler/")
    parser.add_argument("--seed", type=int, default=2025)
    arguments = parser.parse_args()
    tokenizer = load_tokenizer(pretrained=arguments.pretrained)
    print_row(("task", "first (s)", "each (s)", "100 samples", "units", "slack"))
    rows = []
    for task in arguments.tasks:
        row = measure(tokenizer, task, arguments)
        rows.append(row)
        print_row((task, row.first, row.each, row.whole, f"{row.units:.0f}", f"{row.slack:.1f}"))
    total = round(sum(row.whole for row in rows), 1)
    print_row(("all", "", "", total))
    versions = {"lm_eval_llada": __version__, "tokenizers": tokenizers.__version__}
    print(
        json.dumps(
            {
                **vars(arguments),
                "cpu_seconds": total,
                "rows": [asdict(row) for row in rows],
                "python": platform.python_version(),
                "machine": platform.machine(),
                "versions": versions,
            }
        )
    )


if __name__ == "__main__":
    main()
