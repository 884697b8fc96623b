"""Settings of samples: told from model arguments, and put in place of defaults."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from lm_eval_llada.errors import unknown_choice

_Defaults = TypeVar("_Defaults", bound=Any)


def own_settings(settings: Mapping[str, Any], names: Iterable[str], what: str) -> dict[str, Any]:
    """Return the settings that have one of the names; refuse names close to one of them.

    lm-eval hands a data set all model arguments beside the settings of its task file, so that a
    name which is neither cannot be told from a model argument, unless it looks like a misspelling.

    Args:
        settings: What lm-eval handed over. A value of None counts as not given.
        names: The names that are settings.
        what: Whose settings, for the message, such as ``a RULER task``.

    Raises:
        ValueError: If a name looks like a misspelt one.
    """
    known = set(names)
    for name in settings:
        # Strict, as names of model arguments such as max_length pass through here.
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        if name not in known and close:
            raise ValueError(f"Unknown setting {name!r} of {what}. Did you mean {close[0]!r}?")
    return {name: value for name, value in settings.items() if name in known and value is not None}


def generation_settings(**given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return generation settings of several origins as one, a later one winning.

    Args:
        **given: Under the name of their origin, for the message; None stands for none.

    Raises:
        ValueError: If one of them is no mapping.
    """
    merged: dict[str, Any] = {}
    for origin, settings in given.items():
        if settings is not None and not isinstance(settings, Mapping):
            raise ValueError(f"{origin} must be names with values; got {settings!r}.")
        merged |= settings or {}
    return merged


def changed(defaults: _Defaults, settings: Mapping[str, Any] | None, task: str) -> _Defaults:
    """Return a dataclass of defaults with some of its fields changed.

    Args:
        defaults: The settings where nothing is given.
        settings: Fields that are to differ.
        task: Whose settings, for the message.

    Raises:
        ValueError: If a name is no field; the message names the nearest. Or as the dataclass does.
    """
    known = [field.name for field in fields(defaults)]
    for name in settings or {}:
        if name not in known:
            raise unknown_choice(f"A setting of {task}", name, known)
    return replace(defaults, **(settings or {}))
