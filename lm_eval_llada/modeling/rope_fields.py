"""One description of the rotation from the places where a config.json may have it."""

from __future__ import annotations

import math
from typing import Any

from lm_eval_llada.errors import unknown_choice

_DEFAULT_ROPE_THETA = 10_000.0
_ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")


def merged_rope(rope_theta: Any, parameters: dict[str, Any] | None) -> dict[str, Any]:
    """Parameters as transformers has them, from the top-level base and `rope_parameters`.

    Raises:
        ValueError: if one of them is no rotation.
    """
    if not isinstance(parameters, dict | None):
        raise ValueError(f"rope_parameters must be names with values; got {parameters!r}.")
    merged = dict(parameters or {})
    inner = merged.get("rope_theta")
    theta = next((value for value in (inner, rope_theta) if value is not None), _DEFAULT_ROPE_THETA)
    if isinstance(theta, bool) or not isinstance(theta, (int, float)):
        raise ValueError(f"rope_theta must be a number above 1; got {theta!r}.")
    if not (math.isfinite(theta) and theta > 1):
        raise ValueError(f"rope_theta must be a finite number above 1; got {theta!r}.")
    merged["rope_theta"] = float(theta)
    merged["rope_type"] = merged.pop("type", None) or merged.get("rope_type") or "default"
    if merged["rope_type"] not in _ROPE_TYPES:
        raise unknown_choice("rope_parameters['rope_type']", merged["rope_type"], _ROPE_TYPES)
    return merged
