"""One family of checkpoints: what is to be known of it, and its names in ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lm_eval_llada.diffusion.block_rules import BlockRules

_HEAD = "model.transformer.ff_out.weight"
# Native tensors whose presence answers what a config.json leaves open.
TELLING_TENSORS = {
    "qk_norm": (".q_norm.weight",),
    "include_qkv_bias": (".q_proj.bias", ".qkv_proj.bias"),
    "attention_out_bias": (".attn_out.bias",),
    "mlp_bias": (".ff_proj.bias",),
}
_SIZES = (
    "vocab_size", "d_model", "n_layers", "n_heads", "mlp_hidden_size", "max_sequence_length",
)  # fmt: skip
# What saving writes for a family beside its own keys: ours, which other code passes over.
_OUR_KEYS = ("train_length", "rope_scale", "block_length")
# Parts of `rope_parameters` that code of transformers 4 reads beside the base and the scaling.
_PARTIAL = "partial_rotary_factor"


@dataclass(frozen=True)
class Family:
    """One kind of checkpoint.

    Attributes:
        name: what messages call it.
        model_types: values of `model_type` in its config.json.
        architectures: values of `architectures` that tell it from others of the same model type;
            empty for whatever has no row of its own.
        fields: names of `LLaDAConfig` and what its config.json calls them; empty where they are
            called the same.
        settings: values of `LLaDAConfig` that its own code fixes.
        defaults: values where its config.json is silent; tensors overrule those about tensors.
        only: keys that would change the computation, and the values under which they do not.
        tensors: parts of tensor names, native and its own, in an order in which each replaces the
            other without a mistake.
        shift: whether the token at p is read from the logits of row p - 1.
        rope_keys: parts of `rope_parameters` that its code reads beside base and scaling.
        is_block_causal: whether its checkpoints attend causally between blocks although their
            config.json may not say so; otherwise they do if it has a `block_length`.
        blocks: how those are laid out. Their length is one of `LLaDAConfig`; the one here is what
            its release publishes.
        mask_tokens: its names in the tokenizer, asked in this order where config.json has no id.
        end_of_turn: tokens that end an answer beside the end of text.
        train_length: trained context in tokens, or the key of config.json that has it, where
            `max_position_embeddings` and a stretched rotation say another number.
        decoding: settings of the release, in the names of model_args.
    """

    name: str
    model_types: tuple[str, ...]
    architectures: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    tensors: tuple[tuple[str, str], ...] = ()
    shift: bool = False
    rope_keys: tuple[str, ...] = ()
    is_block_causal: bool = False
    blocks: BlockRules = BlockRules(1)
    mask_tokens: tuple[str, ...] = ()
    end_of_turn: tuple[str, ...] = ()
    train_length: int | str | None = None
    decoding: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key_mapping(self) -> dict[str, str]:
        """Parts of its tensor names and the native ones, as `from_pretrained` takes them."""
        return {own.replace(".", r"\."): native for native, own in self.tensors}

    def native_name(self, name: str) -> str:
        """What the native model calls one of its tensors."""
        for native, own in self.tensors:
            name = name.replace(own, native)
        return name

    def own_name(self, name: str) -> str:
        """What its checkpoints call a native tensor."""
        for native, own in self.tensors:
            name = name.replace(native, own)
        return name

    def own_key(self, name: str) -> str:
        """What its config.json calls a value of `LLaDAConfig`."""
        return self.fields.get(name, name)

    def leaves_open(self, values: Mapping[str, Any]) -> list[str]:
        """Names of `LLaDAConfig` that tensors have to answer for this config.json."""
        return [
            name
            for name in self.defaults
            if (name in TELLING_TENSORS or name == "weight_tying")
            and values.get(self.own_key(name)) is None
        ]

    def native_config(
        self, values: Mapping[str, Any], tensor_names: Iterable[str] = ()
    ) -> dict[str, Any]:
        """Arguments of `LLaDAConfig` for a config.json of this family.

        Args:
            values: of the config.json.
            tensor_names: of its weights, as far as they are known.

        Raises:
            ValueError: if a key asks for a computation that the native model does not have.
        """
        self._check(values)
        if not self.fields:
            return {**values, "family": self.name}
        defaults = dict(self.defaults)
        if self.is_block_causal:
            defaults["block_length"] = self.blocks.block_length
        origin = {k: values[k] for k in ("model_type", "architectures", *self.only) if k in values}
        given = {k: v for k, v in values.items() if k not in origin}
        if self.train_length is not None and given.get("train_length") is None:
            given["train_length"] = self.trained_on(values)
        known = {
            name: given[own] for name, own in self.fields.items() if given.get(own) is not None
        }
        others = {k: v for k, v in given.items() if k not in self.fields.values()}
        native = [self.native_name(name) for name in tensor_names]
        if native:
            for name in self.leaves_open(values):
                endings = TELLING_TENSORS.get(name)
                defaults[name] = (
                    _HEAD not in native
                    if endings is None
                    else any(tensor.endswith(endings) for tensor in native)
                )
        identity = {"family": self.name, "origin": origin}
        return {**defaults, **others, **known, **self.settings, **identity}

    def trained_on(self, values: Mapping[str, Any]) -> int | None:
        """Trained context of a config.json, None where its sizes say it themselves."""
        known = self.train_length
        return values.get(known) if isinstance(known, str) else known

    def own_config(
        self, values: Mapping[str, Any], native: Iterable[str], origin: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The config.json of this family for values of `LLaDAConfig`.

        Args:
            values: all of them.
            native: names among them that are ours rather than transformers' or a checkpoint's.
            origin: what was read of keys that have no place in `LLaDAConfig`.
        """
        dropped = {*native, "family", "origin"} - {*self.fields, *_OUR_KEYS}
        kept = {k: v for k, v in values.items() if k not in dropped and k not in self.fields}
        kept |= {own: values[name] for name, own in self.fields.items() if name in values}
        scaling = dict(values["rope_parameters"])
        scaling.pop("rope_theta", None)
        # Code of transformers 4 reads the base and the scaling apart.
        kept["rope_scaling"] = None if scaling["rope_type"] == "default" else scaling
        if _PARTIAL in scaling:
            kept[_PARTIAL] = scaling[_PARTIAL]
        if kept.get("block_length") is None:
            kept.pop("block_length", None)
        return kept | dict(origin)

    def _check(self, values: Mapping[str, Any]) -> None:
        for name in _SIZES if self.fields else ():
            if values.get(key := self.own_key(name)) is None:
                raise ValueError(f"{key} is missing, and {self.name} has no size by default.")
        if self.fields and not (values.get("rope_theta") or values.get("rope_parameters")):
            raise ValueError(f"rope_theta is missing, and no base is right for all of {self.name}.")
        for key, allowed in self.only.items():
            found = values.get(key)
            # Of a list, one value a layer.
            for value in found if isinstance(found, list) else [found]:
                if value is not None and value not in allowed:
                    raise ValueError(
                        f"{key}={found!r} is not supported for {self.name}; only "
                        f"{' or '.join(map(repr, allowed)) or 'null'} is."
                    )
