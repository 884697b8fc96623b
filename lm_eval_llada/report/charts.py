"""Charts of runs: lines by length, bars by name, and speed against score."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lm_eval_llada.report.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart under the common colour deficiencies, and one more marker than
# colours, so that the two come together late.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "os^Dv<>P"
_WIDTH = 6.6  # inches; two stand side by side on a page, and one can be read on a telephone
_LABEL_WIDTH = 76  # characters of a line of a legend
_PANELS_A_ROW = 2


@dataclass(frozen=True)
class Line:
    """Values of one run.

    Attributes:
        label: Of the run.
        values: By length in tokens, or by name.
        errors: Half intervals under the same keys, where known.
    """

    label: str
    values: Mapping[int, float]
    errors: Mapping[int, float]


@dataclass(frozen=True)
class Point:
    """One run of a scatter.

    Attributes:
        label: Of the run.
        seconds: For each sample.
        score: Mean, 0-100.
        half: Half of its 95 % interval; None where it is not known.
        origin: Label of the exact run that it is an approximation of; empty for none.
    """

    label: str
    seconds: float
    score: float
    half: float | None = None
    origin: str = ""


def draw_lines(panels: Mapping[str, Sequence[Line]], title: str, order: Sequence[str]) -> Figure:
    """A panel for each title, a line for each run in its own colour and marker in all of them.

    Args:
        panels: At least one.
        title: Heading of the figure.
        order: Labels of all runs of the report; a run has one colour in every chart.
    """
    labels = {line.label for lines in panels.values() for line in lines}
    num_columns = min(len(panels), _PANELS_A_ROW)
    num_rows = -(-len(panels) // num_columns)
    figure = new_figure(_WIDTH, 1.1 + 2.5 * num_rows + 0.2 * len(labels))
    grid = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True).ravel().tolist()
    for axes, (name, lines) in zip(grid, panels.items(), strict=False):
        lengths = sorted({length for line in lines for length in line.values})
        for line in lines:
            where, values = list(line.values), list(line.values.values())
            colour, marker = style_of(line.label, order)
            axes.plot(
                where,
                values,
                color=colour,
                marker=marker,
                markersize=5,
                linewidth=1.5,
                label=textwrap.fill(line.label, _LABEL_WIDTH),
            )
            errors = [line.errors.get(length, 0.0) for length in where]
            axes.errorbar(where, values, errors, fmt="none", ecolor=colour, elinewidth=0.8)
        axes.set_title(name, fontsize=10)
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [f"{length:,}" for length in lengths], fontsize=8)
        axes.minorticks_off()
        axes.set_ylim(-3, 103)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
    for axes in grid[len(panels) :]:
        axes.remove()
    for axes in grid[: len(panels)]:
        axes.set_xlabel("context length (tokens)", fontsize=9)
    grid[0].set_ylabel("score (0-100)", fontsize=9)
    _finish(figure, title, grid[: len(panels)])
    return figure


def draw_bars(names: Sequence[str], runs: Sequence[tuple[str, Sequence[float | None]]],
              title: str, order: Sequence[str]) -> Figure:  # fmt: skip
    """Bars to the right, those of one name together.

    Args:
        names: From top to bottom.
        runs: (label, value of each name) pairs, 0-100.
        title: Heading of the figure.
        order: As in ``draw_lines``.
    """
    thickness = 0.8 / len(runs)
    height = 1.0 + len(names) * max(0.32, 0.13 * len(runs)) + 0.2 * len(runs)
    figure = new_figure(_WIDTH, height)
    axes = figure.subplots()
    for position, (label, values) in enumerate(runs):
        shift = (position - (len(runs) - 1) / 2) * thickness
        known = [(place, value) for place, value in enumerate(values) if value is not None]
        axes.barh(
            [place + shift for place, _ in known],
            [value for _, value in known],
            thickness,
            color=style_of(label, order)[0],
            # With more runs than colours the pattern tells them apart.
            hatch="///" if order.index(label) >= len(COLOURS) else None,
            edgecolor="white" if order.index(label) >= len(COLOURS) else None,
            label=textwrap.fill(label, _LABEL_WIDTH),
        )
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("score (0-100)", fontsize=9)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    _finish(figure, title, [axes])
    return figure


def draw_scatter(points: Sequence[Point], title: str, x_title: str, order: Sequence[str]) -> Figure:
    """Speed to the right, score upwards; a line leads from a run to each approximation of it.

    Args:
        points: At least one.
        title: Heading of the figure.
        x_title: What the seconds are of.
        order: As in ``draw_lines``.
    """
    figure = new_figure(_WIDTH, 3.6 + 0.22 * len(points))
    axes = figure.subplots()
    by_label = {point.label: point for point in points}
    for point in points:
        if point.origin in by_label:
            start = by_label[point.origin]
            axes.plot([start.seconds, point.seconds], [start.score, point.score],
                      color="#595959", linewidth=1, linestyle="--", zorder=1)  # fmt: skip
        colour, marker = style_of(point.label, order)
        axes.plot(
            point.seconds,
            point.score,
            color=colour,
            marker=marker,
            markersize=8,
            linestyle="none",
            label=textwrap.fill(point.label, _LABEL_WIDTH),
        )
        axes.errorbar(
            point.seconds, point.score, point.half, fmt="none", ecolor=colour, elinewidth=0.9
        )
    axes.set_xlabel(f"{x_title}; faster is to the left", fontsize=9)
    axes.set_ylabel("mean score (0-100)", fontsize=9)
    axes.set_xlim(left=0)
    axes.margins(y=0.15)
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.25)
    _finish(figure, title, [axes])
    return figure


def style_of(label: str, order: Sequence[str]) -> tuple[str, str]:
    """Colour and marker of a run.

    Args:
        label: Of the run.
        order: Labels of all runs of the report.
    """
    position = order.index(label)
    return COLOURS[position % len(COLOURS)], MARKERS[position % len(MARKERS)]


def _finish(figure: Figure, title: str, grid: Sequence[Axes]) -> None:
    """The heading, and one legend below with every run of every panel."""
    entries: dict[str, Artist] = {}
    for axes in grid:
        handles, labels = axes.get_legend_handles_labels()
        entries |= {label: handle for label, handle in zip(labels, handles, strict=True)
                    if label not in entries}  # fmt: skip
    figure.suptitle(textwrap.fill(title, 70), fontsize=11, fontweight="bold")
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower left", frameon=False, fontsize=8.5
    )
