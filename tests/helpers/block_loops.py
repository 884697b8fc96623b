"""Decoding and scoring by blocks without any cache: each step reads all of the text anew."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.diffusion.sampler import SamplingOptions
from lm_eval_llada.modeling import LLaDAForMaskedLM


@lru_cache(maxsize=4096)
def seen(rules: BlockRules, length: int, prompt_length: int, noisy_from: int | None) -> Tensor:
    """Which tokens see which, bool (1, 1, length, length), by a loop over pairs.

    Those from ``noisy_from`` on are one block at work; all before it are finished.
    """
    shift = -prompt_length % rules.block_length if rules.grid == "prompt" else 0
    mask = torch.zeros(length, length, dtype=torch.bool)
    for q, k in itertools.product(range(length), range(length)):
        if noisy_from is not None and q >= noisy_from:
            mask[q, k] = True
        elif noisy_from is not None and k >= noisy_from:
            continue
        elif rules.prefix == "causal":
            mask[q, k] = k <= q
        else:
            mask[q, k] = (k + shift) // rules.block_length <= (q + shift) // rules.block_length
    return mask[None, None]


@torch.no_grad()
def whole_logits(
    model: LLaDAForMaskedLM,
    rules: BlockRules,
    x: Tensor,
    prompt_length: int,
    noisy_from: int | None,
) -> Tensor:
    """Logits of every row of a text, (length, vocab)."""
    mask = seen(rules, len(x), prompt_length, noisy_from)
    return model(x[None], attention_mask=mask).logits[0].float()


def block_start(rules: BlockRules, position: int, prompt_length: int) -> int:
    """Where the block of a position begins, found by walking there."""
    start = prompt_length % rules.block_length if rules.grid == "prompt" else 0
    if position < start:
        return 0
    while start + rules.block_length <= position:
        start += rules.block_length
    return start


def plain_block_generate(
    model: LLaDAForMaskedLM,
    rules: BlockRules,
    prompt: Tensor,
    options: SamplingOptions,
    mask_token_id: int,
    seed: int = 0,
) -> list[int]:
    """One prompt: every step reads the whole text up to the end of the block."""
    source = torch.Generator().manual_seed(seed)
    first, length = len(prompt), options.gen_length
    x = torch.cat([prompt, torch.full((length + rules.block_length,), mask_token_id)])
    last = first + length
    steps = min(options.steps or length, length)
    start = block_start(rules, first, first)
    while start < last:
        end = start + rules.block_length
        inside = range(max(start, first), min(end, last))
        if rules.first_token != "own" and 0 < start >= first:
            row = whole_logits(model, rules, x[:start], first, None)[-1:]
            draw = options.temperature if rules.first_token == "causal" else 0.0
            x[start] = choose(row, mask_token_id, draw, source)[0][0]
        if options.editing_threshold is not None:
            edit_block(model, rules, x, inside, first, start, end, options, mask_token_id)
            start = end
            continue
        left = [p for p in inside if x[p] == mask_token_id]
        if rules.reveal == "quota":
            parts, size = rules.block_length, rules.block_length
            parts = max(1, min(size, steps * size // length))
        else:
            size = len(left)
            parts = steps * (min(end, last) - first) // length
            parts = max(1, parts - steps * max(start - first, 0) // length)
        counts = [size // parts + (n < size % parts) for n in range(parts)] if size else []
        step = 0
        while left := [p for p in inside if x[p] == mask_token_id]:
            if rules.reveal == "sub_blocks":
                sub = rules.sub_block_length or 1
                left = [p for p in left if (p - start) // sub == (left[0] - start) // sub]
            rows = whole_logits(model, rules, x[:end], first, start)
            read = [max(p - 1, start) if rules.first_token == "previous" else p for p in left]
            tokens, sure = choose(rows[read], mask_token_id, options.temperature, source)
            quota = counts[min(step, len(counts) - 1)]
            if options.threshold is not None:
                above = [s > options.threshold for s in sure]
                quota = max(sum(above), quota if rules.reveal == "quota" else 1)
            best = sorted(range(len(left)), key=lambda k: -sure[k])[:quota]
            for k in best:
                x[left[k]] = tokens[k]
            step += 1
        start = end
    return x[first:last].tolist()


def edit_block(
    model: LLaDAForMaskedLM,
    rules: BlockRules,
    x: Tensor,
    inside: range,
    first: int,
    start: int,
    end: int,
    options: SamplingOptions,
    mask_token_id: int,
) -> None:
    """Reveals and replaces the generated tokens of one block, in place."""
    rounds = 0
    while rounds < 16:
        rows = whole_logits(model, rules, x[:end], first, start)[list(inside)]
        tokens, sure = choose(rows, mask_token_id, 0.0, torch.Generator())
        found = dict(zip(inside, zip(tokens, sure, strict=True), strict=True))
        masked = [p for p in inside if x[p] == mask_token_id]
        placed = [p for p in inside if x[p] != mask_token_id]
        edited = [
            p
            for p in placed
            if found[p][0] != x[p] and found[p][1] > (options.editing_threshold or 0)
        ]
        best = max(masked, key=lambda p: found[p][1], default=None)
        above = [p for p in masked if options.threshold and found[p][1] > options.threshold]
        for p in {*above, *edited, *([] if best is None else [best])}:
            x[p] = found[p][0]
        if not masked:
            rounds += 1
            if not edited:
                return


def choose(
    rows: Tensor, mask_token_id: int, temperature: float, source: torch.Generator
) -> tuple[list[int], list[float]]:
    """The token of each row and its probability."""
    rows = rows.clone()
    rows[:, mask_token_id] = -math.inf
    tokens = rows.argmax(-1)
    if temperature:
        u = torch.rand(rows.shape, generator=source, dtype=torch.float64)
        tokens = (rows.double() - temperature * (-u.log()).log()).argmax(-1)
    sure = rows.softmax(-1).gather(1, tokens[:, None])[:, 0]
    return tokens.tolist(), sure.tolist()


def plain_block_log_likelihood(
    model: LLaDAForMaskedLM,
    rules: BlockRules,
    prefix: Tensor,
    target: Tensor,
    mask_token_id: int,
    masks: Callable[[int, int], Sequence[tuple[Tensor, float]]],
) -> tuple[float, list[float], bool]:
    """log p(target | prefix): its value, the part of each block, and whether decoding gives it.

    ``masks`` says for the number of a block and of its tokens which to hide, and with what weight.
    """
    x, first = torch.cat([prefix, target]), len(prefix)
    parts, matches, number = [], True, 0
    position = first
    while position < len(x):
        start = block_start(rules, position, first)
        end = min(start + rules.block_length, len(x))
        here = list(range(position, end))
        whole = torch.cat([x[:end], torch.full((start + rules.block_length - end,), mask_token_id)])
        part = 0.0
        if rules.first_token != "own" and 0 < start == position:
            row = whole_logits(model, rules, x[:start], first, None)[-1:]
            part += float(row.log_softmax(-1)[0, x[start]])
            matches &= choose(row, mask_token_id, 0.0, torch.Generator())[0][0] == x[start]
            here = here[1:]

        def read(hidden: list[int], whole: Tensor = whole, start: int = start) -> Tensor:
            noisy = whole.clone()
            noisy[hidden] = mask_token_id
            rows = whole_logits(model, rules, noisy, first, start)
            shifted = rules.first_token == "previous"
            return rows[[max(p - 1, start) if shifted else p for p in hidden]]

        for mask, weight in masks(number, len(here)) if here else ():
            hidden = [p for p, is_hidden in zip(here, mask.tolist(), strict=True) if is_hidden]
            log_probs = read(hidden).log_softmax(-1).gather(1, x[hidden][:, None])
            part += weight * float(log_probs.sum())
        left = list(here)
        while left:
            tokens, sure = choose(read(left), mask_token_id, 0.0, torch.Generator())
            best = max(range(len(left)), key=lambda k: sure[k])
            matches &= tokens[best] == int(x[left.pop(best)])
        parts.append(part)
        position, number = end, number + 1
    return sum(parts), parts, matches


def every_mask(number: int, length: int) -> list[tuple[Tensor, float]]:
    """Each mask of a block with its chance times its weight in LLaDA's Eq. 14."""
    found = []
    for bits in itertools.product([False, True], repeat=length):
        count = sum(bits)
        if count:
            found.append((torch.tensor(bits), 1 / (count * math.comb(length, count))))
    return found
