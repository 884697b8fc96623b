"""Settings of samples (`--metadata`): names that no task reads are an error, as in model_args."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from lm_eval_llada.engine.argument_text import text_from

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

_ROOM = "lm_eval_llada.tasks."
# Fields that a task file sets under another name: the output's length and the seed of samples.
_RENAMED = ("gen_length", "seed", "task")
# What `make_dataset` takes beside the fields of a benchmark's options, and whether it is a text.
_HANDED_ON = {
    "data_seed": False,
    "gen_kwargs": False,
    "generation_kwargs": False,
    "pretrained": True,
    "revision": True,
    "tokenizer": True,
    "version": False,
}


def check_settings(
    metadata: Mapping[str, Any], tasks: Sequence[str], include_path: Sequence[str]
) -> None:
    """Refuse settings of samples that none of a run's tasks reads.

    Where a task of others is among them, any name may be one of its own.

    Args:
        metadata: What the user gave.
        tasks: Names, patterns and files of tasks.
        include_path: Folders with task files, ours among them.

    Raises:
        ValueError: If a name is unknown, with the nearest that is known, or a number stands where
            text is wanted.
    """
    if not metadata:
        return
    # Imported here and below, as it takes seconds: few runs have anything to check.
    from lm_eval_llada.engine.arguments import unknown_name

    makers = [maker for name in tasks for maker in sample_makers(name, tuple(include_path))]
    if not makers or not all(maker.startswith(_ROOM) for maker in makers):
        return
    known: dict[str, Any] = {}
    for benchmark in dict.fromkeys(maker.removeprefix(_ROOM).split(".")[0] for maker in makers):
        known |= _settings_of(benchmark)
    for name, value in metadata.items():
        if name not in known:
            raise unknown_name("--metadata", name, tuple(sorted(known)))
        if known[name] and isinstance(value, int | float):
            text_from(name, value)


def has_own_tasks(tasks: Sequence[str], include_path: Sequence[str]) -> bool:
    """Whether samples of a run come from our makers.

    Args:
        tasks: Names, patterns and files of tasks.
        include_path: Folders with task files, ours among them.
    """
    makers = (maker for name in tasks for maker in sample_makers(name, tuple(include_path)))
    return any(maker.startswith(_ROOM) for maker in makers)


def sample_makers(name: str, include_path: tuple[str, ...]) -> list[str]:
    """What makes the samples of a task, group or pattern; an empty name for tasks of others.

    Args:
        name: As among `--tasks`.
        include_path: Folders with task files; those of the harness are not listed.
    """
    from lm_eval_llada.plan.task_names import file_settings, matches, single_tasks

    manager = _index(include_path)
    found = [file_settings(manager, task) for task in single_tasks(manager, matches(manager, name))]
    # A function that is not resolved is its name behind the folder of the file.
    makers = [Path(str(settings.get("custom_dataset", ""))).name for settings in found]
    return makers or [""]


@lru_cache(maxsize=1)
def _index(include_path: tuple[str, ...]) -> TaskManager:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=list(include_path), include_defaults=False)


def _settings_of(benchmark: str) -> dict[str, bool]:
    """The settings of a benchmark's tasks, each with whether it is a text."""
    package = importlib.import_module(_ROOM + benchmark)
    settings: dict[str, bool] = {}
    for found in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        module = importlib.import_module(found.name)
        for name, item in vars(module).items():
            if dataclasses.is_dataclass(item) and name.endswith("Options"):
                hints = get_type_hints(item)
                fields = {field.name for field in dataclasses.fields(item)} - {*_RENAMED}
                settings |= {field: _is_text(hints[field]) for field in fields}
            elif inspect.isfunction(item) and _makes_a_data_set(name, item, module.__name__):
                settings |= {
                    parameter.name: _is_text(parameter.annotation)
                    for parameter in inspect.signature(item).parameters.values()
                    if parameter.kind is parameter.KEYWORD_ONLY and parameter.name != "build"
                }
    return settings | _HANDED_ON


def _makes_a_data_set(name: str, item: Any, module: str) -> bool:
    """Whether a function is one that task files name, and not one that such functions call."""
    return name.endswith("_dataset") and item.__module__ == module


def _is_text(hint: Any) -> bool:
    """Whether a setting is a text, and so never a number."""
    kinds = str(hint)
    return "str" in kinds and not any(kind in kinds for kind in ("int", "float", "bool", "Mapping"))
