"""Task files as text: reading with line numbers and unresolved functions, includes, and writing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from lm_eval_llada.errors import nearest

# The loader and dumper written in C are ten times as fast; builds of PyYAML may lack them.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class Function(str):
    """The name behind a `!function`, which the harness imports when it builds the task.

    Attributes:
        home: Folder of the file that has it, if a module beside that file is meant; else None.
    """

    home: Path | None = None


class Block(dict[str, Any]):
    """A mapping of a file.

    Attributes:
        line: Where it begins, counted from 1.
    """

    line: int = 0


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file: mappings as `Block`, functions as `Function`.

    Raises:
        ValueError: If it is no YAML, has a key twice in one mapping, or holds an unknown tag; it
            names file and line.
        OSError: If the file cannot be read.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_TaskLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else str(path)
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ValueError(f"{place}: {reason}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error.reason}).") from error


def resolve_includes(
    config: Mapping[str, Any], path: Path, templates: Path, seen: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """Return a task's config with what it includes; its own keys win, and so do later includes.

    An include is the path of a file, from the folder of the file that names it, or else the bare
    name of a shipped template.

    Args:
        config: Of a task or group.
        path: The file that has it.
        templates: Folder of the shipped templates.
        seen: Files that include this one.

    Raises:
        ValueError: If an include is no such file, or files include each other.
        OSError: If a file cannot be read.
    """
    own = {key: value for key, value in config.items() if key != "include"}
    includes = config.get("include") or []
    merged: dict[str, Any] = {}
    for name in [includes] if isinstance(includes, str) else includes:
        file = _included(str(name), config, path, templates)
        if file in (*seen, path):
            raise ValueError(f"{_place(config, path)}: {file} includes itself.")
        content = _read_template(file, file.stat().st_mtime_ns)
        if not isinstance(content, Mapping):
            raise ValueError(f"{file} must hold keys with values, as a template does.")
        merged |= resolve_includes(content, file, templates, (*seen, path))
    return merged | own


# Hundreds of tasks include the same few.
@lru_cache(maxsize=32)
def _read_template(path: Path, _changed: int) -> Any:
    return with_homes(read_yaml(path), path)


def with_homes(value: Any, path: Path) -> Any:
    """Mark the functions of a file that lie in a module beside it, and return its content."""
    if isinstance(value, Function):
        module = value.rpartition(".")[0].replace(".", "/")
        value.home = path.parent.absolute() if (path.parent / f"{module}.py").exists() else None
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            with_homes(part, path)
    return value


def _included(name: str, config: Mapping[str, Any], path: Path, templates: Path) -> Path:
    file = path.parent / Path(name).expanduser()
    if file.is_file():
        return file
    if Path(name).name == name and (templates / name).is_file():
        return templates / name
    shipped = sorted(template.name for template in templates.glob("_*.yaml"))
    guess = nearest(name, shipped)
    raise ValueError(
        f"{_place(config, path)}: include {name!r} is neither a file in {path.parent} nor one of "
        f"the shipped templates {', '.join(shipped)}."
        + (f" Did you mean {guess!r}?" if guess else "")
    )


def _place(config: Mapping[str, Any], path: Path) -> str:
    line = config.line if isinstance(config, Block) else 0
    return f"{path}, line {line}" if line else str(path)


def write_yaml(path: Path, config: Mapping[str, Any], comment: str) -> None:
    """Write a task file that plain lm-eval reads, in a folder that is there.

    Modules beside the files where the config comes from are found through links to their folders.
    """
    homes: dict[Path, str] = {}
    content = _Open({key: _plain(value, homes) for key, value in config.items()})
    for key in ("generation_kwargs", "metadata"):
        if isinstance(content.get(key), dict):
            content[key] = _Open(content[key])
    for home, name in homes.items():
        link = path.parent / name
        if not link.is_symlink():
            link.symlink_to(home, target_is_directory=True)
    text = yaml.dump(
        content,
        Dumper=_TaskDumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=100,
    )
    path.write_text(f"# {comment}\n{text}", encoding="utf-8")


def _plain(value: Any, homes: dict[Path, str]) -> Any:
    """The value in plain types, with functions named from the folder that the file goes to."""
    if isinstance(value, Function):
        if value.home is None:
            return value
        name = homes.setdefault(value.home, f"modules_{len(homes)}")
        return Function(f"{name}.{value}")
    if isinstance(value, Mapping):
        return {key: _plain(part, homes) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(part, homes) for part in value]
    return value


class _TaskLoader(_Loader):  # type: ignore[misc]
    """Reads functions as their names, and mappings with their lines."""


class _TaskDumper(_Dumper):  # type: ignore[misc]
    """Writes functions with their tag, and each value in full where it stands."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Open(dict[str, Any]):
    """A mapping with a line for each key, as those are which users edit."""


def _represent_open(dumper: Any, mapping: _Open) -> yaml.MappingNode:
    node: yaml.MappingNode = dumper.represent_mapping(
        "tag:yaml.org,2002:map", mapping.items(), flow_style=False
    )
    return node


def _construct_block(loader: Any, node: yaml.MappingNode) -> Any:
    block = Block()
    block.line = node.start_mark.line + 1
    yield block
    names: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            continue
        if key.value in names:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key.value!r} stands twice in one mapping", key.start_mark
            )
        names.add(key.value)
    block.update(loader.construct_mapping(node))


def _construct_function(loader: Any, node: yaml.ScalarNode) -> Function:
    return Function(loader.construct_scalar(node))


def _represent_text(dumper: Any, text: str) -> yaml.ScalarNode:
    # Line ends are easier to see, and to edit, as \n.
    style = '"' if "\n" in text else None
    scalar: yaml.ScalarNode = dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)
    return scalar


def _represent_function(dumper: Any, name: Function) -> yaml.ScalarNode:
    scalar: yaml.ScalarNode = dumper.represent_scalar("!function", str(name))
    return scalar


_TaskLoader.add_constructor("tag:yaml.org,2002:map", _construct_block)
_TaskLoader.add_constructor("!function", _construct_function)
_TaskDumper.add_representer(_Open, _represent_open)
_TaskDumper.add_representer(str, _represent_text)
_TaskDumper.add_representer(Function, _represent_function)
