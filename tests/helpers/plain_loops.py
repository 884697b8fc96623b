"""The plain loops that decoding and scoring are held against, for equality and for speed.

One request at a time, and every pass over the whole sequence: logits of all positions, and a
float32 softmax over the whole vocabulary of each, at every step of every block, wherever the text
ends. This is the shape of LLaDA's released scripts. The loops are frozen: what makes the package
faster must not reach them. They share nothing with it but a model's forward pass, which
test_modeling.py holds against a reference of its own, the options, and the order of random numbers.

A denoiser is called as `denoise(input_ids, attention_mask=None)` and gives float32 logits
(num_positions, vocab) of all positions, in row-major order.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lm_eval_llada.diffusion.masks import random_mask
from lm_eval_llada.diffusion.sampler import SamplingOptions
from lm_eval_llada.modeling import LLaDAForMaskedLM

Denoise = Callable[..., Tensor]


def whole_forward(model: LLaDAForMaskedLM) -> Denoise:
    """A model as the loops call it: each position's row holds the logits of its token."""

    @torch.no_grad()
    def denoise(input_ids: Tensor, *, attention_mask: Tensor | None) -> Tensor:
        logits = model(input_ids, attention_mask=attention_mask).logits
        if model.config.shift:
            logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
        return logits.flatten(0, 1).float()

    return denoise


def plain_generate(
    denoise: Denoise,
    prompt: Tensor,
    options: SamplingOptions,
    seed: int = 0,
    *,
    mask_token_id: int,
    eos_token_id: int | None = None,
) -> list[int]:
    """LLaDA's loop for one prompt: all steps of all blocks, then what follows an EOS is cut."""
    source = torch.Generator().manual_seed(seed)
    length, first = options.gen_length, len(prompt)
    block_length = options.block_length or length
    steps = min(options.steps or length, length)
    x = torch.cat([prompt, torch.full((length,), mask_token_id)])
    for start in range(0, length, block_length):
        end = min(length, start + block_length)
        block_steps = max(1, steps * end // length - steps * start // length)
        for step in range(block_steps):
            count = (end - start) // block_steps + (step < (end - start) % block_steps)
            logits = plain_logits(denoise, x, first, options, mask_token_id, eos_token_id)
            masked = [p for p in range(first + start, first + end) if x[p] == mask_token_id]
            reveal(x, masked, count, logits, options, source)
            # Before the next pass, so that a step holds no more than one set of logits.
            del logits
    text = x[first:].tolist()
    if options.stop_at_eos and eos_token_id in text:
        ends = text.index(eos_token_id)
        text[ends:] = [eos_token_id] * (length - ends)
    return text


def plain_logits(
    denoise: Denoise,
    x: Tensor,
    prompt_length: int,
    options: SamplingOptions,
    mask_token_id: int,
    eos_token_id: int | None = None,
) -> Tensor:
    """Logits of all positions under guidance, without the tokens that are never chosen."""
    logits = denoise(x[None], attention_mask=None)
    if options.cfg_scale > 0:
        blind = x.clone()
        blind[:prompt_length] = mask_token_id
        unconditional = denoise(blind[None], attention_mask=None)
        logits = unconditional + (options.cfg_scale + 1) * (logits - unconditional)
    logits[:, mask_token_id] = -torch.inf
    if options.suppress_eos:
        logits[:, eos_token_id] = -torch.inf
    return logits


def reveal(
    x: Tensor,
    masked: list[int],
    count: int,
    logits: Tensor,
    options: SamplingOptions,
    source: torch.Generator,
) -> None:
    """One step: put tokens in the place of `count` of the masked positions."""
    if options.remasking == "random":
        scores = torch.rand(len(masked), generator=source, dtype=torch.float64).tolist()
        best = sorted(range(len(masked)), key=lambda k: -scores[k])[:count]
        masked = sorted(masked[k] for k in best)
    choices = logits.argmax(dim=-1)
    if options.temperature > 0:
        shape = (len(masked), logits.shape[-1])
        u = torch.rand(shape, generator=source, dtype=torch.float64)
        gumbel = (-torch.log(u)) ** options.temperature
        choices[masked] = (logits[masked].double().exp() / gumbel).argmax(dim=-1)
    sure = logits.softmax(dim=-1).gather(1, choices[:, None])[:, 0].tolist()
    for position in sorted(masked, key=lambda p: -sure[p])[:count]:
        x[position] = choices[position]


def plain_dream(
    denoise: Denoise,
    prompt: Tensor,
    options: SamplingOptions,
    seed: int = 0,
    *,
    mask_token_id: int,
) -> list[int]:
    """Dream's loop for one prompt: its schedule in each block, ranks of one position at a time."""
    source = torch.Generator().manual_seed(seed)
    length, first = options.gen_length, len(prompt)
    block_length, steps = options.block_length or length, options.steps or length
    x = torch.cat([prompt, torch.full((length,), mask_token_id)])
    for start in range(0, length, block_length):
        end = min(length, start + block_length)
        block_steps = max(1, steps * end // length - steps * start // length)
        times = torch.linspace(1, 1e-3, block_steps + 1)
        for step in range(block_steps):
            masked = [p for p in range(first + start, first + end) if x[p] == mask_token_id]
            share = 1 - times[step + 1] / times[step]
            if step == block_steps - 1:
                share = torch.tensor(1.0)
            count = int(torch.tensor(float(len(masked))) * share)
            if options.alg == "origin":
                drawn = torch.rand(len(masked), generator=source, dtype=torch.float64)
                masked = [p for p, u in zip(masked, drawn.tolist(), strict=True) if u < share]
                count = len(masked)
            if not masked or not count:
                continue
            logits = plain_logits(denoise, x, first, options, mask_token_id)[masked]
            rows = [dream_row(row, options) for row in logits]
            chosen = [int(row.argmax()) for row in rows]
            if options.temperature > 0:
                shape = (len(masked), logits.shape[-1])
                u = torch.rand(shape, generator=source, dtype=torch.float64)
                chosen = (torch.stack(rows).double() - (-u.log()).log()).argmax(dim=-1).tolist()
            choices = zip(rows, chosen, strict=True)
            sure = [dream_rank(options.alg, row, token) for row, token in choices]
            if options.alg_temp > 0:
                u = torch.rand(len(masked), generator=source, dtype=torch.float64)
                noise = (-(-u.log()).log()).tolist()
                sure = [s / options.alg_temp + n for s, n in zip(sure, noise, strict=True)]
            for k in sorted(range(len(masked)), key=lambda k: -sure[k])[:count]:
                x[masked[k]] = chosen[k]
    return x[first:].tolist()


def dream_row(row: Tensor, options: SamplingOptions) -> Tensor:
    """One position's logits after temperature, top_p and top_k, in a loop over its tokens."""
    row = row / options.temperature if options.temperature > 0 else row
    reached = 0.0
    kept: list[int] = []
    probabilities = row.softmax(-1)
    for token in row.sort(descending=True, stable=True).indices.tolist():
        if kept and reached > options.top_p:
            break
        kept.append(token)
        reached += float(probabilities[token])
    if options.top_k:
        least = row[kept[: options.top_k][-1]]
        kept = [token for token in kept if row[token] >= least]
    shaped = torch.full_like(row, -torch.inf)
    shaped[kept] = row[kept]
    return shaped


def dream_rank(alg: str, row: Tensor, token: int) -> float:
    """How sure one position is, by its logits."""
    probabilities = row.softmax(-1)
    if alg == "entropy":
        return float((probabilities * (probabilities + 1e-10).log()).sum())
    if alg == "topk_margin":
        best, second = sorted(probabilities.tolist())[:-3:-1]
        return best - second
    return float(probabilities[token])


def plain_dream_log_likelihood(
    denoise: Denoise,
    prefix: Tensor,
    target: Tensor,
    mc_num: int,
    seed: int,
    *,
    mask_token_id: int,
    eos_token_id: int,
) -> float:
    """Dream's Monte Carlo estimate: independent masks, a seen EOS behind the target, weight 1/p."""
    source = torch.Generator().manual_seed(seed)
    offset = float(torch.rand((), generator=source, dtype=torch.float64))
    uniform = torch.rand(mc_num, len(target) + 1, generator=source, dtype=torch.float64)
    text = torch.cat([prefix, target, torch.tensor([eos_token_id])])
    total = 0.0
    for draw in range(mc_num):
        p = 0.999 * ((offset + draw / mc_num) % 1) + 0.001
        hidden = [
            len(prefix) + k
            for k in range(len(target))
            if uniform[draw, k] < p and len(prefix) + k > 0
        ]
        x = text.clone()
        x[hidden] = mask_token_id
        log_probs = denoise(x[None], attention_mask=None).log_softmax(dim=-1)
        total += sum(float(log_probs[k, text[k]]) for k in hidden) / p
    return total / mc_num


def plain_log_likelihood(
    denoise: Denoise,
    prefix: Tensor,
    target: Tensor,
    mc_num: int,
    seed: int,
    *,
    mask_token_id: int,
    batch_size: int = 1,
) -> tuple[float, float]:
    """LLaDA's Monte Carlo estimate of log p(target | prefix) and its standard error.

    `mc_num` copies of the one sequence, each under a mask of its own, `batch_size` in a pass.
    """
    source, masks = torch.Generator().manual_seed(seed), []
    for _ in range(mc_num):
        num_masked = int(torch.randint(1, len(target) + 1, (), generator=source))
        masks.append(random_mask(len(target), num_masked, source))
    values = []
    for part in torch.stack(masks).split(batch_size):
        x = torch.cat([prefix, target]).repeat(len(part), 1)
        x[:, len(prefix) :][part] = mask_token_id
        log_probs = denoise(x, attention_mask=None).log_softmax(dim=-1).view(*x.shape, -1)
        index = target.expand(len(part), -1)[..., None]
        of_target = log_probs[:, len(prefix) :].gather(2, index)[..., 0].double()
        values.append(len(target) / part.sum(dim=1) * (of_target * part).sum(dim=1))
    estimates = torch.cat(values)
    stderr = float(estimates.std()) / mc_num**0.5 if mc_num > 1 else math.nan
    return float(estimates.mean()), stderr
