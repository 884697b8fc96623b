"""Why a task is not there: its file includes another that is missing, or its name is misspelt."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import yaml

from lm_eval_llada.errors import nearest
from lm_eval_llada.tasks.grid import shipped_configs

_MISSING = "Tasks not found: "


def check_includes(tasks: Sequence[str]) -> None:
    """Refuse a task file that includes, maybe by others, a file that is not there.

    Args:
        tasks: Names and files of tasks; names are passed over.

    Raises:
        ValueError: The message names the including file and the missing one.
    """
    for name in tasks:
        if name.endswith((".yaml", ".yml")) and Path(name).is_file():
            _follow(Path(name))


def explain_missing(error: ValueError, include_path: Sequence[str]) -> ValueError:
    """The harness' error of unknown tasks with a reason for each; any other as it is.

    The harness leaves a file out of its index, silently, that it cannot read.

    Args:
        error: Of a run.
        include_path: Folders with task files beside the harness' own.
    """
    text = str(error)
    if not text.startswith(_MISSING):
        return error
    from lm_eval.tasks import TaskManager  # takes seconds

    reasons = []
    known: list[str] | None = None
    for name in text.removeprefix(_MISSING).split(", "):
        if reason := _broken_file(name, include_path):
            reasons.append(reason)
            continue
        known = known or [
            # A run lays out the shipped tasks that it names, which a misspelt one does not.
            *(shipped for configs in shipped_configs().values() for shipped in configs),
            *TaskManager(include_path=list(include_path)).all_tasks,
        ]
        guess = nearest(name, known)
        hint = "" if guess is None else f" Did you mean {guess!r}?"
        reasons.append(f"There is no task, group, tag or task file {name!r}.{hint}")
    return ValueError(" ".join(reasons) + " `lm-eval-llada ls tasks` lists all.")


def explained_validation(validate: Callable[[], object], include_path: Sequence[str]) -> None:
    """Run the harness' `validate`, which names what it misses and nothing more.

    Args:
        validate: Prints, and exits where a task is missing.
        include_path: Folders with task files beside the harness' own.

    Raises:
        ValueError: If a task is missing, with a reason for each.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            validate()
    except SystemExit as stop:
        found = [line for line in printed.getvalue().splitlines() if line.startswith(_MISSING)]
        if stop.code and found:
            raise explain_missing(ValueError(found[0]), include_path) from None
        raise
    finally:
        kept = [line for line in printed.getvalue().splitlines() if not line.startswith(_MISSING)]
        print("\n".join(kept))


def _broken_file(name: str, include_path: Sequence[str]) -> str | None:
    """What is wrong with the file that would be the task's."""
    pattern = re.compile(rf"^(task|group):\s*[\"']?{re.escape(name)}[\"']?\s*$", re.MULTILINE)
    for folder in include_path:
        for file in sorted(Path(folder).rglob("*.yaml")):
            try:
                if pattern.search(file.read_text(encoding="utf-8-sig", errors="replace")):
                    _follow(file)
            except ValueError as error:
                return str(error)
    return None


def _follow(file: Path) -> None:
    """Go along a file's includes to the last."""
    waiting, seen = [file], set[Path]()
    while waiting:
        current = waiting.pop()
        seen.add(current.resolve())
        for included in _includes(current):
            path = current.parent / Path(included).expanduser()
            if not path.is_file():
                raise ValueError(
                    f"The task file {current} includes {included!r}, and there is no file {path}; "
                    "write the path as seen from that task file's folder."
                )
            if path.resolve() not in seen:
                waiting.append(path)


def _includes(file: Path) -> Iterator[str]:
    try:
        # Nodes only: the functions that tags name are not called here.
        node = yaml.compose(file.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"The task file {file} is not YAML: {error}") from error
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value == "include":
            entries = [value] if isinstance(value, yaml.ScalarNode) else value.value
            yield from (entry.value for entry in entries)
