"""Needle tasks of an evaluation, and how far the predicted frontier is from the observed.

Lengths are tokens, depths are per cent of the context above the needle, scores are 0-100.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lm_eval_llada.report.cells import NeedleScores, needle_cells
from lm_eval_llada.report.evaluations import Evaluation, TaskResult
from lm_eval_llada.report.files import Found, find_files
from lm_eval_llada.report.reading import read_evaluations

_ALL_DEPTHS = tuple(range(0, 101, 10))
# In the name of a needle task, in place of its length.
_SIZES = ("tiny", "demo")


@dataclass(frozen=True)
class FrontierRow:
    """Predicted against observed frontier at one length.

    Attributes:
        length: Context in tokens.
        predicted: Depth from which the heuristic expects needles to be found.
        first_predicted: Shallowest measured depth that is at least ``predicted``; None if no
            measured one is.
        observed: Depth from which needles are found, see ``observed_frontier``; None if nowhere.
        predicted_mean: Mean score if exactly the depths from ``predicted`` on were found.
        observed_mean: Mean score.
    """

    length: int
    predicted: float
    first_predicted: int | None
    observed: int | None
    predicted_mean: float
    observed_mean: float

    @property
    def error(self) -> int | None:
        """Predicted less observed frontier on the grid of measured depths, in points of depth.

        Negative where the heuristic promises more than is found; None where either is missing.
        """
        if self.first_predicted is None or self.observed is None:
            return None
        return self.first_predicted - self.observed

    @property
    def mean_error(self) -> float:
        """Predicted less observed mean score."""
        return self.predicted_mean - self.observed_mean


def needle_scores(evaluation: Evaluation) -> dict[str, NeedleScores]:
    """The needle tasks of an evaluation, by family: tasks that differ in their length alone.

    The family of ``niah_4096`` and of ``niah_tiny`` is ``niah``, that of
    ``longllada_niah_4000_steps_4`` is ``longllada_niah_steps_4``.
    """
    families: dict[str, list[TaskResult]] = {}
    for (name, _), task in needle_tasks(evaluation).items():
        families.setdefault(name, []).append(task)
    return {name: _run(evaluation, tasks) for name, tasks in sorted(families.items())}


def needle_tasks(evaluation: Evaluation) -> dict[tuple[str, int], TaskResult]:
    """The needle tasks of an evaluation by family and length.

    Of several with one length, such as ``niah_tiny`` and ``niah_512``, the one with most samples.
    """
    found: dict[tuple[str, int], TaskResult] = {}
    for task in evaluation.tasks.values():
        if task.length is not None and needle_cells(task.length, task.metrics):
            other = found.get((family_of(task), task.length))
            if other is None or (task.samples or 0) > (other.samples or 0):
                found[family_of(task), task.length] = task
    return found


def newest_needles(path: str | Path, label: str) -> NeedleScores:
    """The needle scores in the newest results below a path; older ones do not count.

    Args:
        path: A ``results_*.json`` of lm-eval, or a folder that holds some at any level.
        label: How tables and pictures call them.

    Raises:
        ValueError: If there are no results, or not of needles that differ in their length alone.
    """
    found = find_files([path])
    reading = read_evaluations(Found(found.results[-1:], (), (), ()))
    skipped = reading.skipped or (() if found.results else found.skipped)
    if not reading.evaluations:
        reasons = "; ".join(map(str, skipped)) or "there is no results_*.json"
        raise ValueError(f"No results of needles under {str(path)!r}: {reasons}.")
    scores = needle_scores(reading.evaluations[0])
    if len(scores) != 1:
        names = ", ".join(scores) or "none"
        raise ValueError(f"{str(path)!r} must hold needles of one kind; found: {names}.")
    return replace(next(iter(scores.values())), label=label)


def family_of(task: TaskResult) -> str:
    """Name of a needle task without its length or size; without one in it, the name as it is."""
    parts = task.name.split("_")
    for part in (str(task.length), *_SIZES):
        if part in parts and len(parts) > 1:
            parts.remove(part)
    return "_".join(parts)


def observed_frontier(run: NeedleScores, length: int) -> int | None:
    """Depth from which needles are found: the step that fits the scores of one length best.

    Of all steps, 0 above a measured depth and 100 from there on, it is the one with the smallest
    sum of absolute differences to the scores; of equals the deepest, which claims least. A single
    cell that fails does not move it far, unlike a search for the first cell that does.

    Returns:
        The first depth found, or None where finding nothing fits best.
    """
    scores = [(cell.depth, cell.score) for cell in run.cells if cell.length == length]
    best, smallest = None, math.inf
    for step in (None, *sorted((depth for depth, _ in scores), reverse=True)):
        misfit = math.fsum(
            100 - score if step is not None and depth >= step else score for depth, score in scores
        )
        if misfit < smallest:
            best, smallest = step, misfit
    return best


def frontier_rows(run: NeedleScores) -> list[FrontierRow]:
    """Predicted against observed frontier at each length; empty where nothing is predicted."""
    if run.rope is None:
        return []
    rows = []
    for length in run.lengths:
        frontier = run.rope.frontier(length)
        depths = sorted(cell.depth for cell in run.cells if cell.length == length)
        predicted_mean = run.predicted_mean(length)
        assert predicted_mean is not None  # the rope is known
        rows.append(
            FrontierRow(
                length,
                frontier,
                next((depth for depth in depths if depth >= frontier), None),
                observed_frontier(run, length),
                predicted_mean,
                run.mean(length),
            )
        )
    return rows


def frontier_caption(run: NeedleScores) -> str | None:
    """One line on how far the frontier of a run is off; None where nothing is predicted."""
    rows = frontier_rows(run)
    if not rows:
        return None
    errors = [abs(row.error) for row in rows if row.error is not None]
    if not errors:
        return "no frontier to compare at any length"
    text = f"frontier off by {math.fsum(errors) / len(errors):.0f} points of depth"
    if len(errors) > 1:
        text += f" on average, {max(errors)} at most"
    undefined = len(rows) - len(errors)
    return f"{text}; none to compare at {undefined} of {len(rows)} lengths" if undefined else text


def _run(evaluation: Evaluation, tasks: Sequence[TaskResult]) -> NeedleScores:
    by_length = {t.length: t for t in tasks if t.length is not None}
    cells = [cell for n, t in sorted(by_length.items()) for cell in needle_cells(n, t.metrics)]
    depths = {int(d) for t in tasks for d in t.metadata.get("depths") or _ALL_DEPTHS}
    return NeedleScores(
        label=evaluation.label,
        cells=tuple(sorted(cells, key=lambda cell: (cell.length, cell.depth))),
        samples={n: t.samples for n, t in by_length.items() if t.samples is not None},
        rope=evaluation.rope,
        planned={n: t.planned for n, t in by_length.items() if t.planned is not None},
        planned_depths=tuple(sorted(depths)),
    )
