"""The families of checkpoints that the one native model serves, a row each.

A row says how a family's config.json and tensors are called, and what its own code fixes without
saying so in the config. Everything else in the package asks the row, never the model type.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from lm_eval_llada.errors import unknown_choice
from lm_eval_llada.modeling.family import TELLING_TENSORS, Family

# Names that the checkpoints of transformers' LLaMA share with everything made after it.
_FIELDS = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "mlp_hidden_size": "intermediate_size",
    "max_sequence_length": "max_position_embeddings",
    "rms_norm_eps": "rms_norm_eps",
    "weight_tying": "tie_word_embeddings",
    "activation_type": "hidden_act",
    "init_std": "initializer_range",
    "attention_dropout": "attention_dropout",
    "rope_parameters": "rope_parameters",
    "mask_token_id": "mask_token_id",
    "eos_token_id": "eos_token_id",
    "pad_token_id": "pad_token_id",
    "bos_token_id": "bos_token_id",
    "use_cache": "use_cache",
}
_HEAD_DIM = {"head_dim": "head_dim"}
_ATTENTION_BIAS = {"include_qkv_bias": "attention_bias", "attention_out_bias": "attention_bias"}
_MLP_BIAS = {"mlp_bias": "mlp_bias"}
_NO_BIAS = {"include_qkv_bias": False, "attention_out_bias": False}
# The LM head comes before the blocks' outputs: their native names end alike.
_TENSORS = (
    ("model.transformer.wte.", "model.embed_tokens."),
    ("model.transformer.blocks.", "model.layers."),
    ("model.transformer.ln_f.", "model.norm."),
    ("model.transformer.ff_out.", "lm_head."),
    (".attn_norm.", ".input_layernorm."),
    (".q_proj.", ".self_attn.q_proj."),
    (".k_proj.", ".self_attn.k_proj."),
    (".v_proj.", ".self_attn.v_proj."),
    (".q_norm.", ".self_attn.q_norm."),
    (".k_norm.", ".self_attn.k_norm."),
    (".attn_out.", ".self_attn.o_proj."),
    (".ff_norm.", ".post_attention_layernorm."),
)
_MLP_TENSORS = (
    (".ff_proj.", ".mlp.gate_proj."),
    (".up_proj.", ".mlp.up_proj."),
    (".ff_out.", ".mlp.down_proj."),
)
_EXPERT_TENSORS = ((".router.", ".mlp.gate."), (".experts.", ".mlp.experts."))
# transformers' own classes round angles to the model's dtype.
_ROUNDED = {"rope_full_precision": False}
_LLAMA_DEFAULTS = {"rms_norm_eps": 1e-6, "weight_tying": False}
_NO_WINDOW = {"use_sliding_window": (False,), "layer_types": ("full_attention",)}
_QWEN_TURN = ("<|im_end|>",)

FAMILIES: tuple[Family, ...] = (
    # Wears LLaDA's model type, so the architecture comes first.
    Family(
        name="LLaDA-MoE",
        model_types=("llada", "lladamoe", "llada_moe"),
        architectures=("LLaDAMoEModelLM", "LLaDAMoEModel"),
        fields={
            **_FIELDS,
            **_ATTENTION_BIAS,
            "mlp_hidden_size": "expert_intermediate_size",
            "qk_norm": "qk_layernorm",
            "num_experts": "num_experts",
            "num_experts_per_tok": "num_experts_per_tok",
        },
        settings={**_ROUNDED, "mlp_bias": False},
        defaults={**_NO_BIAS, "rms_norm_eps": 1e-5, "weight_tying": False, "qk_norm": False},
        # Its code reads no other key about the router than those it is refused by.
        only={
            "clip_qkv": (),
            "partial_rotary_factor": (1,),
            "moe_layer_freq": (1,),
            "moe_router_enable_expert_bias": (False,),
            "shared_expert_intermediate_size": (),
        },
        tensors=_TENSORS + _EXPERT_TENSORS,
        mask_token="<|mask|>",
        end_of_turn=("<|role_end|>",),
        decoding={"block_length": 32, "temperature": 0.0, "remasking": "low_confidence"},
    ),
    Family(
        name="LLaDA",
        model_types=("llada",),
        only={"clip_qkv": ()},
        end_of_turn=("<|eot_id|>",),
        decoding={"temperature": 0.0, "remasking": "low_confidence"},
    ),
    Family(
        name="iLLaDA",
        model_types=("illada",),
        fields={**_FIELDS, **_ATTENTION_BIAS, **_MLP_BIAS, "residual_dropout": "resid_pdrop"},
        settings={**_ROUNDED, "qk_norm": False},
        defaults={**_NO_BIAS, "mlp_bias": False, "rms_norm_eps": 1e-6, "weight_tying": True},
        only={"clip_qkv": (), "layer_norm_eps": ()},
        tensors=_TENSORS + _MLP_TENSORS,
        mask_token="<[MASK]>",
        decoding={"temperature": 0.0, "remasking": "low_confidence"},
    ),
    Family(
        name="DreamReasoner",
        model_types=("Dream",),
        architectures=("DreamForCausalLM",),
        settings={"qk_norm": True, "include_qkv_bias": False},
        tensors=_TENSORS + _MLP_TENSORS,
        attention="block",
        unsupported="its attention is causal between blocks, which the native model does not have.",
    ),
    Family(
        name="Dream",
        model_types=("Dream",),
        fields=_FIELDS,
        settings={
            **_ROUNDED,
            "include_qkv_bias": True,
            "attention_out_bias": False,
            "mlp_bias": False,
            "qk_norm": False,
        },
        defaults=_LLAMA_DEFAULTS,
        only={**_NO_WINDOW, "use_mrope": (False,)},
        tensors=_TENSORS + _MLP_TENSORS,
        shift=True,
        mask_token="<|mask|>",
        end_of_turn=_QWEN_TURN,
        # Dream's README; its config.json has the 131,072 of the model it started from.
        train_length=2048,
        decoding={"alg": "entropy", "alg_temp": 0.0, "temperature": 0.2, "top_p": 0.95},
    ),
    Family(
        name="A2D-Qwen3",
        model_types=("a2d-qwen3",),
        fields={**_FIELDS, **_HEAD_DIM, **_ATTENTION_BIAS},
        settings={**_ROUNDED, "mlp_bias": False, "qk_norm": True},
        # 128 is what transformers' Qwen3Config has for a missing one.
        defaults={**_LLAMA_DEFAULTS, **_NO_BIAS, "head_dim": 128},
        only=_NO_WINDOW,
        tensors=_TENSORS + _MLP_TENSORS,
        mask_token="<|mask|>",
        end_of_turn=_QWEN_TURN,
        # The longest training command of the release.
        train_length=1024,
        decoding={"block_length": 32, "temperature": 0.0, "remasking": "low_confidence"},
    ),
    Family(
        name="A2D-Qwen2",
        model_types=("a2d-qwen2",),
        fields={**_FIELDS, **_HEAD_DIM},
        settings={
            **_ROUNDED,
            "include_qkv_bias": True,
            "attention_out_bias": False,
            "mlp_bias": False,
            "qk_norm": False,
        },
        defaults=_LLAMA_DEFAULTS,
        only=_NO_WINDOW,
        tensors=_TENSORS + _MLP_TENSORS,
        mask_token="<|mask|>",
        end_of_turn=_QWEN_TURN,
        train_length=1024,
        decoding={"block_length": 32, "temperature": 0.0, "remasking": "low_confidence"},
    ),
    Family(
        name="A2D-LLaMA",
        model_types=("a2d-llama",),
        fields={**_FIELDS, **_HEAD_DIM, **_ATTENTION_BIAS, **_MLP_BIAS},
        settings={**_ROUNDED, "qk_norm": False},
        defaults={**_LLAMA_DEFAULTS, **_NO_BIAS, "mlp_bias": False},
        tensors=_TENSORS + _MLP_TENSORS,
        mask_token="<|mask|>",
        end_of_turn=("<|eot_id|>",),
        train_length=1024,
        decoding={"block_length": 32, "temperature": 0.0, "remasking": "low_confidence"},
    ),
)

_BY_NAME = {row.name: row for row in FAMILIES}
DEFAULT_FAMILY = "LLaDA"


def family_named(name: str) -> Family:
    """The row of this name.

    Raises:
        ValueError: if there is none.
    """
    if name not in _BY_NAME:
        raise unknown_choice("family", name, _BY_NAME)
    return _BY_NAME[name]


def is_masked(values: Mapping[str, Any]) -> bool:
    """Whether a config.json is one of the families here, none of which is causal."""
    return any(values.get("model_type") in row.model_types for row in FAMILIES)


def find_family(values: Mapping[str, Any]) -> Family:
    """The row of a config.json, by its model type and, where several share it, architectures.

    Raises:
        ValueError: if no row has such a model type.
    """
    model_type = values.get("model_type")
    architectures = {*(values.get("architectures") or ())}
    rows = [row for row in FAMILIES if model_type in row.model_types]
    named = [row for row in rows if not architectures.isdisjoint(row.architectures)]
    for row in named or [row for row in rows if not row.architectures]:
        return row
    # A type that belongs to one family only says enough.
    if len(rows) == 1:
        return rows[0]
    known = dict.fromkeys(kind for row in FAMILIES for kind in row.model_types)
    raise ValueError(
        f"model_type={model_type!r}; this model reads {', '.join(map(repr, known))} checkpoints "
        f"only; causal models run under --model hf_rope."
    )


def twins_of(row: Family, tensor_names: Collection[str]) -> list[str]:
    """Other families of the same model types that tensors of such names belong to."""
    present = {
        name: any(tensor.endswith(ending) for tensor in map(row.native_name, tensor_names))
        for name, ending in TELLING_TENSORS.items()
    }
    return [
        other.name
        for other in FAMILIES
        if other is not row
        and other.tensors
        and not {*other.model_types}.isdisjoint(row.model_types)
        and all(other.settings.get(name, found) == found for name, found in present.items())
    ]
