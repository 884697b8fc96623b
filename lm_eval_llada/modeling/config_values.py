"""What of a config.json can be read without transformers: its rotation, and what is fixed."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.errors import unknown_choice
from lm_eval_llada.modeling.families import find_family
from lm_eval_llada.rope.existing import KNOWN_KEYS, check_rope_fields

_DEFAULT_ROPE_THETA = 10_000.0
_ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")

# The official code has more switches than any released LLaDA checkpoint uses. A checkpoint that
# sets one of them otherwise would compute something else here, so it is refused.
FIXED: dict[str, Any] = {
    "block_type": "llama",
    "block_group_size": 1,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "attention_layer_norm": False,
    "activation_type": "silu",
    "rope": True,
    "alibi": False,
    "scale_logits": False,
    "input_emb_norm": False,
    "attention_dropout": 0.0,
    "residual_dropout": 0.0,
    "embedding_dropout": 0.0,
}


class RopeNumbers(NamedTuple):
    """What scaling a checkpoint's position embeddings starts from.

    Attributes:
        rope_theta: the base, λ·b.
        head_dim: dimensions of a head.
        train_length: trained context in tokens.
    """

    rope_theta: float
    head_dim: int
    train_length: int


def rope_numbers(checkpoint: str | os.PathLike[str]) -> RopeNumbers | None:
    """The rotation of a shipped model or a folder, as its `LLaDAConfig` has it; None if unsure.

    `load_config` answers in any case, or says what is wrong. This takes milliseconds instead of the
    seconds that importing transformers takes, and is sure of a config.json without surprises.

    Raises:
        ValueError: as `resolve_checkpoint`.
    """
    path = Path(resolve_checkpoint(checkpoint)) / "config.json"
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
        return _numbers(find_family(values).native_config(values))
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError):
        return None


def _numbers(native: dict[str, Any]) -> RopeNumbers | None:
    check_rope_fields(native)
    parameters = merged_rope(
        native.get("rope_theta"), native.get("rope_parameters") or native.get("rope_scaling")
    )
    if not KNOWN_KEYS.issuperset(parameters):
        return None
    if any(native.get(name, value) != value for name, value in FIXED.items()):
        return None
    d_model, n_heads = native["d_model"], native["n_heads"]
    head_dim = native.get("head_dim") or d_model // n_heads
    original = parameters.get("original_max_position_embeddings")
    train_length = native.get("train_length") or original or native["max_sequence_length"]
    sizes = (d_model, n_heads, head_dim, train_length)
    is_plain = all(type(size) is int and size >= 1 for size in sizes)
    if not is_plain or head_dim % 2 or head_dim * n_heads != d_model:
        return None
    return RopeNumbers(parameters["rope_theta"], head_dim, train_length)


def merged_rope(rope_theta: Any, parameters: dict[str, Any] | None) -> dict[str, Any]:
    """One description of the rotation from the top-level base and `rope_parameters`.

    Raises:
        ValueError: if there is no such base or type.
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
