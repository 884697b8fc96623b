"""Checkpoints as they are published: the official config.json beside safetensors files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lm_eval_llada.modeling import LLaDAConfig, LLaDAForMaskedLM

# The form of the published config.json files, extra keys included, with small sizes.
OFFICIAL_CONFIG = {
    "activation_type": "silu",
    "alibi": False,
    "alibi_bias_max": 8.0,
    "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "auto_map": {
        "AutoConfig": "configuration_llada.LLaDAConfig",
        "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
        "AutoModel": "modeling_llada.LLaDAModelLM",
    },
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": 32,
    "embedding_dropout": 0.0,
    "embedding_size": 60,
    "eos_token_id": 50,
    "flash_attention": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "init_cutoff_factor": None,
    "init_device": "meta",
    "init_fn": "mitchell",
    "init_std": 0.02,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": 51,
    "max_sequence_length": 4096,
    "mlp_hidden_size": 48,
    "mlp_ratio": 4,
    "model_type": "llada",
    "multi_query_attention": None,
    "n_heads": 4,
    "n_kv_heads": 4,
    "n_layers": 2,
    "pad_token_id": 50,
    "precision": "amp_bf16",
    "residual_dropout": 0.0,
    "rms_norm_eps": 1e-05,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 500000.0,
    "scale_logits": False,
    "transformers_version": "4.46.3",
    "use_cache": False,
    "vocab_size": 60,
    "weight_tying": False,
}
IDS = torch.arange(22).view(2, 11)


def write_config(folder: Path, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps({**OFFICIAL_CONFIG, **changes}))


def make_checkpoint(folder: Path, **changes: Any) -> LLaDAForMaskedLM:
    """A folder as published: the official config and one safetensors file."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = LLaDAForMaskedLM(LLaDAConfig(**{**OFFICIAL_CONFIG, "init_std": 0.2, **changes})).eval()
    write_config(folder, **changes)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return model


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits
