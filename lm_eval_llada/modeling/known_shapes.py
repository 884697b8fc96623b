"""Shapes of published models, for estimates on machines that cannot reach the hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.modeling.configuration import LLaDAConfig
from lm_eval_llada.modeling.families import DEFAULT_FAMILY, family_named
from lm_eval_llada.modeling.loading import load_config

_LLADA_8B = {"mlp_hidden_size": 12288, "rope_theta": 500_000.0}
_ILLADA_8B = {
    "family": "iLLaDA",
    "mlp_hidden_size": 14336,
    "n_kv_heads": 8,
    "vocab_size": 155_136,
    "weight_tying": True,
    "max_sequence_length": 8192,
}
_DREAM_7B = {
    "family": "Dream",
    "d_model": 3584,
    "n_layers": 28,
    "n_heads": 28,
    "n_kv_heads": 4,
    "mlp_hidden_size": 18944,
    "vocab_size": 152_064,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_sequence_length": 131_072,
}
_QWEN3_06B = {
    "family": "A2D-Qwen3",
    "d_model": 1024,
    "n_layers": 28,
    "n_heads": 16,
    "n_kv_heads": 8,
    "head_dim": 128,
    "mlp_hidden_size": 3072,
    "vocab_size": 151_936,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "weight_tying": True,
    "max_sequence_length": 40_960,
}
_LLADA_MOE = {
    "family": "LLaDA-MoE",
    "d_model": 2048,
    "n_layers": 16,
    "n_heads": 16,
    "mlp_hidden_size": 1024,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "qk_norm": True,
    "vocab_size": 157_184,
    "rope_theta": 50_000.0,
    "max_sequence_length": 8192,
}
# By what a checkpoint's name begins with.
_KNOWN_SHAPES: Mapping[str, Mapping[str, Any]] = {
    "llada-8b": _LLADA_8B,
    "llada-1.5": _LLADA_8B,
    "ultrallada": _LLADA_8B,
    "illada-8b": _ILLADA_8B,
    "dream-v0-": _DREAM_7B,
    "dream-coder-v0-": _DREAM_7B,
    "diffucoder-7b": _DREAM_7B,
    "qwen3-0.6b-diffusion": _QWEN3_06B,
    "llada-moe-7b-a1b": _LLADA_MOE,
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
    row = family_named(shape.get("family", DEFAULT_FAMILY))
    known = {"train_length": row.train_length, **row.settings, **shape}
    config = LLaDAConfig(**known, dtype="bfloat16")
    note = f"{pretrained} could not be read; its shape is the published one."
    if "rope_theta" not in shape:
        note += f" Its rope_theta is not known here, and {config.rope_theta:g} stands in for it."
    return config, note
