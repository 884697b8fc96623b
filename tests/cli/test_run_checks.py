"""Runs that would end without a reason, or in the numbers of another run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from lm_eval import evaluator

from lm_eval_llada.cli.commit import quiet_commit
from lm_eval_llada.cli.run_checks import check_run, explain_ranks
from lm_eval_llada.cli.task_errors import explain_missing
from lm_eval_llada.tasks.grid import tasks_path
from tests.helpers.command_line import call, check_one_sentence

OURS = [str(tasks_path())]
CACHE = {"cache_requests": True, "rewrite_requests_cache": False, "delete_requests_cache": False}


@pytest.mark.parametrize(
    ("task", "given"),
    [
        ("niah_tiny", {}),
        ("ruler_4k", {}),
        ("gsm8k", {"gen_kwargs": {"max_gen_toks": 4}}),
        ("gsm8k", {"metadata": {"a": 1}}),
    ],
)
def test_prompts_of_another_setting_are_not_handed_out(task: str, given: dict) -> None:
    # With data_seed=1 and then 2, answers to the first seed's questions scored 0.588 for 100.
    with pytest.raises(ValueError, match="--cache_requests true would hand out the prompts"):
        check_run({**given, "cache_requests": CACHE}, [task], OURS)
    refreshed = {**CACHE, "rewrite_requests_cache": True}
    check_run({**given, "cache_requests": refreshed}, [task], OURS)


def test_the_cache_of_prompts_serves_tasks_that_nothing_changes() -> None:
    check_run({"cache_requests": CACHE}, ["gsm8k"], OURS)


def test_fewer_documents_than_ranks_are_refused(monkeypatch) -> None:
    check_run({"limit": 1}, ["niah_tiny"], OURS)
    monkeypatch.setenv("WORLD_SIZE", "4")
    for limit in (4, 0.5, None):
        check_run({"limit": limit}, ["niah_tiny"], OURS)
    check_run({"limit": 2, "model_args": {"tp": 2}}, ["niah_tiny"], OURS)
    with pytest.raises(ValueError, match="--limit 3 leaves fewer documents than the 4 ranks"):
        check_run({"limit": 3.0}, ["niah_tiny"], OURS)
    with pytest.raises(ValueError, match="--samples names 2 documents of niah_tiny"):
        check_run({"samples": {"niah_tiny": [0, 1]}}, ["niah_tiny"], OURS)


def test_a_rank_without_documents_says_why(monkeypatch) -> None:
    error = ValueError("task.build_requests() did not find any docs!")
    assert explain_ranks(error) is error
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert "fewer documents than there are ranks, 4" in str(explain_ranks(error))
    other = ValueError("something else")
    assert explain_ranks(other) is other


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    (tmp_path / "leaf.yaml").write_text("include: middle.yaml\ntask: leaf\n")
    (tmp_path / "middle.yaml").write_text("include: nowhere.yaml\nmetadata: !function a.b\n")
    return tmp_path


def test_a_missing_include_names_both_files(monkeypatch, capsys, broken: Path) -> None:
    code = call(monkeypatch, "--tasks", str(broken / "leaf.yaml"))
    message = r"middle.yaml, line 1: include 'nowhere.yaml' is neither a file in .*"
    check_one_sentence(code, capsys.readouterr().err, message)


def test_a_task_that_the_harness_left_out_says_why(broken: Path) -> None:
    error = explain_missing(ValueError("Tasks not found: leaf"), [str(broken)])
    assert "middle.yaml includes 'nowhere.yaml'" in str(error)


def test_near_names_of_tasks_are_suggested() -> None:
    error = explain_missing(ValueError("Tasks not found: niah_tin, rulr_4k"), OURS)
    assert "Did you mean 'niah_tiny'?" in str(error)
    assert "Did you mean 'ruler_4k'?" in str(error)
    other = ValueError("something else")
    assert explain_missing(other, OURS) is other


def test_git_complains_of_nothing(monkeypatch, tmp_path, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with quiet_commit():
        assert evaluator.get_git_commit_hash() is None
    assert capfd.readouterr().err == ""
    subprocess.run(["git", "init", "-q"], check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "One"], check=True)
    with quiet_commit():
        assert len(evaluator.get_git_commit_hash()) >= 7
