"""Means of scores and how sure they are: clustered standard errors and intervals."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence

NORMAL = 1.959964
"""Standard errors of a 95 % interval where degrees of freedom are not known."""


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
    # scipy takes longer to import than all scores to compute.
    from scipy.special import stdtrit

    mean = math.fsum(values) / len(values)
    half = float(stdtrit(len(set(clusters)) - 1, (1 + confidence) / 2)) * stderr
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
    from scipy.stats import binomtest

    found = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def _require_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, such as 0.95; got {confidence}.")
