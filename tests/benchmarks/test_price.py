"""What the price table may say of two runs of the same samples."""

from __future__ import annotations

import pytest

from benchmarks.price import EXACT, table, verdict


def record(scores: list[float], texts: list[str], mode: str = EXACT) -> dict:
    identity = {"pretrained": "m", "kind": "niah", "length": 512, "mode": mode}
    return {**identity, "scores": scores, "texts": texts, "cpu": 2.0 if mode == EXACT else 1.0}


def test_only_equal_texts_are_equal():
    exact = record([100, 0], ["a", "b"])
    assert verdict(exact, record([100, 0], ["a", "b"])) == "equal"
    assert verdict(exact, record([100, 0], ["a", "c"])) == "not told apart"


def test_a_difference_is_judged_by_its_paired_error():
    exact = record([100.0] * 50 + [0.0] * 50, ["x"] * 100)
    # One in ten lost, always one that was right: -10, of standard error 3.02, of which a 95 %
    # interval of 99 degrees of freedom takes 1.98.
    worse = record([0.0] * 10 + [100.0] * 40 + [0.0] * 50, ["y"] * 100)
    assert verdict(exact, worse) == "worse by 10.0 ± 6.0"
    assert verdict(worse, exact) == "better by 10.0 ± 6.0"


@pytest.mark.parametrize("mode", ["dual", EXACT])
def test_the_table_holds_time_and_share_of_equal_texts(mode):
    rows = table([record([100, 0], ["a", "b"]), record([100, 0], ["a", "c"], "dual")]).splitlines()
    row = next(line for line in rows if f"| {mode} |" in line)
    assert ("| 50 % | 0.50 | not told apart |" in row) == (mode == "dual")
    assert "| 50.0 ± 50.0 |" in row


def test_runs_of_other_samples_are_not_compared():
    rows = table([record([100, 0], ["a", "b"]), record([100], ["a"], "prompt")]).splitlines()
    assert "| 1 | 100.0 ± nan |  |  | no exact run of these samples |" in rows[-1]
