"""The command ``demo``: needles at every depth on a shipped model, with and without NTK scaling.

It writes a task file for each length and runs two evaluations of them through the command line of
the package, one process each. It then prints a length x depth table for either, says in two
sentences what they show, and draws their heatmaps into one picture. All of that is computed from
the two result files.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.errors import require_whole
from lm_eval_llada.harness.processes import run_evaluations
from lm_eval_llada.report.cells import NeedleScores
from lm_eval_llada.report.heatmap import save_heatmaps
from lm_eval_llada.report.needles import newest_needles
from lm_eval_llada.report.tables import FRONTIER_NOTE, depth_table
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

_TASK_FOLDER = "tasks"
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


def write_tasks(folder: Path, repeats: Mapping[int, int]) -> None:
    """Fill a folder with one task file for each length, in place of those of an earlier demo.

    Args:
        folder: Made as needed.
        repeats: Needles for each depth, by context length in tokens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("niah_demo_*.yaml"):
        old.unlink()
    # A JSON string is a YAML string too, whatever the path is made of.
    shared = json.dumps(str(grids_path() / "_niah.yaml"))
    for length, count in repeats.items():
        text = _TASK.format(shared=shared, length=length, repeats=count)
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


def describe(unscaled: NeedleScores, scaled: NeedleScores) -> str:
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
    """
    started = time.monotonic()
    labels = {
        "unscaled": "unscaled",
        "ntk": f"rope_method=ntk, target_length={options.target}",
    }
    evaluations = {
        name: evaluation_arguments(options, name, scaled=name == "ntk") for name in labels
    }
    write_tasks(options.output / _TASK_FOLDER, dict.fromkeys(options.lengths, options.repeats))
    run_evaluations(evaluations, options.output)
    runs = [newest_needles(options.output / name, label) for name, label in labels.items()]
    for run in runs:
        print(f"\n{depth_table(run)}")
    print(f"\n{FRONTIER_NOTE}\n\n{describe(*runs)}\n")
    title = f"{Path(options.pretrained).name}: needles found by context length and depth"
    try:
        picture = str(save_heatmaps(runs, options.output / "heatmaps.png", title))
    except ImportError as error:
        picture = f"none. {error}"
    print(f"Picture: {picture}   Time: {time.monotonic() - started:.0f} s")


def add_parser(subparsers: Any) -> None:
    """Add the command to what ``add_subparsers`` returned."""
    defaults = DemoOptions()
    help_text = "Find needles at every depth, with and without NTK scaling of RoPE"
    parser = subparsers.add_parser(
        "demo",
        help=help_text,
        description=help_text,
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
    parser.set_defaults(func=_run)


def _run(namespace: argparse.Namespace) -> None:
    options = DemoOptions(
        pretrained=namespace.pretrained,
        lengths=tuple(namespace.lengths),
        repeats=namespace.repeats,
        target_length=namespace.target_length,
        output=namespace.output,
    )
    try:
        run_demo(options)
    except RuntimeError as error:
        # As it is: it ends with lines of a log.
        print(f"lm-eval-llada: error: {error}", file=sys.stderr)
        raise SystemExit(1) from error


def _halves(run: NeedleScores) -> tuple[float, float]:
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
