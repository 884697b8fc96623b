"""Needle results as coloured panels of a page: all runs, the same cells and colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lm_eval_llada.report.cells import NeedleScores
from lm_eval_llada.report.document import number
from lm_eval_llada.report.evaluations import Evaluation
from lm_eval_llada.report.needles import frontier_caption, needle_tasks
from lm_eval_llada.report.page_blocks import Heatmap, HeatPanel, Run, Score, cell_anchor
from lm_eval_llada.report.samples import Sample
from lm_eval_llada.report.verdicts import sample_interval, spans

_FRONTIER = (
    "Red line: predicted frontier, depth = 1 − reach / length (a heuristic); needles below it "
    "should be found."
)


@dataclass(frozen=True)
class Panel:
    """The needles of one family that one run found.

    Attributes:
        run: How a page names it.
        evaluation: All of the run.
        family: Name of the tasks without their length.
        scores: Of the family.
    """

    run: Run
    evaluation: Evaluation
    family: str
    scores: NeedleScores


def needle_heatmap(title: str, panels: Sequence[Panel]) -> Heatmap:
    """Depths downwards, lengths to the right, those of all runs in every panel.

    Args:
        title: What it shows.
        panels: At least one, of one family.
    """
    lengths = sorted({length for panel in panels for length in panel.scores.lengths})
    depths = sorted({depth for panel in panels for depth in panel.scores.depths})
    has_frontier = any(panel.scores.rope is not None for panel in panels)
    return Heatmap(
        title,
        "depth (%)",
        tuple(map(str, depths)),
        "context length (tokens)",
        tuple(f"{length:,}" for length in lengths),
        tuple(_panel(panel, lengths, depths) for panel in panels),
        _FRONTIER if has_frontier else "",
    )


def _panel(panel: Panel, lengths: Sequence[int], depths: Sequence[int]) -> HeatPanel:
    notes = [panel.scores.missing, frontier_caption(panel.scores)]
    rows = tuple(tuple(_cell(panel, length, depth, depths) for length in lengths)
                 for depth in depths)  # fmt: skip
    return HeatPanel(panel.run, rows, tuple(note for note in notes if note))


def _cell(panel: Panel, length: int, depth: int, depths: Sequence[int]) -> Score | None:
    score = panel.scores.score(length, depth)
    if score is None:
        return None
    task = needle_tasks(panel.evaluation)[panel.family, length]
    samples = [
        sample
        for sample in panel.evaluation.samples.get(task.name, ())
        if any(at == depth for at, _ in sample.depths)
    ]
    return Score(
        number(score, 0),
        score,
        note=_note(task.name, length, depth, score, samples),
        target=cell_anchor(panel.run.tag, task.name, depth) if samples else "",
        is_first_found=_is_first_found(panel.scores, length, depth, depths),
    )


def _note(task: str, length: int, depth: int, score: float, samples: Sequence[Sample]) -> str:
    text = f"{task}: {length:,} tokens, depth {depth} %, score {number(score)}"
    if not samples:
        return text
    values = [dict(sample.depths)[depth] for sample in samples]
    interval = sample_interval(values, [sample.cluster for sample in samples])
    known = f", 95 % interval {spans(*interval)}" if interval else ""
    return f"{text}, {len(samples)} samples{known}"


def _is_first_found(run: NeedleScores, length: int, depth: int, depths: Sequence[int]) -> bool:
    if run.rope is None:
        return False
    frontier = run.rope.frontier(length)
    return depth == next((d for d in depths if d >= frontier), None)
