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
    LlamaConfig,
    LlamaForCausalLM,
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
from tests.helpers.llada_checkpoints import OFFICIAL_CONFIG

# The keys that all configs made after transformers' LLaMA share, with small sizes.
_SHARED = {
    "attention_dropout": 0.0,
    "eos_token_id": 50,
    "hidden_act": "silu",
    "hidden_size": 32,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "max_position_embeddings": 4096,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 50,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "use_cache": False,
    "vocab_size": 61,
}
_QWEN = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 2}
# The config.json of each row, with the keys its releases are known to carry.
CONFIGS: dict[str, dict[str, Any]] = {
    "LLaDA": {**OFFICIAL_CONFIG, "n_kv_heads": 2, "include_qkv_bias": True},
    "iLLaDA": {
        **_SHARED,
        "model_type": "illada",
        "architectures": ["ILLaDAForCausalLM"],
        "attention_bias": False,
        "layer_norm_eps": None,
        "mlp_bias": False,
        "resid_pdrop": 0.0,
        "tie_word_embeddings": True,
    },
    "iLLaDA with biases": {
        **_SHARED,
        "model_type": "illada",
        "architectures": ["ILLaDAForCausalLM"],
        "attention_bias": True,
        "mlp_bias": True,
        "resid_pdrop": 0.0,
    },
    "Dream": {
        **_SHARED,
        **_QWEN,
        "model_type": "Dream",
        "architectures": ["DreamModel"],
        "mask_token_id": 51,
        "max_position_embeddings": 131072,
        "use_mrope": False,
    },
    "A2D-Qwen3": {
        **_SHARED,
        **_QWEN,
        "model_type": "a2d-qwen3",
        "architectures": ["A2DQwen3LMHeadModel"],
        "attention_bias": False,
        "head_dim": 12,
        "layer_types": ["full_attention"] * 2,
        "tie_word_embeddings": True,
    },
    "A2D-Qwen2": {
        **_SHARED,
        **_QWEN,
        "model_type": "a2d-qwen2",
        "architectures": ["A2DQwen2LMHeadModel"],
        "tie_word_embeddings": True,
    },
    "A2D-LLaMA": {
        **_SHARED,
        "model_type": "a2d-llama",
        "architectures": ["A2DLlamaLMHeadModel"],
        "attention_bias": False,
        "head_dim": 12,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "rope_theta": 5e5,
    },
    "LLaDA-MoE": {
        **{k: v for k, v in _SHARED.items() if k != "intermediate_size"},
        "model_type": "llada",
        "architectures": ["LLaDAMoEModelLM"],
        "attention_bias": False,
        "clip_qkv": None,
        "dense_intermediate_size": 64,
        "expert_intermediate_size": 24,
        "moe_layer_freq": [1, 1],
        "moe_router_enable_expert_bias": False,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "partial_rotary_factor": 1,
        "qk_layernorm": True,
        "rope_theta": 5e4,
        "shared_expert_intermediate_size": None,
    },
}
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
    model_type = config["model_type"]
    values = {k: v for k, v in config.items() if k not in ("model_type", "architectures")}
    classes: tuple[Any, Any] = (LlamaConfig, LlamaForCausalLM)
    if "d_model" in config:
        # Of the classes with biases on queries, keys and values alone, the one there is.
        classes = (Qwen2Config, Qwen2ForCausalLM)
        shared = family_named("Dream").fields
        values = {own: config[name] for name, own in shared.items() if name in config}
        values["rope_theta"] = config["rope_theta"]
    elif model_type in ("Dream", "a2d-qwen2"):
        classes = (Qwen2Config, Qwen2ForCausalLM)
    elif model_type == "a2d-qwen3":
        classes = (Qwen3Config, Qwen3ForCausalLM)
    elif "num_experts" in config:
        classes = (Qwen3MoeConfig, Qwen3MoeForCausalLM)
        values["moe_intermediate_size"] = values.pop("expert_intermediate_size")
        # What its config has for a missing one is not that of the sizes here.
        values["head_dim"] = values["hidden_size"] // values["num_attention_heads"]
        values |= {"norm_topk_prob": False, "experts_implementation": "eager"}
    torch.manual_seed(0)
    model = classes[1](classes[0](**values, is_causal=False)).eval()
    for parameter in model.parameters():
        parameter.data = 0.25 * torch.randn_like(parameter) + (parameter.dim() == 1)
    return model


def own_tensors(config: dict[str, Any], model: PreTrainedModel) -> dict[str, Tensor]:
    """The reference's weights under the names that the family's checkpoints have."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        if "d_model" in config:
            name = family_named("Dream").native_name(name)
        if name.endswith("experts.gate_up_proj"):
            prefix = name.removesuffix("gate_up_proj")
            for number, expert in enumerate(tensor):
                gate, up = expert.chunk(2)
                tensors[f"{prefix}{number}.gate_proj.weight"] = gate.contiguous()
                tensors[f"{prefix}{number}.up_proj.weight"] = up.contiguous()
        elif name.endswith("experts.down_proj"):
            for number, expert in enumerate(tensor):
                prefix = name.removesuffix("down_proj")
                tensors[f"{prefix}{number}.down_proj.weight"] = expert.contiguous()
        else:
            tensors[name] = tensor.contiguous()
    return tensors


@torch.no_grad()
def reference_logits(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """Logits of all positions from all positions, of a copy whose norms keep float64.

    transformers' norms go through float32 whatever the weights are, which would hide everything
    below 1e-7 in a comparison in float64.
    """
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = _norm_of(module)
    return model(input_ids, attention_mask=attention_mask, use_cache=False).logits


def _norm_of(module: Any) -> Any:
    def forward(hidden_states: Tensor) -> Tensor:
        normed = F.rms_norm(hidden_states, module.weight.shape, None, module.variance_epsilon)
        return normed * module.weight

    return forward


def family_of(name: str) -> Family:
    """The row that a name of `CONFIGS` belongs to."""
    return find_family(CONFIGS[name])
