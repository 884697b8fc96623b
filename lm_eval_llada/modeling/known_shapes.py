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
_QWEN25_7B = {**_DREAM_7B, "family": "Fast-dLLM v2", "max_sequence_length": 32_768}
_SDAR_8B = {
    "family": "SDAR",
    "d_model": 4096,
    "n_layers": 36,
    "n_heads": 32,
    "n_kv_heads": 8,
    "head_dim": 128,
    "mlp_hidden_size": 12288,
    "vocab_size": 151_936,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_sequence_length": 32_768,
}
_SDAR_4B = {**_SDAR_8B, "d_model": 2560, "mlp_hidden_size": 9728}
_SDAR_30B = {
    **_SDAR_8B,
    "family": "SDAR-MoE",
    "d_model": 2048,
    "n_layers": 48,
    "n_kv_heads": 4,
    "mlp_hidden_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_expert_weights": True,
}
_NEMOTRON_8B = {
    "family": "Nemotron-Labs-Diffusion",
    "d_model": 4096,
    "n_layers": 34,
    "n_heads": 32,
    "n_kv_heads": 8,
    "head_dim": 128,
    "mlp_hidden_size": 14336,
    "vocab_size": 131_072,
    # Which factor each size ships with was read differently in different places.
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 1e6,
        "factor": 16.0,
        "original_max_position_embeddings": 16_384,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
    "max_sequence_length": 262_144,
}
_LLADA2_MINI = {
    "family": "LLaDA2",
    "d_model": 2048,
    "n_layers": 20,
    "n_heads": 16,
    "n_kv_heads": 4,
    "head_dim": 128,
    "mlp_hidden_size": 512,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "num_expert_groups": 8,
    "num_groups_per_tok": 4,
    "num_shared_experts": 1,
    "expert_scale": 2.5,
    "num_dense_layers": 1,
    "dense_mlp_hidden_size": 5120,
    "qk_norm": True,
    "vocab_size": 157_184,
    "rms_norm_eps": 1e-6,
    "rope_theta": 600_000.0,
    "partial_rotary_factor": 0.5,
    "max_sequence_length": 32_768,
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
    "qwen3-0.6b-diffusion-bd3lm": {**_QWEN3_06B, "block_length": 32},
    "qwen3-0.6b-diffusion": _QWEN3_06B,
    "llada-moe-7b-a1b": _LLADA_MOE,
    "fast_dllm_v2_7b": _QWEN25_7B,
    "fast_dllm_v2_1.5b": {
        **_QWEN25_7B,
        "d_model": 1536,
        "n_heads": 12,
        "n_kv_heads": 2,
        "mlp_hidden_size": 8960,
        "vocab_size": 151_936,
        "weight_tying": True,
    },
    "sdar-1.7b": {
        **_SDAR_8B,
        "d_model": 2048,
        "n_layers": 28,
        "n_heads": 16,
        "mlp_hidden_size": 6144,
    },
    "sdar-4b": _SDAR_4B,
    "sdar-8b": _SDAR_8B,
    "sdar-30b-a3b": _SDAR_30B,
    "trado-4b": _SDAR_4B,
    "trado-8b": _SDAR_8B,
    "nemotron-labs-diffusion-3b": {
        **_NEMOTRON_8B,
        "d_model": 3072,
        "n_layers": 26,
        "mlp_hidden_size": 9216,
    },
    "nemotron-labs-diffusion-8b": _NEMOTRON_8B,
    "llada2.0-mini": _LLADA2_MINI,
    "llada2.1-mini": _LLADA2_MINI,
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
    # A key of config.json stands for the length here.
    trained = None if isinstance(row.train_length, str) else row.train_length
    known = {
        "train_length": trained or shape.get("max_sequence_length"),
        "block_length": row.blocks.block_length if row.is_block_causal else None,
        **row.settings,
        **shape,
    }
    config = LLaDAConfig(**known, dtype="bfloat16")
    note = f"{pretrained} could not be read; its shape is the published one."
    if config.block_length is not None:
        note += f" Blocks of {config.block_length} are its release's default."
    if "rope_theta" not in shape and "rope_parameters" not in shape:
        note += f" Its rope_theta is not known here, and {config.rope_theta:g} stands in for it."
    return config, note
