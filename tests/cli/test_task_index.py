"""The harness' own tasks are read where a run may ask for them, and only there."""

from __future__ import annotations

import lm_eval.tasks
import pytest

from lm_eval_llada.cli import main as main_module
from lm_eval_llada.cli.task_folders import SHIPPED, lay_out
from lm_eval_llada.cli.task_index import are_shipped, without_defaults


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        (["niah_tiny"], True),
        (["niah_tiny", "ruler_tiny"], True),
        (["niah_tiny", "hellaswag"], False),
        (["niah_*"], False),
        (["./niah_tiny.yaml"], False),
        ([], False),
    ],
)
def test_only_names_of_ours_are_ours(tasks, expected):
    assert are_shipped(tasks) is expected


def test_the_harness_lists_our_tasks_alone_and_its_own_again_afterwards(tmp_path):
    laid_out = lay_out(tmp_path, ["niah_tiny"], None)
    assert laid_out.include_path == [str(tmp_path / SHIPPED)]
    original = lm_eval.tasks.TaskManager
    with without_defaults():
        manager = lm_eval.tasks.TaskManager(include_path=laid_out.include_path)
        assert isinstance(manager, original)
        assert "niah_tiny" in manager.all_tasks
        assert "hellaswag" not in manager.all_tasks
    assert lm_eval.tasks.TaskManager is original


@pytest.mark.parametrize(
    ("arguments", "is_lean"),
    [
        (["--tasks", "niah_tiny"], True),
        (["--tasks", "niah_tiny,arc_easy"], False),
        (["--tasks", "niah_tiny", "--include_path", "."], False),
    ],
)
def test_a_run_of_our_tasks_leaves_the_harness_own_unread(
    monkeypatch, arguments, is_lean, tmp_path
):
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(
        main_module.CommandLine,
        "execute",
        lambda self, namespace: seen.append(lm_eval.tasks.TaskManager.__name__),
    )
    main_module.run(arguments)
    assert seen == ["OwnTasks" if is_lean else "TaskManager"]
