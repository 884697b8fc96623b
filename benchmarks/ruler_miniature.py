"""RULER in miniature: the papers' table, and diffusion against causal by kind of task.

    make ruler                 # or: python -m benchmarks.ruler_miniature --output results/ruler

Runs `ruler_tiny` (eight tasks of RULER's kinds at the trained context of 512 tokens, twice and
four times of it) with a diffusion model and its causal twin: unscaled, with NTK, and, for the
diffusion model, with diffusion-aware NTK. Prints the scores by kind and by task with 95 %
intervals, and the differences of the two models in standard errors, paired by sample. What has
been run is not run again; `lm-eval-llada report results/ruler` shows all of it.

The diffusion model keeps the prompt's keys and values (`--decoding cache=prompt`): the whole table
then takes minutes, where `--decoding ""`, which is exact, takes hours. Where several answers are
given that costs much (docs/speed.md), so that at the trained length there is an exact row as well,
and that row is what to compare the causal model with.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_eval_llada.harness.processes import run_evaluations
from lm_eval_llada.report.document import Section, number, signed, table
from lm_eval_llada.report.evaluations import Evaluation, model_arguments
from lm_eval_llada.report.files import find_files
from lm_eval_llada.report.kinds import difference, kind_of, kinds_section
from lm_eval_llada.report.reading import read_evaluations
from lm_eval_llada.report.terminal import to_text
from lm_eval_llada.report.verdicts import score_interval
from lm_eval_llada.tasks.statistics import NORMAL

TRAINED = 512
LENGTHS = (512, 1024, 2048)
KINDS = ("retrieval", "aggregation", "question answering")
"""Of tasks, in the order of the papers' NIAH, AGG and QA."""


@dataclass(frozen=True)
class Setting:
    """One row of the table at each length.

    Attributes:
        name: how the row is called.
        role: `diffusion` or `causal`.
        rope_method: what extends the context beyond the trained one; empty for nothing.
        is_exact: whether it is decoded exactly whatever `--decoding` says.
    """

    name: str
    role: str
    rope_method: str = ""
    is_exact: bool = False

    def runs_at(self, length: int, decoding: str) -> bool:
        """Inside the trained context nothing is scaled, and beyond it exact decoding takes long."""
        if self.is_exact:
            return length == TRAINED and bool(decoding)
        return length > TRAINED or not self.rope_method


SETTINGS = (
    Setting("exact", "diffusion", is_exact=True),
    Setting("unscaled", "diffusion"),
    Setting("NTK", "diffusion", "ntk"),
    Setting("diffusion-aware NTK", "diffusion", "diffusion_ntk"),
    Setting("causal, unscaled", "causal"),
    Setting("causal, NTK", "causal", "ntk"),
)


def command(setting: Setting, length: int, options: argparse.Namespace) -> list[str]:
    """Arguments of `lm-eval-llada` for a row at a length."""
    model_args = {"pretrained": getattr(options, setting.role), "dtype": options.dtype}
    if setting.rope_method:
        model_args |= {"rope_method": setting.rope_method, "target_length": str(length)}
    given = [f"{name}={value}" for name, value in model_args.items()]
    if setting.role == "diffusion" and options.decoding and not setting.is_exact:
        given.append(options.decoding)
    return [
        *("--model", "llada" if setting.role == "diffusion" else "hf_rope"),
        *("--model_args", ",".join(given)),
        *("--tasks", f"ruler_tiny_{length}"),
        *("--metadata", json.dumps({"num_samples": options.samples})),
        *("--output_path", str(_folder(setting, length, options)), "--log_samples"),
    ]


def measure(options: argparse.Namespace) -> None:
    """Run what is not there yet, what takes longest first so that all cores end together.

    Raises:
        ValueError: If a folder holds a run of another model.
        RuntimeError: If a run fails; the message ends with the last lines of its log.
    """
    there = read(options)
    missing = [
        (setting, length)
        for length in options.lengths
        for setting in SETTINGS
        if setting.runs_at(length, options.decoding) and (length, setting.name) not in there
    ]
    missing.sort(key=lambda run: (not run[0].is_exact, -run[1]))
    if missing:
        arguments = {_folder(s, n, options).name: command(s, n, options) for s, n in missing}
        run_evaluations(arguments, options.output)


def read(options: argparse.Namespace) -> dict[tuple[int, str], Evaluation]:
    """Each row's run by length and name, those that are there.

    Raises:
        ValueError: If a folder holds a run of another model.
    """
    found = {}
    for length in options.lengths:
        for setting in SETTINGS:
            folder = _folder(setting, length, options)
            runs = read_evaluations(find_files([folder])).evaluations if folder.exists() else ()
            if runs:
                _check_model(runs[0], getattr(options, setting.role), folder)
                found[length, setting.name] = runs[0]
    return found


def _check_model(run: Evaluation, asked: str, folder: Path) -> None:
    found = model_arguments(run.config).get("pretrained", asked)
    if found != asked:
        raise ValueError(
            f"{folder} holds a run of {found}, not of {asked}; give another --output, or "
            f"--diffusion and --causal as they were."
        )


def kinds_table(rows: dict[tuple[int, str], Evaluation]) -> Section:
    """Means by kind as in the papers, each with half of its 95 % interval."""
    header = ["tokens", "RoPE", "NIAH", "AGG", "QA", "average"]
    lines = [
        [f"{length:,}", name, *(_mean(run, kinds) for kinds in (*((k,) for k in KINDS), KINDS))]
        for (length, name), run in rows.items()
    ]
    return Section("Scores by kind, ± half of the 95 % interval", (table(header, lines),))


def tasks_table(rows: dict[tuple[int, str], Evaluation]) -> Section:
    """Scores by task, each with its 95 % interval."""
    names = list(dict.fromkeys(_short(task) for run in rows.values() for task in run.tasks))
    lines = []
    for (length, name), run in rows.items():
        cells = {_short(task): _with_interval(run, task) for task in run.tasks}
        lines.append([f"{length:,}", name, *(cells.get(task, "") for task in names)])
    return Section("Scores by task", (table(["tokens", "RoPE", *names], lines),))


def differences_table(rows: dict[tuple[int, str], Evaluation]) -> Section:
    """The diffusion model less its twin, task by task, in standard errors of paired samples."""
    pairs = {"exact": "causal, unscaled", "unscaled": "causal, unscaled", "NTK": "causal, NTK"}
    lines = []
    for (length, name), run in rows.items():
        twin = rows.get((length, pairs.get(name, "")))
        if twin is None:
            continue
        for task in run.tasks:
            change = difference(twin, run, task, "score")
            lines.append(
                [f"{length:,}", name, _short(task), number(change.second), number(change.first),
                 signed(change.value), number(change.stderr), change.in_errors]
            )  # fmt: skip
    header = ["tokens", "RoPE", "task", "diffusion", "causal", "difference", "standard error"]
    return Section("Diffusion against causal", (table([*header, "in errors"], lines),))


def _mean(run: Evaluation, kinds: Sequence[str]) -> str:
    of_kind = ((task, kind_of(task)) for task in run.tasks.values())
    found = [task for task, kind in of_kind if kind is not None and kind.name in kinds]
    if not found:
        return ""
    mean = math.fsum(task.score or 0.0 for task in found) / len(found)
    error = math.sqrt(math.fsum((task.stderr or 0.0) ** 2 for task in found)) / len(found)
    return f"{number(mean)} ± {number(NORMAL * error)}"


def _with_interval(run: Evaluation, task: str) -> str:
    interval = score_interval(run.tasks[task], run.samples.get(task, ()))
    span = f" [{interval[0]:.0f}, {interval[1]:.0f}]" if interval else ""
    return f"{number(run.tasks[task].score)}{span}"


def _short(task: str) -> str:
    return task.removeprefix("ruler_tiny_").rpartition("_")[0]


def _folder(setting: Setting, length: int, options: argparse.Namespace) -> Path:
    name = setting.name.replace(", ", "-").replace(" ", "-")
    folder: Path = options.output / f"{name}-{length}"
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 1 after one sentence on what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--diffusion", default="tiny-ruler")
    parser.add_argument("--causal", default="tiny-ruler-causal")
    parser.add_argument("--lengths", nargs="+", type=int, default=list(LENGTHS), choices=LENGTHS)
    parser.add_argument("--samples", type=int, default=30, help="of each task (30)")
    parser.add_argument(
        "--decoding",
        default="cache=prompt",
        help='of the diffusion model, as model arguments; "" is exact (cache=prompt)',
    )
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--output", type=Path, default=Path("results/ruler"))
    parser.add_argument("--table", action="store_true", help="print what is there and run nothing")
    options = parser.parse_args(argv)
    try:
        if not options.table:
            measure(options)
        rows = read(options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    sections = [kinds_table(rows), tasks_table(rows), differences_table(rows)]
    # Read together, runs that differ in decoding alone have names that say so.
    by_kind = kinds_section(read_evaluations(find_files([options.output])).evaluations)
    if by_kind is not None:
        sections.append(by_kind)
    print(to_text("RULER in miniature", sections))
    return 0


if __name__ == "__main__":
    sys.exit(main())
