"""The main job on a model that ships: needles at every depth, with and without NTK scaling.

It writes a task file for each length and runs two evaluations of them through the command line of
the package, one process each. It then prints a length x depth table for
either, draws their heatmaps into one picture and says in two sentences what they show. All of that
is computed from the two result files.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.errors import require_whole
from lm_eval_llada.report import (
    FRONTIER_NOTE,
    Run,
    depth_table,
    find_results,
    read_run,
    save_heatmaps,
)
from lm_eval_llada.tasks.grid import grids_path

# The answer is a number of five digits and a full stop, so eight tokens hold it.
_TASK = """\
include: {shared}
task: niah_demo_{length}
generation_kwargs:
  until: ["\\n"]
  do_sample: false
  gen_length: 8
  block_length: 8
  steps: 8
metadata:
  version: 1
  length: {length}
  repeats: {repeats}
"""

_COMMAND = (sys.executable, "-m", "lm_eval_llada")
_TASK_FOLDER = "tasks"
_POLL_SECONDS = 0.5
_REPORT_SECONDS = 20.0
_LOG_TAIL = 15
_MIDDLE = 50  # per cent of depth; from here on a needle is in the newer half
# Scores of the older and the newer half that differ by this much are called different.
_CLEAR_DIFFERENCE = 25.0


@dataclass(frozen=True)
class DemoOptions:
    """What the demo runs.

    Attributes:
        pretrained: Shipped model, folder or hub id.
        lengths: Context lengths in tokens, ascending.
        repeats: Needles for each length and depth.
        target_length: Context that NTK scaling aims at, in tokens; the longest length if None.
        output: Folder for results, logs and the picture.
    """

    pretrained: str = "tiny-llada"
    lengths: tuple[int, ...] = (256, 512, 1024)
    repeats: int = 5
    target_length: int | None = None
    output: Path = Path("results/demo")

    def __post_init__(self) -> None:
        """Check what can be checked before anything runs.

        Raises:
            ValueError: If a value cannot work.
        """
        resolve_checkpoint(self.pretrained)
        require_whole("repeats", self.repeats, 1)
        for length in self.lengths:
            require_whole("length", length, 1)
        if not self.lengths or list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError(f"lengths must ascend; got {list(self.lengths)}.")

    @property
    def target(self) -> int:
        """Context that NTK scaling aims at, in tokens."""
        return self.lengths[-1] if self.target_length is None else self.target_length


def write_tasks(options: DemoOptions, folder: Path) -> None:
    """Fill a folder with one task file for each length, in place of those of an earlier demo.

    Args:
        options: See ``DemoOptions``.
        folder: Made as needed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("niah_demo_*.yaml"):
        old.unlink()
    # A JSON string is a YAML string too, whatever the path is made of.
    shared = json.dumps(str(grids_path() / "_niah.yaml"))
    for length in options.lengths:
        text = _TASK.format(shared=shared, length=length, repeats=options.repeats)
        (folder / f"niah_demo_{length}.yaml").write_text(text, encoding="utf-8")


def evaluation_arguments(options: DemoOptions, name: str, *, scaled: bool) -> list[str]:
    """Arguments of ``lm-eval-llada`` for one of the two evaluations.

    Args:
        options: See ``DemoOptions``.
        name: Folder below the output where lm-eval writes its results.
        scaled: Whether RoPE is scaled by NTK.
    """
    rope = f",rope_method=ntk,target_length={options.target}" if scaled else ""
    return [
        *("--model", "llada"),
        *("--model_args", f"pretrained={options.pretrained}{rope}"),
        *("--tasks", str(options.output / _TASK_FOLDER)),
        *("--output_path", str(options.output / name)),
    ]


def run_evaluations(evaluations: Mapping[str, Sequence[str]], folder: Path) -> None:
    """Run evaluations side by side, each a process with its share of the cores and a log file.

    Args:
        evaluations: Arguments of ``lm-eval-llada`` by name.
        folder: Where ``<name>.log`` goes.

    Raises:
        RuntimeError: If one fails; the message ends with the last lines of its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Small matrices gain little from a second thread, so the cores go to the evaluations first.
    threads = max(1, (os.cpu_count() or 1) // len(evaluations))
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, arguments in evaluations.items():
            print(f"$ {shlex.join(['lm-eval-llada', *arguments])}", flush=True)
            with (folder / f"{name}.log").open("wb") as log:
                processes[name] = subprocess.Popen(
                    [*_COMMAND, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                )
        _wait(processes, folder)
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.terminate()
                process.wait()


def describe(unscaled: Run, scaled: Run) -> str:
    """Two sentences on what the two runs show at the longest length, from their scores alone.

    Raises:
        ValueError: If the unscaled run does not know its rope, hence not its trained context.
    """
    if unscaled.rope is None:
        raise ValueError(f"The results of {unscaled.label} do not say what its trained context is.")
    trained, longest = unscaled.rope.train_length, unscaled.lengths[-1]
    older, newer = _halves(unscaled)
    older_scaled, newer_scaled = _halves(scaled)
    inside = [
        f"{unscaled.mean(length):.0f} at {length:,}"
        for length in unscaled.lengths
        if length <= trained
    ]
    start = f"Trained on contexts of {trained:,} tokens, the unscaled model "
    if inside:
        start += f"scores {' and '.join(inside)} tokens, and at {longest:,} it "
    else:
        start += f"at {longest:,} tokens "
    scale = f" (λ = {scaled.rope.rope_scale:.2f})" if scaled.rope is not None else ""
    return (
        f"{start}scores {older:.0f} on needles in the older half of the context against "
        f"{newer:.0f} in the newer: {_verdict_on_depth(older, newer)}.\n"
        f"With {scaled.label}{scale} the same needles score {older_scaled:.0f} and "
        f"{newer_scaled:.0f}: {_verdict_on_scaling(older_scaled - older)}."
    )


def run_demo(options: DemoOptions) -> None:
    """Run both evaluations, print their tables and what they show, and draw the picture.

    Raises:
        RuntimeError: If an evaluation fails.
        ImportError: If matplotlib is not installed.
    """
    started = time.monotonic()
    names = ("unscaled", "ntk")
    evaluations = {
        name: evaluation_arguments(options, name, scaled=name == "ntk") for name in names
    }
    write_tasks(options, options.output / _TASK_FOLDER)
    run_evaluations(evaluations, options.output)
    runs = [read_run(find_results(options.output / name)[-1]) for name in names]
    for run in runs:
        print(f"\n{depth_table(run)}")
    print(f"\n{FRONTIER_NOTE}\n\n{describe(*runs)}\n")
    title = f"{Path(options.pretrained).name}: needles found by context length and depth"
    picture = save_heatmaps(runs, options.output / "heatmaps.png", title)
    print(f"Picture: {picture}   Time: {time.monotonic() - started:.0f} s")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the demo: 0, or 1 after one sentence on what went wrong.

    Args:
        argv: Arguments; those of the process if None.
    """
    arguments = _parser().parse_args(argv)
    try:
        run_demo(
            DemoOptions(
                pretrained=arguments.pretrained,
                lengths=tuple(arguments.lengths),
                repeats=arguments.repeats,
                target_length=arguments.target_length,
                output=arguments.output,
            )
        )
    except (ValueError, RuntimeError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    defaults = DemoOptions()
    parser = argparse.ArgumentParser(
        prog="python -m lm_eval_llada.cli.demo",
        description="Needles at every depth, with and without NTK scaling of RoPE.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--pretrained", default=defaults.pretrained, help="shipped model or folder")
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=list(defaults.lengths), help="context lengths"
    )
    parser.add_argument(
        "--repeats", type=int, default=defaults.repeats, help="needles for each length and depth"
    )
    parser.add_argument(
        "--target-length", type=int, help="context that NTK aims at; by default the longest length"
    )
    parser.add_argument("--output", type=Path, default=defaults.output, help="folder for results")
    return parser


def _wait(processes: Mapping[str, subprocess.Popen[bytes]], folder: Path) -> None:
    """Return once all processes have ended well, saying now and then how far they are."""
    started = reported = time.monotonic()
    while any(process.poll() is None for process in processes.values()):
        _check(processes, folder)
        time.sleep(_POLL_SECONDS)
        if time.monotonic() - reported >= _REPORT_SECONDS:
            reported = time.monotonic()
            for name in processes:
                last = _last_lines(folder / f"{name}.log", 1) or "starting"
                state = last if processes[name].poll() is None else "done"
                print(f"[{reported - started:4.0f} s] {name}: {state}", flush=True)
    _check(processes, folder)


def _check(processes: Mapping[str, subprocess.Popen[bytes]], folder: Path) -> None:
    """Raise a ``RuntimeError`` with the end of its log if a process has failed."""
    for name, process in processes.items():
        if process.poll():
            tail = _last_lines(folder / f"{name}.log", _LOG_TAIL)
            raise RuntimeError(f"the evaluation {name!r} failed; its log ends with:\n{tail}")


def _last_lines(log: Path, count: int) -> str:
    """The last lines of a log that are not empty; what a progress bar overwrote is left out."""
    lines = [
        line.rstrip("\r").rpartition("\r")[2].strip()
        for line in log.read_bytes().decode("utf-8", errors="replace").split("\n")
    ]
    return "\n".join([line for line in lines if line][-count:])


def _halves(run: Run) -> tuple[float, float]:
    """Mean scores of the depths under 50 % and from there on, at the longest length."""
    longest = run.lengths[-1]
    return run.mean(longest, high=_MIDDLE - 1), run.mean(longest, low=_MIDDLE)


def _verdict_on_depth(older: float, newer: float) -> str:
    if newer - older >= _CLEAR_DIFFERENCE:
        return "it perceives what is near and loses what is far"
    if older - newer >= _CLEAR_DIFFERENCE:
        return "it loses what is near, which local perception does not explain"
    return "depth makes no clear difference"


def _verdict_on_scaling(gain: float) -> str:
    if gain >= _CLEAR_DIFFERENCE:
        return f"scaling brings {gain:.0f} points back to the older half"
    if gain <= -_CLEAR_DIFFERENCE:
        return f"scaling costs the older half {-gain:.0f} points"
    return "scaling makes no clear difference to the older half"


if __name__ == "__main__":
    sys.exit(main())
