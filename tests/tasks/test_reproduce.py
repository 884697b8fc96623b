"""Names of the protocols' tasks, and the account of how to reproduce the papers with them."""

from __future__ import annotations

import re
from pathlib import Path

import lm_eval.tasks
from lm_eval.tasks import TaskManager

from lm_eval_llada.tasks.grid import shipped_configs, tasks_path
from lm_eval_llada.tasks.papers.protocols import PROTOCOLS, protocols_of
from tests.helpers.command_line import call

REPRODUCE = Path(__file__).resolve().parents[2] / "docs" / "reproduce.md"


def names_of_files() -> list[str]:
    """Names of all groups and tasks of the protocols, as the grid has them."""
    return sorted(shipped_configs()["papers"])


def test_names_are_those_of_the_files_and_nobody_elses():
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False)
    ours = [name for name in manager.all_tasks if protocols_of([name])]
    assert sorted(ours) == names_of_files()
    assert len(ours) > 250
    prefixes = re.compile(r"\b(longllada|ultrallada|niah_multi_\d+|niah_multi)\b")
    theirs = list(Path(lm_eval.tasks.__file__).parent.rglob("*.yaml"))
    assert len(theirs) > 1000
    assert not [path for path in theirs if prefixes.search(path.read_text(encoding="utf-8"))]


def test_no_other_group_or_tag_runs_a_protocol():
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False)
    for name, entry in manager.task_index.items():
        members = entry.tags or (entry.cfg or {}).get("task") or []
        named = [m for m in members if isinstance(m, str) and protocols_of([m])]
        assert not named or protocols_of([name]), f"{name} runs {named}"


def test_tasks_that_the_account_names_exist():
    known = set(names_of_files()) | {"niah_multi"}
    named = set(re.findall(r"`((?:longllada|ultrallada)_\w+(?:,\w+)*)`", REPRODUCE.read_text()))
    named |= set(re.findall(r"--tasks (\w+(?:,\w+)*)", REPRODUCE.read_text()))
    tasks = {name for entry in named for name in entry.split(",")} - {"TASKS", "longllada_"}
    assert len(tasks) >= 12
    assert not tasks - known


def test_what_the_account_says_is_filled_in_is_what_is_filled_in():
    text = REPRODUCE.read_text()
    for protocol in PROTOCOLS.values():
        said = ",".join(f"{name}={str(v).lower()}" for name, v in protocol.model_args.items())
        assert f"`{said}`" in text


def test_commands_about_scales_print_the_papers_numbers(monkeypatch, capsys):
    commands = re.findall(r"^ {4}lm-eval-llada (rope .*)$", REPRODUCE.read_text(), re.MULTILINE)
    printed = []
    for command in commands:
        assert call(monkeypatch, *command.split()) == 0
        printed.append(capsys.readouterr().out)
    assert "14" in printed[0] and "561.9" in printed[1]
