"""The task files of one run: the shipped tasks that it names and the user's own, as plain files."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_eval_llada.tasks.expansion import Configs, top_names
from lm_eval_llada.tasks.grid import shipped_configs, user_configs, write_configs, write_shipped

SHIPPED = "shipped"
"""Folder of the shipped tasks within that of a run."""

_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class TaskFolders:
    """What the harness is told in place of what the user gave.

    Attributes:
        tasks: Names, patterns and paths; a grid's path has become the names of its tasks.
        include_path: Folders; of two tasks with one name the harness takes that of the later.
    """

    tasks: list[str]
    include_path: list[str]


def lay_out(
    folder: Path, tasks: Sequence[str] | None, include_path: str | Sequence[str] | None
) -> TaskFolders:
    """Write plain task files for a run into its folder.

    Args:
        folder: Outlives the run.
        tasks: Names, patterns, paths of task files or grids, or one folder of them; None means that
            all names may be asked for.
        include_path: Folders or files with the user's tasks.

    Returns:
        Our folder first, then each of the user's followed by what was expanded from it.

    Raises:
        ValueError: If a grid is wrong or a name is made twice, naming file and line; or if a folder
            is not there.
    """
    given = [include_path] if isinstance(include_path, str) else list(include_path or [])
    wanted = [path for name in tasks or [] for path in _found(name)]
    # A user's group may hold any of our tasks, so all are there where files of the user's are.
    needs_all = tasks is None or given or any(_is_path(n) or Path(n).is_dir() for n in wanted)
    write_shipped(folder / SHIPPED, None if needs_all else wanted)
    paths = [str(folder / SHIPPED)]
    for number, path in enumerate(given):
        if not Path(path).exists():
            raise ValueError(f"--include_path {path}: there is no such file or folder.")
        paths.append(path)
        target = folder / f"included_{number}"
        if _write(_files(Path(path)), target):
            paths.append(str(target))
    names: list[str] = []
    for number, name in enumerate(wanted):
        target = folder / f"named_{number}"
        configs = _write([Path(name)], target) if _is_path(name) else {}
        names += top_names(configs) or [name]
        if configs:
            paths.append(str(target))
    return TaskFolders(names, paths)


def _found(name: str) -> list[str]:
    """The task files that a name on the command line stands for, or itself."""
    is_shipped = any(name in configs for configs in shipped_configs().values())
    # The harness, too, prefers a task to a folder of its name.
    if Path(name).is_dir() and not is_shipped:
        files = _files(Path(name), recursive=False)
        # A folder of plain files is the harness' own affair.
        return [str(path) for path in files] if any(map(user_configs, files)) else [name]
    return sorted(glob.glob(name)) or [name] if _is_path(name) else [name]


def _is_path(name: str) -> bool:
    return name.endswith(_SUFFIXES)


def _files(path: Path, *, recursive: bool = True) -> list[Path]:
    """The task files of a folder; of a file, itself. Templates are part of what includes them."""
    if path.is_file():
        return [path]
    pattern = "**/*" if recursive else "*"
    files = [file for suffix in _SUFFIXES for file in path.glob(f"{pattern}{suffix}")]
    return sorted(file for file in files if not file.name.startswith("_"))


def _write(files: Sequence[Path], target: Path) -> Configs:
    """Write the tasks of those files which the harness cannot read as they are, and return them."""
    written: Configs = {}
    origins: dict[str, Path] = {}
    for file in files:
        configs = user_configs(file) if file.is_file() else {}
        for name in configs:
            if name in origins:
                raise ValueError(f"The task {name!r} is in {origins[name]} and again in {file}.")
            origins[name] = file
        if configs:
            write_configs(target, configs, str(file))
        written |= configs
    return written
