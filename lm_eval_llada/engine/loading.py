"""A checkpoint, opened once a run: its parts are checked first, its weights are read on demand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lm_eval_llada.checkpoints.adapters import Naming, check_adapter, merge_adapter
from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.diffusion.block_likelihood import check_block_likelihood
from lm_eval_llada.diffusion.blocks import check_blocks
from lm_eval_llada.engine.arguments import ModelArguments, parse_model_args
from lm_eval_llada.engine.decoding import block_lines, in_own_blocks, with_release_decoding
from lm_eval_llada.engine.device_memory import bound_kernel_caches
from lm_eval_llada.engine.ranks import own_gpu_memory
from lm_eval_llada.engine.tokenization import Tokenization
from lm_eval_llada.modeling import (
    LLaDAConfig,
    LLaDAForMaskedLM,
    apply_rope,
    load_config,
    load_model,
)
from lm_eval_llada.modeling.attention_choice import with_attention
from lm_eval_llada.modeling.packed import pack_weights
from lm_eval_llada.modeling.weights import check_weights
from lm_eval_llada.rope import ResolvedRope


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint under the arguments of a run: all that is known before its weights are read.

    Attributes:
        arguments: Those of the run.
        location: Folder or hub id.
        config: Of the model, with its position embeddings scaled.
        rope: How they are scaled.
        text: Its tokenizer.
        notes: Sentences for the user: how position embeddings are scaled, and what of the family's
            release was filled in.
    """

    arguments: ModelArguments
    location: str
    config: LLaDAConfig
    rope: ResolvedRope
    text: Tokenization
    notes: tuple[str, ...] = ()

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence: `max_length`, else the target or trained context."""
        given = self.arguments.requests.max_length
        return given or max(self.rope.train_length, self.rope.target_length or 0)


_kept: list[Checkpoint] = []


def open_checkpoint(arguments: ModelArguments, *, keep: bool = False) -> Checkpoint:
    """A checkpoint, checked without reading weights; headers of local weight files are read.

    Args:
        arguments: Name the checkpoint, its tokenizer and its scaling.
        keep: Whether the next call that asks for the same takes over what this one opens. The
            command line checks a checkpoint before the harness makes the model.

    Raises:
        ValueError: If the checkpoint is not there or incomplete, or does not fit the arguments or
            its tokenizer.
    """
    kept = [one for one in _kept if _source(one.arguments) == _source(arguments)]
    _kept.clear()
    checkpoint = replace(kept[0], arguments=arguments) if kept else _opened(arguments)
    if keep:
        _kept.append(checkpoint)
    return checkpoint


def open_run(model_args: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint as `open_checkpoint`, under arguments that its family's release completes.

    Args:
        model_args: As of `parse_model_args`.

    Raises:
        ValueError: As these two, or if an option is set that the decoding does not have.
    """
    checkpoint = open_checkpoint(parse_model_args(model_args))
    blocks = checkpoint.config.blocks
    check_blocks(checkpoint.arguments.sampling, blocks)
    check_block_likelihood(checkpoint.arguments.likelihood, blocks)
    filled, notes = with_release_decoding(model_args, checkpoint.config.family)
    arguments = parse_model_args(filled)
    arguments.sampling.require_used()
    arguments = replace(arguments, sampling=in_own_blocks(arguments.sampling, blocks))
    notes = (*checkpoint.rope.notes, *notes, *block_lines(blocks))
    return replace(checkpoint, arguments=arguments, notes=notes)


def _source(arguments: ModelArguments) -> tuple[object, ...]:
    """What a checkpoint is opened by, of all arguments."""
    loading, add_bos_token = arguments.loading, arguments.requests.add_bos_token
    names = (
        *(loading.pretrained, loading.revision, loading.tokenizer),
        *(loading.attention, loading.peft),
    )
    length = None if loading.attention is None else arguments.sampling.block_length
    return (*names, length, arguments.rope, add_bos_token)


def _opened(arguments: ModelArguments) -> Checkpoint:
    loading = arguments.loading
    config = load_config(loading.pretrained, revision=loading.revision)
    config = with_attention(config, loading.attention, arguments.sampling.block_length)
    config, rope = apply_rope(config, arguments.rope)
    location = resolve_checkpoint(loading.pretrained)
    if Path(location).is_dir():
        check_weights(location, config)
    if loading.peft is not None:
        with torch.device("meta"):
            model = LLaDAForMaskedLM(config)
        check_adapter(loading.peft, loading.pretrained, model, _naming(config))
    text = Tokenization(
        loading.tokenizer or loading.pretrained,
        config,
        revision=None if loading.tokenizer else loading.revision,
        add_bos_token=arguments.requests.add_bos_token,
    )
    return Checkpoint(arguments, location, config, rope, text)


def load_weights(checkpoint: Checkpoint, device: torch.device) -> LLaDAForMaskedLM:
    """The model in evaluation mode, its weights read now.

    Args:
        checkpoint: From `open_checkpoint`.
        device: Where the model goes, unless it is spread over several.

    Raises:
        ValueError: As `modeling.load_model`.
    """
    loading = checkpoint.arguments.loading
    is_whole = loading.device_map is None and loading.tp is None
    bound_kernel_caches()
    model = load_model(
        loading.pretrained,
        config=checkpoint.config,
        dtype=loading.dtype,
        device=device if is_whole else None,
        attn_implementation=loading.attn_implementation,
        device_map=loading.device_map,
        revision=loading.revision,
        tp=loading.tp,
        quantization=loading.quantization,
        max_memory=None if loading.device_map is None else own_gpu_memory(),
    )
    if loading.peft is not None:
        merge_adapter(model, loading.peft, _naming(checkpoint.config))
    if loading.kernels == "packed":
        pack_weights(model)
    return model


def _naming(config: LLaDAConfig) -> Naming:
    return Naming(config.row.native_name, config.row.own_name)
