"""Random checkpoints in the layout of each family, and transformers' own class for the same one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Ministral3Config,
    Ministral3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from lm_eval_llada.modeling.families import family_named, find_family
from lm_eval_llada.modeling.family import Family
from tests.helpers.family_configs import CONFIGS

FAMILY_IDS = tuple(CONFIGS)


def make_family_checkpoint(
    name: str, folder: Path, *, dtype: torch.dtype = torch.float32, **changes: Any
) -> PreTrainedModel:
    """A folder as the family publishes it, written by transformers' class for the same network.

    Returns:
        That class, on the same weights, seeing all positions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIGS[name], **changes}
    model = reference_model(config)
    # transformers' wrapper hides the types.
    model.to(dtype)  # type: ignore[arg-type]
    (folder / "config.json").write_text(json.dumps(config))
    save_file(own_tensors(config, model), folder / "model.safetensors", metadata={"format": "pt"})
    return model


def reference_model(config: dict[str, Any]) -> PreTrainedModel:
    """transformers' own class, with weights large enough for a wrong angle or mask to show."""
    (config_class, model_class), changes = _reference_of(config)
    values = {k: v for k, v in config.items() if k not in ("model_type", "architectures")}
    if "d_model" in config:
        shared = family_named("Dream").fields
        values = {own: config[name] for name, own in shared.items() if name in config}
        values["rope_theta"] = config["rope_theta"]
    if "num_experts" in config:
        changes["experts_implementation"] = "eager"
    torch.manual_seed(0)
    model = model_class(config_class(**{**values, **changes}, is_causal=False)).eval()
    for parameter in model.parameters():
        parameter.data = 0.25 * torch.randn_like(parameter) + (parameter.dim() == 1)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.normal_(std=0.25)
    return model


def _reference_of(config: dict[str, Any]) -> tuple[tuple[Any, Any], dict[str, Any]]:
    """The classes for a config.json, and what they call otherwise."""
    qwen2 = (Qwen2Config, Qwen2ForCausalLM)
    model_type, architectures = config["model_type"], config["architectures"]
    if "d_model" in config:
        # Of the classes with biases on queries, keys and values alone, the one there is.
        return qwen2, {}
    usual = {"head_dim": config["hidden_size"] // config["num_attention_heads"]}
    if architectures == ["DreamForCausalLM"]:
        return (Qwen3Config, Qwen3ForCausalLM), usual
    if model_type in ("Dream", "a2d-qwen2", "Fast_dLLM_Qwen"):
        return qwen2, {}
    if model_type in ("a2d-qwen3", "sdar"):
        return (Qwen3Config, Qwen3ForCausalLM), {}
    if model_type == "sdar_moe":
        return (Qwen3MoeConfig, Qwen3MoeForCausalLM), {}
    if "expert_intermediate_size" in config:
        width = config["expert_intermediate_size"]
        changes = {**usual, "moe_intermediate_size": width, "norm_topk_prob": False}
        return (Qwen3MoeConfig, Qwen3MoeForCausalLM), changes
    if model_type == "nemotron_labs_diffusion":
        return (Ministral3Config, Ministral3ForCausalLM), {}
    if model_type == "llada2_moe":
        counts = {
            "n_routed_experts": config["num_experts"],
            "n_shared_experts": config["num_shared_experts"],
            "num_mtp_layers": 0,
        }
        return (Glm4MoeConfig, Glm4MoeForCausalLM), counts
    return (LlamaConfig, LlamaForCausalLM), {}


# What checkpoints call otherwise than transformers' class for the same network.
_RENAMED = {
    "nemotron_labs_diffusion": {"model.": "encoder.", "lm_head.": "diffusion_head."},
    "llada2_moe": {
        "embed_tokens": "word_embeddings",
        "self_attn.o_proj": "attention.dense",
        "self_attn.q_norm": "attention.query_layernorm",
        "self_attn.k_norm": "attention.key_layernorm",
        "e_score_correction_bias": "expert_bias",
    },
}


def own_tensors(config: dict[str, Any], model: PreTrainedModel) -> dict[str, Tensor]:
    """The reference's weights under the names that the family's checkpoints have."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        if "d_model" in config:
            name = family_named("Dream").native_name(name)
        for theirs, own in _RENAMED.get(config["model_type"], {}).items():
            name = name.replace(theirs, own)
        tensors |= _one_by_one(name, tensor)
    if config["model_type"] == "llada2_moe":
        for layer in range(config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}"
            names = [f"{prefix}.self_attn.{part}_proj.weight" for part in "qkv"]
            fused = torch.cat([tensors.pop(name) for name in names])
            tensors[f"{prefix}.attention.query_key_value.weight"] = fused
    return tensors


def _one_by_one(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A tensor of all experts in one as tensors of each; others as they are."""
    if ".experts." not in name:
        return {name: tensor.contiguous()}
    prefix, _, kind = name.rpartition(".")
    parts = {}
    for number, expert in enumerate(tensor):
        kinds = ["gate_proj", "up_proj"] if kind == "gate_up_proj" else [kind]
        for one, part in zip(kinds, expert.chunk(len(kinds)), strict=True):
            parts[f"{prefix}.{number}.{one}.weight"] = part.contiguous()
    return parts


@torch.no_grad()
def reference_logits(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
) -> Tensor:
    """Logits of all positions from all positions, of a copy whose norms keep float64.

    transformers' norms go through float32 whatever the weights are, which would hide everything
    below 1e-7 in a comparison in float64.
    """
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = _norm_of(module)
    return model(
        input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
    ).logits


def _norm_of(module: Any) -> Any:
    def forward(hidden_states: Tensor) -> Tensor:
        normed = F.rms_norm(hidden_states, module.weight.shape, None, module.variance_epsilon)
        return normed * module.weight

    return forward


def family_of(name: str) -> Family:
    """The row that a name of `CONFIGS` belongs to."""
    return find_family(CONFIGS[name])
