"""Decoding by a model that is causal between blocks: one prefill, then only rows of one block.

A finished block is read once more and kept; a block at work is read beside what is kept, and
nothing of that pass is kept, since some of its tokens were masks in it. So texts are those of a
loop that reads prompt and block anew at every step, at the price of the block's rows.

Behind gen_length the last block stays masked: its length is what the model was trained on, and
nothing of it is used.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lm_eval_llada.diffusion.block_editing import Editing
from lm_eval_llada.diffusion.block_reader import BlockReader
from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.diffusion.block_work import AnyText, Decoder, Working
from lm_eval_llada.diffusion.sampling_options import SamplingOptions


def check_blocks(options: SamplingOptions, rules: BlockRules | None) -> None:
    """Refuses options that a model with such blocks, or without any, does not have.

    Raises:
        ValueError: naming the option and what there is in its place.
    """
    if options.generation == "ar" and (rules is None or not rules.has_causal_mode):
        raise ValueError(
            "generation=ar needs a model that also predicts the next token, such as "
            "Nemotron-Labs-Diffusion; use generation=diffusion."
        )
    if options.editing_threshold is not None and (
        rules is None or rules.first_token != "own" or options.generation == "ar"
    ):
        raise ValueError(
            f"editing_threshold={options.editing_threshold} changes tokens of a block that is at "
            "work, as LLaDA2.1 does; this model decides its tokens once, so drop it."
        )
    if rules is None:
        return
    if options.cache != "none":
        raise ValueError(
            f"cache={options.cache} is an approximation for models in which every token sees all "
            "others. This one is causal between blocks: what it keeps of finished blocks is exact, "
            "costs one prefill and is always on; drop cache and its settings."
        )
    if options.block_length not in (None, rules.block_length):
        raise ValueError(
            f"block_length={options.block_length}, but this model was made for blocks of "
            f"{rules.block_length}, which its attention depends on; drop block_length."
        )
    if options.cfg_scale:
        raise ValueError(
            f"cfg_scale={options.cfg_scale} reads the prompt as masks, and a model that is causal "
            "between blocks has never seen a finished block of them; drop cfg_scale."
        )
    if options.alg != "none":
        raise ValueError(
            f"alg={options.alg} is Dream's decoding of whole texts; this model decodes block by "
            "block, so use alg=none."
        )
    if options.generation == "ar" and (
        options.is_parallel or options.remasking != "low_confidence"
    ):
        raise ValueError(
            "generation=ar takes the tokens one after the other; drop threshold, factor and "
            "remasking, or use generation=diffusion."
        )


def decode_blocks(decoder: Decoder[AnyText], texts: Sequence[AnyText], rules: BlockRules) -> None:
    """Decides all tokens of the texts, as far as they will be used.

    Every text goes at its own pace: in one pass some read a block at work and others a finished
    one, so that what a text becomes does not depend on its company.

    Args:
        decoder: chooses tokens from logits.
        texts: all of them undecided.
        rules: how blocks lie, and what a step reveals.
    """
    if decoder.options.generation == "ar":
        rules = rules.causal_mode
    if not texts:
        return
    longest = max(len(text.tokens) for text in texts)
    reader = BlockReader.of(decoder.denoiser, rules, len(texts), longest)
    kind: type[Working[AnyText]] = Working
    if decoder.options.editing_threshold is not None:
        kind = Editing
    working = [kind(i, text, rules, decoder) for i, text in enumerate(texts)]
    clean = [one.prompt() for one in working]
    _, logits = reader.keep(clean)
    for one, last in zip(working, logits, strict=True):
        one.enter(last)
    while active := [one for one in working if not one.text.has_ended and not one.is_done]:
        parts = [one.part(reader) for one in active]
        found = reader.logits(parts).split([len(part.rows) for part in parts])
        for one, part, rows in zip(active, parts, found, strict=True):
            if part.keep:
                one.next_block(rows)
        steps = [
            (one, rows)
            for one, part, rows in zip(active, parts, found, strict=True)
            if not part.keep
        ]
        if steps:
            sizes = [len(one.candidates) for one, _ in steps]
            chosen = decoder.choose(
                [one.text for one, _ in steps], torch.cat([rows for _, rows in steps]), sizes
            )
            tokens, confidence = (values.split(sizes) for values in chosen)
            for (one, _), token, sure in zip(steps, tokens, confidence, strict=True):
                one.reveal(token, sure)
