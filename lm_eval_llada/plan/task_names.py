"""From what a user names to single tasks: patterns, files, folders, groups and tags taken apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from glob import glob
from pathlib import Path

from lm_eval.config.group import GroupConfig
from lm_eval.tasks import TaskManager

_SUFFIXES = (".yaml", ".yml")
# A group with other keys hands them on to its members as settings.
_GROUP_KEYS = {option.name for option in fields(GroupConfig)} | {"tag", "include"}


def is_file(name: str) -> bool:
    """Whether a name is that of a task file, rather than of a task."""
    return name.endswith(_SUFFIXES)


def matches(manager: TaskManager, name: str) -> list[str]:
    """The tasks, groups and tags, or else the task files, that a name or pattern stands for."""
    if found := manager.match_tasks([name]):
        return found
    paths = glob(str(Path(name) / "*.yaml") if Path(name).is_dir() else name)
    return [str(Path(path).absolute()) for path in sorted(paths) if is_file(path)]


def single_tasks(manager: TaskManager, names: Iterable[str]) -> list[str]:
    """The tasks of groups and tags, each once.

    A group that changes its members' settings stays whole: they can only be built with it.
    """
    return list(dict.fromkeys(task for name in names for task in _tasks_of(manager, name)))


def _tasks_of(manager: TaskManager, name: str) -> list[str]:
    entry = manager.task_index.get(name)
    config = (entry.cfg or {}) if entry is not None else {}
    if "group" in config:
        members = config.get("task") or []
    elif entry is not None and entry.cfg is None and entry.tags:
        members = sorted(entry.tags)
    else:
        return [name]
    if not set(config) <= _GROUP_KEYS or not all(isinstance(one, str) for one in members):
        return [name]
    return single_tasks(manager, members)
