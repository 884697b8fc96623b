"""The tasks that we ship and those that users write, as files that plain lm-eval reads.

`tasks/` holds a grid a benchmark. `tasks_path` has all of them as plain files that stay; a run gets
those it names, and the user's own, in a folder of its own (`cli/task_folders.py`).
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from lm_eval_llada.tasks import expansion, task_yaml
from lm_eval_llada.tasks.expansion import Configs, expand_grid, is_grid
from lm_eval_llada.tasks.task_yaml import read_yaml, resolve_includes, with_homes, write_yaml

GROUP_LIMIT = 32_768
"""Longest length in the group ``niah`` where nothing is known about the model."""

_PACKAGE = Path(__file__).resolve().parents[1]
_TASK_OF_LENGTH = re.compile(r"niah_(\d+)")
# What tells a file that is not plain lm-eval without parsing it: folders of tasks can be large.
_MAY_NEED_US = re.compile(r"^(?:tasks|groups|include)\s*:", re.MULTILINE)


def grids_path() -> Path:
    """Return the folder of the grids and shared templates.

    That is ``tasks/`` beside the package in a checkout, or else the copy inside the installed
    package. The checkout comes first because an editable install can leave a stale copy.

    Raises:
        FileNotFoundError: If neither is there, which means a broken installation.
    """
    for folder in (_PACKAGE.parent / "tasks", _PACKAGE / "_tasks"):
        # Another distribution may own a site-packages/tasks; only ours holds this file.
        if (folder / "_niah.yaml").is_file():
            return folder
    raise FileNotFoundError(
        f"No task files in {_PACKAGE.parent / 'tasks'} or {_PACKAGE / '_tasks'}; install "
        "lm_eval_llada again."
    )


@lru_cache
def shipped_configs() -> dict[str, Configs]:
    """Return the tasks and groups of each shipped grid, by the grid's name. Not to be changed."""
    folder = grids_path()
    return {path.stem: expand_grid(path, folder) for path in sorted(folder.glob("[!_]*.yaml"))}


def write_shipped(folder: Path, wanted: Iterable[str] | None = None) -> None:
    """Fill a folder with plain task files: the shipped templates, and a folder for each grid.

    Args:
        folder: Made as needed.
        wanted: Names of tasks, groups and tags, or patterns of them; their members come as well.
            None: all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for template in grids_path().glob("_*.yaml"):
        shutil.copyfile(template, folder / template.name)
    names = None if wanted is None else _closure(wanted)
    for grid, configs in shipped_configs().items():
        some = {name: c for name, c in configs.items() if names is None or name in names}
        if some:
            write_configs(folder / grid, some, f"{grid}.yaml")


def write_configs(folder: Path, configs: Configs, origin: str) -> None:
    """Write a plain task file for each config.

    Args:
        folder: Made as needed.
        configs: As ``expand_grid`` returns them.
        origin: Where they come from, for a comment.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, config in configs.items():
        comment = f"From {origin} of lm_eval_llada; a copy works from any folder."
        write_yaml(folder / f"{name}.yaml", config, comment)


def tasks_path() -> Path:
    """Return a folder with every shipped task as a plain file, made when it is first asked for.

    It lies in ``$XDG_CACHE_HOME/lm_eval_llada`` (``~/.cache/lm_eval_llada``) under a name that
    depends on version, grids and what expands them, and appears whole or not at all.

    Raises:
        OSError: If the folder cannot be written.
    """
    # The package imports this file before it has a version.
    from lm_eval_llada import __version__

    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(home) / "lm_eval_llada"
    folder = root / f"tasks-{__version__}-{_content_key()}"
    if not folder.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".tasks-") as scratch:
            write_shipped(Path(scratch) / "tasks")
            try:
                os.rename(Path(scratch) / "tasks", folder)
            except OSError:
                # Another process was faster.
                if not folder.is_dir():
                    raise
    return folder


def user_configs(path: Path) -> Configs:
    """Return the tasks and groups of a user's file; none where plain lm-eval reads it as it is.

    That is all of a grid, or the one of a plain file that includes a shipped template by its name.

    Raises:
        ValueError: As ``expand_grid`` does.
        OSError: If a file cannot be read.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    if not _MAY_NEED_US.search(text):
        return {}
    content = with_homes(read_yaml(path), path)
    if is_grid(content):
        return expand_grid(path, grids_path())
    if not isinstance(content, dict) or "include" not in content:
        return {}
    name = content.get("group") or content.get("task")
    # A template is what others include.
    if not isinstance(name, str) or _plainly_included(path, content):
        return {}
    return {name: resolve_includes(content, path, grids_path())}


def niah_lengths(limit: int = GROUP_LIMIT) -> list[int]:
    """Return the lengths with a NIAH task, in tokens, up to and including ``limit``.

    Args:
        limit: Longest length that makes sense for the model, in tokens.

    Raises:
        ValueError: If ``limit`` is below the shortest length.
    """
    found = [_TASK_OF_LENGTH.fullmatch(name) for name in shipped_configs()["niah"]]
    known = [int(match[1]) for match in found if match]
    lengths = [length for length in known if length <= limit]
    if not lengths:
        raise ValueError(
            f"The shortest NIAH task has {known[0]} tokens, more than the limit of {limit}; "
            "name niah_tiny or a task file of your own."
        )
    return lengths


def niah_group(limit: int = GROUP_LIMIT) -> dict[str, Any]:
    """Return the group ``niah`` with the lengths up to ``limit``, as its task file would have it.

    Args:
        limit: Longest length to include, in tokens.

    Raises:
        ValueError: If ``limit`` is below the shortest length.
    """
    members = [f"niah_{length}" for length in niah_lengths(limit)]
    return {**shipped_configs()["niah"]["niah"], "task": members}


def _closure(wanted: Iterable[str]) -> set[str]:
    """Names of the tasks and groups that names, tags and patterns stand for, members included."""
    configs = {name: c for grid in shipped_configs().values() for name, c in grid.items()}
    waiting: list[str] = []
    for pattern in wanted:
        # As the harness matches: also names that hold no pattern.
        waiting += fnmatch.filter(configs, pattern)
        waiting += [
            name
            for name, config in configs.items()
            if isinstance(tag := config.get("tag"), str) and fnmatch.fnmatch(tag, pattern)
        ]
    names: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            members = configs[name].get("task")
            waiting += members if isinstance(members, list) else []
    return names


def _content_key() -> str:
    """Digest of all that the expanded files depend on."""
    digest = hashlib.sha256()
    code = [Path(str(module.__file__)) for module in (expansion, task_yaml)]
    for path in [Path(__file__), *code, *sorted(grids_path().glob("*.yaml"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _plainly_included(path: Path, content: dict[str, Any]) -> bool:
    """Whether all that a file includes, directly or not, is found from its folder."""
    includes = content["include"]
    for name in [includes] if isinstance(includes, str) else includes:
        file = path.parent / str(name)
        if not file.is_file():
            return False
        inner = read_yaml(file)
        if isinstance(inner, dict) and "include" in inner and not _plainly_included(file, inner):
            return False
    return True
