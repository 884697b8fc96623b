"""Mask plans: the masks one target is scored under, and how their scores make an estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .diffusion import (
    NOT_FINITE,
    Predictor,
    elbo_weights,
    enumerate_masks,
    mask_probabilities,
    random_mask,
)

Pair = tuple[Tensor, Tensor]
"""(prefix, target): int64 (length,) each; either may be empty."""


@dataclass(frozen=True)
class Estimate:
    """A log-likelihood, or a cross entropy, with its uncertainty.

    Attributes:
        value: natural log, summed over target tokens (`chunk_cross_entropy`: a mean per token).
        stderr: standard error of value over the mask draws; 0 where masks were enumerated, NaN
            where a single draw leaves it unknown.
        num_passes: sequences read for it; equal masks are read once, guidance is not counted.
    """

    value: float
    stderr: float
    num_passes: int


@dataclass(frozen=True)
class MaskPlan:
    """The distinct masks of one target, bool (num_masks, length), and how to combine them.

    draws: int64 (mc_num,), the mask each draw hit, or None where the masks are all there are.
    A short target is hit by the same mask often, and equal masks give equal scores.
    """

    masks: Tensor
    draws: Tensor | None

    @classmethod
    def enumerated(cls, length: int) -> MaskPlan:
        """Every mask once. An empty target has none, and log-likelihood 0."""
        masks = enumerate_masks(length) if length else torch.empty(0, 0, dtype=torch.bool)
        return cls(masks, None)

    @classmethod
    def sampled(cls, length: int, mc_num: int, seed: int) -> MaskPlan:
        """Independent draws: a count uniform in 1..length, then positions without replacement."""
        generator = torch.Generator().manual_seed(seed)
        drawn = []
        for _ in range(mc_num):
            num_masked = int(torch.randint(1, length + 1, (), generator=generator))
            drawn.append(random_mask(length, num_masked, generator))
        masks, draws = torch.stack(drawn).unique(dim=0, return_inverse=True)
        return cls(masks, draws)

    def elbo(self, scores: Tensor) -> Estimate:
        """The estimate of Eq. 14 from the summed log probabilities under each mask."""
        weighted = elbo_weights(self.masks) * scores
        if self.draws is None:
            value = (mask_probabilities(self.masks) * weighted).sum()
            return Estimate(float(value), 0.0, len(self.masks))
        drawn = weighted[self.draws]
        stderr = float(drawn.std()) / math.sqrt(len(drawn)) if len(drawn) > 1 else math.nan
        return Estimate(float(drawn.mean()), stderr, len(self.masks))


def masked_log_probs(
    predictor: Predictor, pairs: Sequence[Pair], plans: Sequence[MaskPlan], batch_size: int
) -> list[Tensor]:
    """The summed log p of the masked tokens under each mask of each pair, float64 (num_masks,).

    Masks of all pairs share batches of batch_size sequences.

    Raises:
        ValueError: if a needed logit is NaN or infinite.
    """
    scores = [torch.zeros(len(plan.masks), dtype=torch.float64) for plan in plans]
    jobs = [(i, k) for i in longest_first(pairs) for k in range(len(plans[i].masks))]
    for first in range(0, len(jobs), batch_size):
        batch = jobs[first : first + batch_size]
        sequences, positions, prompt_lengths, truths = [], [], [], []
        for i, k in batch:
            prefix, target = pairs[i]
            mask = plans[i].masks[k]
            sequences.append(torch.cat([prefix, target.masked_fill(mask, predictor.mask_token_id)]))
            positions.append(mask.nonzero().squeeze(1) + len(prefix))
            prompt_lengths.append(len(prefix))
            truths.append(target[mask])
        logits = predictor.logits(sequences, positions, prompt_lengths)
        true_logits = logits.gather(1, torch.cat(truths).to(logits.device)[:, None]).squeeze(1)
        log_probs = (true_logits - logits.logsumexp(dim=-1)).double().cpu()
        if bool(log_probs.isnan().any()):
            raise ValueError(NOT_FINITE)
        parts = log_probs.split([len(truth) for truth in truths])
        for (i, k), part in zip(batch, parts, strict=True):
            scores[i][k] = part.sum()
    return scores


def longest_first(pairs: Sequence[Pair]) -> list[int]:
    """Indices of the pairs by descending length; batches of neighbours need little padding."""
    return sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
