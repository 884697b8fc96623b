"""Scores of NIAH, and the intervals around means."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

from rapidfuzz.distance import Levenshtein

_DEPTHS = range(0, 101, 10)
_WHITE_SPACE = re.compile(r"\s+")


def edit_similarity(prediction: str, reference: str) -> float:
    """Return ``100 (1 - distance / length of the longer)`` of two texts, 0 to 100.

    The distance is Levenshtein's, with white space removed from both texts. Two empty texts are
    equal.
    """
    one, other = (_WHITE_SPACE.sub("", text) for text in (prediction, reference))
    return 100.0 * Levenshtein.normalized_similarity(one, other)


def niah_exact(prediction: str, answer: str) -> float:
    """Return 100 where the output holds the keyword, else 0.

    Raises:
        ValueError: If the keyword is empty, which every output would hold.
    """
    if not answer:
        raise ValueError("The answer of a NIAH sample must not be empty; got ''.")
    return 100.0 if answer in prediction else 0.0


def niah_score(prediction: str, answer: str, reference: str) -> float:
    """Return LongLLaDA's score of one output, 0 to 100.

    It is 100 where the output holds the keyword, else a fifth of the edit similarity to the whole
    answer sentence, so that a wrong output in the right words earns a few points.

    Args:
        prediction: What the model wrote.
        answer: The keyword.
        reference: The answer sentence.

    Source: LongLLaDA (arXiv 2506.14429) and the NeedleBench evaluator it uses.
    """
    return niah_exact(prediction, answer) or 0.2 * edit_similarity(prediction, reference)


def niah_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Score one output for lm-eval, with the same keys whatever the sample.

    Args:
        doc: A sample of ``data.niah``.
        results: The output, alone in a list.

    Returns:
        ``score`` and ``exact`` as numbers; ``depth_000`` to ``depth_100`` as (score, weight), with
        weight 1 at the sample's own depth and 0 elsewhere, for ``weighted_mean``; and
        ``score_clustered_se`` as (score, needle), for ``clustered_stderr_of_pairs``.
    """
    prediction = results[0]
    score = niah_score(prediction, doc["answer"], doc["reference"])
    by_depth = {
        f"depth_{depth:03d}": (score, 1.0) if doc["depth"] == depth else (0.0, 0.0)
        for depth in _DEPTHS
    }
    return {
        "score": score,
        "exact": niah_exact(prediction, doc["answer"]),
        **by_depth,
        "score_clustered_se": (score, doc["needle_id"]),
    }


def niah_multi_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Score one output that was asked for several needles, with the same keys whatever the sample.

    Each needle scores 100 if its keyword is in the output, else 0. Nothing is given for similar
    words here: an output of many sentences is not to be compared to any one of them.

    Args:
        doc: A sample of ``data.niah_multi``.
        results: The output, alone in a list.

    Returns:
        ``score``, the mean over the needles; ``all_found``, 100 if none is missing, else 0; and
        ``depth_000`` to ``depth_100`` as (score, weight) of the needle at that depth, with weight 0
        where there is none, for ``weighted_mean``.

    Raises:
        ValueError: If the sample has no needle, or one without a keyword.

    Source: OpenCompass 0.4.2, ``datasets/needlebench/parallel.py``.
    """
    if not doc["answers"]:
        raise ValueError("A sample with several needles must have answers; got none.")
    scores = [niah_exact(results[0], answer) for answer in doc["answers"]]
    by_depth = {f"depth_{depth:03d}": (0.0, 0.0) for depth in _DEPTHS}
    for depth, score in zip(doc["depths"], scores, strict=True):
        by_depth[f"depth_{int(depth):03d}"] = (score, 1.0)
    return {"score": math.fsum(scores) / len(scores), "all_found": min(scores), **by_depth}


def weighted_mean(items: Sequence[tuple[float, float]]) -> float | None:
    """Return the mean of (value, weight) pairs, or None (null in JSON) where no weight is left.

    A run cut short by ``--limit`` may hold no sample of a depth, which is not a score of 0.
    """
    total = sum(weight for _, weight in items)
    return sum(value * weight for value, weight in items) / total if total else None


def clustered_stderr(values: Sequence[float], clusters: Sequence[Hashable]) -> float | None:
    """Return the standard error of a mean whose values depend on each other within clusters.

    With G clusters and n values it is ``sqrt(G/(G-1) sum_g (sum_{i in g} (x_i - mean))^2) / n``.
    With one value in each cluster that is the ordinary ``s / sqrt(n)``.

    Args:
        values: The values, in any order.
        clusters: The cluster of each value, for NIAH its needle.

    Returns:
        The standard error, or None for fewer than two clusters, where it is not defined.

    Raises:
        ValueError: If the two have different lengths.
    """
    if len(values) != len(clusters):
        raise ValueError(
            f"values and clusters must have one entry each; got {len(values)} and {len(clusters)}."
        )
    residuals: defaultdict[Hashable, list[float]] = defaultdict(list)
    mean = math.fsum(values) / len(values) if values else 0.0
    for value, cluster in zip(values, clusters, strict=True):
        residuals[cluster].append(value - mean)
    num_clusters = len(residuals)
    if num_clusters < 2:
        return None
    squares = math.fsum(math.fsum(cluster) ** 2 for cluster in residuals.values())
    return math.sqrt(num_clusters / (num_clusters - 1) * squares) / len(values)


def clustered_stderr_of_pairs(items: Sequence[tuple[float, Hashable]]) -> float | None:
    """Return ``clustered_stderr`` of (value, cluster) pairs, the form in which lm-eval has them."""
    return clustered_stderr([value for value, _ in items], [cluster for _, cluster in items])


def clustered_interval(
    values: Sequence[float], clusters: Sequence[Hashable], confidence: float = 0.95
) -> tuple[float, float]:
    """Return the confidence interval of a mean over clusters, by Student's t with G - 1 degrees.

    Where all values are equal the interval is a point, though the truth need not be: give shares
    near 0 or 1 by ``wilson_interval`` as well.

    Args:
        values: The values.
        clusters: The cluster of each value.
        confidence: Probability that the interval covers the true mean, between 0 and 1.

    Raises:
        ValueError: If there are fewer than two clusters, lengths differ, or ``confidence`` is out
            of range.
    """
    stderr = clustered_stderr(values, clusters)
    if stderr is None:
        raise ValueError(
            f"An interval needs at least two clusters; got {len(set(clusters))}. Use more repeats."
        )
    _require_confidence(confidence)
    mean = math.fsum(values) / len(values)
    half = _student_quantile(confidence, len(set(clusters)) - 1) * stderr
    return mean - half, mean + half


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a share of independent trials, within [0, 1].

    Args:
        successes: Number of successes, 0 to ``trials``.
        trials: Number of independent trials, at least 1.
        confidence: Probability that the interval covers the true share, between 0 and 1.

    Raises:
        ValueError: If an argument is out of range.

    Source: E. B. Wilson, Journal of the American Statistical Association 22 (1927), 209-212.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(
            f"successes must be from 0 to trials, and trials at least 1; got {successes} of "
            f"{trials}."
        )
    _require_confidence(confidence)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # The bounds at 0 and all successes are exact; rounding would leave them a hair beside.
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == trials else (centre + half) / scale
    return low, high


def _require_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, such as 0.95; got {confidence}.")


def _student_quantile(confidence: float, degrees: int) -> float:
    """Return t with P(|T| < t) = confidence, by bisection on the angle atan(t / sqrt(degrees))."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if _student_mass(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _student_mass(angle: float, degrees: int) -> float:
    """Return P(|T| < sqrt(degrees) tan(angle)) by the finite sum for whole degrees of freedom.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    odd = degrees % 2
    sine, cosine = math.sin(angle), math.cos(angle)
    term = cosine if odd else 1.0
    total = 0.0
    for power in range(1 + odd, degrees, 2):
        total += term
        term *= cosine * cosine * power / (power + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
