"""Whether one run is equal to another, better, worse, or not told apart from it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from lm_eval_llada.report.document import number
from lm_eval_llada.report.evaluations import Evaluation, TaskResult
from lm_eval_llada.report.kinds import Difference, difference
from lm_eval_llada.report.samples import Sample
from lm_eval_llada.tasks.statistics import (
    NORMAL,
    clustered_interval,
    clustered_stderr,
    wilson_interval,
)

EQUAL, NOT_TOLD_APART, BETTER, WORSE = "equal", "not told apart", "better", "worse"
_CONFIDENCE = 0.95
# With fewer independent changes, all to one side, chance does that in more than 5 % of cases.
_FEWEST_ALIKE = 6
_LOWER_IS_BETTER = ("ppl", "perplexity", "bits_per_byte", "nats", "loss", "mse", "brier")


@dataclass(frozen=True)
class Verdict:
    """What a run is beside a baseline in one metric.

    Attributes:
        kind: ``equal`` where every text is, ``not told apart``, ``better`` or ``worse``.
        difference: The run less the baseline.
        half: Half of the 95 % interval of the difference; None where it is not known.
        same: Share of answers that are the same text, 0-1; None where that is not known.
        digits: Decimals of the metric.
    """

    kind: str
    difference: Difference
    half: float | None
    same: float | None
    digits: int = 1

    @property
    def text(self) -> str:
        """Such as ``equal``, ``not told apart`` or ``worse by 3.1 ± 1.2``."""
        if self.kind in (EQUAL, NOT_TOLD_APART):
            return self.kind
        size = number(abs(self.difference.value), self.digits)
        return f"{self.kind} by {size} ± {number(self.half, self.digits)}"


def verdict(baseline: Evaluation, run: Evaluation, task: str, metric: str = "score") -> Verdict:
    """How a run stands to a baseline in a task that both ran.

    Equal means that every sample of the task was logged by both and has the same text in both; no
    score makes two runs equal. Better and worse are differences whose 95 % interval, by Student's
    t over independent samples, leaves out nought.

    Args:
        baseline: What to compare with.
        run: What is compared.
        task: Name of the task.
        metric: One of its metrics.
    """
    change = difference(baseline, run, task, metric)
    pairs = _pairs(baseline, run, task)
    same = sum(a.said == b.said != "" for a, b in pairs) / len(pairs) if pairs else None
    half = _half(change, pairs if change.how.startswith("paired") else [])
    return judged(change, half, same, metric)


def judged(
    change: Difference, half: float | None, same: float | None, metric: str = "score"
) -> Verdict:
    """What a difference with half of its 95 % interval, and the share of equal texts, come to."""
    digits = 1 if metric == "score" else 3
    if same == 1 and change.value == 0:
        return Verdict(EQUAL, change, half, same, digits)
    if half is None or abs(change.value) <= half:
        return Verdict(NOT_TOLD_APART, change, half, same, digits)
    is_better = (change.value > 0) != lower_is_better(metric)
    return Verdict(BETTER if is_better else WORSE, change, half, same, digits)


def paired_half(changes: Sequence[float], clusters: Sequence[Hashable]) -> float | None:
    """Half of the 95 % interval of the mean of paired changes; None where too few all agree."""
    stderr = clustered_stderr(changes, clusters)
    if stderr is None or (stderr == 0 and len(set(clusters)) < _FEWEST_ALIKE):
        return None
    low, high = clustered_interval(changes, clusters, _CONFIDENCE)
    return (high - low) / 2


def lower_is_better(metric: str) -> bool:
    """Whether small values of a metric are the good ones, by its name."""
    return metric.partition(",")[0].lower().startswith(_LOWER_IS_BETTER)


def score_interval(
    task: TaskResult, samples: Sequence[Sample], metric: str = "score"
) -> tuple[float, float] | None:
    """95 % interval of a value, for scores within 0-100; None where it is not known.

    By Student's t over what the samples are clustered by; where all scores are 0 or all are 100, by
    Wilson's interval over as many trials as there are clusters. Without samples, or with some
    missing, by the standard error in the results.
    """
    value = task.metrics[metric]
    if metric != "score":
        error = task.errors.get(metric)
        return None if error is None else (value - NORMAL * error, value + NORMAL * error)
    scores = [sample.score for sample in samples if sample.score is not None]
    if scores and len(scores) == task.samples:
        return sample_interval(scores, [sample.cluster for sample in samples])
    error = task.stderr
    if error is None or (error == 0 and value in (0, 100)):
        return _wilson(value, task.samples) if error == 0 and task.samples else None
    return max(0.0, value - NORMAL * error), min(100.0, value + NORMAL * error)


def sample_interval(scores: Sequence[float], clusters: Sequence[str]) -> tuple[float, float] | None:
    """95 % interval of a mean of scores, 0-100; None where samples share one cluster."""
    if len(set(scores)) == 1 and scores[0] in (0.0, 100.0):
        return _wilson(scores[0], len(set(clusters)))
    if len(set(clusters)) < 2:
        return None
    low, high = clustered_interval(scores, clusters, _CONFIDENCE)
    return max(0.0, low), min(100.0, high)


def _wilson(score: float, trials: int) -> tuple[float, float]:
    low, high = wilson_interval(trials if score else 0, trials, _CONFIDENCE)
    return 100 * low, 100 * high


def _half(change: Difference, pairs: Sequence[tuple[Sample, Sample]]) -> float | None:
    if change.stderr is None:
        return None
    if not pairs:
        return NORMAL * change.stderr
    changes = [(b.score or 0.0) - (a.score or 0.0) for a, b in pairs]
    return paired_half(changes, [first.cluster for first, _ in pairs])


def _pairs(baseline: Evaluation, run: Evaluation, task: str) -> list[tuple[Sample, Sample]]:
    """The samples of a task in both runs; empty if any is missing or asks something else."""
    first, second = baseline.samples.get(task, ()), run.samples.get(task, ())
    counts = {len(first), len(second), baseline.tasks[task].samples, run.tasks[task].samples}
    others = {(s.doc_id, s.doc_hash): s for s in second}
    pairs = [(s, others.get((s.doc_id, s.doc_hash))) for s in first if s.doc_hash]
    whole = [(s, other) for s, other in pairs if other is not None]
    return whole if counts == {len(whole)} else []


def spans(low: float, high: float) -> str:
    """An interval of scores in words, such as ``87-100``."""
    return f"{math.floor(low + 0.5)}–{math.floor(high + 0.5)}"
