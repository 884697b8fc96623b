"""The families of checkpoints that the one native model serves, a row each.

A row says how a family's config.json and tensors are called, and what its own code fixes without
saying so in the config. Those of `block_families` are among them. Everything else in the package
asks the row, never the model type.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.errors import unknown_choice
from lm_eval_llada.modeling.block_families import BLOCK_FAMILIES
from lm_eval_llada.modeling.family import TELLING_TENSORS, Family
from lm_eval_llada.modeling.family_parts import (
    ATTENTION_BIAS,
    EXPERT_TENSORS,
    FIELDS,
    GREEDY,
    HEAD_DIM,
    LLAMA_DEFAULTS,
    MLP_BIAS,
    MLP_TENSORS,
    NO_BIAS,
    NO_WINDOW,
    QWEN2,
    QWEN3,
    QWEN3_DEFAULTS,
    QWEN_TURN,
    ROUNDED,
    TENSORS,
)

# A2D by dllm: causal models made to see all positions (mdlm), or all of a block (bd3lm). Nothing in
# their files tells the two apart, so that a checkpoint of the latter needs a `block_length`.
_A2D = Family(
    name="A2D-Qwen3",
    model_types=("a2d-qwen3",),
    fields={**FIELDS, **HEAD_DIM, **ATTENTION_BIAS},
    settings=QWEN3,
    defaults=QWEN3_DEFAULTS,
    only=NO_WINDOW,
    tensors=TENSORS + MLP_TENSORS,
    blocks=BlockRules(32, grid="prompt"),
    mask_tokens=("<|mask|>",),
    end_of_turn=QWEN_TURN,
    # The longest training command of the release.
    train_length=1024,
    decoding={"block_length": 32, **GREEDY},
)

FAMILIES: tuple[Family, ...] = (
    # Wears LLaDA's model type, so the architecture comes first.
    Family(
        name="LLaDA-MoE",
        model_types=("llada", "lladamoe", "llada_moe"),
        architectures=("LLaDAMoEModelLM", "LLaDAMoEModel"),
        fields={
            **FIELDS,
            **ATTENTION_BIAS,
            "mlp_hidden_size": "expert_intermediate_size",
            "qk_norm": "qk_layernorm",
            "num_experts": "num_experts",
            "num_experts_per_tok": "num_experts_per_tok",
        },
        settings={**ROUNDED, "mlp_bias": False},
        defaults={**NO_BIAS, "rms_norm_eps": 1e-5, "weight_tying": False, "qk_norm": False},
        # Its code reads no other key about the router than those it is refused by.
        only={
            "clip_qkv": (),
            "partial_rotary_factor": (1,),
            "moe_layer_freq": (1,),
            "moe_router_enable_expert_bias": (False,),
            "shared_expert_intermediate_size": (),
        },
        tensors=TENSORS + EXPERT_TENSORS,
        mask_tokens=("<|mask|>",),
        end_of_turn=("<|role_end|>",),
        decoding={"block_length": 32, **GREEDY},
    ),
    Family(
        name="LLaDA",
        model_types=("llada",),
        only={"clip_qkv": ()},
        end_of_turn=("<|eot_id|>",),
        decoding=GREEDY,
    ),
    Family(
        name="iLLaDA",
        model_types=("illada",),
        fields={**FIELDS, **ATTENTION_BIAS, **MLP_BIAS, "residual_dropout": "resid_pdrop"},
        settings={**ROUNDED, "qk_norm": False},
        defaults={**NO_BIAS, "mlp_bias": False, "rms_norm_eps": 1e-6, "weight_tying": True},
        only={"clip_qkv": (), "layer_norm_eps": ()},
        tensors=TENSORS + MLP_TENSORS,
        mask_tokens=("<[MASK]>",),
        decoding=GREEDY,
    ),
    Family(
        name="Dream",
        model_types=("Dream",),
        fields=FIELDS,
        settings=QWEN2,
        defaults=LLAMA_DEFAULTS,
        only={**NO_WINDOW, "use_mrope": (False,)},
        tensors=TENSORS + MLP_TENSORS,
        shift=True,
        mask_tokens=("<|mask|>",),
        end_of_turn=QWEN_TURN,
        # Dream's README; its config.json has the 131,072 of the model it started from.
        train_length=2048,
        decoding={"alg": "entropy", "alg_temp": 0.0, "temperature": 0.2, "top_p": 0.95},
    ),
    _A2D,
    replace(
        _A2D,
        name="A2D-Qwen2",
        model_types=("a2d-qwen2",),
        fields={**FIELDS, **HEAD_DIM},
        settings=QWEN2,
        defaults=LLAMA_DEFAULTS,
    ),
    replace(
        _A2D,
        name="A2D-LLaMA",
        model_types=("a2d-llama",),
        fields={**FIELDS, **HEAD_DIM, **ATTENTION_BIAS, **MLP_BIAS},
        settings={**ROUNDED, "qk_norm": False},
        defaults={**LLAMA_DEFAULTS, **NO_BIAS, "mlp_bias": False},
        only={},
        end_of_turn=("<|eot_id|>",),
    ),
    *BLOCK_FAMILIES,
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
        name: any(tensor.endswith(endings) for tensor in map(row.native_name, tensor_names))
        for name, endings in TELLING_TENSORS.items()
    }
    return [
        other.name
        for other in FAMILIES
        if other is not row
        and other.tensors
        and not {*other.model_types}.isdisjoint(row.model_types)
        and all(other.settings.get(name, found) == found for name, found in present.items())
    ]
