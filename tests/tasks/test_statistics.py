"""Clustered standard errors and intervals against their formulas and printed tables."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.tasks.statistics import (
    clustered_interval,
    clustered_stderr,
    clustered_stderr_of_pairs,
    wilson_interval,
)


@given(st.lists(st.floats(0, 100), min_size=2, max_size=30))
def test_clusters_of_one_give_the_ordinary_standard_error(values):
    expected = statistics.stdev(values) / math.sqrt(len(values))
    assert clustered_stderr(values, range(len(values))) == pytest.approx(expected, abs=1e-9)


def test_repeating_every_value_in_its_cluster_gains_no_precision():
    values = [0.0, 100.0, 100.0, 20.0]
    once = clustered_stderr(values, range(4))
    assert clustered_stderr(values * 11, [*range(4)] * 11) == pytest.approx(once)


def test_clustered_stderr_matches_its_formula_written_out():
    values, clusters = [1.0, 2.0, 4.0, 9.0, 5.0], ["a", "a", "b", "b", "c"]
    mean = 21 / 5
    sums = [(1 - mean) + (2 - mean), (4 - mean) + (9 - mean), 5 - mean]
    expected = math.sqrt(3 / 2 * sum(s * s for s in sums)) / 5
    assert clustered_stderr(values, clusters) == pytest.approx(expected)
    pairs = list(zip(values, clusters, strict=True))
    assert clustered_stderr_of_pairs(pairs[::-1]) == pytest.approx(expected)


def test_one_cluster_has_no_standard_error():
    assert clustered_stderr([1.0, 2.0], ["a", "a"]) is None
    with pytest.raises(ValueError, match="two clusters; got 1"):
        clustered_interval([1.0, 2.0], ["a", "a"])


def test_values_and_clusters_must_match():
    with pytest.raises(ValueError, match="got 2 and 1"):
        clustered_stderr([1.0, 2.0], ["a"])


# Two-sided 95 % points of Student's t: any printed table, such as NIST's e-Handbook, 1.3.6.7.2.
@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (99, 1.984)],
)
def test_interval_uses_students_t(degrees, quantile):
    values = [float(i % 7) for i in range(degrees + 1)]
    low, high = clustered_interval(values, range(degrees + 1))
    stderr = clustered_stderr(values, range(degrees + 1))
    assert (high - low) / 2 == pytest.approx(quantile * stderr, abs=6e-4 * stderr)
    assert (high + low) / 2 == pytest.approx(statistics.mean(values))


def test_interval_covers_the_true_mean_as_often_as_it_says():
    rng = random.Random(1)
    covered = 0
    for _ in range(400):
        centres = [rng.gauss(0, 1) for _ in range(10)]
        values = [centre + rng.gauss(0, 0.3) for centre in centres for _ in range(11)]
        low, high = clustered_interval(values, [c for c in range(10) for _ in range(11)])
        covered += low <= 0 <= high
    assert 0.92 <= covered / 400 <= 0.98


# Newcombe, Statistics in Medicine 17 (1998), table I, Wilson's method without correction.
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_matches_published_values(successes, trials, low, high):
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500), st.data())
def test_wilson_interval_holds_the_share_and_is_symmetric(trials, data):
    successes = data.draw(st.integers(0, trials))
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    mirrored = wilson_interval(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize("arguments", [(1, 0), (-1, 5), (6, 5), (1, 5, 1.0), (1, 5, 0.0)])
def test_wilson_interval_refuses_what_is_out_of_range(arguments):
    with pytest.raises(ValueError, match="got"):
        wilson_interval(*arguments)
