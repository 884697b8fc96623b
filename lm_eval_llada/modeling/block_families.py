"""Families that attend causally between blocks and fully inside one, a row each."""

from __future__ import annotations

from dataclasses import replace

from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.modeling.family import Family
from lm_eval_llada.modeling.family_parts import (
    ATTENTION_BIAS,
    EXPERT_TENSORS,
    FIELDS,
    GREEDY,
    HEAD_DIM,
    LAYER_TENSORS,
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

_BLOCK_SIZE = {"block_length": "block_size"}
_EXPERTS = {"num_experts": "num_experts", "num_experts_per_tok": "num_experts_per_tok"}

# SDAR and, in its files, TraDo. The published config.json names neither mask nor block size.
_SDAR = Family(
    name="SDAR",
    model_types=("sdar",),
    fields={**FIELDS, **HEAD_DIM, **ATTENTION_BIAS, **_BLOCK_SIZE},
    settings=QWEN3,
    defaults=QWEN3_DEFAULTS,
    # Where it is true the code is causal inside blocks, and shifts.
    only={**NO_WINDOW, "use_regular_causal": (False,)},
    tensors=TENSORS + MLP_TENSORS,
    is_block_causal=True,
    blocks=BlockRules(4, reveal="quota"),
    # Its added_tokens.json and its special tokens call one id by two names.
    mask_tokens=("<MASK>", "<|MASK|>"),
    end_of_turn=QWEN_TURN,
    decoding={**GREEDY, "threshold": 0.95},
)

BLOCK_FAMILIES: tuple[Family, ...] = (
    _SDAR,
    replace(
        _SDAR,
        name="SDAR-MoE",
        model_types=("sdar_moe",),
        fields={
            **_SDAR.fields,
            **_EXPERTS,
            "mlp_hidden_size": "moe_intermediate_size",
            # Read by no layer, since all have experts; kept for the file.
            "dense_mlp_hidden_size": "intermediate_size",
            "norm_expert_weights": "norm_topk_prob",
        },
        only={**_SDAR.only, "decoder_sparse_step": (1,), "mlp_only_layers": ()},
        tensors=TENSORS + EXPERT_TENSORS,
    ),
    # Wears Dream's model type over the body of Qwen3. Known from a third party's tests alone.
    Family(
        name="DreamReasoner",
        model_types=("Dream",),
        architectures=("DreamForCausalLM",),
        fields={**FIELDS, **HEAD_DIM, **_BLOCK_SIZE},
        settings={**QWEN3, **NO_BIAS},
        defaults=LLAMA_DEFAULTS,
        only={**NO_WINDOW, "use_mrope": (False,), "attention_bias": (False,)},
        tensors=TENSORS + MLP_TENSORS,
        is_block_causal=True,
        blocks=BlockRules(32),
        mask_tokens=("<|mask|>",),
        end_of_turn=QWEN_TURN,
        decoding=GREEDY,
    ),
    Family(
        name="Fast-dLLM v2",
        model_types=("Fast_dLLM_Qwen",),
        fields={**FIELDS, **HEAD_DIM, "block_length": "bd_size"},
        settings=QWEN2,
        defaults=LLAMA_DEFAULTS,
        only=NO_WINDOW,
        tensors=TENSORS + MLP_TENSORS,
        shift=True,
        is_block_causal=True,
        blocks=BlockRules(32, first_token="previous", reveal="sub_blocks", sub_block_length=8),
        # Its code has the id as a default of `generate`.
        mask_tokens=("|<MASK>|",),
        end_of_turn=QWEN_TURN,
        decoding={**GREEDY, "threshold": 0.9},
    ),
    Family(
        name="Nemotron-Labs-Diffusion",
        model_types=("nemotron_labs_diffusion", "ministral_dlm"),
        fields={**FIELDS, **HEAD_DIM, **ATTENTION_BIAS, **MLP_BIAS, **_BLOCK_SIZE},
        settings={**ROUNDED, "qk_norm": False},
        defaults={
            **NO_BIAS,
            "mlp_bias": False,
            "head_dim": 128,
            "rms_norm_eps": 1e-5,
            "weight_tying": False,
        },
        only={"dlm_paradigm": ("bidirectional", "block_diff"), "sliding_window": ()},
        tensors=(
            ("model.transformer.wte.", "encoder.embed_tokens."),
            ("model.transformer.blocks.", "encoder.layers."),
            ("model.transformer.ln_f.", "encoder.norm."),
            ("model.transformer.ff_out.", "diffusion_head."),
            *LAYER_TENSORS,
            *MLP_TENSORS,
        ),
        rope_keys=("llama_4_scaling_beta", "max_position_embeddings"),
        is_block_causal=True,
        blocks=BlockRules(32, grid="prompt", prefix="causal", first_token="causal"),
        # Its rotation was stretched before it was trained on, by Ministral 3.
        train_length="max_position_embeddings",
        decoding={**GREEDY, "threshold": 0.9},
    ),
    Family(
        name="LLaDA2",
        model_types=("llada2_moe",),
        fields={
            **{name: key for name, key in FIELDS.items() if name != "attention_dropout"},
            **HEAD_DIM,
            **_EXPERTS,
            "include_qkv_bias": "use_qkv_bias",
            "attention_out_bias": "use_bias",
            "qk_norm": "use_qk_norm",
            "mlp_hidden_size": "moe_intermediate_size",
            "dense_mlp_hidden_size": "intermediate_size",
            "num_dense_layers": "first_k_dense_replace",
            "num_shared_experts": "num_shared_experts",
            "num_expert_groups": "n_group",
            "num_groups_per_tok": "topk_group",
            "expert_scale": "routed_scaling_factor",
        },
        settings={
            **ROUNDED,
            "mlp_bias": False,
            "fused_qkv": True,
            "router": "sigmoid",
            "norm_expert_weights": True,
        },
        # Of the defaults of its configuration class, those without which there is no model.
        defaults={
            **NO_BIAS,
            "qk_norm": True,
            "rms_norm_eps": 1e-5,
            "weight_tying": False,
            "num_expert_groups": 8,
            "num_groups_per_tok": 4,
            "expert_scale": 2.5,
            "partial_rotary_factor": 0.5,
        },
        only={
            "use_sliding_window": (False,),
            "use_linear_attention": (False,),
            "norm_head": (False,),
            "norm_topk_prob": (True,),
            "score_function": ("sigmoid",),
            "moe_router_enable_expert_bias": (True,),
            # Nothing is dropped but in training.
            **dict.fromkeys(("attention_dropout", "embedding_dropout", "output_dropout"), (0, 0.1)),
        },
        tensors=(
            ("model.transformer.wte.", "model.word_embeddings."),
            ("model.transformer.blocks.", "model.layers."),
            ("model.transformer.ln_f.", "model.norm."),
            ("model.transformer.ff_out.", "lm_head."),
            (".attn_norm.", ".input_layernorm."),
            (".qkv_proj.", ".attention.query_key_value."),
            (".q_norm.", ".attention.query_layernorm."),
            (".k_norm.", ".attention.key_layernorm."),
            (".attn_out.", ".attention.dense."),
            (".ff_norm.", ".post_attention_layernorm."),
            *EXPERT_TENSORS,
            (".shared_experts.", ".mlp.shared_experts."),
            # Whatever is left of a layer's MLP is that of a dense one.
            (".dense_mlp.", ".mlp."),
        ),
        rope_keys=("partial_rotary_factor",),
        is_block_causal=True,
        blocks=BlockRules(32, reveal="quota"),
        mask_tokens=("<|mask|>",),
        end_of_turn=("<|role_end|>",),
        decoding={**GREEDY, "threshold": 0.95},
    ),
)
