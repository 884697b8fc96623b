"""The 669 names that we ship: what each resolves to, and the folder that has them as plain files.

`resolved_configs.txt` was made of the task files as they were before there were grids. After a
deliberate change of a task, `python -m tests.tasks.test_shipped_tasks` writes it anew; the diff
then names the tasks that changed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from lm_eval_llada.tasks import grid
from lm_eval_llada.tasks.grid import grids_path, shipped_configs, tasks_path, write_shipped
from lm_eval_llada.tasks.longbench.scores import CATEGORIES, DATASETS
from lm_eval_llada.tasks.niah.scores import DEPTHS
from lm_eval_llada.tasks.ruler.scores import GROUPS
from lm_eval_llada.tasks.task import SampledTask
from lm_eval_llada.tasks.task_yaml import read_yaml

LENGTHS = (2000, 4000, 8000, 16000, 24000, 32000)
TABLE = Path(__file__).with_name("resolved_configs.txt")


def plain(value: Any) -> Any:
    """A config as JSON has it; functions by their own name, wherever they live."""
    if callable(value):
        return f"!function {value.__qualname__}"
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def digest(config: Mapping[str, Any]) -> str:
    """Digest of a resolved config, but for what only says how samples learn of generation."""
    settings = {key: plain(value) for key, value in config.items() if key != "class"}
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def resolved(folder: Path) -> dict[str, dict[str, Any]]:
    """The configs of a folder of plain files, as the harness resolves them."""
    paths = folder.rglob("[!_]*.yaml")
    return {path.stem: load_yaml(path, resolve_func=True) for path in paths}


def table_of(configs: Mapping[str, Mapping[str, Any]]) -> str:
    return "".join(f"{name} {digest(config)}\n" for name, config in sorted(configs.items()))


@pytest.fixture(scope="module")
def configs() -> dict[str, dict[str, Any]]:
    return resolved(tasks_path())


def test_every_name_resolves_to_the_config_it_had(configs) -> None:
    assert table_of(configs).splitlines() == TABLE.read_text().splitlines()


def test_names_are_those_of_their_configs_and_nobody_elses(configs) -> None:
    names = {config.get("group") or config["task"] for config in configs.values()}
    assert names == set(configs) and len(names) == 669
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False)
    assert set(manager.all_tasks) == names | {"llada_niah", "llada_perplexity"}
    # The harness' files are searched as text: an index of them takes ten times as long.
    theirs = list(Path(lm_eval.tasks.__file__).parent.rglob("*.yaml"))
    assert len(theirs) > 1000
    for path in theirs:
        words = set(re.findall(r"[\w.-]+", path.read_text(encoding="utf-8")))
        assert not words & set(manager.all_tasks), path


def test_every_task_tells_its_samples_how_it_generates(configs) -> None:
    tasks = [config for config in configs.values() if "group" not in config]
    assert len(tasks) == 508
    assert all(issubclass(config["class"], SampledTask) for config in tasks)
    assert not any("generation_kwargs" in config["metadata"] for config in tasks)


def test_the_files_can_be_read_and_are_few() -> None:
    files = list(grids_path().iterdir())
    assert {path.suffix for path in files} == {".yaml"} and len(files) <= 16
    assert all(len(line) <= 101 for path in files for line in path.read_text().splitlines())


def test_grids_and_scores_agree_on_what_the_benchmarks_hold() -> None:
    ruler = read_yaml(grids_path() / "ruler.yaml")["shared"]
    assert {kind: tuple(row["members"]) for kind, row in ruler["ruler_kinds"].items()} == GROUPS
    assert list(ruler["ruler_tasks"]) == [task for group in GROUPS.values() for task in group]
    longbench = read_yaml(grids_path() / "longbench.yaml")["shared"]
    assert list(longbench["longbench_datasets"]) == list(DATASETS)
    for kind in CATEGORIES:
        members = longbench["longbench_kinds"][kind]["members"]
        assert members == [name for name, rule in DATASETS.items() if rule.category == kind]
    for template in ("_niah.yaml", "_niah_multi.yaml"):
        metrics = [row["metric"] for row in read_yaml(grids_path() / template)["metric_list"]]
        assert [name for name in metrics if name.startswith("depth")] == [
            f"depth_{depth:03d}" for depth in DEPTHS
        ]


# --- the folder of plain files ------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "lm_eval_llada"


def test_the_folder_appears_whole_for_all_who_ask_at_once(cache, monkeypatch) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: tasks_path(), range(4)))
    assert len(set(found)) == 1
    assert list(cache.iterdir()) == [found[0]]
    assert len(list(found[0].rglob("[!_]*.yaml"))) == 669
    # What is there is not written again.
    monkeypatch.setattr(grid, "write_shipped", lambda *_: pytest.fail("written twice"))
    assert tasks_path() == found[0]


def test_another_content_gets_another_folder(cache, tmp_path, monkeypatch) -> None:
    before = tasks_path()
    changed = tmp_path / "grids"
    changed.mkdir()
    for path in grids_path().iterdir():
        (changed / path.name).write_text(path.read_text().replace("repeats: 10", "repeats: 11"))
    monkeypatch.setattr(grid, "grids_path", lambda: changed)
    shipped_configs.cache_clear()
    try:
        after = tasks_path()
    finally:
        shipped_configs.cache_clear()
    assert before != after
    assert load_yaml(after / "niah" / "niah_512.yaml")["metadata"]["repeats"] == 11


def test_a_write_that_fails_leaves_nothing(cache, monkeypatch) -> None:
    def fail(folder: Path) -> None:
        write_shipped(folder, ["niah_tiny"])
        raise OSError("disk full")

    monkeypatch.setattr(grid, "write_shipped", fail)
    with pytest.raises(OSError, match="disk full"):
        tasks_path()
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (["niah_tiny"], {"niah_tiny"}),
        (["ruler_qa_4k"], {"ruler_qa_4k", "ruler_qa_1_4k", "ruler_qa_2_4k"}),
        (["longllada_niah_*00_steps_1"], {f"longllada_niah_{n}_steps_1" for n in LENGTHS}),
        (["llada_perplexity"], {"ppl_tiny", "ppl_govreport_16k", "ppl_pg19_128k"}),
        (["hellaswag"], set()),
    ],
)
def test_a_run_gets_what_it_names_with_all_members(tmp_path, wanted, names) -> None:
    write_shipped(tmp_path, wanted)
    assert {path.stem for path in tmp_path.rglob("[!_]*.yaml")} == names


def test_the_checkout_comes_before_the_packaged_copy(tmp_path, monkeypatch) -> None:
    package = tmp_path / "lm_eval_llada"
    monkeypatch.setattr(grid, "_PACKAGE", package)
    with pytest.raises(FileNotFoundError, match="install lm_eval_llada again"):
        grids_path()
    for folder in (package / "_tasks", tmp_path / "tasks"):
        folder.mkdir(parents=True)
    (package / "_tasks" / "_niah.yaml").touch()
    assert grids_path() == package / "_tasks"  # the other folder is somebody else's
    (tmp_path / "tasks" / "_niah.yaml").touch()
    assert grids_path() == tmp_path / "tasks"


if __name__ == "__main__":
    TABLE.write_text(table_of(resolved(tasks_path())))
