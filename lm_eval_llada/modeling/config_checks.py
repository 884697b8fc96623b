"""What a configuration must be for the native model to compute what its checkpoint does."""

from __future__ import annotations

from typing import Any

from lm_eval_llada.errors import require_whole, unknown_choice
from lm_eval_llada.rope.existing import KNOWN_KEYS

# The official code has more switches than any released LLaDA checkpoint uses. A checkpoint that
# sets one of them otherwise would compute something else here, so it is refused.
FIXED: dict[str, Any] = {
    "block_type": "llama",
    "block_group_size": 1,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "attention_layer_norm": False,
    "activation_type": "silu",
    "rope": True,
    "alibi": False,
    "scale_logits": False,
    "input_emb_norm": False,
    "attention_dropout": 0.0,
    "residual_dropout": 0.0,
    "embedding_dropout": 0.0,
}
ROUTERS = ("softmax", "sigmoid")
_SIZES = ("d_model", "n_layers", "n_heads", "n_kv_heads", "mlp_hidden_size", "vocab_size",
          "embedding_size", "max_sequence_length", "train_length")  # fmt: skip


def check_config(config: Any) -> None:
    """Stops at the first value that is out of range or asks for another network.

    Args:
        config: a `LLaDAConfig` whose defaults are filled in; its `head_dim` is settled here.

    Raises:
        ValueError: naming the value.
    """
    for name, supported in FIXED.items():
        if getattr(config, name) != supported:
            raise ValueError(
                f"{config.row.own_key(name)}={getattr(config, name)!r} is not supported by the "
                f"native LLaDA model; only {supported!r} is."
            )
    for name in _SIZES:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1; got {value!r}.")
    if config.embedding_size < config.vocab_size:
        raise ValueError(
            f"embedding_size={config.embedding_size} is smaller than "
            f"vocab_size={config.vocab_size}: some tokens would have no embedding."
        )
    _check_heads(config)
    _check_rope(config)
    if config.block_length is not None:
        require_whole(config.row.own_key("block_length"), config.block_length, 1)
    if config.n_heads % config.n_kv_heads:
        raise ValueError(
            f"n_heads={config.n_heads} is not a multiple of n_kv_heads={config.n_kv_heads}."
        )
    _check_experts(config)
    if config.mask_token_id is not None and not 0 <= config.mask_token_id < config.vocab_size:
        raise ValueError(
            f"mask_token_id={config.mask_token_id} is outside the {config.vocab_size} tokens of "
            f"vocab_size."
        )
    if not 0 <= config.rms_norm_eps <= 1:
        raise ValueError(f"rms_norm_eps must be from 0 to 1; got {config.rms_norm_eps!r}.")


def _check_rope(config: Any) -> None:
    """Stops at parts of the rotation that the family's code does not read, or cannot be right."""
    parameters = config.rope_parameters
    whole = {"partial_rotary_factor": 1}
    foreign = [
        str(key)
        for key, value in parameters.items()
        if key not in KNOWN_KEYS and key not in config.row.rope_keys and whole.get(key) != value
    ]
    if foreign:
        raise ValueError(
            f"rope_parameters holds {', '.join(sorted(foreign))}, which the native LLaDA model "
            f"does not compute for {config.family}: it rotates whole heads, all in the same way."
        )
    turned = config.rope_dim
    if turned < 2 or turned % 2 or turned > config.head_dim:
        raise ValueError(
            f"partial_rotary_factor={parameters['partial_rotary_factor']!r} rotates {turned} of "
            f"the {config.head_dim} dimensions of a head; it must be an even number of them."
        )
    if parameters.get("llama_4_scaling_beta"):
        length = parameters.get("original_max_position_embeddings")
        if not isinstance(length, int) or length < 1:
            raise ValueError(
                f"llama_4_scaling_beta needs original_max_position_embeddings, a whole number of "
                f"at least 1, in rope_parameters; got {length!r}."
            )


def _check_heads(config: Any) -> None:
    """Settles the size of a head, which must hold pairs of dimensions to rotate."""
    is_separate = config.head_dim is not None and "head_dim" in config.row.fields
    usual, rest = divmod(config.d_model, config.n_heads)
    if not is_separate and (rest or usual % 2):
        raise ValueError(
            f"d_model={config.d_model} must be an even multiple of n_heads={config.n_heads}: "
            f"RoPE rotates pairs of dimensions of a head."
        )
    if config.head_dim is None:
        config.head_dim = usual
    if not is_separate and config.head_dim != usual:
        raise ValueError(
            f"head_dim={config.head_dim} is not d_model / n_heads = {usual}; "
            f"{config.family} has no other head size."
        )
    if isinstance(config.head_dim, bool) or not isinstance(config.head_dim, int):
        raise ValueError(f"head_dim must be a whole number; got {config.head_dim!r}.")
    if config.head_dim < 2 or config.head_dim % 2:
        raise ValueError(f"head_dim must be even and at least 2; got {config.head_dim}.")


def _check_experts(config: Any) -> None:
    """Stops if a router could not choose as many experts as it is told to."""
    key = config.row.own_key
    num_experts, num_chosen = config.num_experts, config.num_experts_per_tok
    if not 0 <= num_chosen <= num_experts or (num_experts and not num_chosen):
        raise ValueError(
            f"num_experts_per_tok={num_chosen} is no choice among num_experts={num_experts}."
        )
    if config.router not in ROUTERS:
        raise unknown_choice("router", config.router, ROUTERS)
    require_whole(key("num_dense_layers"), config.num_dense_layers, 0)
    require_whole(key("num_shared_experts"), config.num_shared_experts, 0)
    if config.num_dense_layers:
        require_whole(key("dense_mlp_hidden_size"), config.dense_mlp_hidden_size, 1)
    groups, chosen_groups = config.num_expert_groups, config.num_groups_per_tok
    require_whole(key("num_expert_groups"), groups, 1)
    require_whole(key("num_groups_per_tok"), chosen_groups, 1)
    if groups == 1 and chosen_groups == 1:
        return
    size = num_experts // groups
    # A group is as good as its two best, so it needs two.
    if num_experts % groups or size < 2 or chosen_groups > groups:
        raise ValueError(
            f"{key('num_expert_groups')}={groups} and {key('num_groups_per_tok')}={chosen_groups} "
            f"do not divide num_experts={num_experts} into groups of two or more to choose from."
        )
    if chosen_groups * size < num_chosen:
        raise ValueError(
            f"num_experts_per_tok={num_chosen} experts do not fit into "
            f"{key('num_groups_per_tok')}={chosen_groups} groups of {size}."
        )
