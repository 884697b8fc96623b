"""How a family's release decodes, where the user does not say how to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.diffusion.blocks import check_blocks
from lm_eval_llada.diffusion.sampling_options import SamplingOptions
from lm_eval_llada.engine.arguments import convert
from lm_eval_llada.modeling.families import family_named

_DEFAULTS = {item.name: item.default for item in fields(SamplingOptions)}


def with_release_decoding(
    model_args: Mapping[str, Any], family: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """model_args with the settings of a family's release, the user's first; and what to say of it.

    `alg=none` asks for LLaDA's decoding where the release has its own, and then nothing of the
    release's is filled in. Tasks and `--gen_kwargs` still change what is.

    Args:
        model_args: The user's.
        family: Name of a row of `families`.

    Returns:
        The completed arguments, and one sentence if anything in them differs from our defaults.
    """
    if "alg" in model_args and convert("alg", model_args["alg"], str) == "none":
        return dict(model_args), ()
    release = dict(family_named(family).decoding)
    if convert("generation", model_args.get("generation", ""), str) == "ar":
        # Token by token there is nothing for it to choose from.
        release.pop("threshold", None)
    filled = {
        name: value
        for name, value in release.items()
        if name not in model_args and value != _DEFAULTS[name]
    }
    if not filled:
        return dict(model_args), ()
    shown = ", ".join(f"{name}={value}" for name, value in filled.items())
    none = "; alg=none decodes as LLaDA does" if "alg" in filled else ""
    line = (
        f"{family}: {shown} is filled in as its release decodes, where a task or --gen_kwargs says "
        f"nothing else{none}."
    )
    return {**model_args, **filled}, (line,)


def in_own_blocks(options: SamplingOptions, rules: BlockRules | None) -> SamplingOptions:
    """The options of a request as a model takes them that has blocks of its own.

    Tasks say in which blocks a text is decoded where that is free. Where it is not, their
    block_length gives way; `open_run` says so.

    Args:
        options: Of the request.
        rules: Of the model; None where blocks are free, and options stay as they are.

    Raises:
        ValueError: As `diffusion.blocks.check_blocks`.
    """
    if rules is not None:
        options = replace(options, block_length=rules.block_length)
    check_blocks(options, rules)
    return options


def block_lines(rules: BlockRules | None) -> tuple[str, ...]:
    """What a run says of a model that has blocks of its own."""
    if rules is None:
        return ()
    return (
        f"This model is causal between its blocks of {rules.block_length}: it decodes in these "
        "whatever block_length a task has, beside an exact cache of one prefill.",
    )
