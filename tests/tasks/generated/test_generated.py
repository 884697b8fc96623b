"""Generated sets: a reading program finds all, half a prompt does not, lengths are met."""

from __future__ import annotations

import pytest

from lm_eval_llada.tasks.generated.puzzle import PuzzleMaker
from lm_eval_llada.tasks.generated.samples import build_generated, generated_dataset
from lm_eval_llada.tasks.generated.scores import (
    any_word,
    copied,
    first_number,
    node_f1,
    only_place,
)
from lm_eval_llada.tasks.generated.sets import SETS, generated_results
from lm_eval_llada.tasks.grid import shipped_configs
from lm_eval_llada.tasks.token_counts import make_counter
from tests.helpers.generated_reader import answer, second_half
from tests.helpers.toy_tokenizer import toy_tokenizer

OUTPUT = {
    config["metadata"]["set"]: config["generation_kwargs"]["gen_length"]
    for name, config in shipped_configs()["generated"].items()
    if name.startswith("generated_tiny_")
}


def scores(name: str, read, *, length: int = 2048, num_samples: int = 8) -> list[float]:
    samples = build_generated(
        toy_tokenizer(), set=name, length=length, gen_length=OUTPUT[name], num_samples=num_samples
    )
    texts = [answer(read(sample["input"]) + sample["gen_prefix"]) for sample in samples]
    return [
        generated_results(sample, [text])["score"]
        for sample, text in zip(samples, texts, strict=True)
    ]


@pytest.mark.parametrize("name", SETS)
def test_a_reading_program_finds_everything(name: str) -> None:
    assert scores(name, str) == [100.0] * 8


@pytest.mark.parametrize("name", SETS)
def test_half_the_prompt_does_not_do(name: str) -> None:
    found = scores(name, second_half, num_samples=24)
    assert sum(found) / len(found) < 90
    assert min(found) < 100


@pytest.mark.parametrize("length", [4096, 32768])
@pytest.mark.parametrize("name", SETS)
def test_a_sample_is_within_a_unit_of_its_length(name: str, length: int) -> None:
    tokenizer, budget = toy_tokenizer(), length - OUTPUT[name]
    (sample,) = build_generated(
        tokenizer, set=name, length=length, gen_length=OUTPUT[name], num_samples=1
    )
    count = make_counter(tokenizer).count
    assert count(sample["input"] + sample["gen_prefix"]) == sample["num_tokens"] <= budget
    seed = f"2025/{name}/0"
    maker = PuzzleMaker(SETS[name].puzzle(seed), seed)
    assert count(maker.draft(sample["num_units"] + 1).text) > budget


@pytest.mark.parametrize("name", SETS)
def test_what_is_asked_is_the_same_at_every_length(name: str) -> None:
    made = [
        build_generated(toy_tokenizer(), set=name, length=length, gen_length=128, num_samples=2)
        for length in (1024, 2048)
    ]
    for key in ("outputs", "gen_prefix", "depths"):
        assert [s[key] for s in made[0]] == [s[key] for s in made[1]]
    assert made[0][0]["outputs"] != made[0][1]["outputs"] or name.startswith("facts")


@pytest.mark.parametrize("name", SETS)
def test_the_output_has_room_for_the_answer(name: str) -> None:
    tokenizer = toy_tokenizer()
    samples = build_generated(
        tokenizer, set=name, length=2048, gen_length=OUTPUT[name], num_samples=8
    )
    texts = [answer(sample["input"] + sample["gen_prefix"]) for sample in samples]
    longest = max(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    assert longest <= 3 * OUTPUT[name]  # The toy tokenizer has 600 tokens: letters and few words.


def test_digit_strings_repeat_digits_and_have_ten() -> None:
    samples = build_generated(toy_tokenizer(), set="number_string", length=1024, gen_length=16)
    strings = [sample["outputs"][0] for sample in samples]
    assert {len(text) for text in strings} == {10} and len(set(strings)) == 100
    assert all(any(a == b for a, b in zip(text, text[1:], strict=False)) for text in strings)


@pytest.mark.parametrize(
    ("score", "prediction", "references", "expected"),
    [
        (first_number, " 71432. 9 is another.", ["71432"], 100),
        (first_number, " maybe 7, then 71432", ["71432"], 0),
        (first_number, " none", ["71432"], 0),
        (first_number, " 714320", ["71432"], 0),
        (any_word, 'ab-1". And more', ["ab-1"], 100),
        (any_word, "xab-1", ["ab-1"], 0),
        (node_f1, " Final Answer: [a, b]", ["a", "b"], 100),
        # One of two is right, one is wrong: precision and recall 1/2.
        (node_f1, " Final Answer: [a, c]", ["a", "b"], 50),
        # All there and one too many: precision 2/3, recall 1, F1 0.8.
        (node_f1, " Final Answer: ['a', b, c]", ["a", "b"], 80),
        (node_f1, " Final Answer: []", ["a"], 0),
        (node_f1, " a, b", ["a", "b"], 0),
        (node_f1, "Final Answer: [c]\nFinal Answer: [a]", ["a"], 100),
        (node_f1, "Final Answer: [a, b", ["a", "b"], 100),
        (only_place, " Library. Not the attic.", ["library"], 100),
        (only_place, " library or attic", ["library"], 0),
        (only_place, " attic", ["library"], 0),
        # The second reference is not held; of its three words the output has two in place, and two
        # more: distance 3 of 3 words, so 0.
        (copied, "ONE TWO, and then some", ["one two", "one two three"], 50),
        # Two of four words are right in an output of four: 1 - 2/4.
        (copied, "a b x y", ["a b c d"], 50),
        (copied, "", ["a b"], 0),
    ],
)
def test_scores_worked_by_hand(score, prediction, references, expected) -> None:
    assert score(prediction, references) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"set": "pass_key"}, "Did you mean 'passkey'"),
        ({"length": 16}, "must be more than the output's 16 tokens"),
        ({"length": 40}, "The shortest sample"),
        ({"num_samples": 0}, "num_samples must be"),
    ],
)
def test_wrong_settings_are_named(changes, message) -> None:
    given = {"set": "passkey", "length": 1024, "gen_length": 16, **changes}
    with pytest.raises(ValueError, match=message):
        build_generated(toy_tokenizer(), **given)


def test_a_task_file_needs_a_set() -> None:
    with pytest.raises(ValueError, match="must give set and length"):
        generated_dataset(generation_kwargs={"gen_length": 8})
