"""Needle results as plain text."""

from __future__ import annotations

from lm_eval_llada.report.cells import NeedleScores

FRONTIER_NOTE = (
    "frontier: shallowest depth (%) predicted to be retrieved, 1 - reach / length; a heuristic.\n"
    "predicted: the mean score if exactly the depths from there on were retrieved."
)


def depth_table(run: NeedleScores) -> str:
    """Scores of one run, a line for each length and a column for each depth.

    Scores are 0-100. Cells that were not measured show a dash. The frontier, the mean it predicts
    and their note appear where the run knows its rope.
    """
    header = ["length", *(f"{depth}%" for depth in run.depths), "mean", "samples"]
    if run.rope is not None:
        header += ["frontier", "predicted"]
    lines = [[str(length), *_line(run, length)] for length in run.lengths]
    text = f"{run.label}: score (0-100) by context length (tokens) and depth of the needle\n"
    return text + _aligned([header, *lines])


def _line(run: NeedleScores, length: int) -> list[str]:
    values = [_number(run.score(length, depth)) for depth in run.depths]
    values += [f"{run.mean(length):.1f}", str(run.samples.get(length, "-"))]
    if run.rope is not None:
        values += [_number(run.rope.frontier(length)), _number(run.predicted_mean(length))]
    return values


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _aligned(lines: list[list[str]]) -> str:
    """Columns padded to their widest entry or 4, numbers to the right, one space between."""
    widths = [max(4, *map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        " ".join(entry.rjust(width) for entry, width in zip(line, widths, strict=True))
        for line in lines
    )
