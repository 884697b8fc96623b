"""Exact likelihood of a masked diffusion model under deterministic unmasking (DUEL)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lm_eval_llada.diffusion.choices import (
    NOT_FINITE,
    choose_tokens,
    forbid,
    most_confident,
    num_transfer_tokens,
)
from lm_eval_llada.diffusion.denoiser import token_ids
from lm_eval_llada.diffusion.estimates import Estimate, longest_first
from lm_eval_llada.diffusion.mask_passes import MaskReader, Pair
from lm_eval_llada.errors import require_whole


def duel_log_likelihoods(
    denoiser: MaskReader,
    pairs: Sequence[Pair],
    *,
    steps: int | None = None,
    batch_size: int = 8,
) -> list[Estimate]:
    """Log p(target | prefix) under the low-confidence sampler, one for each pair, in order.

    The sampler's choice of positions is replayed: each step takes the positions the model is
    surest of, adds the log probabilities of the true tokens there, and reveals those tokens. Where
    a token is drawn from the model's distribution at the position chosen, this is the probability
    of the text, not a bound: over all texts of one length it sums to 1. The mask token is never
    drawn, so it has no share of any distribution.

    Args:
        denoiser: the model.
        pairs: (prefix, target); an empty target has log-likelihood 0.
        steps: passes for each target, by the schedule of the sampler; None is one for each token.
            Tokens revealed in one step are independent given what was known before it.
        batch_size: sequences in a forward pass.

    Returns:
        Exact values: their standard error is 0.

    Raises:
        ValueError: if batch_size or steps is out of range, a tensor is not 1-D, or a needed logit
            is NaN or infinite.

    Source: DUEL (arXiv 2603.01367).
    """
    require_whole("batch_size", batch_size, 1)
    if steps is not None:
        require_whole("steps", steps, 1)
    mask_token_id = denoiser.mask_token_id
    checked = [(token_ids("Each prefix", a), token_ids("Each target", b)) for a, b in pairs]
    totals = [0.0] * len(pairs)
    revealed = [torch.full_like(target, mask_token_id) for _, target in checked]
    schedules = [_schedule(len(target), steps) for _, target in checked]
    num_steps = [len(schedule) for schedule in schedules]
    waiting = [i for i in longest_first(checked) if schedules[i]]
    while waiting:
        batch, waiting = waiting[:batch_size], waiting[batch_size:]
        is_masked = [revealed[i] == mask_token_id for i in batch]
        masked = [hidden.nonzero().squeeze(1) for hidden in is_masked]
        log_probs, confidence = _scores(denoiser, checked, revealed, batch, masked)
        for k, i in enumerate(batch):
            chosen = most_confident(confidence[k], schedules[i].pop(0))
            totals[i] += float(log_probs[k][chosen].sum())
            position = masked[k][chosen]
            revealed[i][position] = checked[i][1][position]
        waiting = [i for i in batch if schedules[i]] + waiting
    return [Estimate(total, 0.0, num) for total, num in zip(totals, num_steps, strict=True)]


def _schedule(length: int, steps: int | None) -> list[int]:
    if not length:
        return []
    return [count for count in num_transfer_tokens(length, steps or length) if count]


def _scores(
    denoiser: MaskReader,
    pairs: Sequence[Pair],
    revealed: Sequence[Tensor],
    batch: Sequence[int],
    masked: Sequence[Tensor],
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Log probability of the true token and the highest probability, at each masked position."""
    prompt_lengths = [len(pairs[i][0]) for i in batch]
    logits = denoiser.logits(
        [torch.cat([pairs[i][0], revealed[i]]) for i in batch],
        [positions + shift for positions, shift in zip(masked, prompt_lengths, strict=True)],
        prompt_lengths,
    )
    forbidden = [denoiser.mask_token_id]
    _, confidence = choose_tokens(logits, forbidden)
    allowed = forbid(logits, forbidden)
    truths = torch.cat([pairs[i][1][positions] for i, positions in zip(batch, masked, strict=True)])
    true_logits = allowed.gather(1, truths.to(logits.device)[:, None]).squeeze(1)
    log_probs = (true_logits - allowed.logsumexp(dim=-1)).double().cpu()
    if bool(log_probs.isnan().any()):
        raise ValueError(NOT_FINITE)
    sizes = [len(positions) for positions in masked]
    return log_probs.split(sizes), confidence.split(sizes)
