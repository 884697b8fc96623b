"""Needle results as a picture: one heatmap a run, side by side, with the predicted frontier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_llada.report.rows import Run, comparable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Cividis is monotone in lightness and reads the same under the common colour deficiencies. The
# line takes a colour that is not in the map, over a white halo that parts it from dark cells.
_COLOUR_MAP = "cividis"
_FRONTIER_COLOUR = "#d7191c"
_BRIGHT = 60.0  # scores from here on have a background light enough for dark digits


def draw_heatmaps(runs: Sequence[Run], title: str) -> Figure:
    """Figure of length x depth heatmaps, one for each run, under one colour bar.

    Depth runs downwards as in a document. The frontier is drawn between cells, as a staircase: the
    cells under it are those predicted to be retrieved.

    Args:
        runs: At least one; all of the same lengths and depths.
        title: Heading of the figure.

    Raises:
        ValueError: If there is no run, or they cannot share axes.
        ImportError: If matplotlib is not installed.
    """
    if not runs:
        raise ValueError("No run to draw; give at least one.")
    if not comparable(runs):
        raise ValueError("Runs of different lengths or depths cannot share axes; draw them apart.")
    figure = _new_figure(len(runs), len(runs[0].lengths), len(runs[0].depths))
    grid = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    for axes, run in zip(grid, runs, strict=True):
        image = _draw_cells(axes, run)
        _draw_frontier(axes, run)
    grid[0].set_ylabel("depth of the needle (%)")
    bar = figure.colorbar(image, ax=list(grid), shrink=0.9, pad=0.02)
    bar.set_label("score (0-100)")
    figure.suptitle(title, fontsize=13, fontweight="bold")
    handles, labels = _legend(grid)
    if handles:
        figure.legend(handles, labels, loc="outside lower center", frameon=False, ncols=2)
    return figure


def save_heatmaps(runs: Sequence[Run], path: str | Path, title: str) -> Path:
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


def _new_figure(num_runs: int, num_lengths: int, num_depths: int) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Pictures need matplotlib. Install it with: pip install 'lm_eval_llada[plot]'"
        ) from error
    # Figure alone, without pyplot, draws through Agg and leaves no global state behind.
    width = 1.8 + num_runs * max(3.0, 0.6 + 0.8 * num_lengths)
    return Figure(figsize=(width, 1.8 + 0.34 * num_depths), layout="constrained")


def _draw_cells(axes: Axes, run: Run) -> Any:
    lengths, depths = run.lengths, run.depths
    scores = [[run.score(length, depth) for length in lengths] for depth in depths]
    blank = [[float("nan") if score is None else score for score in line] for line in scores]
    image = axes.imshow(blank, cmap=_COLOUR_MAP, vmin=0, vmax=100, aspect="auto")
    for row, line in enumerate(scores):
        for column, score in enumerate(line):
            if score is not None:
                colour = "black" if score >= _BRIGHT else "white"
                axes.text(
                    column, row, f"{score:.0f}", ha="center", va="center", color=colour, fontsize=9
                )
    axes.set_title(run.label, fontsize=11)
    axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
    axes.set_yticks(range(len(depths)), [str(depth) for depth in depths])
    axes.set_xlabel("context length (tokens)")
    # Thin lines between cells, which would run together where scores are equal.
    axes.set_xticks([column + 0.5 for column in range(len(lengths) - 1)], minor=True)
    axes.set_yticks([row + 0.5 for row in range(len(depths) - 1)], minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    return image


def _draw_frontier(axes: Axes, run: Run) -> None:
    if run.rope is None:
        return
    from matplotlib.patheffects import Stroke, withStroke

    edges, heights = [], []
    for column, length in enumerate(run.lengths):
        frontier = run.rope.frontier(length)
        above = sum(depth < frontier for depth in run.depths)
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


def _legend(grid: Sequence[Axes]) -> tuple[list[Any], list[str]]:
    """Handles and labels of the first axes that have any: one entry for the whole figure."""
    for axes in grid:
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            return list(handles), list(labels)
    return [], []
