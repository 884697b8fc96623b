"""The miniature of LongLLaDA's Figure 1: perplexity and retrieval beyond the trained context.

    python ppl/figure1.py --output results/figure1          # or: python -m benchmarks.figure1

For a diffusion checkpoint, a causal one and one that is causal between blocks, on the left
perplexity against context up to 16 times the trained length, on the right the scores of needles by
depth at 2 and 4 times that length. The
needles run through lm-eval as the demo's do; the curves go on where an earlier call stopped.
Writes figure1.png, figure1.svg and figure1.json, and says in numbers what was measured.

Single chunks of 64 tokens differ by what they say. So the perplexity around a length is the
geometric mean over the scored chunks that end in the last quarter before it. Beside it stands that
of all text up to the length, the measure of LongLLaDA's figure, which is slower to show
where flatness ends.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.cli.demo import write_tasks
from lm_eval_llada.curves.run import CurveOptions, CurveRun, run_curve
from lm_eval_llada.errors import require_whole
from lm_eval_llada.harness.processes import run_evaluations
from lm_eval_llada.modeling import load_config
from lm_eval_llada.report.cells import NeedleScores
from lm_eval_llada.report.curve_picture import draw_curves
from lm_eval_llada.report.curves import Series, read_curves
from lm_eval_llada.report.figures import new_figure, save_figure
from lm_eval_llada.report.needles import newest_needles
from lm_eval_llada.tasks.perplexity.scores import safe_exp

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEEDLE_MULTIPLES = (2, 4)
# Of colours and dashes as in the curves: a model has one colour on both sides.
_COLOURS = {"diffusion": "#0072B2", "causal": "#D55E00", "block": "#009E73"}
_ROLES = {"diffusion": "diffusion", "causal": "causal", "block": "block-causal"}
_MODELS = {"diffusion": "llada", "causal": "hf_rope", "block": "llada"}
_STYLES = (("-", "o"), ("--", "^"))
_CHUNK_LENGTH = 64
_MEASURES = {"around": "around a length", "up_to": "of all text up to a length"}


@dataclass(frozen=True)
class FigureOptions:
    """What the figure shows.

    Attributes:
        diffusion: Checkpoint of the masked diffusion model.
        block: Checkpoint of one that is causal between blocks.
        causal: Checkpoint of the causal one.
        output: Folder for everything.
        text: See `data.texts.read_documents`.
        data_dir: The same.
        multiple: The longest context, in trained lengths of the diffusion model; a power of two.
        points: Chunks scored by the ELBO and by the causal model.
        duel_points: Chunks scored by DUEL, whose passes are 8 times as many; 0 leaves it out.
        mc_num: Masks drawn for a chunk.
        repeats: Needles for each length and depth.
    """

    diffusion: str = "tiny-llada"
    block: str = "tiny-block"
    causal: str = "tiny-llama"
    output: Path = Path("results/figure1")
    text: str = "heldout"
    data_dir: str | None = None
    multiple: int = 16
    points: int = 48
    duel_points: int = 8
    mc_num: int = 8
    repeats: int = 5

    def __post_init__(self) -> None:
        """Check what can be checked before anything runs.

        Raises:
            ValueError: If a checkpoint does not exist or a number is out of range.
        """
        for role in _MODELS:
            resolve_checkpoint(getattr(self, role))
        for name in ("points", "mc_num", "repeats"):
            require_whole(name, getattr(self, name), 1)
        require_whole("duel_points", self.duel_points, 0)
        require_whole("multiple", self.multiple, 2)
        if self.multiple & (self.multiple - 1):
            raise ValueError(f"multiple must be a power of two; got {self.multiple}.")


def measure_curves(options: FigureOptions, train_length: int) -> list[Series]:
    """Measure or complete the curves, and read them: bounds, the causal model's, DUEL."""
    wanted = [
        ("elbo", "diffusion", options.points),
        ("causal", "causal", options.points),
        ("elbo", "block", options.points),
        ("duel", "diffusion", options.duel_points),
    ]
    result = []
    for estimator, role, points in wanted:
        if points:
            path = run_curve(_curve_run(options, estimator, role, points, train_length), _say)
            label = f"{_name(options, role)} ({_ROLES[role]}), {estimator}"
            result += [
                dataclasses.replace(one, source=role, label=label) for one in read_curves([path])
            ]
    return result


def measure_needles(options: FigureOptions, train_length: int) -> dict[str, NeedleScores]:
    """Run the needles of both models through lm-eval, side by side, and read their scores.

    Raises:
        RuntimeError: If an evaluation fails; the message ends with the last lines of its log.
    """
    lengths = [multiple * train_length for multiple in NEEDLE_MULTIPLES]
    folder = options.output / "needles"
    write_tasks(folder / "tasks", dict.fromkeys(lengths, options.repeats))
    arguments = {
        role: [
            *("--model", model),
            *("--model_args", f"pretrained={getattr(options, role)}"),
            *("--tasks", str(folder / "tasks")),
            *("--output_path", str(folder / role)),
        ]
        for role, model in _MODELS.items()
    }
    run_evaluations(arguments, folder)
    return {role: newest_needles(folder / role, _name(options, role)) for role in _MODELS}


def measured(
    curves: Sequence[Series], needles: dict[str, NeedleScores], train_length: int, multiple: int
) -> dict[str, Any]:
    """Return the numbers of the figure, as they go into its JSON file.

    Args:
        curves: From `measure_curves`.
        needles: From `measure_needles`.
        train_length: Trained context of the diffusion model in tokens.
        multiple: The longest context in trained lengths.
    """
    lengths = [train_length * 2**power for power in range(multiple.bit_length())]
    perplexities: dict[str, dict[str, Any]] = {}
    for series in curves:
        if series.estimator != "duel":  # too few chunks for a mean around a length
            perplexities[series.source] = {
                measure: _relative(nats_of, lengths, train_length)
                for measure, nats_of in (("around", series.around), ("up_to", series.up_to))
            }
    scores = {
        role: {
            str(length): {str(depth): run.score(length, depth) for depth in run.depths}
            for length in run.lengths
        }
        for role, run in needles.items()
    }
    return {"train_length": train_length, "perplexity": perplexities, "needles": scores}


def _relative(
    nats_of: Callable[[int], float], lengths: Sequence[int], train_length: int
) -> dict[str, Any]:
    """Perplexity at each length, and how many times that at the trained one."""
    at_trained = nats_of(train_length)
    return {
        str(length): {
            "perplexity": safe_exp(nats_of(length)),
            "times_that_at_trained_length": safe_exp(nats_of(length) - at_trained),
        }
        for length in lengths
    }


def describe(numbers: dict[str, Any]) -> str:
    """Return the numbers as lines of text, and nothing that is not in them."""
    lines = [f"Trained on contexts of {numbers['train_length']:,} tokens."]
    for role, by_measure in numbers["perplexity"].items():
        for measure, by_length in by_measure.items():
            cells = [
                f"{int(length):,}: {cell['perplexity']:,.4g} "
                f"({cell['times_that_at_trained_length']:.2f}x)"
                for length, cell in by_length.items()
            ]
            lines.append(f"Perplexity {_MEASURES[measure]}, {role}: {', '.join(cells)}")
    for role, by_length in numbers["needles"].items():
        for length, by_depth in by_length.items():
            cells = [f"{depth}%: {score:.0f}" for depth, score in by_depth.items()]
            lines.append(f"Needles at {int(length):,}, {role}: {', '.join(cells)}")
    return "\n".join(lines)


def draw(
    curves: Sequence[Series], needles: dict[str, NeedleScores], options: FigureOptions
) -> None:
    """Write figure1.png and figure1.svg.

    Args:
        curves: From `measure_curves`.
        needles: From `measure_needles`.
        options: See `FigureOptions`.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure = new_figure(13.0, 5.6)
    left, right = figure.subplots(1, 2)
    draw_curves(left, curves)
    left.set_title("Perplexity against context length")
    _draw_needles(right, needles)
    for axes in (left, right):
        # Below, where it hides no line.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False, ncols=2)
    *names, last = (_name(options, role) for role in _COLOURS)
    figure.suptitle(
        f"{', '.join(names)} and {last} beyond their trained context", fontweight="bold"
    )
    save_figure(figure, options.output, "figure1")


def make_figure(options: FigureOptions) -> None:
    """Measure, draw and describe.

    Raises:
        ValueError: If an argument is wrong or the text is too short.
        RuntimeError: If an evaluation fails.
        ImportError: If matplotlib is not installed.
    """
    new_figure(1.0, 1.0)  # a missing matplotlib should show before minutes of work
    train_length = load_config(options.diffusion).train_length
    options.output.mkdir(parents=True, exist_ok=True)
    curves = measure_curves(options, train_length)
    needles = measure_needles(options, train_length)
    numbers = measured(curves, needles, train_length, options.multiple)
    arguments = {name: str(value) for name, value in dataclasses.asdict(options).items()}
    text = json.dumps({"options": arguments, **numbers}, indent=1)
    (options.output / "figure1.json").write_text(text + "\n", encoding="utf-8")
    draw(curves, needles, options)
    print(f"\n{describe(numbers)}\n\nPictures: {options.output / 'figure1'}.png, .svg")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 1 after one sentence on what went wrong."""
    defaults = FigureOptions.__dataclass_fields__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, kind in (
        *(
            ("diffusion", str),
            ("block", str),
            ("causal", str),
            ("output", Path),
            ("text", str),
            ("data_dir", str),
        ),
        *((n, int) for n in ("multiple", "points", "duel_points", "mc_num", "repeats")),
    ):
        parser.add_argument(f"--{name}", type=kind, default=defaults[name].default)
    try:
        make_figure(FigureOptions(**vars(parser.parse_args(argv))))
    except (ValueError, OSError, RuntimeError, ImportError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _curve_run(
    options: FigureOptions, estimator: str, role: str, points: int, train_length: int
) -> CurveRun:
    return CurveRun(
        model=_MODELS[role],
        model_args={"pretrained": getattr(options, role), "dtype": "float32"},
        text=options.text,
        options=CurveOptions(
            context=options.multiple * train_length,
            chunk_length=_CHUNK_LENGTH,
            num_points=points,
            estimators=(estimator,),
            mc_num=options.mc_num,
        ),
        output=options.output / f"{'block' if role == 'block' else estimator}.jsonl",
        data_dir=options.data_dir,
    )


def _draw_needles(axes: Axes, needles: dict[str, NeedleScores]) -> None:
    for role, run in needles.items():
        for length, (dashes, marker) in zip(run.lengths, _STYLES, strict=False):
            axes.plot(
                run.depths,
                [run.mean(length, depth, depth) for depth in run.depths],
                color=_COLOURS[role],
                linestyle=dashes,
                marker=marker,
                markersize=4,
                label=f"{run.label} ({_ROLES[role]}), {length:,} tokens",
            )
    axes.set_title("Needles found by depth")
    axes.set_xlabel("depth of the needle (%), 100 is the end of the context")
    axes.set_ylabel("score (0-100)")
    axes.set_ylim(-3, 103)
    axes.grid(alpha=0.25)


def _name(options: FigureOptions, role: str) -> str:
    return Path(str(getattr(options, role))).name


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
