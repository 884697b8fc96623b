"""RULER's eight needle tasks: what is hidden, what is asked, and what a reader finds."""

from __future__ import annotations

import hashlib
import json
import random
import re
import sys
from collections.abc import Callable
from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.tasks.prompts import ruler_template, ruler_text
from lm_eval_llada.tasks.ruler import needles, words
from lm_eval_llada.tasks.ruler.draft import Draft
from lm_eval_llada.tasks.ruler.fitting import fit
from lm_eval_llada.tasks.ruler.needles import (
    NIAH_TASKS,
    NeedleMaker,
    NeedleSettings,
    needle_maker,
)
from lm_eval_llada.tasks.ruler.scores import GROUPS, string_match_all
from lm_eval_llada.tasks.text.haystacks import (
    corpus,
    heldout_text,
    noise_sentences,
)
from lm_eval_llada.tasks.token_counts import TokenCounter, make_counter
from tests.helpers.official_data import official_data

ESSAYS = (heldout_text(), " ".join(noise_sentences()))
"""About 5,000 words, so that long samples read them more than once."""

OUTPUT = 128
"""Tokens that the original reserves for the output of these tasks."""


def make(task: str, seed: str = "7/task/0", **options) -> NeedleMaker:
    return needle_maker(task, seed=seed, essays=ESSAYS, **options)


@lru_cache(maxsize=1)
def tiny_counter() -> TokenCounter:
    return make_counter(load_tokenizer())


@pytest.fixture(scope="module")
def official_essays() -> tuple[str, ...]:
    """Paul Graham's essays, for the tests that need the real ones."""
    folder = official_data("needlebench/PaulGrahamEssays.jsonl")
    return corpus("essays", folder)


# --- a program that reads ------------------------------------------------------------------------


def pattern(template: str) -> str:
    """A regular expression that matches a filled template and captures its fields."""
    return re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^\\n:]+?)", re.escape(template))


STATEMENT = re.compile(pattern(ruler_text("niah_needle")))
QUESTIONS = [
    re.compile(pattern(template.template.rpartition("\n")[2]) + "$")
    for template in (ruler_template("niah"), ruler_template("niah").singular())
]


def read(prompt: str, question: str) -> str:
    """Answer with the values that the prompt gives for the keys of the question."""
    (asked,) = {m["query"] for m in map(lambda q: q.search(question), QUESTIONS) if m}
    keys = re.split(r", and |, ", asked)
    found = [(m["key"], m["value"]) for m in STATEMENT.finditer(prompt)]
    return " ".join(value for key, value in found if key in keys)


def halves(prompt: str) -> tuple[str, str]:
    return prompt[: len(prompt) // 2], prompt[len(prompt) // 2 :]


# --- laws of every task --------------------------------------------------------------------------

every_task = pytest.mark.parametrize("task", NIAH_TASKS)


def test_tasks_are_the_eight_of_the_benchmark():
    assert tuple(NIAH_TASKS) == GROUPS["niah"]


def test_configuration_is_that_of_the_original():
    # haystack, keys, values; numbers of keys, of values, of keys asked for: RULER's synthetic.yaml.
    # Full stops stay where they are.
    expected = {
        "niah_single_1": ("noise", "words", "numbers", 1, 1, 1),
        "niah_single_2": ("essay", "words", "numbers", 1, 1, 1),
        "niah_single_3": ("essay", "words", "uuids", 1, 1, 1),
        "niah_multikey_1": ("essay", "words", "numbers", 4, 1, 1),
        "niah_multikey_2": ("needle", "words", "numbers", 1, 1, 1),
        "niah_multikey_3": ("needle", "uuids", "uuids", 1, 1, 1),
        "niah_multivalue": ("essay", "words", "numbers", 1, 4, 1),
        "niah_multiquery": ("essay", "words", "numbers", 1, 1, 4),
    }
    expected = {name: (*each, True) for name, each in expected.items()}
    assert {name: tuple(vars(each).values()) for name, each in NIAH_TASKS.items()} == expected
    assert NIAH_TASKS["niah_multiquery"].num_keys == 4


@every_task
@given(seed=st.integers(0, 10**6).map(str), extra=st.integers(0, 400))
def test_every_needle_is_there_once_and_every_reference_belongs_to_a_key(task, seed, extra):
    maker = make(task, seed)
    num_units = maker.fewest + extra
    draft = maker.draft(num_units)
    found = [(m["key"], m["value"]) for m in STATEMENT.finditer(draft.prompt)]
    settings = NIAH_TASKS[task]
    distractors = num_units if settings.type_haystack == "needle" else 0
    assert len(found) == settings.num_needles + distractors
    assert len({value for _, value in found}) == len(found)
    assert len({key for key, _ in found}) == settings.num_keys + distractors
    for reference in draft.references:
        assert draft.prompt.count(reference) == 1
    assert len(draft.references) == settings.num_needle_q * settings.num_needle_v
    assert len(set(draft.references)) == len(draft.references)
    assert string_match_all(read(draft.prompt, draft.prompt), draft.references) == 100


@every_task
def test_draft_depends_on_seed_and_number_alone(task):
    maker = make(task)
    first = maker.draft(60)
    random.seed(3)
    state = random.getstate()
    maker.draft(90)
    assert maker.draft(60) == make(task).draft(60) == first
    assert random.getstate() == state
    assert make(task, seed="7/task/1").draft(60).prompt != first.prompt


@every_task
@given(num_units=st.integers(0, 6000), seed=st.sampled_from(["1", "2", "3"]))
def test_one_unit_more_makes_a_longer_prompt_with_the_same_question(task, num_units, seed):
    maker = make(task, seed)
    num_units = maker.fewest + (num_units if maker.unit == "word" else num_units // 20)
    one, other = maker.draft(num_units), maker.draft(num_units + 1)
    assert len(one.text) < len(other.text)
    assert (one.references, one.answer_prefix) == (other.references, other.answer_prefix)


@every_task
def test_details_are_plain_and_say_where_the_answers_are(task):
    maker = make(task)
    draft = maker.draft(4000 if maker.unit == "word" else 300)
    details = json.loads(json.dumps(draft.details))
    assert details == draft.details
    assert details["num_needles"] == NIAH_TASKS[task].num_needles
    assert details.get("words") == (None if task == "niah_multikey_3" else words.words_release())
    assert len(details["depths"]) == len(draft.references)
    start, end = draft.prompt.index("\n"), draft.prompt.rindex("\n")
    for depth, reference in zip(details["depths"], draft.references, strict=True):
        place = 100 * (draft.prompt.index(reference) - start) / (end - start)
        # Sentences differ in length, so the share of characters is not quite that of sentences.
        assert abs(place - depth) < 5


# --- kinds of needles and haystacks --------------------------------------------------------------


def test_values_and_keys_have_the_form_of_their_kind():
    number, uuid4 = r"[1-9]\d{6}", r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-\w{12}"
    word = r"[\w-]+( \w+)?-[\w-]+( [\w-]+)*"
    for task, key, value in (
        ("niah_multikey_1", word, number),
        ("niah_multikey_2", word, number),
        ("niah_multikey_3", uuid4, uuid4),
    ):
        for match in STATEMENT.finditer(make(task).draft(50).prompt):
            assert re.fullmatch(key, match["key"]), match["key"]
            assert re.fullmatch(value, match["value"])
            # In the plural also where a single value is asked for.
            assert match["type_needle_v"] == NIAH_TASKS[task].type_needle_v


def test_noise_haystack_is_one_line_over_and_over():
    context = make("niah_single_1").draft(30).prompt.split("\n")[1:-1]
    (needle,) = [line for line in context if STATEMENT.fullmatch(line)]
    assert context.count(ruler_text("niah_noise")) == 30 and len(context) == 31
    assert context.index(needle) < 30  # before some line, never behind the last


def test_haystack_of_needles_grows_at_its_end():
    def distractors(num_units: int) -> list[str]:
        draft = make("niah_multikey_2").draft(num_units)
        lines = [line for line in draft.prompt.split("\n") if STATEMENT.fullmatch(line)]
        return [line for line in lines if draft.references[0] not in line]

    assert distractors(200)[:150] == distractors(150)


def test_no_distractor_has_an_asked_key_even_where_keys_are_few(monkeypatch):
    monkeypatch.setitem(needles._NEW, "words", lambda rng: f"key-{rng.randrange(60)}")
    for seed in range(20):
        draft = make("niah_multikey_2", str(seed)).draft(50)
        keys = [match["key"] for match in STATEMENT.finditer(draft.prompt)]
        assert len(keys) == len(set(keys)) == 51
        assert read(draft.prompt, draft.prompt) == draft.references[0]


# --- questions -----------------------------------------------------------------------------------


def test_one_answer_is_asked_for_in_the_singular_and_several_in_the_plural():
    for task in NIAH_TASKS:
        draft = make(task).draft(20)
        one = len(draft.references) == 1
        noun = NIAH_TASKS[task].type_needle_v[: -1 if one else None]
        singular, plural = (bool(q.search(draft.prompt)) for q in reversed(QUESTIONS))
        assert (singular, plural) == (one, not one)
        assert draft.prompt.startswith("A special" if one else "Some special")
        assert draft.answer_prefix.endswith(" is" if one else " are")
        assert f"magic {noun} for " in draft.answer_prefix


def test_keys_are_asked_in_random_order_and_answered_in_that_order():
    orders = set()
    for seed in range(200):
        draft = make("niah_multiquery", str(seed)).draft(50)
        values = {m["key"]: m["value"] for m in STATEMENT.finditer(draft.prompt)}
        query = QUESTIONS[0].search(draft.prompt)["query"]
        assert re.fullmatch(r"(.+, ){3}and .+", query)
        keys = re.split(r", and |, ", query)
        assert [values[key] for key in keys] == list(draft.references)
        assert f" for {query} mentioned" in draft.answer_prefix
        orders.add(tuple(sorted(range(4), key=lambda i: draft.prompt.index(draft.references[i]))))
    assert len(orders) == 24


def test_own_wording_and_own_numbers_are_used():
    wording = ruler_template("niah")
    own = type(wording)("niah", "{context}\nTell of {query}.", " They are")
    draft = make("niah_single_1", template=own).draft(5)
    assert draft.prompt.startswith(("The grass", "One of"))
    assert draft.answer_prefix == " They is"  # its singular form, by the original's own rule
    draft = make("niah_multiquery", settings={"num_needle_q": 2, "type_needle_v": "words"}).draft(9)
    assert len(draft.references) == 2
    assert draft.details["num_needles"] == 2


def test_missing_wonderwords_is_an_error_that_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "wonderwords", None)
    words._words.cache_clear()
    for use in (words.plain_words, words.words_release, lambda: make("niah_single_1")):
        with pytest.raises(ImportError, match=r'pip install -e "\.\[ruler\]"'):
            use()
    # A haystack and a needle of UUIDs need no words.
    assert make("niah_multikey_3").draft(2).references


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "niah_single_4"}, "task must be one of .* Did you mean 'niah_single_"),
        ({"settings": {"num_needle": 3}}, "A setting of niah_single_2 must be .* 'num_needle_"),
        ({"settings": {"type_haystack": "essays"}}, "Did you mean 'essay'"),
        ({"settings": {"num_needle_v": 0}}, "num_needle_v must be a whole number >= 1; got 0"),
        ({"settings": {"num_needle_k": 9, "num_needle_v": 5}}, "45 needles .* which has 40"),
        ({"settings": {"full_stops": 0}}, "full_stops must be true or false; got 0"),
        ({"task": "niah_single_1", "settings": {"full_stops": False}}, "is for essays"),
        ({"essays": None}, "niah_single_2 hides its needles in essays"),
        ({"essays": ["", " "]}, "at least one word"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        needle_maker(**{"task": "niah_single_2", "seed": "1", "essays": ESSAYS, **options})


def test_more_needles_than_depths_are_welcome_among_lines():
    settings = {"num_needle_k": 50, "num_needle_q": 50}
    maker = make("niah_single_1", settings=settings)
    assert maker.fewest == 50
    assert len(maker.draft(50).references) == 50
    assert NeedleSettings(num_needle_k=40).num_needles == 40


def test_sample_of_a_known_seed_stays_the_same():
    draft = make("niah_multikey_3", "2025/niah_multikey_3/0").draft(20)
    assert draft.references == ("ad069e25-dcdd-4c4e-8489-3bc9085eff36",)
    assert draft.details == {"depths": [5.0], "num_needles": 1}
    assert hashlib.sha256(draft.text.encode()).hexdigest()[:16] == "5a8065392d882d73"


# --- filled to a length --------------------------------------------------------------------------


def fill(maker: NeedleMaker, length: int) -> Draft:
    """Fill a sample, check that no unit more fits, and return it."""
    count: Callable[[str], int] = tiny_counter().count
    budget = length - OUTPUT
    fitted = fit(maker, budget, count)
    assert fitted.num_tokens == count(fitted.draft.text) <= budget
    assert count(maker.draft(fitted.num_units + 1).text) > budget
    if length == 32768:
        assert budget - fitted.num_tokens < length / 100
    return fitted.draft


@pytest.mark.parametrize("length", [512, 4096, 32768])
@every_task
def test_filled_sample_has_no_room_for_one_more_unit_and_a_reader_answers_it(task, length):
    draft = fill(make(task, str(length)), length)
    assert string_match_all(read(draft.prompt, draft.prompt), draft.references) == 100


@every_task
def test_reader_of_half_the_prompt_misses_answers(task):
    drafts = [make(task, str(seed)).draft(200) for seed in range(12)]
    for half in (0, 1):
        scores = [
            string_match_all(read(halves(d.prompt)[half], d.prompt), d.references) for d in drafts
        ]
        assert 10 < sum(scores) / len(scores) < 90


@pytest.mark.parametrize("task", [t for t, s in NIAH_TASKS.items() if s.type_haystack == "essay"])
def test_official_essays_fill_a_sample(task, official_essays):
    maker = needle_maker(task, seed="1", essays=official_essays)
    draft = fill(maker, 32768)
    assert string_match_all(read(draft.prompt, draft.prompt), draft.references) == 100
    hidden = [m[0] for m in STATEMENT.finditer(draft.prompt)]
    assert len(hidden) == NIAH_TASKS[task].num_needles
    text = draft.prompt.partition("\n")[2].rpartition("\n")[0]
    for needle in hidden:
        before = text.partition(needle)[0].rstrip()
        assert (
            before == "" or before.endswith(tuple("\"'.!?)\u2019\u201d")) or text.endswith(needle)
        )
