"""Plain loops for likelihoods, and the toy requests they are run on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lm_eval_llada.diffusion.denoiser import Denoiser, Forward
from lm_eval_llada.diffusion.likelihood import Estimate, LikelihoodOptions, log_likelihoods
from lm_eval_llada.diffusion.mask_passes import Pair, read_masks
from lm_eval_llada.diffusion.masks import random_mask
from tests.helpers.plain_loops import Denoise
from tests.helpers.toys import KnownJoint, RandomNetwork, denoiser

JOINT = KnownJoint()
EMPTY = torch.empty(0, dtype=torch.long)

MASK = 8
NETWORK = RandomNetwork(vocab=9)


def random_tokens(length: int, seed: int) -> torch.Tensor:
    return torch.randint(0, MASK, (length,), generator=torch.Generator().manual_seed(seed))


# Prefixes and targets of many lengths: enumerated, sampled and a one-token target among them.
PAIRS = [
    (random_tokens(prefix, 10 + prefix), random_tokens(target, 20 + target))
    for prefix, target in ((5, 9), (1, 1), (12, 3), (0, 6), (7, 12), (3, 2), (4, 8), (9, 4))
]
SEEDS = [3, 1, 4, 15, 9, 2, 65, 35]


def score(
    pairs: Sequence[Pair],
    options: LikelihoodOptions,
    seeds: Sequence[int] | None = None,
    denoise: Forward = NETWORK,
    mask_token_id: int = MASK,
    **settings: Any,
) -> list[Estimate]:
    model = denoiser(denoise, mask_token_id, **settings)
    return log_likelihoods(model, pairs, options, seeds=seeds)


def greedy_matches(model: Denoiser, pairs: Sequence[Pair], batch_size: int = 8) -> list[bool]:
    """Whether greedy decoding gives each target, with no masks to score beside."""
    no_masks = [torch.empty(0, len(target), dtype=torch.bool) for _, target in pairs]
    return read_masks(model, pairs, no_masks, batch_size, check_greedy=True)[1]


def plain_log_probs(
    denoise: Denoise,
    prefix: Tensor,
    target: Tensor,
    mask: Tensor,
    cfg_scale: float,
    mask_token_id: int,
) -> list[float]:
    """-log p of the masked tokens by one full forward of one sequence."""
    x = torch.cat([prefix, torch.where(mask, mask_token_id, target)])
    logits = denoise(x[None], attention_mask=None)
    if cfg_scale > 0:
        blind = x.clone()
        blind[: len(prefix)] = mask_token_id
        unconditional = denoise(blind[None], attention_mask=None)
        logits = unconditional + (cfg_scale + 1) * (logits - unconditional)
    log_probs = logits.double().log_softmax(dim=-1)[len(prefix) :]
    return [float(log_probs[i, target[i]]) for i in range(len(target)) if mask[i]]


def plain_enumeration(
    denoise: Denoise,
    prefix: Tensor,
    target: Tensor,
    cfg_scale: float = 0.0,
    mask_token_id: int = MASK,
) -> float:
    """Eq. 14 averaged over all masks: l uniform, then each of the C(L, l) subsets alike."""
    length, total = len(target), 0.0
    for num_masked in range(1, length + 1):
        subsets = list(itertools.combinations(range(length), num_masked))
        for subset in subsets:
            mask = torch.zeros(length, dtype=torch.bool)
            mask[list(subset)] = True
            log_probs = plain_log_probs(denoise, prefix, target, mask, cfg_scale, mask_token_id)
            total += length / num_masked * sum(log_probs) / len(subsets) / length
    return total


def plain_draws(
    denoise: Denoise,
    prefix: Tensor,
    target: Tensor,
    mc_num: int,
    seed: int,
    cfg_scale: float = 0.0,
) -> list[tuple[float, list[float]]]:
    """(L/l, log probabilities) of each draw, masks drawn in the documented order."""
    source = torch.Generator().manual_seed(seed)
    draws = []
    for _ in range(mc_num):
        num_masked = int(torch.randint(1, len(target) + 1, (), generator=source))
        mask = random_mask(len(target), num_masked, source)
        log_probs = plain_log_probs(denoise, prefix, target, mask, cfg_scale, MASK)
        draws.append((len(target) / num_masked, log_probs))
    return draws


def plain_estimate(
    denoise: Denoise, prefix: Tensor, target: Tensor, options: LikelihoodOptions, seed: int
) -> tuple[float, float]:
    if options.enumerates(len(target)):
        return plain_enumeration(denoise, prefix, target, options.cfg_scale), 0.0
    draws = plain_draws(denoise, prefix, target, options.mc_num, seed, options.cfg_scale)
    values = torch.tensor([weight * sum(parts) for weight, parts in draws], dtype=torch.float64)
    return float(values.mean()), float(values.std()) / len(values) ** 0.5
