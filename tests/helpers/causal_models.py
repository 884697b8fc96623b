"""One tiny random model of each causal class of transformers that has rotary embeddings."""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

TRAINED = 64
_MOST_PARAMETERS = 8_000_000

_SIZES: dict[str, int] = {
    "vocab_size": 99,
    "vocab_size_per_layer_input": 99,
    "hidden_size": 64,
    "max_position_embeddings": TRAINED,
    "sliding_window": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # Mixtures of experts.
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_intermediate_size": 32,
    # Latent attention: what is rotated is a part beside the rest of a head.
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    # State spaces.
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_d_conv": 2,
    "mamba_chunk_size": 16,
}
# What the rules of `_small` do not guess, layers that rotate among the two above all.
_FULL = {"layer_types": ["linear_attention", "full_attention"]}
_OVERRIDES: dict[str, dict[str, Any]] = {
    "axk1": {"head_dim": 8},
    "bailing_hybrid": _FULL,
    "flint": {"layer_types": ["sliding_attention", "full_attention"]},
    "bamba": {"attn_layer_indices": [1]},
    "deepseek_v2": {"head_dim": 8, "num_experts_per_tok": 2},
    "deepseek_v3": {"head_dim": 8},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "ernie4_5_moe": {"moe_k": 2},
    "falcon_h1": {"mamba_d_ssm": 128},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"head_dim": 8, "qk_head_dim": 16, "moe_topk": 2, "zero_expert_num": 2},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "qwen3_5_moe_text": _FULL,
    "qwen3_5_text": _FULL,
    "qwen3_next": _FULL,
    "qwen4_exp_text": {
        "layer_types": ["linear_attention", "indexed_attention"],
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
    },
    "recurrent_gemma": {"num_hidden_layers": 3},  # the third attends
    "youtu": {"head_dim": 8},
    "zamba2": {
        "layers_block_type": ["mamba", "hybrid"],
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "mamba_headdim": 16,
    },
    "zaya": {"num_experts_per_tok": 1},
}


def rotary_types() -> list[str]:
    """Model types with a causal class whose configuration has `rope_parameters` of its own."""
    types = []
    for model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            config = CONFIG_MAPPING[model_type]()
        except (StrictDataclassError, ValueError):  # a configuration without defaults
            continue
        if getattr(config, "rope_parameters", None):
            types.append(model_type)
    return types


def tiny_config(model_type: str, **changes: Any) -> PreTrainedConfig:
    """The configuration of a small model with two layers.

    Args:
        model_type: One of `rotary_types()`.
        **changes: Further settings.
    """
    default = CONFIG_MAPPING[model_type]()
    settings = {**_small(default), **_OVERRIDES.get(model_type, {}), **changes}
    return CONFIG_MAPPING[model_type](**settings)


def random_model(config: PreTrainedConfig, like: PreTrainedModel | None = None) -> PreTrainedModel:
    """A model in evaluation mode.

    Args:
        config: From `tiny_config`.
        like: Takes over its weights; None draws them anew, from a fixed seed.

    Raises:
        ValueError: If it would not be small.
    """
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > _MOST_PARAMETERS:
        raise ValueError(f"{config.model_type} has {size:,} parameters however small its sizes.")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    if like is not None:
        model.load_state_dict(like.state_dict())
    return model


def logits_of(model: PreTrainedModel, length: int = 32) -> torch.Tensor:
    """Those of a fixed text of `length` tokens, float32 (1, length, vocab)."""
    ids = torch.arange(length)[None] * 7 % 90 + 3
    with torch.inference_mode():
        return model(ids, use_cache=False).logits


def _small(default: PreTrainedConfig) -> dict[str, Any]:
    latent = hasattr(default, "qk_rope_head_dim")
    settings: dict[str, Any] = {}
    for name, value in default.to_dict().items():
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        if name in _SIZES:
            settings[name] = _SIZES[name]
        elif name.endswith("layers"):
            settings[name] = min(value, 2)
        elif "experts" in name:
            settings[name] = min(value, 4)
        elif name.endswith(("intermediate_size", "ffn_dim")):
            settings[name] = 64
        elif name.endswith("head_dim") and not latent:
            settings[name] = 16
        elif name.endswith(("_size", "_dim", "_rank")) and value >= 64:
            settings[name] = 32
    if latent:
        settings["num_key_value_heads"] = settings["num_attention_heads"]
    return settings
