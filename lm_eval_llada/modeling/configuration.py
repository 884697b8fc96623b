"""`LLaDAConfig`: the official configuration keys, with one source of truth for the RoPE base."""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.modeling.config_checks import check_config
from lm_eval_llada.modeling.families import DEFAULT_FAMILY, family_named, find_family
from lm_eval_llada.modeling.family import Family
from lm_eval_llada.modeling.remote_code import kept_auto_map
from lm_eval_llada.modeling.rope_fields import OUTER_KEYS, merged_rope, with_family_keys
from lm_eval_llada.rope import (
    ResolvedRope,
    RopeChoice,
    resolve,
)
from lm_eval_llada.rope.existing import check_rope_fields, rotary_dim

# No key of the official config.json, so they are written only where they say something.
_BEYOND_OFFICIAL: dict[str, Any] = {
    "attention_out_bias": False,
    "mlp_bias": False,
    "qk_norm": False,
    "fused_qkv": False,
    "block_length": None,
    "num_experts": 0,
    "num_experts_per_tok": 0,
    "router": "softmax",
    "norm_expert_weights": False,
    "expert_scale": 1.0,
    "num_expert_groups": 1,
    "num_groups_per_tok": 1,
    "num_shared_experts": 0,
    "num_dense_layers": 0,
    "dense_mlp_hidden_size": None,
}


class LLaDAConfig(PreTrainedConfig):
    """Configuration of a LLaDA model, under the key names of the official checkpoints.

    Checkpoints of other families are read into it and written from it by their row of
    `families.FAMILIES`, see `from_dict` and `to_dict`.

    transformers' own names (`hidden_size`, `num_hidden_layers`, `tie_word_embeddings`, ...) read
    and set the same values. Keys that are not listed here (`auto_map`, `flash_attention`,
    `init_fn`, ...) are kept and written back, so that a saved config still serves the official
    code; of `auto_map` what has its files in the new folder, too. `rope_theta` is a view of
    `rope_parameters["rope_theta"]`: the two cannot drift apart, and a saved config holds both,
    since the official code reads only the former.

    Attributes:
        vocab_size: number of tokens.
        embedding_size: rows of the embedding and of the LM head, so the width of the logits;
            None means `vocab_size`.
        d_model: width of the residual stream.
        n_layers: number of blocks.
        n_heads: query heads.
        n_kv_heads: key and value heads, a divisor of `n_heads`; None means `n_heads`, or 1 under
            `multi_query_attention`.
        head_dim: dimensions of one head; None means `d_model / n_heads`.
        mlp_hidden_size: width of the gated MLP, or of each expert; None means
            `mlp_ratio * d_model`.
        block_length: tokens of a block of a model that is causal between blocks; None means that
            every token sees all others.
        num_experts: gated MLPs that a router chooses from; 0 means one MLP and no router.
        num_experts_per_tok: how many of them it chooses for each token.
        router: what an expert's score is, see `experts.Router`: `softmax` over all of them, or
            `sigmoid` of its own, chosen by score plus bias.
        norm_expert_weights: whether the weights of the chosen experts are made to sum to one.
        expert_scale: factor on these weights.
        num_expert_groups: groups of experts with neighbouring numbers; a divisor of `num_experts`.
        num_groups_per_tok: how many of them a token may choose from.
        num_shared_experts: of how many experts' width the MLP is that every token goes through.
        num_dense_layers: first blocks with one MLP in place of experts.
        dense_mlp_hidden_size: width of theirs; None means `mlp_hidden_size`.
        max_sequence_length: longest sequence the model is meant for, in tokens.
        train_length: trained context in tokens; None means the length that `rope_parameters` says
            was stretched (`original_max_position_embeddings`), else `max_sequence_length`.
        rope_parameters: transformers' description of the rotation; `rope_theta` in it is λ·b. Of
            families that have them also `partial_rotary_factor`, the share of a head that is
            rotated, and `llama_4_scaling_beta`, by which queries grow with their position.
        rope_scale: the λ that `rope_theta` already contains; not 1 marks an extended checkpoint.
        rms_norm_eps: added to the mean square in RMSNorm.
        weight_tying: the LM head is the embedding; such a checkpoint has no `ff_out` of its own.
        include_bias: biases on every linear layer.
        include_qkv_bias: biases on the query, key and value projections.
        attention_out_bias: a bias on the output projection of attention.
        mlp_bias: biases in the gated MLP.
        fused_qkv: queries, keys and values come from one projection, in this order.
        qk_norm: an RMSNorm on each head of queries and keys before they are rotated.
        bias_for_layer_norm: biases in RMSNorm; None means `include_bias`.
        init_std: standard deviation of fresh weights.
        mask_token_id: the token that stands for a masked one.
        eos_token_id: end of text.
        pad_token_id: padding.
        bos_token_id: beginning of text.
        rope_full_precision: rotate in float32; otherwise in the model's dtype.
        family: name of a row of `families.FAMILIES`.
        origin: keys of the config.json it was read from that saving writes back as they were,
            `model_type` and `architectures` among them; of LLaDA's own, none.

    Raises:
        ValueError: on construction, if a value is out of range or a feature is not supported, or
            if `rope_theta`, `rope_scaling` and `rope_parameters` disagree.
    """

    model_type: ClassVar[str] = "llada"
    keys_to_ignore_at_inference: ClassVar[list[str]] = []
    # `check_config` knows which families have them.
    ignore_keys_at_rope_validation: ClassVar[set[str]] = {  # type: ignore[misc]
        "llama_4_scaling_beta",
        "max_position_embeddings",
    }
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "num_key_value_heads": "n_kv_heads",
        "intermediate_size": "mlp_hidden_size",
        "max_position_embeddings": "max_sequence_length",
        "tie_word_embeddings": "weight_tying",
        "hidden_act": "activation_type",
        "initializer_range": "init_std",
    }

    # Typed as what every reader sees: __post_init__ replaces the Nones that "means" is said of.
    vocab_size: int = 126464
    embedding_size: int = None  # type: ignore[assignment]
    d_model: int = 4096
    n_layers: int = 32
    n_heads: int = 32
    n_kv_heads: int = None  # type: ignore[assignment]
    head_dim: int = None  # type: ignore[assignment]
    multi_query_attention: bool | None = None
    mlp_hidden_size: int = None  # type: ignore[assignment]
    mlp_ratio: int = 4
    block_length: int | None = None
    num_experts: int = 0
    num_experts_per_tok: int = 0
    router: str = "softmax"
    norm_expert_weights: bool = False
    expert_scale: float = 1.0
    num_expert_groups: int = 1
    num_groups_per_tok: int = 1
    num_shared_experts: int = 0
    num_dense_layers: int = 0
    dense_mlp_hidden_size: int | None = None
    max_sequence_length: int = 4096
    train_length: int = None  # type: ignore[assignment]
    rope_parameters: dict[str, Any] = None  # type: ignore[assignment]
    rope_scale: float = 1.0
    rms_norm_eps: float = 1e-5
    weight_tying: bool = False
    include_bias: bool = False
    include_qkv_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    fused_qkv: bool = False
    qk_norm: bool = False
    bias_for_layer_norm: bool | None = None
    init_std: float = 0.02
    mask_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    use_cache: bool = False
    rope_full_precision: bool = True
    family: str = DEFAULT_FAMILY
    origin: dict[str, Any] = None  # type: ignore[assignment]
    # The values of `config_checks.FIXED`. They are written out because the official code's own
    # defaults for missing keys describe another architecture.
    block_type: str = "llama"
    block_group_size: int = 1
    layer_norm_type: str = "rms"
    layer_norm_with_affine: bool = True
    attention_layer_norm: bool = False
    activation_type: str = "silu"
    rope: bool = True
    alibi: bool = False
    scale_logits: bool = False
    input_emb_norm: bool = False
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    embedding_dropout: float = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        """Merges the places RoPE settings come from, fills in defaults, and checks every value."""
        found = {"rope_parameters": self.rope_parameters}
        found |= {name: kwargs.pop(name, None) for name in OUTER_KEYS}
        check_rope_fields(found)
        self.rope_parameters = merged_rope(found)
        self.origin = self.origin or {}
        super().__post_init__(**kwargs)
        self._fill_defaults()
        check_config(self)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> LLaDAConfig:
        """The configuration that a config.json of any family describes.

        Raises:
            ValueError: if its model type is of no known family, or a value is not supported.
        """
        native = find_family(config_dict).native_config(config_dict)
        config: LLaDAConfig = super().from_dict(native, **kwargs)
        return config

    @property
    def row(self) -> Family:
        """What there is to know about checkpoints of this kind."""
        return family_named(self.family)

    @property
    def shift(self) -> bool:
        """Whether the token at p is read from the logits of row p - 1."""
        return self.row.shift

    @property
    def blocks(self) -> BlockRules | None:
        """How blocks of tokens see each other; None where every token sees all others."""
        if self.block_length is None:
            return None
        return replace(self.row.blocks, block_length=self.block_length)

    @property
    def rope_theta(self) -> float:
        """The base the model runs with, λ·b."""
        # transformers asks before there are any rope_parameters, and expects None then.
        theta: Any = (self.rope_parameters or {}).get("rope_theta")
        return theta

    @rope_theta.setter
    def rope_theta(self, value: float) -> None:
        self.rope_parameters = {**(self.rope_parameters or {}), "rope_theta": value}

    @property
    def rope_dim(self) -> int:
        """How many dimensions of a head are rotated."""
        return rotary_dim(self.head_dim, self.rope_parameters)

    @property
    def norm_bias(self) -> bool:
        """Whether RMSNorm adds a bias."""
        if self.bias_for_layer_norm is None:
            return self.include_bias
        return self.bias_for_layer_norm

    def to_dict(self) -> dict[str, Any]:
        """The config.json of its family, `rope_theta` at the top level as well."""
        values = {**super().to_dict(), "rope_theta": self.rope_theta}
        if self.row.fields:
            return self.row.own_config(values, _native_names(), self.origin)
        unsaid = {k for k, v in _BEYOND_OFFICIAL.items() if values[k] == v}
        if self.head_dim == self.d_model // self.n_heads:
            unsaid.add("head_dim")
        return {k: v for k, v in values.items() if k not in {*unsaid, "family", "origin"}}

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Writes `config.json`; of an `auto_map` what has its files there, or brings them along."""
        saved = self
        if auto_map := getattr(self, "auto_map", None):
            folder = Path(save_directory)
            folder.mkdir(parents=True, exist_ok=True)
            saved = copy.deepcopy(self)
            saved.auto_map = kept_auto_map(auto_map, self.name_or_path or "", folder)
            if not saved.auto_map:
                del saved.auto_map
        super(LLaDAConfig, saved).save_pretrained(save_directory, *args, **kwargs)

    def _fill_defaults(self) -> None:
        if self.embedding_size is None:
            self.embedding_size = self.vocab_size
        if self.n_kv_heads is None:
            self.n_kv_heads = 1 if self.multi_query_attention else self.n_heads
        if self.mlp_hidden_size is None:
            self.mlp_hidden_size = self.mlp_ratio * self.d_model
        if self.num_dense_layers and self.dense_mlp_hidden_size is None:
            self.dense_mlp_hidden_size = self.mlp_hidden_size
        if self.train_length is None:
            original = self.rope_parameters.get("original_max_position_embeddings")
            self.train_length = original or self.max_sequence_length


@cache
def _native_names() -> frozenset[str]:
    """Names that this configuration adds to those of transformers."""
    known = {item.name for item in fields(PreTrainedConfig)}
    return frozenset({item.name for item in fields(LLaDAConfig)} - known)


def apply_rope(config: LLaDAConfig, choice: RopeChoice) -> tuple[LLaDAConfig, ResolvedRope]:
    """A copy of `config` that runs under `choice`, and the numbers behind it.

    Args:
        config: a checkpoint's configuration; left as it is.
        choice: what the user asked for. `none` keeps the checkpoint's own rotation.

    Returns:
        The new configuration, with λ·b as `rope_theta` and λ multiplied into `rope_scale`, and
        what `rope.resolve` made of the choice.

    Raises:
        ValueError: if the numbers contradict each other, or the checkpoint is extended already
            and `choice.force` is not set.
    """
    config = copy.deepcopy(config)
    resolved = resolve(
        choice,
        rope_theta=config.rope_theta,
        head_dim=config.rope_dim,
        train_length=config.train_length,
    )
    config.train_length = resolved.train_length
    if resolved.method == "none":
        return config, resolved
    rope_type = config.rope_parameters["rope_type"]
    if not choice.force and (config.rope_scale != 1 or rope_type != "default"):
        raise ValueError(
            f"This checkpoint is extended already (rope_scale={config.rope_scale:g}, "
            f"rope_type={rope_type!r}), so rope_method={resolved.method!r} would scale it twice; "
            f"drop the rope arguments, or set force_rope=true."
        )
    config.rope_parameters = with_family_keys(config.rope_parameters, resolved.rope_parameters)
    config.rope_scale *= resolved.rope_scale
    config.max_sequence_length = (
        # Dynamic scaling starts from this length, so it must be the trained one.
        resolved.train_length
        if resolved.method == "dynamic"
        else max(config.max_sequence_length, resolved.max_position_embeddings)
    )
    return config, resolved


# On import, so that AutoConfig reads our checkpoints wherever this class is known.
AutoConfig.register(LLaDAConfig.model_type, LLaDAConfig, exist_ok=True)
