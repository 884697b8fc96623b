"""Single files of others' programs as modules, without installing what else belongs to them."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

# What OpenCompass' scorers import beside what they compute with.
_BESIDE = (
    *("opencompass", "opencompass.datasets", "opencompass.datasets.base", "opencompass.openicl"),
    *("opencompass.openicl.icl_evaluator", "opencompass.registry", "opencompass.utils"),
    *("datasets", "requests", "tiktoken"),
)


class _Registry:
    """Takes the place of a table of classes: what is registered stays as it is."""

    def register_module(self, *_: Any, **__: Any) -> Any:
        return lambda registered: registered


class _StandIn(ModuleType):
    """A module that has every name: registries in capitals, and a bare class for the rest."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Registry() if name.isupper() else object


def load_file(path: Path, beside: Mapping[str, ModuleType] | None = None) -> ModuleType:
    """The module in a file, run as it is but for its last step of rounding to two decimals.

    Rounding would hide differences of up to 0.005, and add some where a value lies between.

    Args:
        path: The file.
        beside: Modules that it imports by a name that only its own folder gives them.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If it needs a package that is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; is its folder what the option asks for?")
    spec = importlib.util.spec_from_file_location(f"original_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__dict__["round"] = _unrounded
    stand_ins = {name: _StandIn(name) for name in _BESIDE}
    with _in_place_of({**stand_ins, **(beside or {})}):
        spec.loader.exec_module(module)
    return module


def digest(path: Path) -> str:
    """The first twelve digits of a file's SHA-256, to tell which version was compared."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def first_folder(root: Path, inside: Sequence[str]) -> Path:
    """The first of some folders inside of ``root`` that is there; ``root`` where none is."""
    return next((root / name for name in inside if (root / name).is_dir()), root)


def _unrounded(value: float, _digits: int | None = None) -> float:
    return value


@contextmanager
def _in_place_of(modules: Mapping[str, ModuleType]) -> Iterator[None]:
    """Let imports find these modules for a while, whatever is installed."""
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
