"""RULER's samples: full to their length, the same everywhere, and answerable by reading."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.tasks.ruler.makers import make_maker
from lm_eval_llada.tasks.ruler.options import (
    FILELESS_TASKS,
    RULER_TASKS,
    RulerOptions,
    kind_of,
)
from lm_eval_llada.tasks.ruler.samples import (
    build_ruler,
    ruler_dataset,
)
from lm_eval_llada.tasks.ruler.scores import GROUPS, ruler_results
from lm_eval_llada.tasks.settings import own_settings
from lm_eval_llada.tasks.token_counts import make_counter
from tests.helpers.ruler_corpora import NUM_QUESTIONS, write_corpora
from tests.helpers.ruler_reader import answer, second_half

WITHOUT_QA = [task for task in RULER_TASKS if kind_of(task) != "qa"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    return write_corpora(tmp_path_factory.mktemp("corpora"))


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


def budget_of(task: str) -> int:
    return {"niah": 128, "vt": 30, "cwe": 120, "fwe": 50, "qa": 32}[kind_of(task)]


def build(tokenizer, task: str, length: int = 2048, num_samples: int = 2, **options) -> list[dict]:
    options = {"gen_length": budget_of(task), "num_samples": num_samples, **options}
    return build_ruler(tokenizer, task=task, length=length, **options)


def shortest_length(tokenizer, task: str, **options) -> int:
    """The length that the refusal of a much shorter one names."""
    options = {"gen_length": budget_of(task), **options}
    with pytest.raises(ValueError, match="shortest possible length") as refusal:
        build_ruler(tokenizer, task=task, length=options["gen_length"] + 1, **options)
    return int(str(refusal.value).split("length is ")[1].split()[0])


# --- lengths ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "length"),
    # The shipped tokenizer takes more than 4096 tokens for the fewest words of cwe.
    [(task, 4800 if task == "cwe" else 4096) for task in RULER_TASKS]
    # One task of each kind of unit, as the makers' own tests have the others at this length.
    + [(task, 32768) for task in ("niah_single_1", "niah_single_2", "vt", "cwe", "fwe", "qa_2")],
)
def test_one_more_unit_would_not_fit(tokenizer, data_dir, task, length):
    (sample,) = build(tokenizer, task, length, num_samples=1, data_dir=data_dir)
    budget = length - budget_of(task)
    count = make_counter(tokenizer).count
    assert count(sample["input"] + sample["gen_prefix"]) == sample["num_tokens"] <= budget
    options = RulerOptions(task=task, length=length, gen_length=budget_of(task), data_dir=data_dir)
    assert count(make_maker(options, 0).draft(sample["num_units"] + 1).text) > budget
    if length == 32768:
        assert budget - sample["num_tokens"] < 0.01 * length


@pytest.mark.parametrize("task", ["niah_single_1", "cwe", "fwe", "qa_2"])
def test_shortest_length_suffices_and_one_token_less_does_not(tokenizer, data_dir, task):
    options = {"num_samples": 3, "data_dir": data_dir}
    shortest = shortest_length(tokenizer, task, **options)
    assert len(build(tokenizer, task, shortest, **options)) == 3
    message = f"too short for {task}.*shortest possible length is {shortest} of the model's tokens"
    with pytest.raises(ValueError, match=message):
        build(tokenizer, task, shortest - 1, **options)


def test_refusal_names_a_length_that_the_settings_of_that_length_fit(tokenizer):
    # From 4096 tokens on cwe has settings that take more than those below.
    options = {"settings": {"num_examples": 3}, "gen_length": 120, "num_samples": 1}
    shortest = shortest_length(tokenizer, "cwe", **options)
    assert shortest < 4096
    with pytest.raises(ValueError, match="shortest possible length") as refusal:
        build_ruler(tokenizer, task="cwe", length=4200, **options)
    named = int(str(refusal.value).split("length is ")[1].split()[0])
    assert named > 4200
    assert len(build_ruler(tokenizer, task="cwe", length=named, **options)) == 1


def test_length_can_be_counted_in_cl100k_tokens(tokenizer, monkeypatch):
    class Words:
        def encode_ordinary(self, text: str) -> list[str]:
            return text.split()

    monkeypatch.setattr("lm_eval_llada.tasks.token_counts.cl100k_encoding", Words)
    (sample,) = build(tokenizer, "niah_single_1", 1000, 1, length_unit="cl100k")
    num_words = len((sample["input"] + sample["gen_prefix"]).split())
    assert 1000 - 128 - 18 <= num_words == sample["num_tokens"] <= 1000 - 128
    with pytest.raises(ValueError, match="cl100k tokens"):
        build(tokenizer, "niah_single_1", 130, 1, length_unit="cl100k")


def test_newlines_behind_the_answer_prefix_count_too(tokenizer):
    plain, ended = (
        build(tokenizer, "niah_multikey_2", num_samples=3, answer_newlines=newlines)
        for newlines in (0, 2)
    )
    count = make_counter(tokenizer).count
    for one, other in zip(plain, ended, strict=True):
        assert other["gen_prefix"] == one["gen_prefix"] + "\n\n"
        assert count(other["input"] + other["gen_prefix"]) == other["num_tokens"] <= 2048 - 128


# --- what a sample depends on -------------------------------------------------------------------


@pytest.mark.parametrize("task", RULER_TASKS)
def test_samples_depend_on_nothing_but_options_and_index(tokenizer, data_dir, task):
    random.seed(1)
    first = build(tokenizer, task, num_samples=2, data_dir=data_dir)
    state = random.getstate()
    random.seed(2)
    build(tokenizer, "niah_single_1", num_samples=1)
    longer = build(tokenizer, task, num_samples=3, data_dir=data_dir)
    assert longer[:2] == first
    assert [sample["index"] for sample in longer] == [0, 1, 2]
    assert len({sample["input"] for sample in longer}) == 3
    random.setstate(state)
    other = build(tokenizer, task, num_samples=1, seed=7, data_dir=data_dir)
    assert other[0]["input"] != first[0]["input"]


def test_a_sample_asks_the_same_at_every_length(tokenizer):
    for task in ("niah_single_1", "niah_multikey_3", "vt"):
        short, long = (build(tokenizer, task, length, 1)[0] for length in (1536, 3000))
        assert short["outputs"] == long["outputs"]
        assert short["num_units"] < long["num_units"]


def test_wording_can_be_the_users(tokenizer):
    template = "Lies: {context}\nUnd: {query} ({type_needle_v})?"
    (sample,) = build(
        tokenizer, "niah_multikey_2", num_samples=1, template=template, answer_prefix=""
    )
    assert sample["input"].startswith("Lies: One of the special magic")
    assert sample["input"].endswith("(number)?")
    assert sample["gen_prefix"] == ""


# --- answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", WITHOUT_QA)
def test_a_program_that_reads_all_scores_100_and_by_halves_it_does_not(tokenizer, data_dir, task):
    samples = build(tokenizer, task, num_samples=6, data_dir=data_dir)
    prompts = [sample["input"] + sample["gen_prefix"] for sample in samples]

    def scores(texts: list[str]) -> list[float]:
        pairs = zip(samples, map(answer, texts), strict=True)
        return [ruler_results(sample, [text])["score"] for sample, text in pairs]

    assert scores(prompts) == [100.0] * 6
    if kind_of(task) in ("niah", "vt"):
        assert sum(scores([second_half(prompt) for prompt in prompts])) < 600


def test_half_a_reference_list_is_half_a_score_but_one_answer_of_qa_is_enough():
    references = ["alpha", "beta"]
    half = {"score": 50.0}
    assert ruler_results({"task": "vt", "outputs": references}, ["Alpha only"]) == half
    whole = {"score": 100.0}
    assert ruler_results({"task": "qa_1", "outputs": references}, ["Alpha only"]) == whole
    assert {task for group in GROUPS.values() for task in group} == set(RULER_TASKS)


# --- chat ---------------------------------------------------------------------------------------


def test_chat_format_is_reserved_and_its_prefix_opens_the_answer(tokenizer):
    (plain,) = build(tokenizer, "niah_multikey_2", num_samples=1)
    (chat,) = build(tokenizer, "niah_multikey_2", num_samples=1, apply_chat_template=True)
    assert plain["gen_prefix"].startswith(" The special magic")
    assert chat["gen_prefix"] == plain["gen_prefix"].lstrip()
    turns = [
        {"role": "user", "content": chat["input"]},
        {"role": "assistant", "content": chat["gen_prefix"]},
    ]
    sent = tokenizer.apply_chat_template(turns, tokenize=False, continue_final_message=True)
    num_tokens = len(tokenizer(sent, add_special_tokens=False)["input_ids"])
    assert num_tokens <= chat["num_tokens"] <= 2048 - 128
    assert chat["num_tokens"] - num_tokens <= 2


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "niah_multi_key_1"}, "Did you mean 'niah_multikey_1'"),
        ({"length": 128}, "length=128 must be more than the output's 128"),
        ({"num_samples": 0}, "num_samples must be a whole number >= 1"),
        ({"length_unit": "gpt4"}, "length_unit must be one of model, cl100k"),
        ({"answer_newlines": True}, "answer_newlines must be a whole number >= 0"),
        ({"settings": ["num_needle_k"]}, "settings must be names with values"),
        ({"settings": {"num_needle": 2}}, "Did you mean 'num_needle"),
        ({"task": "qa_1", "settings": {"num_docs": 3}}, "qa_1 has no settings; got num_docs"),
        ({"template": "{context} {question}"}, "no other field"),
        ({"answer_newlines": 1, "apply_chat_template": True}, "Leave out one of the two"),
    ],
)
def test_wrong_options_are_named(tokenizer, changes, message):
    options = {"task": "niah_single_1", "length": 2048, "gen_length": 128, **changes}
    with pytest.raises(ValueError, match=message):
        build_ruler(tokenizer, **options)


def test_more_samples_than_questions_are_refused(tokenizer, data_dir):
    with pytest.raises(ValueError, match=f"no question {NUM_QUESTIONS}"):
        build(tokenizer, "qa_2", num_samples=NUM_QUESTIONS + 1, data_dir=data_dir)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("num_sample", "num_samples"), ("output_budgets", "output_budget"), ("data_dirs", "data_dir")],
)
def test_misspelt_settings_are_named(name, meant):
    metadata = {"ruler_task": "vt", "length": 2048, "output_budget": 30, name: 3}
    with pytest.raises(ValueError, match=f"'{name}' of a RULER task. Did you mean '{meant}'"):
        ruler_dataset(**metadata)


def test_other_names_pass_by_and_none_means_not_given():
    settings = {"max_length": 9, "dtype": "bfloat16", "num_samples": 3, "data_dir": None}
    kept = own_settings(settings, {"num_samples", "data_dir", "length"}, "a RULER task")
    assert kept == {"num_samples": 3}


def test_metadata_without_task_length_or_output_is_explained():
    with pytest.raises(ValueError, match="a RULER task must give ruler_task"):
        ruler_dataset(length=2048)
    with pytest.raises(ValueError, match="a RULER task must give length"):
        ruler_dataset(ruler_task="vt")
    with pytest.raises(ValueError, match="gen_length.*class: !function .*SampledTask"):
        ruler_dataset(ruler_task="vt", length=2048)


def test_command_line_settings_of_generation_win_over_the_tasks():
    metadata = {"ruler_task": "fwe", "length": 700, "num_samples": 1}
    task = {"generation_kwargs": {"gen_length": 50, "until": []}}
    for more, expected in (
        ({}, 50),
        ({"gen_kwargs": {"gen_length": 64}}, 64),
        ({"output_budget": 100}, 100),
    ):
        (sample,) = ruler_dataset(**metadata, **task, **more)["test"]
        assert sample["gen_length"] == expected
        assert sample["num_tokens"] <= 700 - expected


@pytest.mark.parametrize("task", [task for task in RULER_TASKS if task not in FILELESS_TASKS])
def test_missing_corpus_is_named_with_the_task(tmp_path, task):
    with pytest.raises(FileNotFoundError, match=f"RULER's {task}: .*data_dir=.*Tasks without a"):
        ruler_dataset(ruler_task=task, length=4096, output_budget=128, data_dir=tmp_path)


@pytest.mark.parametrize("task", FILELESS_TASKS)
def test_tasks_without_a_corpus_need_no_files(tmp_path, task):
    metadata = {"length": 2048, "output_budget": 128, "num_samples": 1, "data_dir": tmp_path}
    assert len(ruler_dataset(ruler_task=task, **metadata)["test"]) == 1


def test_missing_extra_is_named_with_the_task_and_the_command(monkeypatch):
    from lm_eval_llada.tasks.ruler import words

    words._words.cache_clear()
    monkeypatch.setitem(sys.modules, "wonderwords", None)
    message = r'RULER\'s cwe: .*wonderwords.*pip install -e "\.\[ruler\]"'
    with pytest.raises(ImportError, match=message):
        ruler_dataset(ruler_task="cwe", length=2048, output_budget=120)
