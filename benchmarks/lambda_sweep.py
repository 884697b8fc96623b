"""Sweeps λ: which needles are found at each, and how near the frontier it predicts comes.

    python -m benchmarks.lambda_sweep --repeats 3 --output results/lambda_sweep

The counterpart of LongLLaDA's Figure 6 (arXiv 2506.14429) for a checkpoint of any size. Each
multiple of the trained context gives a context length, and the λ with which NTK aims at that
length; every λ meets every length, at depths 0, 10, ..., 100 %. Needles run through lm-eval, one
process for each λ. Its scores are kept as `results_<multiple>x.json`, and a sweep that was
interrupted goes on with the λ that are missing. The last steps draw all λ side by side and set the
predicted frontier beside the observed one, in `frontier.md` and `frontier.json`.

What limits it is the longest length: `steps` passes for each sample, and attention grows with the
square of the length; `--repeats 5 5 5 2` takes fewer samples there. With few repeats read rows
rather than cells.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.cli.demo import write_tasks
from lm_eval_llada.engine.argument_text import read_pairs
from lm_eval_llada.errors import require_whole
from lm_eval_llada.harness.processes import run_evaluations
from lm_eval_llada.modeling import load_config
from lm_eval_llada.report.cells import NeedleScores
from lm_eval_llada.report.document import Paragraph, Section, Table, number, signed, table
from lm_eval_llada.report.evaluations import model_arguments
from lm_eval_llada.report.figures import new_figure, save_figure
from lm_eval_llada.report.files import find_files
from lm_eval_llada.report.heatmap import draw_heatmaps
from lm_eval_llada.report.markdown import to_markdown
from lm_eval_llada.report.needles import frontier_caption, frontier_rows, newest_needles

_HALF = 50.0
_NOTE = (
    "Predicted is the depth from which needles should be found, 1 - T_extra(λ) / length, with the "
    "trained context for T_extra at λ = 1. Observed is the depth from which a step fits the scores "
    "best. The last crossing of 50 is interpolated between measured depths; below the shallowest "
    "one it is that depth, and - says that the newest needles score less than 50."
)


@dataclass(frozen=True)
class SweepOptions:
    """What is swept.

    Attributes:
        pretrained: Shipped model, folder or hub id.
        multiples: Of the trained context, ascending: the lengths, and the targets of λ. 1 stands
            for the unscaled model.
        repeats: Needles at each depth; one number for all lengths, or one for each.
        output: Folder for scores and tables.
        picture: Where the picture goes, without ending; `lambda_sweep` in `output` if None.
    """

    pretrained: str = "tiny-llada"
    multiples: tuple[int, ...] = (1, 2, 4, 8)
    repeats: tuple[int, ...] = (5,)
    output: Path = Path("results/lambda_sweep")
    picture: Path | None = None

    def __post_init__(self) -> None:
        """Check what can be checked before anything runs.

        Raises:
            ValueError: If the checkpoint does not exist or a number is out of range.
        """
        resolve_checkpoint(self.pretrained)
        for multiple in self.multiples:
            require_whole("multiple", multiple, 1)
        for repeats in self.repeats:
            require_whole("repeats", repeats, 1)
        if not self.multiples or list(self.multiples) != sorted(set(self.multiples)):
            raise ValueError(f"multiples must ascend; got {list(self.multiples)}.")
        if len(self.repeats) not in (1, len(self.multiples)):
            raise ValueError(
                f"repeats must be one number or {len(self.multiples)}, one for each length; got "
                f"{len(self.repeats)}."
            )
        if self.picture is not None and self.picture.suffix in (".png", ".svg"):
            raise ValueError(
                f"picture is a name without ending, for a .png and a .svg; got {self.picture}."
            )

    def plan(self, train_length: int) -> dict[int, int]:
        """Needles at each depth by length in tokens.

        Args:
            train_length: In tokens.
        """
        lengths = [multiple * train_length for multiple in self.multiples]
        repeats = self.repeats * (len(lengths) if len(self.repeats) == 1 else 1)
        return dict(zip(lengths, repeats, strict=True))

    def model_args(self, multiple: int, train_length: int) -> str:
        """Model arguments of the λ that aims at a multiple of the trained context.

        Args:
            multiple: One of `multiples`.
            train_length: In tokens.
        """
        target = multiple * train_length
        scaled = f",rope_method=ntk,target_length={target}" if multiple > 1 else ""
        return f"pretrained={self.pretrained}{scaled}"


def measure(options: SweepOptions) -> list[NeedleScores]:
    """Run the λ that have no scores yet, and read those of all.

    Raises:
        RuntimeError: If an evaluation fails; the message ends with the last lines of its log.
        ValueError: If there are scores of other settings.
    """
    train_length = load_config(options.pretrained).train_length
    plan = options.plan(train_length)
    options.output.mkdir(parents=True, exist_ok=True)
    runs = []
    for multiple in options.multiples:
        path = options.output / f"results_{multiple}x.json"
        model_args = options.model_args(multiple, train_length)
        if not path.exists():
            results = _evaluate(plan, model_args)
            path.write_text(json.dumps(trimmed(results), indent=1) + "\n", encoding="utf-8")
        check_settings(path, model_args, plan)
        runs.append(labelled(newest_needles(path, path.name)))
    return runs


def _evaluate(plan: Mapping[int, int], model_args: str) -> Mapping[str, Any]:
    """What lm-eval writes about one λ."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tasks(folder / "tasks", plan)
        arguments = [
            *("--model", "llada"),
            *("--model_args", model_args),
            *("--tasks", str(folder / "tasks")),
            *("--output_path", str(folder / "results")),
        ]
        run_evaluations({"needles": arguments}, folder)
        return find_files([folder / "results"]).results[-1].content


def trimmed(results: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of lm-eval's results that tables and pictures are made from, in their old places.

    What else there is describes the machine, its paths included. `lm-eval-llada report`
    reads what is left like the whole.
    """
    kept = ("length", "repeats", "version")
    return {
        "results": {
            task: {key: value for key, value in metrics.items() if isinstance(value, float)}
            for task, metrics in results["results"].items()
        },
        "configs": {
            task: {"metadata": {key: config["metadata"][key] for key in kept}}
            for task, config in results["configs"].items()
        },
        "n-samples": results["n-samples"],
        "config": {
            key: results["config"][key] for key in ("model", "model_args", "model_dtype", "rope")
        },
        **{key: results[key] for key in ("lm_eval_version", "transformers_version")},
        "total_evaluation_time_seconds": results["total_evaluation_time_seconds"],
    }


def check_settings(path: Path, model_args: str, plan: Mapping[int, int]) -> None:
    """Stop where kept scores were measured under other settings than those asked for.

    Args:
        path: A file as `trimmed` makes it.
        model_args: Those asked for.
        plan: The same: needles at each depth by length in tokens.

    Raises:
        ValueError: If a setting differs; the message names it with both values.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    tasks = [config["metadata"] for config in content["configs"].values()]
    wanted = {
        "model_args": model_arguments({"model_args": read_pairs(model_args, "--model_args")}),
        "repeats": dict(plan),
    }
    found = {
        "model_args": model_arguments(content["config"]),
        "repeats": {task["length"]: task["repeats"] for task in tasks},
    }
    for name, value in wanted.items():
        if found[name] != value:
            raise ValueError(
                f"{path} was measured with {name}={found[name]}, not {value}; give another "
                f"--output, or delete the file to measure again."
            )


def labelled(run: NeedleScores) -> NeedleScores:
    """A run under the name that its λ gives it.

    Raises:
        ValueError: If it has none.
    """
    if run.rope is None:
        raise ValueError(f"The results of {run.label} do not say what their λ is.")
    scale = run.rope.rope_scale
    return dataclasses.replace(run, label="λ = 1" if scale == 1 else f"λ = {scale:.2f}")


def crossing(run: NeedleScores, length: int) -> float | None:
    """Depth in per cent where the score rises through 50 for the last time towards the end.

    Returns:
        Interpolated between two measured depths; the shallowest depth where no score is below
        50, None where that at the deepest is.
    """
    cells = [cell for cell in run.cells if cell.length == length]
    below = [place for place, cell in enumerate(cells) if cell.score < _HALF]
    if not below:
        return float(cells[0].depth)
    if below[-1] == len(cells) - 1:
        return None
    low, high = cells[below[-1]], cells[below[-1] + 1]
    share = (_HALF - low.score) / (high.score - low.score)
    return low.depth + share * (high.depth - low.depth)


def rows_of(runs: Sequence[NeedleScores]) -> list[dict[str, Any]]:
    """Predicted against observed, one row for each λ and length."""
    return [
        {
            "label": run.label,
            "rope_scale": run.rope.rope_scale,
            **dataclasses.asdict(row),
            "crossing": crossing(run, row.length),
            "samples": run.samples.get(row.length),
        }
        for run in runs
        if run.rope is not None
        for row in frontier_rows(run)
    ]


def frontier_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows as a table."""
    header = ["λ", "length", "depth predicted", "observed", "last crossing of 50"]
    header += ["mean predicted", "observed mean", "error of the mean", "samples"]
    return table(
        header,
        [
            [
                number(row["rope_scale"], 2),
                f"{row['length']:,}",
                *(number(row[name], 0) for name in ("predicted", "observed", "crossing")),
                *(number(row[name], 0) for name in ("predicted_mean", "observed_mean")),
                signed(row["predicted_mean"] - row["observed_mean"], 0),
                str(row["samples"]),
            ]
            for row in rows
        ],
        "Depths in per cent of the context, means of scores 0-100 over all depths.",
    )


def run_sweep(options: SweepOptions) -> None:
    """Measure, draw, and write and print the table.

    Raises:
        ValueError: If an argument is wrong, or there are scores of other settings.
        RuntimeError: If an evaluation fails.
        ImportError: If matplotlib is not installed.
    """
    new_figure(1.0, 1.0)  # a missing matplotlib should show before minutes of work
    runs = measure(options)
    rows = rows_of(runs)
    title = f"{Path(options.pretrained).name}: needles found under each λ"
    section = Section("Predicted and observed frontier", (frontier_table(rows), Paragraph(_NOTE)))
    text = to_markdown(title, [section])
    (options.output / "frontier.md").write_text(text, encoding="utf-8")
    content = json.dumps(rows, indent=1, ensure_ascii=False)
    (options.output / "frontier.json").write_text(content + "\n", encoding="utf-8")
    captions = {run.label: caption for run in runs if (caption := frontier_caption(run))}
    picture = options.picture or options.output / "lambda_sweep"
    picture.parent.mkdir(parents=True, exist_ok=True)
    save_figure(draw_heatmaps(runs, title, captions), picture.parent, picture.name)
    print(f"\n{text}\nScores: {options.output}   Pictures: {picture}.png, .svg")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 1 after one sentence on what went wrong."""
    defaults = SweepOptions()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--pretrained", default=defaults.pretrained)
    add("--multiples", type=int, nargs="+", default=defaults.multiples)
    add("--repeats", type=int, nargs="+", default=defaults.repeats)
    add("--output", type=Path, default=defaults.output)
    add("--picture", type=Path)
    arguments = vars(parser.parse_args(argv))
    lists = {name: tuple(arguments[name]) for name in ("multiples", "repeats")}
    try:
        run_sweep(SweepOptions(**arguments | lists))
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
