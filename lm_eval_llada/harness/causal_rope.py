"""The position embeddings of transformers' causal models under a user's choice."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lm_eval_llada.modeling.families import is_masked
from lm_eval_llada.rope import ResolvedRope, RopeChoice, resolve
from lm_eval_llada.rope.existing import (
    KNOWN_KEYS,
    check_rope_fields,
    rotary_dim,
    with_own_keys,
)

_REPLACEABLE = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")


def open_config(location: str, revision: str | None = None) -> PreTrainedConfig:
    """The configuration of a causal checkpoint.

    Args:
        location: A folder or a hub id.
        revision: Branch, tag or commit of a hub id.

    Raises:
        ValueError: If it is one of a masked-diffusion model, or its rope fields disagree.
    """
    values, _ = PreTrainedConfig.get_config_dict(location, revision=revision or "main")
    if is_masked(values):
        raise ValueError(
            f"{location} is a masked-diffusion model (model_type={values['model_type']!r}); "
            "use --model llada."
        )
    try:
        check_rope_fields(values)
    except ValueError as error:
        raise ValueError(f"{location}: {error}") from error
    config: PreTrainedConfig = AutoConfig.from_pretrained(location, revision=revision or "main")
    return config


def causal_rope(config: PreTrainedConfig, choice: RopeChoice) -> ResolvedRope:
    """The position embeddings of a causal checkpoint under a user's choice.

    λ and the critical dimension are those of the rotated dimensions, which may be a part of a head.

    Args:
        config: Of the checkpoint.
        choice: What was asked for.

    Raises:
        ValueError: If the model has no rotary embeddings, or several, or is stretched already and
            `choice.force` is not set, or the numbers contradict each other.
    """
    parameters = _parameters_of_one_base(config)
    head_dim = _head_dim(config)
    rotated = rotary_dim(head_dim, parameters)
    trained = parameters.get("original_max_position_embeddings") or getattr(
        config, "max_position_embeddings", choice.train_length
    )
    if trained is None:
        raise ValueError(
            f"The configuration of a model of type {config.model_type!r} names no trained context; "
            f"give train_length."
        )
    rope = resolve(
        choice, rope_theta=parameters["rope_theta"], head_dim=rotated, train_length=trained
    )
    if rope.method == "none":
        return rope
    rope_type = parameters.get("rope_type", "default")
    if rope_type not in _REPLACEABLE:
        raise ValueError(
            f"This checkpoint rotates in a way of its own (rope_type={rope_type!r}), which "
            f"rope_method={rope.method!r} would replace; drop the rope arguments."
        )
    if rope_type != "default" and not choice.force:
        raise ValueError(
            f"This checkpoint is extended already (rope_type={rope_type!r}), and rope_method="
            f"{rope.method!r} would take its place; drop the rope arguments, or set "
            f"force_rope=true."
        )
    if rotated != head_dim:
        note = f"only {rotated} of the {head_dim} dimensions of a head are rotated."
        rope = replace(rope, notes=(*rope.notes, note))
    return rope


def scaled_config(config: PreTrainedConfig, rope: ResolvedRope) -> PreTrainedConfig:
    """A copy of a checkpoint's configuration that rotates as was chosen, all else as it was.

    Args:
        config: Of the checkpoint; left as it is.
        rope: From `causal_rope`.

    Raises:
        ValueError: If the model has no such rotation, or another part of it reads what the choice
            changes.
    """
    own = config.rope_parameters
    chosen = with_own_keys(own, rope.rope_parameters)
    length = "original_max_position_embeddings"
    others = sorted(own.keys() - KNOWN_KEYS - {"partial_rotary_factor"})
    if others and own.get(length, chosen.get(length)) != chosen.get(length):
        raise ValueError(
            f"train_length={chosen[length]} would replace {length}={own[length]} of this "
            f"checkpoint, which its {', '.join(others)} may go by; drop train_length."
        )
    scaled = copy.deepcopy(config)
    scaled.rope_parameters = chosen
    # Dynamic scaling measures growth against this length, so there it must be the trained one.
    longest = 0 if rope.method == "dynamic" else getattr(config, "max_position_embeddings", 0)
    scaled.max_position_embeddings = max(longest, rope.max_position_embeddings)
    if getattr(scaled, "head_dim", 0) is None:
        # transformers' functions take the None for a number, where Mixtral and others leave it out.
        scaled.head_dim = _head_dim(config)
    if hasattr(scaled, length) and length in chosen:
        # Some models keep it here as well, and transformers copies it from here.
        setattr(scaled, length, chosen[length])
    try:
        scaled.standardize_rope_params()
        scaled.validate_rope()
    except (KeyError, TypeError, ValueError) as error:
        raise _not_taken(config, rope, f"{type(error).__name__}: {error}") from error
    return scaled


def check_rotation(model: nn.Module, rope: ResolvedRope) -> None:
    """Stop unless a loaded model turns by the frequencies that were chosen.

    Some classes of transformers read none or other of the fields that describe a rotation, and a
    setting without effect must not pass for a result.

    Args:
        model: With `rope.rope_parameters` in its configuration.
        rope: From `causal_rope`.

    Raises:
        ValueError: If its frequencies are others, or it has none.
    """
    found = False
    for module in model.modules():
        inv_freq = getattr(module, "inv_freq", None)
        if not isinstance(inv_freq, torch.Tensor) or not hasattr(module, "config"):
            continue
        found = True
        expected = _expected(module.config, rope).to(inv_freq.device)
        if inv_freq.shape != expected.shape or not torch.allclose(
            inv_freq.float(), expected, rtol=1e-3, atol=0
        ):
            name = type(module).__name__
            raise _not_taken(module.config, rope, f"{name} keeps other frequencies")
    if not found:
        config = getattr(model, "config", None)
        raise _not_taken(config, rope, "none of its modules keeps frequencies")


def _expected(config: Any, rope: ResolvedRope) -> torch.Tensor:
    """The frequencies of a choice, float32, before any sequence has come."""
    rope_type = rope.rope_parameters["rope_type"]
    if rope_type != "default":
        inv_freq, _ = ROPE_INIT_FUNCTIONS[rope_type](config, torch.device("cpu"))
        return inv_freq.float()
    exponents = torch.arange(0, rope.head_dim, 2).float() / rope.head_dim
    return 1.0 / rope.rope_theta**exponents


def _head_dim(config: PreTrainedConfig) -> int:
    given: int | None = getattr(config, "head_dim", None)
    return given or config.hidden_size // config.num_attention_heads


def _parameters_of_one_base(config: PreTrainedConfig) -> dict[str, Any]:
    parameters: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    if "rope_theta" in parameters:
        return parameters
    kinds = sorted(key for key, value in parameters.items() if isinstance(value, dict))
    several = f" but one for each of {', '.join(kinds)}" if kinds else ""
    raise ValueError(
        f"A model of type {config.model_type!r} has no rotary position embeddings with one "
        f"base{several}, so rope arguments mean nothing to it; use --model hf."
    )


def _not_taken(config: Any, rope: ResolvedRope, reason: str) -> ValueError:
    kind, rope_type = getattr(config, "model_type", None), rope.rope_parameters["rope_type"]
    return ValueError(
        f"Models of type {kind!r} do not take rope_method={rope.method!r} (rope_type="
        f"{rope_type!r}) in transformers: {' '.join(reason.split())}; use another rope_method."
    )
