"""Needle results as a picture: a heatmap for each run, with the predicted frontier."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_llada.report.cells import NeedleScores
from lm_eval_llada.report.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Cividis is monotone in lightness and reads the same under the common colour deficiencies. The
# line takes a colour that is not in the map, over a white halo that parts it from dark cells.
_COLOUR_MAP = "cividis"
_FRONTIER_COLOUR = "#d7191c"
_UNMEASURED_COLOUR = "#e3e3e3"
_BRIGHT = 47.0  # scores from here on stand out better in black than in white
_WIDEST = 13.0  # inches that a page shows without making the digits too small to read
_CHARACTERS_PER_INCH = 12
_TITLE_CHARACTERS_PER_INCH = 8


def draw_heatmaps(
    runs: Sequence[NeedleScores], title: str, captions: Mapping[str, str] | None = None
) -> Figure:
    """Figure of length x depth heatmaps, one for each run, under one colour bar.

    Depth runs downwards as in a document. The frontier is drawn between cells, as a staircase: the
    cells under it are those predicted to be retrieved. All panels have the lengths and depths of
    all runs; cells that a run did not measure are grey, and a run that is unfinished says so.

    Args:
        runs: At least one.
        title: Heading of the figure.
        captions: A line under a panel, by the run's label.

    Raises:
        ValueError: If there is no run.
        ImportError: If matplotlib is not installed.
    """
    if not runs:
        raise ValueError("No run to draw; give at least one.")
    lengths = sorted({length for run in runs for length in run.lengths})
    depths = sorted({depth for run in runs for depth in run.depths})
    width = max(3.0, 0.6 + min(0.8, (_WIDEST - 2.4) / len(lengths)) * len(lengths))
    num_columns = min(len(runs), max(1, int((_WIDEST - 1.8) / width)))
    num_rows = math.ceil(len(runs) / num_columns)
    height = 1.8 + 0.34 * len(depths)
    figure = new_figure(1.8 + num_columns * width, num_rows * height)
    grid = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False).ravel().tolist()
    for axes, run in zip(grid, runs, strict=False):
        image = _draw_cells(axes, run, lengths, depths)
        _draw_frontier(axes, run, lengths, depths)
        _write_around(axes, run, (captions or {}).get(run.label), int(width * _CHARACTERS_PER_INCH))
    for axes in grid[len(runs) :]:
        axes.remove()
    for axes in grid[: len(runs) : num_columns]:
        axes.set_ylabel("depth of the needle (%)")
    bar = figure.colorbar(image, ax=grid[: len(runs)], shrink=0.9, pad=0.02, aspect=20 * num_rows)
    bar.set_label("score (0-100)")
    wrapped = textwrap.fill(title, int(figure.get_figwidth() * _TITLE_CHARACTERS_PER_INCH))
    figure.suptitle(wrapped, fontsize=13, fontweight="bold")
    handles, labels = _legend(grid)
    if any(len(run.cells) < len(lengths) * len(depths) for run in runs):
        handles.append(_patch(_UNMEASURED_COLOUR))
        labels.append("not measured")
    if handles:
        figure.legend(handles, labels, loc="outside lower center", frameon=False, ncols=2)
    return figure


def save_heatmaps(runs: Sequence[NeedleScores], path: str | Path, title: str) -> Path:
    """Path of the picture that ``draw_heatmaps`` was written to; folders are made as needed.

    Args:
        runs: See ``draw_heatmaps``.
        path: Where to write; the suffix decides the format, such as ``.png`` or ``.svg``.
        title: Heading of the figure.

    Raises:
        ValueError: See ``draw_heatmaps``.
        ImportError: If matplotlib is not installed.
    """
    figure = draw_heatmaps(runs, title)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=150)
    return target


def _draw_cells(
    axes: Axes, run: NeedleScores, lengths: Sequence[int], depths: Sequence[int]
) -> Any:
    scores = [[run.score(length, depth) for length in lengths] for depth in depths]
    blank = [[float("nan") if score is None else score for score in line] for line in scores]
    axes.set_facecolor(_UNMEASURED_COLOUR)
    image = axes.imshow(blank, cmap=_COLOUR_MAP, vmin=0, vmax=100, aspect="auto")
    for row, line in enumerate(scores):
        for column, score in enumerate(line):
            if score is not None:
                colour = "black" if score >= _BRIGHT else "white"
                axes.text(
                    column, row, f"{score:.0f}", ha="center", va="center", color=colour, fontsize=9
                )
    axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
    axes.set_yticks(range(len(depths)), [str(depth) for depth in depths])
    # Thin lines between cells, which would run together where scores are equal.
    axes.set_xticks([column + 0.5 for column in range(len(lengths) - 1)], minor=True)
    axes.set_yticks([row + 0.5 for row in range(len(depths) - 1)], minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    return image


def _write_around(axes: Axes, run: NeedleScores, caption: str | None, width: int) -> None:
    title = textwrap.fill(run.label, width)
    unfinished = "" if run.missing is None else f"\n{textwrap.fill(run.missing, width)}"
    axes.set_title(title + unfinished, fontsize=11)
    below = "" if caption is None else f"\n{textwrap.fill(caption, width)}"
    axes.set_xlabel(f"context length (tokens){below}")


def _draw_frontier(
    axes: Axes, run: NeedleScores, lengths: Sequence[int], depths: Sequence[int]
) -> None:
    if run.rope is None:
        return
    from matplotlib.patheffects import Stroke, withStroke

    edges, heights = [], []
    for column, length in enumerate(lengths):
        frontier = run.rope.frontier(length)
        above = sum(depth < frontier for depth in depths)
        edges += [column - 0.5, column + 0.5]
        heights += [above - 0.5, above - 0.5]
    axes.plot(
        edges,
        heights,
        color=_FRONTIER_COLOUR,
        linewidth=2.5,
        solid_joinstyle="miter",
        # A frontier at depth 0 lies on the rim of the axes, where clipping would halve the line.
        clip_on=False,
        path_effects=[Stroke(linewidth=4.5, foreground="white"), withStroke(linewidth=0)],
        label="predicted frontier, depth = 1 − reach / length (a heuristic):\n"
        "needles below it should be found",
    )


def _patch(colour: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(facecolor=colour)


def _legend(grid: Sequence[Axes]) -> tuple[list[Any], list[str]]:
    """Handles and labels of the first axes that have any: one entry for the whole figure."""
    for axes in grid:
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            return list(handles), list(labels)
    return [], []
