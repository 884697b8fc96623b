"""RULER's scores: cases worked by hand, with the reason beside each, and laws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.tasks.ruler.scores import (
    GROUPS,
    ruler_averages,
    string_match_all,
    string_match_part,
)

# Prediction, references, share found, any found, why.
CASES = [
    ("", ["12"], 0, 0, "an empty output"),
    ("12", ["12"], 100, 100, "equal"),
    ("It is 12.", ["12"], 100, 100, "anywhere in the output"),
    ("It is 12.", ["12", "34"], 50, 100, "one of two"),
    ("34 12", ["12", "34"], 100, 100, "order is ignored"),
    ("12 34 56", ["12", "78", "90", "21"], 25, 100, "one of four"),
    ("56", ["12", "34"], 0, 0, "none"),
    ("PARIS", ["Paris"], 100, 100, "case of the output is ignored"),
    ("paris", ["PARIS"], 100, 100, "case of the reference is ignored"),
    ("1234", ["23"], 100, 100, "inside a longer number too"),
    ("1 2", ["12"], 0, 0, "a space between counts"),
    ("12", ["12", "12", "34"], 200 / 3, 100, "a repeated reference counts each time"),
    ("清华大学", ["清华", "北京"], 50, 100, "Chinese"),
    ("ABCDE\nVWXYZ", ["ABCDE", "VWXYZ"], 100, 100, "over lines"),
    ("new york", ["New York City", "New York"], 50, 100, "one answer within the other"),
]


@pytest.mark.parametrize(("prediction", "references", "share", "any_found", "why"), CASES)
def test_scores_have_the_values_worked_by_hand(prediction, references, share, any_found, why):
    assert string_match_all(prediction, references) == pytest.approx(share), why
    assert string_match_part(prediction, references) == any_found, why


TEXTS = st.text("aB1 ", max_size=8)
REFERENCES = st.lists(st.text("aB1 ", min_size=1, max_size=3), min_size=1, max_size=5)


@given(TEXTS, REFERENCES, st.data())
def test_scores_are_bounded_and_do_not_depend_on_order_or_case(prediction, references, data):
    shuffled = data.draw(st.permutations(references))
    for score in (string_match_all, string_match_part):
        value = score(prediction, references)
        assert 0 <= value <= 100
        assert score(prediction.swapcase(), shuffled) == pytest.approx(value)
    part, share = (score(prediction, references) for score in (string_match_part, string_match_all))
    assert part == (100 if share > 0 else 0)


@given(REFERENCES)
def test_an_output_of_all_references_has_the_highest_score(references):
    assert string_match_all(" | ".join(references), references) == 100
    assert string_match_part(references[-1], references) == 100


@pytest.mark.parametrize("references", [[], [""], ["12", ""], "12"])
@pytest.mark.parametrize("score", [string_match_all, string_match_part])
def test_references_that_cannot_be_missed_are_refused(score, references):
    with pytest.raises(ValueError, match="at least one text, none of them empty; got"):
        score("12", references)


def test_the_average_weighs_the_groups_by_eight_three_and_two():
    level = {"niah": 90.0, "agg": 60.0, "qa": 25.0}
    scores = {task: level[group] for group, tasks in GROUPS.items() for task in tasks}
    # (8 * 90 + 3 * 60 + 2 * 25) / 13 = 950 / 13
    assert ruler_averages(scores) == {**level, "average": pytest.approx(950 / 13)}


def test_the_average_of_a_group_is_its_plain_mean():
    averages = ruler_averages({"vt": 10.0, "cwe": 20.0, "fwe": 60.0, "qa_1": 5.0})
    assert averages == {"niah": None, "agg": 30.0, "qa": None, "average": None}


def test_an_unknown_task_is_named():
    with pytest.raises(ValueError, match="Did you mean 'qa_1'"):
        ruler_averages({"qa_11": 1.0})
