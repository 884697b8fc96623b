"""One description of the rotation from the places where a config.json may have it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lm_eval_llada.errors import unknown_choice
from lm_eval_llada.rope.existing import KNOWN_KEYS

_DEFAULT_ROPE_THETA = 10_000.0
_ORIGINAL = "original_max_position_embeddings"
_ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")


OUTER_KEYS = ("rope_theta", "rope_scaling", "partial_rotary_factor")
"""Keys at the top level of a config.json that say what `rope_parameters` does."""


def merged_rope(found: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as transformers has them.

    Args:
        found: `rope_parameters` and `OUTER_KEYS`, each None where it is missing.

    Raises:
        ValueError: if one of them is no rotation.
    """
    parameters = found["rope_parameters"] or found["rope_scaling"]
    if not isinstance(parameters, dict | None):
        raise ValueError(f"rope_parameters must be names with values; got {parameters!r}.")
    merged = dict(parameters or {})
    inner = merged.get("rope_theta")
    given = (inner, found["rope_theta"])
    theta = next((value for value in given if value is not None), _DEFAULT_ROPE_THETA)
    if isinstance(theta, bool) or not isinstance(theta, (int, float)):
        raise ValueError(f"rope_theta must be a number above 1; got {theta!r}.")
    if not (math.isfinite(theta) and theta > 1):
        raise ValueError(f"rope_theta must be a finite number above 1; got {theta!r}.")
    merged["rope_theta"] = float(theta)
    merged["rope_type"] = merged.pop("type", None) or merged.get("rope_type") or "default"
    if merged["rope_type"] not in _ROPE_TYPES:
        raise unknown_choice("rope_parameters['rope_type']", merged["rope_type"], _ROPE_TYPES)
    if (share := found["partial_rotary_factor"]) is not None:
        merged["partial_rotary_factor"] = share
    return merged


def with_family_keys(own: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The `rope_parameters` of a choice, with what of a checkpoint's is no way of stretching.

    Args:
        own: the checkpoint's.
        chosen: from `ResolvedRope.rope_parameters`.

    Raises:
        ValueError: if both would say what `original_max_position_embeddings` is.
    """
    kept = {key: value for key, value in own.items() if key not in KNOWN_KEYS}
    if "llama_4_scaling_beta" in kept:
        # Queries grow by the context that their rotation was stretched from, whatever it is now.
        kept[_ORIGINAL] = own.get(_ORIGINAL)
        if chosen.get(_ORIGINAL, kept[_ORIGINAL]) != kept[_ORIGINAL]:
            raise ValueError(
                f"rope_method={chosen['rope_type']} counts from {chosen[_ORIGINAL]} tokens, but "
                f"queries of this checkpoint grow every {kept[_ORIGINAL]}, and one "
                f"{_ORIGINAL} says both; use rope_method=ntk or linear."
            )
    return dict(chosen) | kept
