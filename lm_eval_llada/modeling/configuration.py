"""`LLaDAConfig`: the official configuration keys, with one source of truth for the RoPE base."""

from __future__ import annotations

import copy
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from lm_eval_llada.modeling.config_values import FIXED, merged_rope
from lm_eval_llada.modeling.families import DEFAULT_FAMILY, family_named, find_family
from lm_eval_llada.modeling.family import Family
from lm_eval_llada.modeling.remote_code import kept_auto_map
from lm_eval_llada.rope import (
    ResolvedRope,
    RopeChoice,
    resolve,
)
from lm_eval_llada.rope.existing import KNOWN_KEYS, check_rope_fields

_SIZES = ("d_model", "n_layers", "n_heads", "n_kv_heads", "mlp_hidden_size", "vocab_size",
          "embedding_size", "max_sequence_length")  # fmt: skip
# No key of the official config.json, so they are written only where they say something.
_BEYOND_OFFICIAL: dict[str, Any] = {
    "attention_out_bias": False,
    "mlp_bias": False,
    "qk_norm": False,
    "num_experts": 0,
    "num_experts_per_tok": 0,
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
        num_experts: gated MLPs that a router chooses from; 0 means one MLP and no router.
        num_experts_per_tok: how many of them it chooses for each token.
        max_sequence_length: longest sequence the model is meant for, in tokens.
        train_length: trained context in tokens; None means the length that `rope_parameters` says
            was stretched (`original_max_position_embeddings`), else `max_sequence_length`.
        rope_parameters: transformers' description of the rotation; `rope_theta` in it is λ·b.
        rope_scale: the λ that `rope_theta` already contains; not 1 marks an extended checkpoint.
        rms_norm_eps: added to the mean square in RMSNorm.
        weight_tying: the LM head is the embedding; such a checkpoint has no `ff_out` of its own.
        include_bias: biases on every linear layer.
        include_qkv_bias: biases on the query, key and value projections.
        attention_out_bias: a bias on the output projection of attention.
        mlp_bias: biases in the gated MLP.
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
    num_experts: int = 0
    num_experts_per_tok: int = 0
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
    # The values of `_FIXED`. They are written out because the official code's own defaults for
    # missing keys describe another architecture.
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
        found |= {name: kwargs.pop(name, None) for name in ("rope_theta", "rope_scaling")}
        check_rope_fields(found)
        self.rope_parameters = merged_rope(
            found["rope_theta"], self.rope_parameters or found["rope_scaling"]
        )
        self.origin = self.origin or {}
        super().__post_init__(**kwargs)
        self._fill_defaults()
        self._check_values()

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
    def rope_theta(self) -> float:
        """The base the model runs with, λ·b."""
        # transformers asks before there are any rope_parameters, and expects None then.
        theta: Any = (self.rope_parameters or {}).get("rope_theta")
        return theta

    @rope_theta.setter
    def rope_theta(self, value: float) -> None:
        self.rope_parameters = {**(self.rope_parameters or {}), "rope_theta": value}

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
        if self.train_length is None:
            original = self.rope_parameters.get("original_max_position_embeddings")
            self.train_length = original or self.max_sequence_length

    def _check_values(self) -> None:
        for name, supported in FIXED.items():
            if getattr(self, name) != supported:
                raise ValueError(
                    f"{self.row.own_key(name)}={getattr(self, name)!r} is not supported by the "
                    f"native LLaDA model; only {supported!r} is."
                )
        whole = {"partial_rotary_factor": 1}
        foreign = [
            str(key)
            for key, value in self.rope_parameters.items()
            if key not in KNOWN_KEYS and whole.get(key) != value
        ]
        if foreign:
            raise ValueError(
                f"rope_parameters holds {', '.join(sorted(foreign))}, which the native LLaDA model "
                f"does not compute: it rotates whole heads, all in the same way."
            )
        for name in (*_SIZES, "train_length"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1; got {value!r}.")
        if self.embedding_size < self.vocab_size:
            raise ValueError(
                f"embedding_size={self.embedding_size} is smaller than "
                f"vocab_size={self.vocab_size}: some tokens would have no embedding."
            )
        self._check_heads()
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_heads={self.n_heads} is not a multiple of n_kv_heads={self.n_kv_heads}."
            )
        if not 0 <= self.num_experts_per_tok <= self.num_experts or (
            self.num_experts and not self.num_experts_per_tok
        ):
            raise ValueError(
                f"num_experts_per_tok={self.num_experts_per_tok} is no choice among "
                f"num_experts={self.num_experts}."
            )
        if self.mask_token_id is not None and not 0 <= self.mask_token_id < self.vocab_size:
            raise ValueError(
                f"mask_token_id={self.mask_token_id} is outside the {self.vocab_size} tokens of "
                f"vocab_size."
            )
        if not 0 <= self.rms_norm_eps <= 1:
            raise ValueError(f"rms_norm_eps must be from 0 to 1; got {self.rms_norm_eps!r}.")

    def _check_heads(self) -> None:
        """Settles the size of a head, which must hold pairs of dimensions to rotate."""
        is_separate = self.head_dim is not None and "head_dim" in self.row.fields
        if not is_separate and (self.d_model % self.n_heads or self.d_model // self.n_heads % 2):
            raise ValueError(
                f"d_model={self.d_model} must be an even multiple of n_heads={self.n_heads}: "
                f"RoPE rotates pairs of dimensions of a head."
            )
        usual = self.d_model // self.n_heads
        if self.head_dim is None:
            self.head_dim = usual
        if not is_separate and self.head_dim != usual:
            raise ValueError(
                f"head_dim={self.head_dim} is not d_model / n_heads = {usual}; "
                f"{self.family} has no other head size."
            )
        if isinstance(self.head_dim, bool) or not isinstance(self.head_dim, int):
            raise ValueError(f"head_dim must be a whole number; got {self.head_dim!r}.")
        if self.head_dim < 2 or self.head_dim % 2:
            raise ValueError(f"head_dim must be even and at least 2; got {self.head_dim}.")


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
        head_dim=config.head_dim,
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
    config.rope_parameters = resolved.rope_parameters
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
