"""The Python files that a config names (`auto_map`), when it is saved elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def kept_auto_map(auto_map: Mapping[str, Any], source: str, folder: Path) -> dict[str, Any]:
    """The entries of an `auto_map` whose files lie in a folder, once those at hand are copied.

    An entry without its file makes the saved checkpoint fail for whoever trusts its code.

    Args:
        auto_map: Classes by role, as `file.Class` or a list of these; `repo--file.Class` names a
            repository on the hub and needs no file.
        source: Folder that the config came from; a hub id, or nothing, has no files at hand.
        folder: Where the config goes.
    """
    named = {_file_of(one) for value in auto_map.values() for one in _listed(value)} - {None}
    if named and source and Path(source).is_dir() and Path(source).resolve() != folder.resolve():
        # All of them, as the named ones may import the others.
        for file in Path(source).glob("*.py"):
            shutil.copy2(file, folder / file.name)
    return {
        role: value
        for role, value in auto_map.items()
        if all(_is_there(one, folder) for one in _listed(value))
    }


def _listed(value: Any) -> list[str]:
    """Classes of an entry; a tokenizer's has two, either of which may be None."""
    values = value if isinstance(value, list | tuple) else [value]
    return [one for one in values if isinstance(one, str)]


def _file_of(name: str) -> str | None:
    """The file of a class; None where it is in a repository on the hub."""
    return None if "--" in name else f"{name.rpartition('.')[0]}.py"


def _is_there(name: str, folder: Path) -> bool:
    file = _file_of(name)
    return file is None or (folder / file).is_file()
