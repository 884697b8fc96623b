"""RULER's vt: what its samples hold, and what a program that reads them can find."""

from __future__ import annotations

import random
import re
from dataclasses import asdict
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_llada.tasks.prompts import RulerTemplate, ruler_text
from lm_eval_llada.tasks.ruler.draft import Draft, Maker
from lm_eval_llada.tasks.ruler.scores import string_match_all
from lm_eval_llada.tasks.ruler.variable_tracking import TracingSettings, tracing_maker

PREFIX = (
    " Answer: According to the chain(s) of variable assignment in the text above, {num} variables "
    "are assigned the value {value}, they are: "
)


def follow(text: str, number: str) -> list[str]:
    """Execute the assignments of a text in their order; return the variables of that number."""
    values: dict[str, str] = {}
    for name, source, value in re.findall(r"VAR (\w+) = (?:VAR ([A-Z]+)|(\d+))", text):
        values[name] = value or values.get(source, "unknown")
    return [name for name, value in values.items() if value == number]


def asked_number(draft: Draft) -> str:
    (number,) = re.findall(r"value (\d+)", draft.answer_prefix)
    return number


def problem(draft: Draft) -> str:
    """The sample without its worked examples."""
    return draft.prompt[draft.prompt.rindex("Memorize and track") :]


def score(draft: Draft, text: str) -> float:
    return string_match_all(" ".join(follow(text, asked_number(draft))), draft.references)


def test_default_settings_are_the_originals():
    assert asdict(TracingSettings()) == {
        "num_chains": 1,
        "num_hops": 4,
        "name_length": 5,
        "num_examples": 1,
        "example_lines": 10,
        "example_name_length": 3,
    }


@settings(max_examples=20)
@given(seed=st.text(max_size=8), num_lines=st.integers(5, 300))
def test_program_that_executes_the_prompt_finds_the_variables_and_no_other(seed, num_lines):
    draft = tracing_maker(seed=seed).draft(num_lines)
    assert follow(draft.prompt, asked_number(draft)) == list(draft.references)
    assert score(draft, draft.prompt) == 100


@pytest.mark.parametrize("half", ["first", "second"])
def test_program_that_reads_half_the_prompt_fails(half):
    scores = []
    for number in range(30):
        draft = tracing_maker(seed=f"half/{number}").draft(200)
        middle = len(draft.prompt) // 2
        text = draft.prompt[:middle] if half == "first" else draft.prompt[middle:]
        scores.append(score(draft, text))
    assert fmean(scores) < 75


@settings(max_examples=20)
@given(
    num_chains=st.integers(1, 4),
    num_hops=st.integers(1, 12),
    num_examples=st.integers(0, 3),
    extra=st.integers(0, 40),
)
def test_other_settings_are_followed(num_chains, num_hops, num_examples, extra):
    changes = {
        "num_chains": num_chains,
        "num_hops": num_hops,
        "num_examples": num_examples,
        "example_lines": 13,
        "example_name_length": 4,
    }
    maker = tracing_maker(seed="other", settings=changes)
    draft = maker.draft(maker.fewest + extra)
    assert maker.fewest == num_hops + 1 == len(draft.references)
    assert score(draft, problem(draft)) == 100
    assert len(re.findall("VAR [A-Z]+ =", problem(draft))) == num_chains * (num_hops + 1)
    assert draft.prompt.count("Memorize and track") == num_examples + 1


def test_context_is_the_noise_line_with_the_statements_between():
    draft = tracing_maker(seed="noise").draft(30)
    noise = ruler_text("vt_noise")
    context = problem(draft).split("text.\n\n")[1].split("\nQuestion")[0]
    assert context.count(noise) == 30
    # Nothing else is there but spaces.
    rest = re.sub(r"VAR [A-Z]{5} = (VAR [A-Z]{5}|\d{5})", "", context.replace(noise, ""))
    assert not rest.strip()


def test_places_are_the_lines_that_state_the_chain():
    maker = tracing_maker(seed="places", settings={"num_chains": 3})
    draft = maker.draft(40)
    lines = re.findall(r"VAR [A-Z]+ = (?:VAR )?\w+|The grass", problem(draft))
    assert len(lines) == 40 + 15
    stated = [lines[place] for place in draft.details["places"]]
    names = [re.match(r"VAR ([A-Z]+)", line)[1] for line in stated]
    assert names == list(draft.references)
    assert draft.details["value"] == asked_number(draft)


def test_statements_spread_over_the_whole_context():
    places = [
        place
        for number in range(60)
        for place in tracing_maker(seed=f"spread/{number}").draft(100).details["places"]
    ]
    tenths = [sum(place * 10 // 105 == tenth for place in places) for tenth in range(10)]
    assert all(12 <= count <= 54 for count in tenths), tenths


# --- worked examples ----------------------------------------------------------------------------


def test_worked_example_comes_once_with_the_right_answer():
    draft = tracing_maker(seed="example").draft(50)
    example = draft.prompt.removesuffix(problem(draft))
    assert draft.prompt.count("Memorize and track") == draft.prompt.count("Question:") == 2
    assert example.count("The grass is green.") == 10
    question, answer = example.split("they are: ")
    (number,) = set(re.findall(r"value (\d+)", question))
    assert answer.split() == follow(question, number)
    assert len(answer.split()) == 5 and {len(name) for name in answer.split()} == {3}
    assert example.endswith("\n\n") and question.count("Answer:") == 1


@settings(max_examples=20)
@given(seed=st.text(max_size=8))
def test_no_number_and_no_variable_comes_twice_in_a_sample(seed):
    changes = {"num_chains": 3, "num_examples": 2, "name_length": 3}
    draft = tracing_maker(seed=seed, settings=changes).draft(10)
    names = re.findall(r"VAR ([A-Z]+) =", draft.prompt)
    numbers = re.findall(r"= (\d+)", draft.prompt)
    assert len(set(names)) == len(names) == 3 * 3 * 5
    assert len(set(numbers)) == len(numbers) == 3 * 3
    assert "VAR" not in names
    assert all(10_000 <= int(number) < 99_999 for number in numbers)


def test_examples_differ_between_samples():
    examples = {tracing_maker(seed=str(n)).draft(9).prompt.split("Question")[0] for n in range(20)}
    assert len(examples) == 20


# --- the maker's contract -----------------------------------------------------------------------


def test_draft_depends_on_the_seed_and_its_argument_alone():
    maker: Maker = tracing_maker(seed="7/vt/0")
    long, short = maker.draft(80), maker.draft(20)
    random.seed(1)
    state = random.getstate()
    assert tracing_maker(seed="7/vt/0").draft(20) == short == maker.draft(20)
    assert maker.draft(80) == long
    assert random.getstate() == state
    assert tracing_maker(seed="7/vt/1").draft(20) != short
    assert (maker.unit, maker.fewest, maker.most) == ("line", 5, None)


def test_names_and_example_stay_when_lines_are_added():
    maker = tracing_maker(seed="longer")
    short, long = maker.draft(20), maker.draft(200)
    assert short.references == long.references
    assert short.answer_prefix == long.answer_prefix
    assert short.prompt.split("they are: ")[0] == long.prompt.split("they are: ")[0]
    assert len(long.prompt) - len(short.prompt) == 180 * (len(ruler_text("vt_noise")) + 1)


def test_answer_prefix_names_the_number_and_how_many_variables():
    draft = tracing_maker(seed="prefix", settings={"num_hops": 2}).draft(4)
    assert draft.answer_prefix == PREFIX.format(num=3, value=draft.details["value"])
    assert draft.prompt.endswith(f"the value {draft.details['value']} in the text above.")
    assert draft.text == draft.prompt + draft.answer_prefix


def test_users_wording_is_used_in_sample_and_example():
    wording = RulerTemplate("vt", "<{context}> {query}?", " {num_v} of {query}:")
    draft = tracing_maker(seed="mine", template=wording).draft(6)
    assert draft.prompt.count("<") == 2
    assert draft.answer_prefix == f" 5 of {draft.details['value']}:"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hop": 2}, "A setting of vt must be one of .* Did you mean 'num_hops'"),
        ({"num_hops": 0}, "num_hops must be a whole number >= 1"),
        ({"num_examples": -1}, "num_examples must be a whole number >= 0"),
        ({"example_lines": 4}, "example_lines=4 must be at least 5"),
        ({"name_length": 1, "num_hops": 8}, "name_length=1 gives too few names for the 18"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tracing_maker(seed="", settings=changes)


def test_fewer_lines_than_statements_are_refused():
    with pytest.raises(ValueError, match="num_units must be a whole number >= 5; got 4"):
        tracing_maker(seed="").draft(4)
