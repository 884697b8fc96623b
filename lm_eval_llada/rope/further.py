"""The further keys of transformers' ``rope_parameters`` that a user may set, beyond those derived.

A number may come as text, as command lines have it, and a list of factors as the name of a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_eval_llada.errors import require_number, unknown_choice

EXTRA_KEYS_OF: dict[str, tuple[str, ...]] = {
    "yarn": (
        "beta_fast",
        "beta_slow",
        "attention_factor",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ),
    "longrope": ("long_factor", "short_factor", "attention_factor"),
    "llama3": ("low_freq_factor", "high_freq_factor"),
}
"""By method; each is given as rope_<key>."""

EXTRA_KEYS: tuple[str, ...] = tuple(dict.fromkeys(sum(EXTRA_KEYS_OF.values(), ())))
"""The same for all methods together."""

# The values of the YaRN paper and of Llama 3.1.
_DEFAULTS: dict[str, dict[str, float]] = {
    "yarn": {"beta_fast": 32.0, "beta_slow": 1.0},
    "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
}
_ORDER = {
    "yarn": ("beta_slow", "beta_fast"),
    "llama3": ("low_freq_factor", "high_freq_factor"),
}
_LISTS = ("long_factor", "short_factor")


def with_files_read(extra: Mapping[str, Any]) -> dict[str, Any]:
    """The same keys, with the numbers of a factor list where a file's name or JSON text stood.

    Args:
        extra: Values by key.

    Raises:
        ValueError: If a file cannot be read or holds something other than numbers.
    """
    return {
        key: _factors(key, value) if key in _LISTS and isinstance(value, (str, Path)) else value
        for key, value in extra.items()
    }


def checked_extra(
    method: str, extra: Mapping[str, Any], head_dim: int | None = None
) -> dict[str, Any]:
    """The further keys of a method with its defaults filled in.

    Args:
        method: One of ``METHODS``.
        extra: Values by key; lists as lists.
        head_dim: Rotated dimensions of a head, half as many as a factor list has numbers; None
            where no checkpoint is known.

    Raises:
        ValueError: If a key is not one of the method's, or its value is of another kind, out of
            range, or contradicts another.
    """
    allowed = EXTRA_KEYS_OF.get(method, ())
    if extra and not allowed:
        given = sorted(map(str, extra))
        raise ValueError(f"rope_method={method!r} takes no further keys; got {given}.")
    values: dict[str, Any] = dict(_DEFAULTS.get(method, {}))
    for key, value in extra.items():
        if key not in allowed:
            raise unknown_choice(f"A further key for rope_method={method!r}", key, allowed)
        values[key] = _checked_value(key, value, head_dim)
    low, high = _ORDER.get(method, ("", ""))
    if low and values[low] >= values[high]:
        raise ValueError(
            f"{high} must be greater than {low}; got {values[high]:g} and {values[low]:g}."
        )
    if method == "longrope":
        if "long_factor" not in values:
            raise ValueError(
                "rope_method='longrope' needs long_factor, a list of head_dim / 2 numbers found by "
                "LongRoPE's search for this model, or a file that holds it; without one use yarn "
                "or ntk."
            )
        values.setdefault("short_factor", [1.0] * len(values["long_factor"]))
    return values


def _checked_value(key: str, value: Any, head_dim: int | None) -> Any:
    # transformers only logs a warning for these and then computes with them.
    if key == "truncate":
        value = {"true": True, "false": False}.get(str(value).lower(), value)
        if not isinstance(value, bool):
            raise ValueError(f"truncate must be true or false; got {value!r}.")
        return value
    if key not in _LISTS:
        value = _number(value)
        require_number(key, value, 0)
        return float(value)
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{key} must be a list of numbers or a file that holds it; got {value!r}.")
    if head_dim is not None and len(value) != head_dim // 2:
        raise ValueError(
            f"{key} must have head_dim / 2 = {head_dim // 2} numbers; got {len(value)}."
        )
    for index, number in enumerate(value):
        require_number(f"{key}[{index}]", number, 0)
    return [float(number) for number in value]


def _number(value: Any) -> Any:
    """A number that came as text as a number; anything else as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _factors(key: str, given: str | Path) -> list[Any]:
    """The numbers of a file, or of JSON text: a JSON list, or parted by commas or blanks."""
    text = str(given)
    if not text.lstrip().startswith("["):
        try:
            text = Path(text).expanduser().read_text(encoding="utf-8-sig")
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"{key} must be a list of numbers or a file that holds it; {str(given)!r} cannot "
                f"be read: {reason}."
            ) from error
    try:
        if text.lstrip().startswith("["):
            return list(json.loads(text))
        return [float(word) for word in re.split(r"[\s,;]+", text.strip(" \t\r\n,;")) if word]
    except ValueError as error:
        raise ValueError(f"{key}: {str(given)!r} holds no list of numbers: {error}.") from error
