"""Scores of NIAH."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.tasks.niah.scores import (
    edit_similarity,
    niah_exact,
    niah_results,
    niah_score,
)
from lm_eval_llada.tasks.statistics import weighted_mean

REFERENCE = "The magic number for amber-otter is 12345."


def plain_distance(one: str, other: str) -> int:
    """Levenshtein's distance by the textbook table."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        previous, row = row, [i]
        for j, b in enumerate(other, start=1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (a != b)))
    return row[-1]


@given(st.text("ab \n", max_size=12), st.text("abc\t", max_size=12))
def test_edit_similarity_is_one_minus_distance_over_the_longer_text(one, other):
    a, b = "".join(one.split()), "".join(other.split())
    longest = max(len(a), len(b))
    expected = 100 * (1 - plain_distance(a, b) / longest) if longest else 100
    assert edit_similarity(one, other) == pytest.approx(expected)


def test_white_space_does_not_change_the_similarity():
    assert edit_similarity("the   magic\n number", "themagicnumber") == 100


def test_keyword_anywhere_in_the_output_scores_100():
    assert niah_score(" it is 12345, I think", "12345", REFERENCE) == 100
    assert niah_exact(" it is 12345, I think", "12345") == 100


def test_wrong_output_scores_a_fifth_of_its_similarity():
    # 35 of 36 characters of the reference without white space are right once one digit is wrong.
    wrong = "The magic number for amber-otter is 12346."
    assert niah_score(wrong, "12345", REFERENCE) == pytest.approx(20 * (1 - 1 / 36))
    assert niah_exact(wrong, "12345") == 0
    assert niah_score("", "12345", REFERENCE) == 0


def test_keyword_broken_by_white_space_is_not_found():
    assert niah_exact("1 2345", "12345") == 0


def test_empty_answer_is_refused():
    with pytest.raises(ValueError, match="empty"):
        niah_exact("anything", "")


def sample(depth: float, needle: str = "a") -> dict:
    return {"answer": "12345", "reference": REFERENCE, "depth": depth, "needle_id": needle}


def test_every_sample_yields_the_same_keys():
    keys = {tuple(niah_results(sample(depth), ["x"])) for depth in range(0, 101, 10)}
    assert len(keys) == 1
    expected = {f"depth_{depth:03d}" for depth in range(0, 101, 10)}
    assert set(keys.pop()) == expected | {"score", "exact", "score_clustered_se"}


def test_depth_means_ignore_samples_of_other_depths():
    outputs = [(0.0, "12345"), (0.0, "wrong"), (50.0, "12345"), (50.0, "12345")]
    results = [niah_results(sample(depth), [text]) for depth, text in outputs]
    means = {key: weighted_mean([r[key] for r in results]) for key in results[0] if "depth" in key}
    wrong = niah_score("wrong", "12345", REFERENCE)
    assert means["depth_000"] == pytest.approx((100 + wrong) / 2)
    assert means["depth_050"] == 100
    assert means["depth_100"] is None
    assert json.loads(json.dumps(means)) == means


def test_depth_weights_mark_exactly_one_depth():
    results = niah_results(sample(30.0), ["12345"])
    weights = {key: pair[1] for key, pair in results.items() if key.startswith("depth_")}
    assert weights.pop("depth_030") == 1
    assert set(weights.values()) == {0}
