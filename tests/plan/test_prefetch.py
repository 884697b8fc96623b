"""`prefetch`: what tasks read is fetched, named and sized; a failure leaves the rest."""

from __future__ import annotations

import argparse
import functools
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import datasets
import huggingface_hub
import pytest
import yaml
from huggingface_hub import constants
from lm_eval.tasks import TaskManager

from lm_eval_llada.cli import prefetch as prefetch_command
from lm_eval_llada.plan import prefetching
from lm_eval_llada.plan.prefetching import (
    Item,
    TaskFiles,
    offline_variables,
    on_disk,
    prefetch_checkpoint,
)
from lm_eval_llada.tasks.grid import write_shipped
from tests.helpers.longbench_documents import document

TINY = {"pretrained": "tiny-llada"}
FOLDER = Path()
TASKS = ["niah_tiny", "niah_512", "ppl_tiny", "longbench_code_4k", "longbench_lcc_8k"]


@pytest.fixture(scope="module", autouse=True)
def some_tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A few of our tasks: to list all of them takes the harness a second each time."""
    folder = tmp_path_factory.mktemp("tasks")
    write_shipped(folder, TASKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "FOLDER", folder)
        yield


@pytest.fixture(autouse=True)
def only_those_tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the harness' own tasks out, and tests out of the user's folders."""
    short = functools.partialmethod(TaskManager.__init__, include_defaults=False)
    monkeypatch.setattr(TaskManager, "__init__", short)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))


def task_files(*names: str, include: Path | None = None, **metadata: object) -> TaskFiles:
    folders = [FOLDER, *([] if include is None else [include])]
    return TaskFiles(names, {**TINY, **metadata}, list(map(str, folders)))


def write_hub_task(folder: Path, name: str, data: Path) -> None:
    """A task of the harness' own kind, whose data set is a local file."""
    config = {
        **{"task": name, "output_type": "generate_until", "test_split": "train"},
        **{"doc_to_text": "{{text}}", "doc_to_target": "{{text}}"},
        **{"dataset_path": "json", "dataset_kwargs": {"data_files": str(data)}},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A hub that holds LongBench's archive with one of its datasets; names of what was asked."""
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data/lcc.jsonl", json.dumps(document("lcc")))
    asked = []

    def download(repository: str, name: str, **how: object) -> str:
        asked.append(f"{repository}/{name}")
        return str(archive)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_tasks_that_need_nothing_say_so():
    items = list(task_files("niah_tiny", "ppl_tiny").fetch())
    assert items == [Item("task niah_tiny"), Item("task ppl_tiny")]


def test_a_corpus_is_named_once_and_a_failure_leaves_the_rest(hub, tmp_path):
    before = huggingface_hub.hf_hub_download
    files = task_files("longbench_code_4k", "longbench_lcc_8k", "niah_tiny")
    lcc, repobench, again, niah = files.fetch()
    archive = tmp_path / "data.zip"
    assert lcc == Item("task longbench_lcc_4k", archive, archive.stat().st_size)
    assert repobench.what == "task longbench_repobench-p_4k"
    assert (repobench.path, "has no data/repobench-p.jsonl" in repobench.error) == (None, True)
    assert again == Item("task longbench_lcc_8k")
    assert niah == Item("task niah_tiny")
    assert set(hub) == {"THUDM/LongBench/data.zip"}
    assert huggingface_hub.hf_hub_download is before


def test_corpora_of_a_local_folder_are_read_without_the_hub(hub, tmp_path):
    folder = tmp_path / "corpora" / "longbench"
    folder.mkdir(parents=True)
    (folder / "lcc.jsonl").write_text(json.dumps(document("lcc")), encoding="utf-8")
    items = list(task_files("longbench_lcc_4k", data_dir=str(folder.parent)).fetch())
    assert items == [Item("task longbench_lcc_4k")]
    assert hub == []


def test_data_sets_of_other_tasks_are_found_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "one"}\n{"text": "two"}\n', encoding="utf-8")
    write_hub_task(tmp_path, "other", data)
    (item,) = task_files("other", include=tmp_path).fetch()
    assert (item.what, item.error) == ("task other", None)
    assert item.path.is_relative_to(tmp_path / "cache")
    assert item.num_bytes == sum(file.stat().st_size for file in item.path.rglob("*")) > 0


def test_a_task_that_raises_anything_is_one_failed_item(tmp_path):
    write_hub_task(tmp_path, "broken", tmp_path / "missing.jsonl")
    odd_task = "task: odd\ndataset_path: json\ndoc_to_text: !function no_such_module.f\n"
    (tmp_path / "odd.yaml").write_text(odd_task, encoding="utf-8")
    broken, odd, fine = task_files("broken", "odd", "niah_tiny", include=tmp_path).fetch()
    assert "missing.jsonl" in broken.error
    assert "no_such_module" in odd.error
    assert fine == Item("task niah_tiny")


def test_groups_tags_patterns_files_and_folders_become_tasks(tmp_path):
    for name in ("one", "two"):
        write_hub_task(tmp_path, name, tmp_path / "none.jsonl")
    group = {"group": "changed", "task": [{"task": "one", "num_fewshot": 2}, "two"]}
    (tmp_path / "changed.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")
    assert task_files("longbench_code_4k").names == [
        "longbench_lcc_4k",
        "longbench_repobench-p_4k",
    ]
    assert task_files("changed", include=tmp_path).names == ["changed"]
    assert task_files("niah_tin*", "niah_tiny").names == ["niah_tiny"]
    assert "niah_512" in task_files("llada_niah").names
    assert task_files(str(tmp_path / "one.yaml")).names == [str(tmp_path / "one.yaml")]
    assert task_files(str(tmp_path)).names == [
        str(tmp_path / f"{name}.yaml") for name in ("changed", "one", "two")
    ]


@pytest.mark.parametrize("name", ["niah_tinny", "Niah-Tiny", "longbench_lcc_4"])
def test_an_unknown_task_is_an_error_with_the_nearest_name(name):
    nearest = "longbench_lcc_4k" if "longbench" in name else "niah_tiny"
    with pytest.raises(ValueError, match=f"{name!r}. Did you mean '{nearest}'"):
        task_files("ppl_tiny", name)


def test_a_checkpoint_on_disk_needs_no_download(random_checkpoint):
    item = prefetch_checkpoint(str(random_checkpoint), None, weights=True)
    assert (item.path, item.error) == (random_checkpoint, None)
    assert item.num_bytes == sum(file.stat().st_size for file in random_checkpoint.iterdir())


@pytest.mark.parametrize("weights", [False, True])
def test_weights_are_fetched_only_where_they_are_wanted(tmp_path, monkeypatch, weights):
    asked = {}

    def download(name: str, **how: object) -> str:
        asked.update(how, name=name)
        (tmp_path / "config.json").write_text("{}", encoding="utf-8")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    item = prefetch_checkpoint("some/model", "abc", weights=weights)
    assert (item.path, item.num_bytes, item.error) == (tmp_path, 2, None)
    assert (asked["name"], asked["revision"]) == ("some/model", "abc")
    assert ("*.safetensors" in asked["allow_patterns"]) is weights
    assert "*.json" in asked["allow_patterns"]


def test_a_checkpoint_that_cannot_be_had_says_why():
    item = prefetch_checkpoint("some/model-that-is-not-here", None, weights=False)
    assert item.path is None
    assert item.error.startswith("LocalEntryNotFoundError: ")


def test_variables_point_to_where_things_are(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path.parent / "elsewhere")
    (tmp_path / "tiktoken").mkdir()
    monkeypatch.setattr(
        prefetching, "_nltk_resources", lambda: [tmp_path / "nltk" / "tokenizers" / "punkt_tab"]
    )
    variables = offline_variables()
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        assert variables[name] == "1"
    assert variables["HF_HOME"] == str(tmp_path)
    assert "HF_HUB_CACHE" not in variables
    assert variables["HF_DATASETS_CACHE"] == str(tmp_path.parent / "elsewhere")
    assert variables["TIKTOKEN_CACHE_DIR"] == str(tmp_path / "tiktoken")
    assert variables["NLTK_DATA"] == str(tmp_path / "nltk")


def test_resources_of_nltk_count_once_a_task_loaded_it(tmp_path, monkeypatch):
    nltk = pytest.importorskip("nltk")
    resource = tmp_path / "tokenizers" / "punkt_tab"
    resource.mkdir(parents=True)
    (resource / "rules").write_text("xyz", encoding="utf-8")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    items = list(task_files("niah_tiny").fetch())
    assert items[1:] == [Item("resource of nltk", resource, 3)]
    assert offline_variables()["NLTK_DATA"] == str(tmp_path)
    monkeypatch.delitem(prefetching.sys.modules, "nltk")
    assert "NLTK_DATA" not in offline_variables()


def test_the_size_of_a_folder_is_that_of_its_files(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"123")
    (tmp_path / "a" / "b" / "two").write_bytes(b"4567")
    assert on_disk("x", tmp_path / "a") == Item("x", tmp_path / "a", 7)
    assert on_disk("x", tmp_path / "a" / "one").num_bytes == 3


def run(*arguments: str) -> None:
    parser = argparse.ArgumentParser()
    prefetch_command.add_parser(parser.add_subparsers())
    namespace = parser.parse_args(["prefetch", *arguments])
    # As the command line has laid the task files out.
    namespace.include_path = [str(FOLDER)]
    namespace.func(namespace)


def test_the_command_prints_items_and_variables(capsys):
    run("niah_tiny")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("HF_HUB_OFFLINE is set, so nothing is fetched")
    assert lines[1].startswith("ok    config and tokenizer of tiny-llada (no download): ")
    assert lines[2] == "none  task niah_tiny: needs no further files"
    assert "export HF_HUB_OFFLINE=1" in lines
    assert any(line.startswith("export HF_HOME=/") for line in lines)


def test_the_command_goes_on_after_a_failure_and_ends_with_exit_code_1(hub, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run("longbench_code_4k,niah_tiny")
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert f"ok    task longbench_lcc_4k: {tmp_path / 'data.zip'} (" in printed
    assert "FAIL  task longbench_repobench-p_4k: ValueError: " in printed
    assert "none  task niah_tiny" in printed
    assert printed.endswith("1 of 4 items could not be had.\n")


def test_the_command_reads_a_local_folder(hub, tmp_path, capsys):
    (tmp_path / "lcc.jsonl").write_text(json.dumps(document("lcc")), encoding="utf-8")
    run("longbench_lcc_4k", "--data_dir", str(tmp_path))
    assert f"ok    data_dir, to be copied: {tmp_path} (" in capsys.readouterr().out
    assert hub == []
    with pytest.raises(ValueError, match="give it once"):
        run("niah_tiny", "--data_dir", "x", "--model_args", "data_dir=y")


def test_wrong_names_stop_before_anything_is_fetched(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail())
    with pytest.raises(ValueError, match="Did you mean 'niah_tiny'"):
        run("niah_tinny", "--model_args", "pretrained=some/model", "--weights")
    with pytest.raises(ValueError, match="Did you mean 'pretrained'"):
        run("niah_tiny", "--model_args", "pretraind=some/model")
