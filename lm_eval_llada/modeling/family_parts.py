"""What rows of the table of families share: names of keys and tensors, and usual defaults."""

from __future__ import annotations

# Names that the checkpoints of transformers' LLaMA share with everything made after it.
FIELDS = {
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
HEAD_DIM = {"head_dim": "head_dim"}
ATTENTION_BIAS = {"include_qkv_bias": "attention_bias", "attention_out_bias": "attention_bias"}
MLP_BIAS = {"mlp_bias": "mlp_bias"}
NO_BIAS = {"include_qkv_bias": False, "attention_out_bias": False}
LAYER_TENSORS = (
    (".attn_norm.", ".input_layernorm."),
    (".q_proj.", ".self_attn.q_proj."),
    (".k_proj.", ".self_attn.k_proj."),
    (".v_proj.", ".self_attn.v_proj."),
    (".q_norm.", ".self_attn.q_norm."),
    (".k_norm.", ".self_attn.k_norm."),
    (".attn_out.", ".self_attn.o_proj."),
    (".ff_norm.", ".post_attention_layernorm."),
)
# The LM head comes before the blocks' outputs: their native names end alike.
TENSORS = (
    ("model.transformer.wte.", "model.embed_tokens."),
    ("model.transformer.blocks.", "model.layers."),
    ("model.transformer.ln_f.", "model.norm."),
    ("model.transformer.ff_out.", "lm_head."),
    *LAYER_TENSORS,
)
MLP_TENSORS = (
    (".ff_proj.", ".mlp.gate_proj."),
    (".up_proj.", ".mlp.up_proj."),
    (".ff_out.", ".mlp.down_proj."),
)
EXPERT_TENSORS = ((".router.", ".mlp.gate."), (".experts.", ".mlp.experts."))
# transformers' own classes round angles to the model's dtype.
ROUNDED = {"rope_full_precision": False}
# What transformers' Qwen2 fixes without a key for it, and its Qwen3.
QWEN2 = {
    **ROUNDED,
    "include_qkv_bias": True,
    "attention_out_bias": False,
    "mlp_bias": False,
    "qk_norm": False,
}
QWEN3 = {**ROUNDED, "mlp_bias": False, "qk_norm": True}
LLAMA_DEFAULTS = {"rms_norm_eps": 1e-6, "weight_tying": False}
# 128 is what transformers' Qwen3Config has for a missing head size.
QWEN3_DEFAULTS = {**LLAMA_DEFAULTS, **NO_BIAS, "head_dim": 128}
NO_WINDOW = {"use_sliding_window": (False,), "layer_types": ("full_attention",)}
QWEN_TURN = ("<|im_end|>",)
GREEDY = {"temperature": 0.0, "remasking": "low_confidence"}
