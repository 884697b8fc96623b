"""Several needles in one sample: where they are, what is asked, and how it is scored."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval import evaluator
from lm_eval.tasks import TaskManager

from lm_eval_llada.harness.llada import LLaDALM
from lm_eval_llada.tasks import token_counts as counting
from lm_eval_llada.tasks.grid import tasks_path
from lm_eval_llada.tasks.niah.multi import build_niah_multi, niah_multi_dataset
from lm_eval_llada.tasks.niah.scores import niah_multi_results
from lm_eval_llada.tasks.statistics import weighted_mean
from tests.helpers.cl100k_stand_in import StandIn
from tests.helpers.toy_tokenizer import toy_tokenizer

NEEDLE = re.compile(r"The [a-z]+ [a-z]+ for ([a-z]+-[a-z]+) is (\d{5})\.")
DEPTHS = [10, 30, 50, 70, 90]
DEPTH_KEYS = [f"depth_{depth:03d}" for depth in range(0, 101, 10)]
FOLDER = str(tasks_path() / "niah")
LENGTHS = [512 * 2**step for step in range(7)]


@pytest.fixture
def cl100k(monkeypatch) -> StandIn:
    encoding = StandIn()
    monkeypatch.setattr(counting, "cl100k_encoding", lambda: encoding)
    return encoding


def build(**options):
    defaults = {"length": 700, "gen_length": 160, "depths": DEPTHS, "repeats": 4}
    return build_niah_multi(toy_tokenizer(), **{**defaults, **options})


def parts(sample: dict) -> tuple[list[str], str, str]:
    """Lines of the context, the questions, and the beginning of the answers."""
    context, rest = sample["prompt"].split("\n\nQuestions: ")
    questions, stem = rest.split("\nAnswers, in the same order: ")
    return context.split("\n"), questions, stem


# --- samples ------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    length=st.integers(520, 1500),
    gen_length=st.integers(150, 200),
    depths=st.lists(st.integers(0, 100), min_size=1, max_size=5, unique=True).map(sorted),
    seed=st.integers(0, 10**6),
)
def test_sample_never_exceeds_its_length_and_is_within_8_tokens(length, gen_length, depths, seed):
    (sample,) = build(length=length, gen_length=gen_length, depths=depths, seed=seed, repeats=1)
    tokens = toy_tokenizer()(sample["prompt"], add_special_tokens=False)["input_ids"]
    assert sample["num_tokens"] == len(tokens)
    assert len(tokens) + gen_length <= length <= len(tokens) + gen_length + 8


@settings(max_examples=20)
@given(num_needles=st.integers(2, 5), seed=st.integers(0, 10**6))
def test_every_needle_is_there_once_in_order_of_its_depth_and_asked_for_once(num_needles, seed):
    (sample,) = build(depths=DEPTHS[:num_needles], seed=seed, repeats=1)
    lines, questions, stem = parts(sample)
    found = [match.groups() for match in map(NEEDLE.fullmatch, lines) if match]
    assert len(found) == len(NEEDLE.findall(sample["prompt"])) == num_needles
    keys, numbers = zip(*found, strict=True)
    assert len(set(keys)) == len(set(numbers)) == num_needles
    assert list(numbers) == sample["answers"]
    asked = re.findall(r"for (\S+)\?", questions)
    assert asked == [keys[index] for index in sample["asked"]]
    assert sorted(sample["asked"]) == list(range(num_needles))
    assert stem.endswith(f"for {asked[0]} is")
    assert not any(number in questions + stem for number in numbers)
    assert [key for key, _ in NEEDLE.findall(sample["target"])] == asked


def test_needles_stand_near_their_depths():
    for sample in build(length=3000):
        assert sample["depths"] == [float(depth) for depth in DEPTHS]
        for wanted, placed in zip(sample["depths"], sample["placed_depths"], strict=True):
            assert abs(wanted - placed) <= 3.5


def test_order_of_the_questions_says_nothing_about_depths():
    orders = {tuple(sample["asked"]) for sample in build(repeats=8)}
    assert len(orders) > 4


def test_samples_have_needles_of_their_own_and_depend_on_nothing_else():
    samples = build(repeats=4)
    answers = [answer for sample in samples for answer in sample["answers"]]
    assert len(set(answers)) > 15
    assert build(repeats=2) == samples[:2]
    longer = build(repeats=4, length=1100)
    assert [s["answers"] for s in longer] == [s["answers"] for s in samples]
    assert build(repeats=1, seed=3)[0]["answers"] != samples[0]["answers"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_distractors": 2}, "num_distractors=2 is not for several needles"),
        ({"gen_length": 60}, r"gen_length=60 leaves no room for the answer .* use at least \d+"),
        ({"length": 300}, "takes .* tokens, but only 140 are left"),
        (
            {"buffer": 100},
            "haystack of documents, one of needlebench, essays; got haystack='noise'",
        ),
        ({"buffer": 700, "haystack": "essays"}, "length=700 must be more than buffer=700"),
        ({"buffer": -1, "haystack": "essays"}, "buffer must be a whole number >= 0; got -1"),
    ],
)
def test_what_does_not_fit_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_a_misspelt_setting_of_a_task_is_named():
    with pytest.raises(ValueError, match="Did you mean 'depths'"):
        niah_multi_dataset(
            length=700, generation_kwargs={"gen_length": 160}, depth=[0], tokenizer=toy_tokenizer()
        )


# --- NeedleBench's ------------------------------------------------------------------------------


def needlebench(folder: Path, **options) -> list[dict]:
    defaults = {"length": 9000, "gen_length": 500, "buffer": 3000, "repeats": 5}
    return build_niah_multi(
        toy_tokenizer(),
        **{**defaults, **options},
        haystack="needlebench",
        length_unit="cl100k",
        data_dir=folder,
    )


def test_contexts_of_needlebench_have_all_tokens_but_the_buffer(data_dir, cl100k):  # noqa: F811
    for sample in needlebench(data_dir):
        context = sample["prompt"].split("\n\nQuestions: ")[0]
        # Joined texts may have a token more or less at either end of a needle.
        assert abs(len(cl100k.encode_ordinary(context)) - 6000) <= 2 * 11
        assert sample["depths"] == [float(depth) for depth in range(0, 101, 10)]
        for wanted, placed in zip(sample["depths"], sample["placed_depths"], strict=True):
            assert wanted - 0.02 < placed <= wanted


def test_needlebench_moves_one_set_of_needles_between_the_depths(data_dir, cl100k):  # noqa: F811
    samples = needlebench(data_dir)
    sets = {frozenset(sample["answers"]) for sample in samples}
    assert len(sets) == 1 and len(next(iter(sets))) == 11
    assert len({tuple(sample["answers"]) for sample in samples}) == 5
    for sample in samples:
        assert sample["asked"] == list(range(11))
        lines, questions, _ = parts(sample)
        assert questions.count("?") == 11
        context = "\n".join(lines)
        places = [context.index(answer) for answer in sample["answers"]]
        assert places == sorted(places)


def test_documents_that_are_too_short_are_an_error(data_dir, cl100k):  # noqa: F811
    with pytest.raises(ValueError, match=r"documents have \d+ tokens, but \d+ are needed"):
        needlebench(data_dir, length=4_000_000, repeats=1)


def test_a_buffer_that_leaves_no_room_for_the_needles_is_an_error(data_dir, cl100k):  # noqa: F811
    with pytest.raises(ValueError, match=r"needles take \d+ tokens, but length - buffer is 100"):
        needlebench(data_dir, length=3100, repeats=1)


# --- scores -------------------------------------------------------------------------------------

DOC = {"answers": ["11111", "22222", "33333", "44444"], "depths": [0.0, 30.0, 60.0, 100.0]}


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ("", []),
        (" 11111. The code for b is 22222. The code for c is 33333. And 44444.", [0, 30, 60, 100]),
        (" 44444 33333 22222 11111", [0, 30, 60, 100]),
        (" 11111.", [0]),
        ("11111 11111 11111 11111", [0]),
        (" 33333, 55555, 1111", [60]),
        ("2222233333", [30, 60]),
        (" 222 22.", []),
        ("The code for a is unknown.", []),
    ],
)
def test_score_is_the_share_of_needles_found(output, found):
    scores = niah_multi_results(DOC, [output])
    assert scores["score"] == 100 * len(found) / 4
    assert scores["all_found"] == (100.0 if len(found) == 4 else 0.0)
    for depth in range(0, 101, 10):
        expected = (100.0 if depth in found else 0.0, 1.0) if depth in DOC["depths"] else (0.0, 0.0)
        assert scores[f"depth_{depth:03d}"] == expected


def test_means_by_depth_average_to_the_score():
    outputs = [" 11111", " 22222 33333", "", " 44444 11111"]
    results = [niah_multi_results(DOC, [output]) for output in outputs]
    assert {tuple(result) for result in results} == {("score", "all_found", *DEPTH_KEYS)}
    means = [weighted_mean([result[key] for result in results]) for key in DEPTH_KEYS]
    by_depth = [mean for mean in means if mean is not None]
    assert by_depth == [50, 25, 25, 25]
    assert sum(by_depth) / 4 == sum(result["score"] for result in results) / 4


def test_sample_without_needles_is_refused():
    with pytest.raises(ValueError, match="must have answers"):
        niah_multi_results({"answers": [], "depths": []}, ["x"])


# --- tasks --------------------------------------------------------------------------------------


def test_there_is_a_task_for_every_length_which_fills_it():
    manager = TaskManager(include_path=FOLDER, include_defaults=False, metadata={"repeats": 1})
    loaded = manager.load(["niah_multi"])
    assert list(loaded["tasks"]) == [f"niah_multi_{length}" for length in LENGTHS]
    for length, task in zip(LENGTHS, loaded["tasks"].values(), strict=True):
        generation = task.get_config("generation_kwargs")
        assert (generation["gen_length"], generation["until"]) == (128, ["\n"])
        (doc,) = task.test_docs()
        assert doc["depths"] == DEPTHS
        assert doc["num_tokens"] + 128 <= length <= doc["num_tokens"] + 128 + 8


def test_tiny_llada_runs_a_task():
    model = LLaDALM(pretrained="tiny-llada", device="cpu", batch_size=2)
    results = evaluator.simple_evaluate(
        model=model,
        tasks=["niah_multi_512"],
        task_manager=TaskManager(include_path=FOLDER, include_defaults=False),
        limit=2,
        gen_kwargs={"steps": 8},
        bootstrap_iters=0,
    )
    scores = results["results"]["niah_multi_512"]
    by_depth = [scores[f"{key},none"] for key in DEPTH_KEYS]
    assert [index for index, score in enumerate(by_depth) if score is not None] == [1, 3, 5, 7, 9]
    assert scores["score,none"] == pytest.approx(sum(filter(None, by_depth)) / 5)
    assert 0 <= scores["all_found,none"] <= scores["score,none"] <= 100
    assert "NaN" not in json.dumps(by_depth)
