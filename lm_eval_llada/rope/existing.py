"""Rope fields of a checkpoint: where they disagree, and which of them outlive a user's choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LENGTH_DEPENDENT = ("dynamic", "longrope")
"""The types of rotation whose frequencies follow the length of a sequence."""

_METHOD_KEYS = frozenset(
    {
        "rope_type",
        "type",
        "rope_theta",
        "factor",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
        "long_factor",
        "short_factor",
        "low_freq_factor",
        "high_freq_factor",
    }
)
KNOWN_KEYS = _METHOD_KEYS | {"original_max_position_embeddings"}
"""The keys of `rope_parameters` that describe a base, or one of the methods."""

# The same thing at the top level, where older files have it, and inside `rope_parameters`.
_TWINS = (
    ("rope_theta", "rope_theta"),
    ("rotary_emb_base", "rope_theta"),
    ("partial_rotary_factor", "partial_rotary_factor"),
    ("rotary_pct", "partial_rotary_factor"),
)


def check_rope_fields(values: Mapping[str, Any]) -> None:
    """Stop where the rope fields of a config.json say two different things.

    transformers lets `rope_scaling` replace `rope_parameters` whole, with a base of 10,000 where
    it names none, and passes over a top-level base beside one in `rope_parameters`, without a word.

    Args:
        values: The file as it is written.

    Raises:
        ValueError: If two fields disagree; both are shown.
    """
    scaling, parameters = values.get("rope_scaling"), values.get("rope_parameters")
    if isinstance(scaling, Mapping) and isinstance(parameters, Mapping) and scaling and parameters:
        theta = values.get("rope_theta")
        if _spelt_out(scaling, theta) != _spelt_out(parameters, theta):
            raise ValueError(
                f"rope_scaling={dict(scaling)!r} and rope_parameters={dict(parameters)!r} "
                f"disagree, and which of them counts depends on who reads them; keep one of the "
                f"two in config.json, with its rope_theta."
            )
    for outer, inner in _TWINS:
        for name in ("rope_parameters", "rope_scaling"):
            within = values.get(name)
            if not isinstance(within, Mapping) or within.get(inner) is None:
                continue
            if values.get(outer) is not None and values[outer] != within[inner]:
                raise ValueError(
                    f"{outer}={values[outer]!r} and {name}[{inner!r}]={within[inner]!r} disagree, "
                    f"and which of them counts depends on who reads them; make them equal in "
                    f"config.json."
                )


def with_own_keys(own: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The `rope_parameters` of a choice, with those keys of the checkpoint that it does not know.

    Partial rotation, sections of a head and the like are the model's, whatever stretches it; only
    what describes a way of stretching gives way to another.

    Args:
        own: The checkpoint's.
        chosen: From `ResolvedRope.rope_parameters`.
    """
    return {key: value for key, value in own.items() if key not in _METHOD_KEYS} | dict(chosen)


def rotary_dim(head_dim: int, parameters: Mapping[str, Any]) -> int:
    """How many dimensions of a head are rotated, by transformers' rule.

    Args:
        head_dim: All of them.
        parameters: The checkpoint's; `partial_rotary_factor` in it is the share that is rotated.
    """
    return int(head_dim * parameters.get("partial_rotary_factor", 1.0))


def _spelt_out(parameters: Mapping[str, Any], rope_theta: Any) -> dict[str, Any]:
    """With the type and the base under their own names, so that two spellings compare equal."""
    spelt = {"rope_theta": rope_theta, **parameters}
    kind = spelt.pop("type", None)
    return {**spelt, "rope_type": spelt.get("rope_type") or kind or "default"}
