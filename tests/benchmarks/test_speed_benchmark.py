"""The speed benchmark tells no speed-up of unequal outputs, hides no case, and counts rightly."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
from typing import Any

import pytest

from lm_eval_llada.diffusion.denoiser import DenoiserStats

speed = importlib.import_module("benchmarks.speed")
measure = importlib.import_module("benchmarks.speed_measure")
likelihood = importlib.import_module("benchmarks.speed_likelihood")
models = importlib.import_module("benchmarks.speed_models")

STATS = DenoiserStats(num_passes=4, num_sequences=8)


def outcome(*outputs: Any, num_tokens: int = 8):
    return measure.Outcome(outputs, num_tokens, STATS)


def side(*outputs: Any, label: str = "side"):
    return measure.Side(label, lambda: outcome(*outputs), lambda: None)


def case(baseline=None, ours=None, judge=measure.equal_outputs, **fields: Any):
    sides = (baseline or side("text"), ours or side("text"))
    return measure.Case("name", "work", None, *sides, judge, **fields)


def row(a_case, seconds=(3.0, 1.0), peaks=(400, 100)) -> dict[str, Any]:
    runs = (a_case.baseline.run(), a_case.ours.run())
    timings = [measure.Timing([s], run) for s, run in zip(seconds, runs, strict=True)]
    return measure.make_row(a_case, timings, peaks)


def cells(a_row: dict[str, Any]) -> dict[str, str]:
    shown = speed.time_table([a_row])
    return dict(zip(shown.header, shown.rows[0], strict=True))


def values(*numbers: float, stderr: float = 0.0):
    return outcome(*((number, stderr) for number in numbers))


def test_a_speed_up_is_told_where_outputs_are_equal():
    found = row(case(target=2.5))
    assert (found["speed_up"], found["is_met"]) == (3.0, True)
    assert cells(found)["speed-up"] == "3.00x"


def test_no_speed_up_is_told_where_outputs_differ():
    found = row(case(ours=side("other"), target=2.5))
    assert (found["speed_up"], found["is_met"]) == (None, False)
    shown = cells(found)
    assert (shown["speed-up"], shown["met"]) == ("not told", "NO")
    assert "DIFFERENT: 1 of 1" in shown["outputs"]


def test_a_case_that_got_slower_is_shown_as_such():
    assert cells(row(case(), seconds=(1.0, 2.0)))["speed-up"] == "0.50x SLOWER"


@pytest.mark.parametrize(("peaks", "is_met"), [((400, 100), True), ((400, 101), False)])
def test_a_target_holds_for_memory_too(peaks, is_met):
    found = row(case(target=2.0, most_memory=0.25), peaks=peaks)
    assert found["is_met"] is is_met
    assert found["peak_memory_share"] == peaks[1] / 400


def test_a_speed_up_below_its_target_is_not_met():
    assert row(case(target=3.1))["is_met"] is False
    assert row(case())["is_met"] is None


def test_missing_outputs_are_not_taken_for_equal():
    with pytest.raises(ValueError, match="shorter"):
        row(case(baseline=side("one", "two"), ours=side("one")))


@pytest.mark.parametrize("ours", [-100.002, float("nan")])
def test_values_beyond_rounding_are_different(ours):
    judge = measure.equal_values(1e-5)
    assert judge(values(-100.0), values(-100.0005)).is_shown
    assert not judge(values(-3.0, -100.0), values(-3.0, ours)).is_shown
    assert not judge(values(ours, -3.0), values(-100.0, -3.0)).is_good


def test_deviations_are_counted_in_standard_errors():
    drawn = values(1.0, 1.0, stderr=0.5)
    assert measure.rms_deviation(drawn, values(0.5, 1.5)) == pytest.approx(1.0)
    assert measure.rms_deviation(drawn, values(1.0, 3.0)) == pytest.approx(8**0.5)


def test_an_approximation_has_its_score_beside_the_speed_up_and_may_lose_so_much():
    judge = measure.scores(lambda outputs: sum(outputs) / len(outputs), 2.0)
    near, far = (row(case(side(90.0), side(score), judge, target=2.0)) for score in (88.0, 87.9))
    assert (near["speed_up"], near["is_met"]) == (far["speed_up"], True) == (3.0, True)
    assert (far["is_met"], far["are_outputs_good"]) == (False, False)
    assert cells(near)["outputs"] == "score 88.0, exact 90.0"


def test_shared_tokens_are_counted_one_by_one():
    verdict = measure.shared_tokens(outcome([1, 2], [3, 4]), outcome([1, 2], [3, 0]))
    assert verdict.is_shown and verdict.text.startswith("75% of the tokens")


def timed(durations: dict[str, list[float]], repeats: int, patience: float):
    """Timings of two sides under a clock that only their runs move."""
    now, order, left = [0.0], [], {name: iter(spent) for name, spent in durations.items()}

    def run(name: str):
        order.append(name)
        now[0] += next(left[name])
        return outcome(name)

    sides = [measure.Side(n, lambda n=n: run(n), lambda n=n: order.append(n)) for n in durations]
    watch = measure.Stopwatch(repeats, patience, lambda: now[0])
    return watch, sides, watch.time(*sides), order


def test_sides_are_warmed_up_and_timed_in_turns():
    _, _, timings, order = timed({"a": [3, 9, 5], "b": [1, 1, 1]}, 3, 100)
    assert order == ["a", "b", *"ababab"]
    assert timings[0].median == 5
    assert timings[0].spread == pytest.approx((9 - 3) / 5)
    assert timings[1].spread == 0


def test_a_side_beyond_patience_is_not_repeated_and_its_row_says_so():
    _, sides, timings, _ = timed({"slow": [70], "fast": [2, 2, 2]}, 3, 60)
    assert [len(timing.seconds) for timing in timings] == [1, 3]
    found = measure.make_row(case(*sides), timings, (1, 1))
    assert cells(found)["against"] == "slow (1x)"


def test_a_side_that_several_cases_share_runs_for_the_first_of_them_only():
    watch, sides, timings, order = timed({"a": [1], "b": [2]}, 1, 100)
    assert watch.time(*sides) == timings
    assert order == ["a", "b", "a", "b"]


def test_rows_are_json_and_count_by_forward_and_second():
    found = json.loads(json.dumps(row(case(), seconds=(2.0, 1.0))))
    assert [each["tokens_per_forward"] for each in found["sides"]] == [2, 2]
    assert [each["tokens_per_second"] for each in found["sides"]] == [4, 8]
    shown = speed.work_table([found])
    assert dict(zip(shown.header, shown.rows[0], strict=True))["forwards"] == "4 / 4"


def test_both_tables_have_a_line_for_every_case():
    rows = [row(case(), (a, b)) for a, b in itertools.product((1.0, 2.0), repeat=2)]
    assert len(speed.time_table(rows).rows) == len(speed.work_table(rows).rows) == 4


def test_results_are_written_case_by_case_and_a_trial_writes_none(monkeypatch, tmp_path, capsys):
    first, second = list(speed.CASES)[:2]
    output = tmp_path / "new" / "speed.jsonl"

    def measured(*values: dict[str, Any]) -> list[dict[str, Any]]:
        monkeypatch.setattr(speed, "run_cases", lambda names, arguments: iter(values))
        speed.main()
        text = output.read_text() if output.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    one, other = ({**row(case()), "name": name} for name in (first, second))
    monkeypatch.setattr(sys, "argv", ["speed.py", "--quick", "--output", str(output)])
    assert measured(one) == []
    monkeypatch.setattr(sys, "argv", ["speed.py", "--output", str(output)])
    assert measured(other) == [other]
    assert measured(one) == [one, other]
    again = {**one, "what": "measured again"}
    assert measured(again) == [again, other]
    assert capsys.readouterr().out.count("3.00x") == 4


def test_an_unknown_case_is_an_error_that_names_those_there_are(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["speed.py", "--only", "generation_q"])
    with pytest.raises(ValueError, match="generation_p"):
        speed.main()


def test_options_have_the_lengths_asked_for_and_do_not_change():
    lm = models.tiny()
    requests = likelihood.make_requests(lm, 5, (20, 40))
    assert requests == likelihood.make_requests(lm, 5, (20, 40))
    assert len(requests) == 4 * 5
    assert all(20 <= len(request.target) <= 40 for request in requests)
    assert len({len(request.target) for request in requests}) > 5


def test_enumerated_values_are_checked_against_a_plain_loop():
    small = models.Scale(num_questions=1)
    found = likelihood.likelihood_case("three", small, lengths=(3, 3), target=8.0, mc_num=16)
    baseline, ours = found.baseline.run(), found.ours.run()
    verdict = found.judge(baseline, ours)
    assert verdict.is_shown and "standard errors" in verdict.text
    shifted = measure.Outcome([(v + 0.01, e) for v, e in ours.outputs], 12, ours.stats)
    assert not found.judge(baseline, shifted).is_shown
    assert baseline.stats.num_sequences == 4 * 16 > ours.stats.num_sequences
