"""The RULER task files and groups, as lm-eval lists, loads and runs them."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from statistics import fmean

import lm_eval.tasks
import pytest
from lm_eval import evaluator
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.diffusion.sampler import SamplingOptions
from lm_eval_llada.engine.arguments import known_names
from lm_eval_llada.engine.requests import generation_settings
from lm_eval_llada.tasks.grid import tasks_path
from lm_eval_llada.tasks.ruler.options import (
    FILELESS_TASKS,
    RULER_TASKS,
    SYNTHETIC_QUESTIONS,
    kind_of,
)
from lm_eval_llada.tasks.ruler.samples import ruler_dataset
from lm_eval_llada.tasks.ruler.scores import GROUPS, ruler_averages
from tests.helpers.ruler_corpora import write_corpora
from tests.helpers.ruler_reader import Reader, answer, second_half

FOLDER = tasks_path() / "ruler"
RULER_LENGTHS = {f"{size}k": size * 1024 for size in (4, 8, 16, 32, 64, 128)}
RESERVED = {"niah": 128, "vt": 30, "cwe": 120, "fwe": 50, "qa": 32}
LEAVES = {f"ruler_{task}_{size}": (task, size) for size in RULER_LENGTHS for task in RULER_TASKS}
TINY_KINDS = ("niah",) * 4 + ("vt", "cwe", "fwe", "qa")
TINY_LENGTHS = (512, 1024, 2048)
GROUP_NAMES = {
    *(f"ruler_{size}" for size in RULER_LENGTHS),
    *(f"ruler_{group}_{size}" for group in GROUPS for size in RULER_LENGTHS),
    "ruler_tiny",
    *(f"ruler_tiny_{length}" for length in TINY_LENGTHS),
    *(f"ruler_tiny_{group}_{length}" for group in GROUPS for length in TINY_LENGTHS),
}
TINY = sorted({path.stem for path in FOLDER.glob("ruler_tiny*.yaml")} - GROUP_NAMES)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> str:
    return str(write_corpora(tmp_path_factory.mktemp("corpora")))


@pytest.fixture(scope="module")
def small(data_dir) -> dict[str, object]:
    """Metadata as a run passes it: samples so few and so short that every task is soon made."""
    return {"data_dir": data_dir, "num_samples": 1, "length": 1500}


@pytest.fixture(scope="module")
def manager(small) -> TaskManager:
    return manager_of(small)


def manager_of(metadata: dict[str, object]) -> TaskManager:
    return TaskManager(include_path=str(FOLDER), include_defaults=False, metadata=metadata)


def run(model: Reader, tasks: list[str], metadata: dict[str, object], **options) -> dict:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return evaluator.simple_evaluate(
        model=model, tasks=tasks, task_manager=manager_of(metadata), bootstrap_iters=10, **options
    )


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", RULER_LENGTHS)
def test_task_files_agree_with_their_name_and_reserve_what_they_generate(size):
    for task in RULER_TASKS:
        config = load_yaml(FOLDER / f"ruler_{task}_{size}.yaml", resolve_func=True)
        generation, metadata = config["generation_kwargs"], config["metadata"]
        budget = RESERVED[kind_of(task)]
        assert config["task"] == f"ruler_{task}_{size}"
        assert generation == {
            "until": [],
            "do_sample": False,
            **dict.fromkeys(("gen_length", "block_length", "steps"), budget),
        }
        assert (metadata["ruler_task"], metadata["length"]) == (task, RULER_LENGTHS[size])
        assert (metadata["num_samples"], metadata["version"]) == (100, 1)
        assert "settings" not in metadata
        assert config["custom_dataset"] is ruler_dataset


def test_tiny_tasks_are_miniatures_of_every_kind_without_a_corpus():
    tasks = [load_yaml(FOLDER / f"{name}.yaml", resolve_func=True) for name in TINY]
    kinds: dict[int, list[str]] = {length: [] for length in TINY_LENGTHS}
    for config in tasks:
        metadata = config["metadata"]
        task, length = metadata["ruler_task"], metadata["length"]
        assert config["task"] == f"ruler_tiny_{task}_{length}"
        kinds[length].append(kind_of(task))
        essays = task not in (*FILELESS_TASKS, SYNTHETIC_QUESTIONS)
        assert metadata["settings"].get("type_haystack", "") == ("noise" if essays else "")
        assert metadata["num_samples"] == 30
    assert all(sorted(found) == sorted(TINY_KINDS) for found in kinds.values())


def test_listing_is_clean_and_names_are_free_in_lm_evals_own_tasks(caplog):
    with caplog.at_level(logging.DEBUG, "lm_eval"):
        manager = manager_of({})
    assert not [record for record in caplog.records if "Skip" in record.message]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert set(manager.all_groups) == GROUP_NAMES
    assert set(manager.all_subtasks) == {*LEAVES, *TINY}
    assert manager.all_tags == []
    assert manager.match_tasks(sorted(LEAVES)) == sorted(LEAVES)
    listing = manager.list_all_tasks()
    assert all(f"|{name} " in listing or f"|{name}|" in listing for name in manager.all_tasks)
    # lm-eval's files are searched as text: an index of them takes ten times as long.
    names = re.compile(rf"\b({'|'.join(manager.all_tasks)})\b")
    theirs = list(Path(lm_eval.tasks.__file__).parent.rglob("*.yaml"))
    assert len(theirs) > 1000
    assert not [path for path in theirs if names.search(path.read_text(encoding="utf-8"))]


def test_every_task_loads_by_name(manager):
    loaded = manager.load([*LEAVES, *TINY])["tasks"]
    assert len(loaded) == 13 * 6 + len(TINY)
    for task in loaded.values():
        (doc,) = task.test_docs()
        assert doc["num_tokens"] + doc["gen_length"] <= doc["length"] == 1500


def test_tiny_samples_fit_in_the_tokens_of_the_model_they_are_for():
    loaded = manager_of({"pretrained": "tiny-ruler"}).load(["ruler_tiny"])
    assert set(loaded["tasks"]) == set(TINY)
    for name, task in loaded["tasks"].items():
        for doc in task.test_docs():
            assert doc["num_tokens"] + doc["gen_length"] <= int(name.split("_")[-1])


def test_bare_path_works_without_an_include_path(small):
    manager = TaskManager(include_defaults=False, metadata=small)
    (task,) = manager.load([str(FOLDER / "ruler_vt_4k.yaml")])["tasks"].values()
    assert task.task_name == "ruler_vt_4k"


def test_copied_and_edited_file_works_from_anywhere(tmp_path):
    text = (FOLDER / "ruler_niah_multikey_2_4k.yaml").read_text()
    edited = (
        text.replace("task: ruler_niah_multikey_2_4k", "task: my_keys")
        .replace("gen_length: 128", "gen_length: 40")
        .replace("num_samples: 100", "num_samples: 3\n  settings: {num_needle_v: 2}")
        .replace("length: 4096", 'length: 900\n  answer_prefix: " They are"')
    )
    (tmp_path / "mine.yaml").write_text(edited)
    manager = TaskManager(include_defaults=False)
    (task,) = manager.load([str(tmp_path / "mine.yaml")])["tasks"].values()
    docs = task.test_docs()
    assert task.get_config("generation_kwargs")["gen_length"] == 40
    assert len(docs) == 3
    for doc in docs:
        assert doc["num_tokens"] + 40 <= 900 <= doc["num_tokens"] + 40 + 60
        assert len(doc["outputs"]) == 2
        assert doc["gen_prefix"] == " They are"


def test_model_arguments_pass_by_the_task_files():
    arguments = {name: None if name == "data_dir" else "1" for name in known_names()}
    mine = {"pretrained": "tiny-llada", "tokenizer": None, "revision": None}
    mine |= {"length_unit": "model", "add_bos_token": True}
    metadata = {**arguments, **mine, "length": 700, "num_samples": 1}
    (task,) = manager_of(metadata).load(["ruler_fwe_4k"])["tasks"].values()
    assert len(task.test_docs()) == 1


# --- prompts ------------------------------------------------------------------------------------


def requests_of(name: str, metadata: dict[str, object], **chat) -> list[tuple[tuple, dict]]:
    """What the harness sends for two samples, each with its sample."""
    (task,) = manager_of({**metadata, "num_samples": 2}).load([name])["tasks"].values()
    task.build_all_requests(rank=0, world_size=1, **chat)
    return [(request.args, request.doc) for request in task.instances]


@pytest.mark.parametrize("newlines", [0, 1, 2])
def test_prompt_and_answer_prefix_follow_each_other_directly(newlines, small):
    metadata = {**small, "answer_newlines": newlines}
    for (prompt, _), doc in requests_of("ruler_niah_multikey_2_4k", metadata):
        assert prompt == doc["input"] + doc["gen_prefix"]
        assert prompt.endswith("mentioned in the provided text is" + "\n" * newlines)


def test_whole_budget_is_decoded_without_stops(small):
    for (_, settings), _ in requests_of("ruler_vt_4k", small):
        plan = generation_settings(settings, SamplingOptions(gen_length=99))
        assert (plan.until, plan.options.gen_length, plan.options.steps) == ((), 30, 30)
        assert plan.options.temperature == 0


@pytest.mark.parametrize("trims", [True, False])
@pytest.mark.parametrize("task", ["niah_multikey_2", "vt", "qa_1"])
def test_answer_prefix_continues_the_turn_of_a_chat_model(task, trims, small, monkeypatch):
    tokenizer = load_tokenizer()
    if not trims:
        kept = tokenizer.chat_template.replace(" | trim", "")
        assert kept != tokenizer.chat_template
        monkeypatch.setattr(tokenizer, "chat_template", kept)

    def chat_template(turns, add_generation_prompt):
        return tokenizer.apply_chat_template(
            turns,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    chat = {"apply_chat_template": True, "chat_template": chat_template}
    metadata = {**small, "apply_chat_template": True}
    for (prompt, _), doc in requests_of(f"ruler_{task}_4k", metadata, **chat):
        opened, _, begun = prompt.rpartition("<|start_header_id|>assistant<|end_header_id|>\n\n")
        assert opened.endswith(doc["input"] + "<|eot_id|>")
        # A template that trims takes the space at the end of vt's prefix as well.
        assert begun == (doc["gen_prefix"].rstrip() if trims else doc["gen_prefix"])
        assert not begun[0].isspace() and not begun.endswith("\n")
        num_tokens = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        assert num_tokens <= doc["num_tokens"] <= doc["length"] - doc["gen_length"]


# --- runs ---------------------------------------------------------------------------------------


def test_a_program_that_reads_the_prompt_scores_100_on_all_tasks_but_qa(small):
    results = run(Reader(), ["ruler_niah_4k", "ruler_agg_4k"], small)["results"]
    for task in (*GROUPS["niah"], *GROUPS["agg"]):
        assert results[f"ruler_{task}_4k"]["score,none"] == 100


def test_group_is_the_mean_over_13_tasks_and_not_over_groups(small):
    metadata = {**small, "num_samples": 2}
    found = run(Reader(sees=second_half), ["ruler_4k"], metadata)
    scores = {task: found["results"][f"ruler_{task}_4k"]["score,none"] for task in RULER_TASKS}
    assert scores["qa_2"] < 100 and len(set(scores.values())) > 2
    means = ruler_averages(scores)
    groups = {name: found["groups"][f"ruler_{name}_4k"]["score,none"] for name in GROUPS}
    assert groups == pytest.approx({name: means[name] for name in GROUPS})
    whole = found["groups"]["ruler_4k"]
    assert whole["score,none"] == pytest.approx(fmean(scores.values()))
    weighted = (8 * groups["niah"] + 3 * groups["agg"] + 2 * groups["qa"]) / 13
    assert whole["score,none"] == pytest.approx(weighted) != fmean(groups.values())
    assert isinstance(whole["score_stderr,none"], float)
    assert isinstance(found["results"]["ruler_vt_4k"]["score_stderr,none"], float)


def test_gathering_two_ranks_gives_the_results_of_one(small):
    metadata = {**small, "num_samples": 5}
    (task,) = manager_of(metadata).load(["ruler_niah_multivalue_4k"])["tasks"].values()

    def scores_of(rank: int, world_size: int) -> list[float]:
        values = []
        for _, doc in task.doc_iterator(rank=rank, world_size=world_size):
            result = task.process_results(doc, [answer(second_half(doc["input"]))])
            assert list(result) == ["score"]
            values.append(result["score"])
        return values

    mean = task.aggregation()["score"]
    alone = scores_of(0, 1)
    assert mean(scores_of(0, 2) + scores_of(1, 2)) == pytest.approx(mean(alone))
    assert 0 < mean(alone) < 100


def test_group_without_its_corpus_stops_at_the_task_that_needs_it(tmp_path):
    metadata = {"num_samples": 1, "length": 1500, "data_dir": str(tmp_path)}
    with pytest.raises(FileNotFoundError, match="RULER's niah_single_2.*PaulGrahamEssays.jsonl"):
        manager_of(metadata).load(["ruler_4k"])
