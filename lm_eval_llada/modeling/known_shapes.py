"""Shapes of published models, for estimates on machines that cannot reach the hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.modeling.configuration import LLaDAConfig
from lm_eval_llada.modeling.loading import load_config

_LLADA_8B = {"mlp_hidden_size": 12288, "rope_theta": 500_000.0}
_ILLADA_8B = {
    "mlp_hidden_size": 14336,
    "n_kv_heads": 8,
    "vocab_size": 155_136,
    "weight_tying": True,
    "max_sequence_length": 8192,
}
# By what a checkpoint's name begins with.
_KNOWN_SHAPES: Mapping[str, Mapping[str, Any]] = {
    "llada-8b": _LLADA_8B,
    "llada-1.5": _LLADA_8B,
    "ultrallada": _LLADA_8B,
    "illada-8b": _ILLADA_8B,
}


def find_config(pretrained: str, revision: str | None = None) -> tuple[LLaDAConfig, str | None]:
    """The config of a checkpoint, or of a model that is known by name where it cannot be read.

    Args:
        pretrained: Shipped model, folder or hub id.
        revision: Branch, tag or commit on the hub.

    Returns:
        The config, and a sentence that says so if it is a known shape.

    Raises:
        ValueError: If there is neither.
    """
    try:
        return load_config(pretrained, revision=revision), None
    except ValueError:
        name = resolve_checkpoint(pretrained).rpartition("/")[2].lower()
        shape = next((s for start, s in _KNOWN_SHAPES.items() if name.startswith(start)), None)
        if shape is None:
            raise
    config = LLaDAConfig(**shape, dtype="bfloat16")
    return config, f"{pretrained} could not be read; its shape is the published one."
