"""Needles and haystacks of the user's own."""

from __future__ import annotations

import json

import pytest

from lm_eval_llada.tasks.niah.multi import build_niah_multi
from lm_eval_llada.tasks.niah.own_needles import own_needles
from lm_eval_llada.tasks.niah.single import build_niah
from tests.helpers.toy_tokenizer import toy_tokenizer

ROWS = [
    {"needle": "Ann lives in Bern.", "question": "Where does Ann live?", "answer": "Bern"},
    {"needle": "The code is {number}.", "question": "What is the code?", "answer": "{number}"},
]


def test_repeats_take_needles_in_turn_with_other_numbers() -> None:
    drawn = [own_needles(ROWS, 1, repeat, 0)[0] for repeat in (0, 1, 3)]
    assert drawn[0].statement == drawn[0].reference == "Ann lives in Bern."
    assert (drawn[0].stem, drawn[0].answer) == ("Ann lives in", "Bern")
    assert len({needle.answer for needle in drawn}) == 3
    assert drawn[1].statement == f"The code is {drawn[1].answer}."


def test_a_file_of_lines_is_the_same_as_a_list(tmp_path) -> None:
    file = tmp_path / "needles.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert own_needles(str(file), 1, 1, 1) == own_needles(ROWS, 1, 1, 1)


def test_a_stem_can_be_given_where_the_needle_has_none() -> None:
    row = {"needle": "Bern is where Ann lives.", "question": "Where?", "answer": "Bern"}
    with pytest.raises(ValueError, match="give these as stem"):
        own_needles([row], 1, 0, 0)
    (needle,) = own_needles([{**row, "stem": "Ann lives in"}], 1, 0, 0)
    assert needle.stem == "Ann lives in" and needle.statement == row["needle"]


@pytest.mark.parametrize(
    ("needles", "repeat", "distractors", "message"),
    [
        (ROWS[:1], 1, 0, "repeats must be at most 1"),
        (ROWS, 0, 2, "num_distractors must be less than 2"),
        ([{"needle": "a b", "question": "c"}], 0, 0, "lacks answer"),
        ([{**ROWS[0], "anwser": "x"}], 0, 0, "anwser, which nothing reads"),
        ([{**ROWS[0], "answer": 7}], 0, 0, "must have texts"),
        ([{**ROWS[0], "question": "Is it Bern?"}], 0, 0, "question of needle 1 holds"),
        ([], 0, 0, "needles must be"),
    ],
)
def test_what_is_wrong_with_a_needle_is_said(needles, repeat, distractors, message) -> None:
    with pytest.raises(ValueError, match=message):
        own_needles(needles, 1, repeat, distractors)


def test_an_answer_that_the_haystack_gives_away_is_refused() -> None:
    with pytest.raises(ValueError, match="itself holds the answer 'Bern'"):
        own_needles(ROWS, 1, 0, 0, avoid="A train to Bern.")


def test_samples_are_filled_from_ones_own_documents(tmp_path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(f"The rain of {name} fell on the old roof. " * 20)
    given = {"haystack": str(tmp_path), "needles": ROWS, "num_distractors": 1, "repeats": 2}
    samples = build_niah(toy_tokenizer(), length=400, gen_length=8, depths=[0, 100], **given)
    for sample in samples:
        assert "Ann lives in Bern." in sample["prompt"] and "The code is " in sample["prompt"]
        assert "The rain of" in sample["prompt"]
        assert 400 - 8 - 8 <= sample["num_tokens"] <= 400 - 8


def test_several_needles_of_ones_own_go_into_one_sample() -> None:
    (sample,) = build_niah_multi(
        toy_tokenizer(), length=400, gen_length=32, needles=ROWS, depths=[20, 80], repeats=1
    )
    assert sample["answers"][0] == "Bern" and len(sample["answers"]) == 2


def test_unknown_names_still_find_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'numbers'"):
        build_niah(toy_tokenizer(), length=400, gen_length=8, needles="number")
    with pytest.raises(ValueError, match="Did you mean 'noise'"):
        build_niah(toy_tokenizer(), length=400, gen_length=8, haystack="nose")
