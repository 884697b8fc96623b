"""What scaling a checkpoint's rotation starts from, read without PyTorch or transformers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.modeling.config_checks import FIXED
from lm_eval_llada.modeling.families import find_family
from lm_eval_llada.modeling.rope_fields import OUTER_KEYS, merged_rope
from lm_eval_llada.rope.existing import KNOWN_KEYS, check_rope_fields


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
    keys = ("rope_parameters", *OUTER_KEYS)
    parameters = merged_rope({name: native.get(name) for name in keys})
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
