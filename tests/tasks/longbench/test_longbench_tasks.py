"""LongBench: documents to prompts, the task files, and whole runs of them."""

from __future__ import annotations

import json
import logging
import sys
import zipfile
from pathlib import Path

import pytest
from lm_eval import evaluator
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from lm_eval_llada.tasks.grid import tasks_path
from lm_eval_llada.tasks.longbench.samples import (
    HUB_REVISION,
    build_longbench,
    longbench_dataset,
    longbench_documents,
)
from lm_eval_llada.tasks.longbench.scores import CATEGORIES, DATASETS
from lm_eval_llada.tasks.prompts import longbench_prompt
from tests.helpers.longbench_documents import document
from tests.helpers.official_data import official_data
from tests.helpers.toy_tokenizer import toy_tokenizer

FOLDER = tasks_path() / "longbench"
BUDGETS = {"4k": 3500, "8k": 7500, "16k": 16000}
LEAVES = [(name, length) for name in DATASETS for length in BUDGETS]
PLAIN = {"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"}
CHAT = "{{ bos_token }}{% for m in messages %}[{{ m['content'] }}]{% endfor %}>"


@pytest.fixture(scope="session")
def official() -> Path:
    """The folder with the official files, for the tests that need them."""
    return official_data("longbench/hotpotqa.jsonl")


def write(path: Path, *rows: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A data folder with a long and a short document a dataset, and a second short one in qmsum."""
    folder = tmp_path_factory.mktemp("made")
    for name in DATASETS:
        short = [document(name, context="Short.", _id="d1")] * (2 if name == "qmsum" else 1)
        write(folder / "longbench" / f"{name}.jsonl", document(name), *short)
    return folder


@pytest.fixture(scope="session")
def small_run(made, tmp_path_factory) -> dict[str, object]:
    """Metadata as a run passes it, with a budget that the longer documents exceed."""
    folder = tmp_path_factory.mktemp("tokenizer")
    toy_tokenizer().save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT)
    return {"pretrained": str(folder), "data_dir": str(made), "prompt_length": 400}


class Echo(LM):
    """Answers every request with the first reference, then a line that is not part of it."""

    def __init__(self, after: str = "") -> None:
        super().__init__()
        self.after = after
        self.requests: list = []

    def generate_until(self, requests, disable_tqdm=False):
        self.requests = requests
        return [request.doc["answers"][0] + self.after for request in requests]

    tokenizer_name = "toy"

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
        (message,) = chat_history
        return f"<|startoftext|>[{message['content']}]>"

    def loglikelihood(self, requests, disable_tqdm=False):
        raise NotImplementedError

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise NotImplementedError


def manager_of(metadata: dict) -> TaskManager:
    return TaskManager(include_path=str(FOLDER), include_defaults=False, metadata=metadata)


def run(model: LM, tasks: list[str], metadata: dict, **options) -> dict:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return evaluator.simple_evaluate(
        model=model, tasks=tasks, task_manager=manager_of(metadata), bootstrap_iters=0, **options
    )


# --- documents ----------------------------------------------------------------------------------


def test_samples_hold_the_prompt_and_what_scoring_needs(made):
    samples = build_longbench(toy_tokenizer(), dataset="trec", prompt_length=400, data_dir=made)
    assert [sample["id"] for sample in samples] == ["d0", "d1"]
    long, short = samples
    assert long["num_tokens"] == len(toy_tokenizer()(long["prompt"])["input_ids"]) <= 400
    assert (long["num_dropped"] > 100, short["num_dropped"]) == (True, 0)
    assert short["prompt"] == longbench_prompt("trec").render(context="Short.", input="Which city?")
    assert long["prompt"].endswith("Which city?") and long["first_line"]
    assert long["answers"] == ["Red Band"] and long["all_classes"] == ["Red Band", "Blue Band"]


def test_documents_come_from_a_folder_the_archive_or_another_file_of_the_dataset(tmp_path):
    def found() -> str:
        return longbench_documents("qmsum", tmp_path)[0]["context"]

    write(tmp_path / "longbench" / "a_e.jsonl", document("qmsum", context="LongBench-E"))
    write(tmp_path / "longbench" / "b.jsonl", document("trec"))
    (tmp_path / "longbench" / "c.json").write_text("[")
    with pytest.raises(FileNotFoundError, match="longbench/qmsum.jsonl.*THUDM/LongBench"):
        found()
    write(tmp_path / "longbench" / "mine.jsonl", document("qmsum", context="other"))
    assert found() == "other"
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("data/qmsum.jsonl", json.dumps(document("qmsum", context="zip"), indent=0))
    with pytest.raises(ValueError, match=r"data.zip/data/qmsum.jsonl, line 1: not JSON"):
        found()
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("data/qmsum.jsonl", json.dumps(document("qmsum", context="zip")))
    assert found() == "zip"
    write(tmp_path / "longbench" / "qmsum.jsonl", document("qmsum", context="official"))
    assert found() == "official"


def test_hub_is_asked_for_the_pinned_archive(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def download(*args, **kwargs):
        asked.append((args, kwargs))
        return str(tmp_path / "data.zip")

    with pytest.raises(FileNotFoundError, match=r"data.zip could not be read.*data_dir=<folder>"):
        longbench_documents("lcc")  # tests cannot reach the hub
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    (tmp_path / "data.zip").write_text("no archive")
    with pytest.raises(ValueError, match="data.zip is not a zip archive"):
        longbench_documents("lcc")
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("data/lcc.jsonl", json.dumps(document("lcc")))
    assert longbench_documents("lcc", revision="abc")[0]["answers"] == ["Red Band"]
    assert [kwargs["revision"] for _, kwargs in asked] == [HUB_REVISION, "abc"]
    assert asked[0][0] == ("THUDM/LongBench", "data.zip")
    with pytest.raises(ValueError, match=r"has no data/trec.jsonl"):
        longbench_documents("trec")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 3: not JSON"),
        ("[]", "line 3: expected an object"),
        (document("trec", context=None), "line 3: 'context' must be a text; got None"),
        (document("trec", input=7), "line 3: 'input' must be a text; got 7"),
        (document("trec", answers=[]), r"line 3: 'answers' must list at least one text; got \[\]"),
        (document("trec", answers="Red"), "line 3: 'answers' must list .*; got 'Red'"),
        (document("trec", all_classes=None), "line 3: 'all_classes' must list the classes of trec"),
        (document("trec", all_classes="Red"), "line 3: 'all_classes' must list"),
    ],
)
def test_empty_or_damaged_file_is_an_error_that_names_it_and_the_line(tmp_path, line, message):
    text = line if isinstance(line, str) else json.dumps(line)
    (tmp_path / "trec.jsonl").touch()
    with pytest.raises(ValueError, match=r"trec\.jsonl is empty; download it again"):
        longbench_documents("trec", tmp_path)
    rows = f"{json.dumps(document('trec'))}\n\n{text}\n"  # an empty line is passed over
    (tmp_path / "trec.jsonl").write_text(rows, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"trec\.jsonl, {message}"):
        longbench_documents("trec", tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "hotpot"}, "dataset must be one of .* Did you mean 'hotpotqa'"),
        ({"dataset": None}, "a LongBench task must give dataset"),
        ({"prompt_length": None}, "a LongBench task must give prompt_length"),
        ({"prompt_length": 0}, "prompt_length must be a whole number >= 1; got 0"),
        ({"prompt_length": 1}, "cannot be cut to 1"),
        ({"num_samples": 0}, "num_samples must be a whole number >= 1; got 0"),
        ({"num_samples": 3}, "num_samples=3, but the file of trec has 2; use at most 2"),
        ({"length_unit": "words"}, "length_unit must be one of model, cl100k"),
        ({"num_sample": 1}, "Unknown setting 'num_sample'.*'num_samples'"),
        ({"template": "{input}"}, "template of trec must hold {context}"),
        ({"apply_chat_template": True, "dataset": "qmsum"}, "no chat template"),
    ],
)
def test_wrong_settings_are_refused(made, settings, message):
    given = {"dataset": "trec", "prompt_length": 400, **settings}
    with pytest.raises(ValueError, match=message):
        longbench_dataset(tokenizer=toy_tokenizer(), data_dir=made, max_length=9, **given)


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", BUDGETS)
def test_groups_hold_the_datasets_of_their_category_or_language(length):
    def members(name: str) -> list[str]:
        return load_yaml(FOLDER / f"longbench_{name}.yaml", resolve_func=False)["task"]

    def tasks(attribute: str, *values: str) -> list[str]:
        kept = [name for name, rule in DATASETS.items() if getattr(rule, attribute) in values]
        return [f"longbench_{name}_{length}" for name in kept]

    assert members(length) == [f"longbench_{category}_{length}" for category in CATEGORIES]
    for category in CATEGORIES:
        assert members(f"{category}_{length}") == tasks("category", category)
    for language in ("en", "zh"):
        assert members(f"{language}_{length}") == tasks("language", language, "code")


def test_every_task_loads_by_name_and_is_listed(small_run):
    manager = manager_of(small_run)
    groups = [f"longbench_{name}_{at}" for at in BUDGETS for name in (*CATEGORIES, "en", "zh")]
    tops = [f"longbench_{length}" for length in BUDGETS]
    leaves = [f"longbench_{name}_{length}" for name, length in LEAVES]
    assert set(manager.all_subtasks) == set(leaves)
    assert set(manager.all_groups) == {*groups, *tops}
    assert set(manager.match_tasks([*leaves, *groups, *tops])) == set(manager.all_tasks)
    listed = manager.list_all_tasks()
    assert all(name in listed for name in (*leaves, *groups, *tops))
    loaded = manager.load(tops)
    assert set(loaded["tasks"]) == set(leaves)
    for task in loaded["tasks"].values():
        assert task.VERSION == 1
        assert [doc["num_dropped"] > 0 for doc in task.test_docs()][:2] == [True, False]


def test_bare_path_and_copied_file_work_without_an_include_path(tmp_path, small_run):
    path = FOLDER / "longbench_qmsum_4k.yaml"
    text = path.read_text()
    text = text.replace("task: longbench_qmsum_4k", "task: mine").replace("512", "96")
    text += "  template: '{context} And now: {input}'\n"
    (tmp_path / "mine.yaml").write_text(text)
    manager = TaskManager(include_defaults=False, metadata=small_run)
    # lm-eval's Python interface takes the path, its command line reads the file beforehand.
    for spec in (str(path), load_yaml(path), str(tmp_path / "mine.yaml")):
        ((name, task),) = manager.load([spec])["tasks"].items()
        prompt = task.test_docs()[1]["prompt"]
        assert (prompt == "Short. And now: Which city?") == (name == "mine")
        assert task.get_config("generation_kwargs")["steps"] == (96 if name == "mine" else 512)


def test_missing_package_of_a_metric_stops_a_run_before_it_begins(small_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge", None)
    manager = manager_of(small_run)
    with pytest.raises(ImportError, match=r'pip install -e "\.\[longbench\]"'):
        manager.load(["longbench_qmsum_4k"])
    assert manager.load(["longbench_lcc_4k"])


# --- runs ---------------------------------------------------------------------------------------


def test_group_scores_are_the_means_over_datasets_of_any_size(small_run):
    results = run(Echo("\n7 more"), ["longbench_4k"], small_run)
    leaves = {name: results["results"][f"longbench_{name}_4k"] for name in DATASETS}
    assert leaves["trec"]["score,none"] == leaves["triviaqa"]["score,none"] == 100
    assert 0 < leaves["qmsum"]["score,none"] < 90  # the second line counts there
    kinds = {category: {} for category in CATEGORIES}
    for name, leaf in leaves.items():
        kinds[DATASETS[name].category][name] = leaf
    for group, members in {"": leaves, **{f"{kind}_": kinds[kind] for kind in kinds}}.items():
        for metric in ("score,none", "truncated,none", "dropped_tokens,none"):
            mean = sum(leaf[metric] for leaf in members.values()) / len(members)
            assert results["groups"][f"longbench_{group}4k"][metric] == pytest.approx(mean)
    assert leaves["qmsum"]["truncated,none"] == pytest.approx(100 / 3)


@pytest.mark.parametrize(("language", "number"), [("en", 16), ("zh", 7)])
def test_language_groups_average_their_datasets_and_code(small_run, language, number):
    results = run(Echo(), [f"longbench_{language}_4k"], small_run, limit=1)
    group = results["groups"][f"longbench_{language}_4k"]
    assert len(results["n-samples"]) == number
    assert group["score,none"] == pytest.approx(100, abs=1e-5)


def test_official_documents_give_the_highest_score_to_their_own_answers(official, small_run):
    own = {"data_dir": str(official), "prompt_length": 3500, "num_samples": 2}
    model = Echo()
    results = run(model, ["longbench_4k"], {**small_run, **own})
    assert len(model.requests) == 42
    assert all(0 < request.doc["num_tokens"] <= 3500 for request in model.requests)
    for name in DATASETS:
        assert results["results"][f"longbench_{name}_4k"]["score,none"] == pytest.approx(100), name
    assert 50 < results["groups"]["longbench_4k"]["truncated,none"] < 100


def test_few_shot_and_code_prompts_stay_out_of_the_chat_format(small_run):
    model = Echo()
    metadata = {**small_run, "apply_chat_template": True}
    run(model, ["longbench_4k"], metadata, apply_chat_template=True, limit=1)
    assert len(model.requests) == 21
    for request in model.requests:
        text, doc = request.args[0], request.doc
        plain = doc["dataset"] in PLAIN
        assert text == (doc["prompt"] if plain else f"<|startoftext|>[{doc['prompt']}]>")
        num_tokens = len(toy_tokenizer()(text)["input_ids"])
        assert 390 < num_tokens == doc["num_tokens"] <= 400


@pytest.mark.parametrize("reserved", [True, False])
def test_chat_format_without_room_for_it_is_refused(small_run, reserved):
    metadata = {**small_run, "apply_chat_template": reserved}
    with pytest.raises(ValueError, match="both --apply_chat_template and --metadata"):
        run(Echo(), ["longbench_qmsum_4k"], metadata, apply_chat_template=not reserved)
    assert run(Echo(), ["longbench_trec_4k"], metadata, apply_chat_template=not reserved)


def run_tiny(tasks: list[str], metadata: dict) -> dict:
    from lm_eval_llada.harness.llada import LLaDALM

    model = LLaDALM(pretrained="tiny-llada", device="cpu")
    settings = {"gen_length": 32, "steps": 1}
    return run(model, tasks, {**metadata, "num_samples": 1}, gen_kwargs=settings)


def test_shipped_model_answers(made):
    tasks = ["longbench_trec_4k", "longbench_dureader_4k"]
    results = run_tiny(tasks, {"data_dir": str(made), "prompt_length": 200})
    assert all(results["results"][name]["truncated,none"] == 100 for name in tasks)
    assert all(len(results["samples"][name][0]["resps"][0][0]) > 0 for name in tasks)


@pytest.mark.slow
def test_shipped_model_answers_all_datasets(official):
    results = run_tiny(["longbench_4k"], {"data_dir": str(official)})
    assert set(results["n-samples"]) == {f"longbench_{name}_4k" for name in DATASETS}
    assert 50 < results["groups"]["longbench_4k"]["truncated,none"] < 100
    for (sample,) in results["samples"].values():
        assert 0 < sample["doc"]["num_tokens"] <= 3500
        assert sample["arguments"][0][0] == sample["doc"]["prompt"]
