"""Needles in a report: heatmaps by checkpoint, scores by depth, predicted and observed frontier."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from lm_eval_llada.report.cells import NeedleScores
from lm_eval_llada.report.charts import style_of
from lm_eval_llada.report.document import (
    GAP,
    Block,
    Bullets,
    Paragraph,
    Picture,
    Section,
    Table,
    number,
    signed,
    table,
)
from lm_eval_llada.report.evaluations import Evaluation
from lm_eval_llada.report.figures import new_figure
from lm_eval_llada.report.heatmap import draw_heatmaps
from lm_eval_llada.report.needle_heatmap import Panel, needle_heatmap
from lm_eval_llada.report.needles import frontier_caption, frontier_rows, needle_scores
from lm_eval_llada.report.settings import compared, listed, named_runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EXPLANATION = (
    "The frontier is the shallowest depth predicted to be retrieved, 1 - reach / length, a "
    "heuristic. The observed one is the depth from which a step fits the scores best. Errors are "
    "predicted less observed: a negative one of the frontier, or a positive one of the mean, "
    "means that the heuristic promises more than is found."
)


def needle_section(evaluations: Iterable[Evaluation]) -> Section | None:
    """Heatmaps and tables of all needle tasks, or None where none was run.

    All runs of a family stand side by side, with the lengths of all of them.
    """
    families: dict[str, list[Panel]] = {}
    runs = list(evaluations)
    for evaluation, name in zip(runs, named_runs(runs), strict=True):
        for family, scores in needle_scores(evaluation).items():
            families.setdefault(family, []).append(Panel(name, evaluation, family, scores))
    if not families:
        return None
    blocks: list[Block] = []
    order = [run.label for run in runs]
    for family, panels in sorted(families.items()):
        blocks += _family(family, panels, order)
    if any(panel.scores.rope is not None for panels in families.values() for panel in panels):
        blocks.append(Paragraph(_EXPLANATION))
    return Section("Needles in a haystack", tuple(blocks))


def file_name(*parts: str) -> str:
    """A name for a file that every system takes, from texts of any kind."""
    return re.sub(r"[^a-z0-9._]+", "-", "-".join(parts).lower()).strip("-.")


def _family(family: str, panels: Sequence[Panel], order: Sequence[str]) -> list[Block]:
    runs = [panel.scores for panel in panels]
    names = compared([panel.evaluation for panel in panels])
    by = f", by {listed(names)}" if names else f", {panels[0].run.label}"
    title = f"{family}: needles found by context length and depth{by}"
    captions = {run.label: text for run in runs if (text := frontier_caption(run))}
    draw = partial(draw_heatmaps, runs, title, captions)
    blocks: list[Block] = [
        needle_heatmap(title, panels),
        Picture(file_name("heatmap", family), title, draw, on_page=False),
    ]
    blocks += [_depth_table(family, run) for run in runs]
    unfinished = [f"{run.label}: {run.missing}" for run in runs if run.missing]
    if unfinished:
        blocks.append(Bullets(tuple(unfinished), on_page=False))
    blocks += [_mean_curves(family, runs, order)] if _has_curve(runs) else []
    frontier = _frontier_table(family, panels)
    return [*blocks, frontier] if frontier else blocks


def _depth_table(family: str, run: NeedleScores) -> Table:
    header = ["length", *(f"{depth} %" for depth in run.depths), "mean", "samples"]
    rows = [
        [
            f"{length:,}",
            *(number(run.score(length, depth), 0) for depth in run.depths),
            number(run.mean(length)),
            str(run.samples.get(length, GAP)),
        ]
        for length in run.lengths
    ]
    caption = (
        f"{run.label}, {family}: score (0-100) by context length (tokens) and depth of the needle; "
        f"{GAP} where nothing was measured."
    )
    return table(header, rows, caption, on_page=False)


def _frontier_table(family: str, panels: Sequence[Panel]) -> Table | None:
    rows = []
    for panel in panels:
        evaluation = panel.evaluation
        for row in frontier_rows(panel.scores):
            observed = "none" if row.observed is None else f"{row.observed} %"
            rows.append(
                [
                    *(evaluation.label, number(evaluation.rope_scale, 2), f"{row.length:,}"),
                    *(f"{row.predicted:.0f} %", observed, signed(row.error, 0)),
                    *(number(row.predicted_mean, 0), number(row.observed_mean)),
                    signed(row.mean_error),
                ]
            )
    if not rows:
        return None
    header = ["run", "λ", "length", "frontier predicted", "observed", "error"]
    header += ["mean predicted", "observed mean", "error of the mean"]
    caption = (
        f"{family}: predicted against observed frontier, depths in per cent, errors in points; "
        f"{GAP} where no depth is predicted or none is found."
    )
    return table(header, rows, caption)


def _has_curve(runs: Sequence[NeedleScores]) -> bool:
    return any(len(run.lengths) > 1 for run in runs)


def _mean_curves(family: str, runs: Sequence[NeedleScores], order: Sequence[str]) -> Picture:
    """Mean score by length, a line for each run."""
    title = f"{family}: retrieval by context length"
    return Picture(file_name("retrieval", family), title, partial(_draw_means, runs, title, order))


def _draw_means(runs: Sequence[NeedleScores], title: str, order: Sequence[str]) -> Figure:
    figure = new_figure(6.6, 4.2)
    axes = figure.subplots()
    for run in runs:
        colour, marker = style_of(run.label, order)
        partial = "" if run.missing is None else " (partial)"
        axes.plot(
            run.lengths,
            [run.mean(length) for length in run.lengths],
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.5,
            label=run.label + partial,
        )
    lengths = sorted({length for run in runs for length in run.lengths})
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.minorticks_off()
    trained = {run.rope.train_length for run in runs if run.rope is not None}
    for length in sorted(trained):
        if lengths[0] <= length <= lengths[-1]:
            axes.axvline(length, color="0.35", linestyle=":", linewidth=1)
            axes.annotate(f"trained: {length:,}", (length, 0), rotation=90, fontsize=8,
                          xytext=(3, 3), textcoords="offset points", color="0.35")  # fmt: skip
    axes.set_ylim(-3, 103)
    axes.set_xlabel("context length (tokens)", fontsize=9)
    axes.set_ylabel("mean score over depths (0-100)", fontsize=9)
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.25)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    figure.legend(loc="outside lower left", frameon=False, fontsize=8.5)
    return figure
