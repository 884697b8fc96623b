"""Grids: a block of a file and its axes become one config for each combination of their values.

A grid file holds blocks under `tasks` and `groups`, and under `shared` axes that several of them
have. `docs/customise.md` says how it is read; this file is what it says.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from lm_eval_llada.errors import nearest
from lm_eval_llada.tasks.task_yaml import Block, read_yaml, resolve_includes, with_homes

Configs = dict[str, dict[str, Any]]
"""The configs of tasks and groups by their names, with nothing left to include or fill in."""

_PLACEHOLDER = re.compile(r"\$(?:(?P<dollar>\$)|(?P<bare>[A-Za-z_]\w*)|\{(?P<braced>[^{}]*)\})")
_TOP_KEYS = ("tasks", "groups", "shared", "use")
# Keys of a block whose values an axis may add to; all else that an axis brings fills placeholders.
_MERGED_KEYS = ("metadata", "generation_kwargs")


@dataclass(frozen=True)
class _Grid:
    """A grid file.

    Attributes:
        path: Of the file.
        templates: Folder of the shipped templates and grids.
        shared: Axes by the names that blocks call them.
    """

    path: Path
    templates: Path
    shared: Mapping[str, Any]

    def error(self, block: Any, message: str) -> ValueError:
        """The error about a block, with its place."""
        line = f", line {block.line}" if isinstance(block, Block) else ""
        return ValueError(f"{self.path}{line}: {message}")


def is_grid(content: Any) -> bool:
    """Whether a file with this content is a grid: it lists `tasks` or `groups`, not one task."""
    return isinstance(content, Mapping) and any(
        isinstance(content.get(key), list) for key in ("tasks", "groups")
    )


def expand_grid(path: Path, templates: Path) -> Configs:
    """Return the tasks and groups of a grid file.

    Args:
        path: The file.
        templates: Folder of the shipped templates and grids.

    Raises:
        ValueError: If the grid is wrong: an unknown key or axis, a name that is made twice, a
            placeholder without a value, an include that is not there. It names file and line.
        OSError: If a file cannot be read.
    """
    content = with_homes(read_yaml(path), path)
    grid = _Grid(path, templates, _shared_axes(content, path, templates))
    _check_keys(grid, content, _TOP_KEYS, "a grid")
    configs: Configs = {}
    lines: dict[str, int] = {}
    for kind in ("task", "group"):
        for block in content.get(f"{kind}s") or []:
            if not isinstance(block, Block) or kind not in block:
                raise grid.error(block, f"each entry of {kind}s must have the key {kind}.")
            _check_keys(grid, block, _known_keys(kind), f"a {kind}")
            for config in _expand_block(grid, block, kind):
                name = str(config[kind])
                if name in configs:
                    raise grid.error(
                        block,
                        f"the name {name!r} is made twice, first by the entry in line "
                        f"{lines[name]}; a name must hold a placeholder of each of its axes.",
                    )
                configs[name], lines[name] = config, block.line
    return configs


def top_names(configs: Configs) -> list[str]:
    """Return the names that are members of no group among them, in order."""
    members = {
        member
        for config in configs.values()
        if "group" in config
        for member in _listed(config.get("task"))
        if isinstance(member, str)
    }
    return [name for name in configs if name not in members]


def _shared_axes(content: Any, path: Path, templates: Path) -> dict[str, Any]:
    """Shared axes of a grid: those of the grids that it uses, then its own."""
    axes: dict[str, Any] = {}
    for name in _listed(content.get("use")):
        file = path.parent / str(name)
        file = file if file.is_file() else templates / str(name)
        if not file.is_file():
            raise ValueError(f"{path}: use names {name!r}, which is no grid there or shipped.")
        axes |= read_yaml(file).get("shared") or {}
    return axes | (content.get("shared") or {})


def _expand_block(grid: _Grid, block: Block, kind: str) -> Iterator[dict[str, Any]]:
    """The configs of a block, one for each cell of its axes."""
    pattern = Block({key: v for key, v in block.items() if key not in ("axes", "over")})
    pattern.line = block.line
    for cell in _cells(grid, block, block.get("axes") or {}):
        own = dict(pattern)
        if kind == "group":
            own["task"] = _members(grid, block, cell)
        config = Block(_filled(grid, block, own, cell))
        config.line = block.line
        for key in _MERGED_KEYS:
            if key in cell:
                config[key] = {**(config.get(key) or {}), **_filled(grid, block, cell[key], cell)}
        yield resolve_includes(config, grid.path, grid.templates)


def _members(grid: _Grid, block: Block, cell: Mapping[str, Any]) -> list[Any]:
    """The members of a group: its `task`, filled for each cell of what it goes over."""
    over = _filled(grid, block, block.get("over") or {}, cell)
    return [
        _filled(grid, block, member, {**cell, **inner})
        for inner in _cells(grid, block, over)
        for member in _listed(block.get("task"))
    ]


def _cells(grid: _Grid, block: Block, axes: Any) -> Iterator[dict[str, Any]]:
    """Each combination of the axes' values, as the names that placeholders may have."""
    if not isinstance(axes, Mapping):
        raise grid.error(block, f"axes must be names with lists of values; got {axes!r}.")
    lists = [_values(grid, block, str(name), axis) for name, axis in axes.items()]
    for combination in itertools.product(*lists):
        cell: dict[str, Any] = {}
        for part in combination:
            if twice := sorted(set(cell) & set(part) - {*_MERGED_KEYS}):
                raise grid.error(block, f"two axes bring the name {twice[0]!r}; rename one.")
            for key in _MERGED_KEYS:
                if key in cell and key in part:
                    part = {**part, key: {**cell[key], **part[key]}}
            cell |= part
        yield cell


def _values(grid: _Grid, block: Block, name: str, axis: Any) -> list[dict[str, Any]]:
    """The values of an axis, each as the names that it brings: its own, and its settings."""
    table = _axis_table(grid, block, name, axis)
    if not table:
        raise grid.error(block, f"the axis {name!r} has no values.")
    return [{name: value, **settings} for value, settings in table.items()]


def _axis_table(grid: _Grid, block: Block, name: str, axis: Any) -> dict[Any, dict[str, Any]]:
    if isinstance(axis, str):
        if axis not in grid.shared:
            raise grid.error(
                block,
                f"the axis {name!r} is to be the shared axis {axis!r}, which is unknown"
                f"{_instead(axis, grid.shared)}.",
            )
        return _axis_table(grid, block, name, grid.shared[axis])
    if isinstance(axis, Mapping):
        table: dict[Any, dict[str, Any]] = {}
        if "from" in axis:
            table = _axis_table(grid, block, name, axis["from"])
        for value, settings in axis.items():
            if value not in ("from", "only"):
                if not isinstance(settings, Mapping | None):
                    raise grid.error(
                        block, f"{value!r} of the axis {name!r} must have names; got {settings!r}."
                    )
                table = {**table, value: {**table.get(value, {}), **(settings or {})}}
        for value in (wanted := _listed(axis.get("only"))):
            if value not in table:
                known = [str(one) for one in table]
                raise grid.error(
                    block, f"the axis {name!r} has no {value!r}{_instead(str(value), known)}."
                )
        return {value: table[value] for value in wanted} if wanted else table
    if isinstance(axis, list) and all(not isinstance(value, Mapping | list) for value in axis):
        return {value: {} for value in axis}
    raise grid.error(
        block,
        f"the axis {name!r} must list values, or have them as keys with settings, or name a shared "
        f"axis; got {axis!r}.",
    )


def _filled(grid: _Grid, block: Block, value: Any, names: Mapping[str, Any]) -> Any:
    """The value with its placeholders filled; a text of one placeholder alone becomes its value."""
    if isinstance(value, Mapping):
        return {
            _filled(grid, block, key, names): _filled(grid, block, part, names)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [_filled(grid, block, part, names) for part in value]
    # A subclass of text is the name of a function.
    if type(value) is not str or "$" not in value:
        return value

    def value_of(found: re.Match[str]) -> Any:
        if found["dollar"]:
            return "$"
        name = found["bare"] or found["braced"]
        if name not in names:
            raise grid.error(
                block,
                f"the placeholder {found[0]} has no value{_instead(name or '', names)}. For a "
                "dollar sign write $$.",
            )
        return names[name]

    whole = _PLACEHOLDER.fullmatch(value)
    return value_of(whole) if whole else _PLACEHOLDER.sub(lambda m: str(value_of(m)), value)


def _check_keys(grid: _Grid, block: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    for key in block:
        if key not in known:
            guess = nearest(str(key), known)
            hint = f" Did you mean {guess!r}?" if guess else ""
            raise grid.error(block, f"{what} has no key {key!r}.{hint}")


@lru_cache
def _known_keys(kind: str) -> tuple[str, ...]:
    """The keys that an entry may have: the harness' own, and ours."""
    from lm_eval.config.group import GroupConfig
    from lm_eval.config.task import TaskConfig

    keys = [field.name for field in fields(TaskConfig)] + ["class", "include", "axes"]
    # The harness hands on to a group's members what is a setting of tasks.
    return tuple(keys + [field.name for field in fields(GroupConfig)] + ["over"])[
        : None if kind == "group" else len(keys)
    ]


def _instead(name: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    """What there is in place of an unknown name, to follow it in a sentence."""
    guess = nearest(name, known)
    if guess is not None:
        return f"; the nearest is {guess!r}"
    return f"; there are {', '.join(map(str, known))}" if known else ""


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
