"""What the harness is told in place of a user's grids and of files that include by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager

from lm_eval_llada.cli.task_folders import lay_out

GRID = """
tasks:
- task: own_${length}_$num
  axes: {length: [300, 400], num: [0, 2]}
  include: _niah.yaml
  generation_kwargs: {until: ["\\n"], do_sample: false, gen_length: 8}
  metadata: {version: 1, length: $length, num_distractors: $num, repeats: 1, depths: [50]}
"""
PLAIN = "include: _niah.yaml\ntask: plain\ngeneration_kwargs: {gen_length: 8}\n"
FOREIGN = "task: foreign\ndoc_to_text: x\n"
NAMES = {"own_300_0", "own_300_2", "own_400_0", "own_400_2"}


@pytest.fixture
def mine(tmp_path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, text in (("grid", GRID), ("plain", PLAIN), ("foreign", FOREIGN)):
        (folder / f"{name}.yaml").write_text(text)
    return folder


def names_in(paths: list[str]) -> set[str]:
    return set(TaskManager(include_path=list(paths), include_defaults=False).all_tasks)


def test_a_run_without_files_of_its_own_has_only_what_it_names(tmp_path) -> None:
    laid_out = lay_out(tmp_path / "run", ["niah_tiny", "hellaswag"], None)
    assert laid_out.tasks == ["niah_tiny", "hellaswag"]
    assert names_in(laid_out.include_path) == {"niah_tiny", "llada_niah"}


def test_a_folder_of_tasks_adds_names(tmp_path, mine) -> None:
    laid_out = lay_out(tmp_path / "run", ["plain"], str(mine))
    assert laid_out.tasks == ["plain"]
    # What the harness reads by itself stays where it is.
    assert not list((tmp_path / "run").rglob("foreign.yaml"))
    found = names_in(laid_out.include_path)
    assert {*NAMES, "plain", "foreign", "ruler_4k"} <= found
    assert laid_out.include_path[1] == str(mine)


def test_a_folder_that_is_not_there_is_an_error(tmp_path) -> None:
    with pytest.raises(ValueError, match="--include_path .*nowhere: there is no such"):
        lay_out(tmp_path / "run", ["niah_tiny"], [str(tmp_path / "nowhere")])


def test_a_grid_is_run_whole_by_its_path(tmp_path, mine) -> None:
    laid_out = lay_out(tmp_path / "run", ["niah_tiny", str(mine / "grid.yaml")], None)
    assert set(laid_out.tasks) == {"niah_tiny", *NAMES}
    manager = TaskManager(include_path=laid_out.include_path, include_defaults=False)
    (task,) = manager.load(["own_400_2"])["tasks"].values()
    (doc,) = task.test_docs()
    assert doc["length"] == 400 and doc["prompt"].count(" is ") >= 3


def test_plain_files_pass_by_path_and_pattern(tmp_path, mine) -> None:
    own, others = str(mine / "plain.yaml"), str(mine / "f*.yaml")
    laid_out = lay_out(tmp_path / "run", [own, others], None)
    assert laid_out.tasks == ["plain", str(mine / "foreign.yaml")]
    assert "plain" in names_in(laid_out.include_path)


def test_a_folder_named_as_a_task_is_read_only_if_it_needs_us(tmp_path, mine, monkeypatch) -> None:
    laid_out = lay_out(tmp_path / "run", [str(mine)], None)
    assert set(laid_out.tasks) == {*NAMES, "plain", str(mine / "foreign.yaml")}
    for name in ("grid", "plain"):
        (mine / f"{name}.yaml").unlink()
    assert lay_out(tmp_path / "other", [str(mine)], None).tasks == [str(mine)]
    monkeypatch.chdir(tmp_path)
    mine.rename(tmp_path / "niah")
    (tmp_path / "niah" / "grid.yaml").write_text(GRID)
    assert lay_out(tmp_path / "third", ["niah"], None).tasks == ["niah"]


def test_a_name_in_two_files_of_a_folder_is_refused(tmp_path, mine) -> None:
    (mine / "again.yaml").write_text(GRID)
    with pytest.raises(ValueError, match=r"'own_300_0' is in .*again.yaml and again in .*grid"):
        lay_out(tmp_path / "run", ["plain"], str(mine))


def test_a_wrong_grid_stops_the_run(tmp_path, mine) -> None:
    (mine / "grid.yaml").write_text(GRID.replace("$num,", "$nun,"))
    with pytest.raises(ValueError, match=r"grid.yaml, line 3: the placeholder \$nun has no value"):
        lay_out(tmp_path / "run", ["plain"], [str(mine)])
