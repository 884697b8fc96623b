"""The forward process of a masked diffusion model: masks, drawn or enumerated, and their weights.

A sequence x0 is corrupted by replacing tokens with the mask token; a denoiser predicts each masked
token from the rest.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

MAX_ENUMERATED_LENGTH = 7
"""Longest target whose 2**length - 1 masks are enumerated: 127, under the usual 128 draws."""


class Noised(NamedTuple):
    """A corrupted training batch, see `forward_process`."""

    xt: Tensor
    is_masked: Tensor
    weight: Tensor


def random_mask(length: int, num_masked: int, generator: torch.Generator) -> Tensor:
    """A uniformly drawn mask of exactly `num_masked` positions, bool (length,), on the CPU.

    Raises:
        ValueError: if num_masked is not in 0..length.
    """
    if not 0 <= num_masked <= length:
        raise ValueError(f"num_masked must lie in 0..{length} (the length); got {num_masked}.")
    mask = torch.zeros(length, dtype=torch.bool)
    mask[torch.randperm(length, generator=generator)[:num_masked]] = True
    return mask


def enumerate_masks(length: int) -> Tensor:
    """All masks with at least one masked position, bool (2**length - 1, length).

    Row k holds the binary digits of k + 1, lowest digit at position 0.

    Raises:
        ValueError: if length is not in 1..MAX_ENUMERATED_LENGTH.
    """
    if not 1 <= length <= MAX_ENUMERATED_LENGTH:
        raise ValueError(
            f"Only targets of 1 to {MAX_ENUMERATED_LENGTH} tokens can be enumerated; this one has "
            f"{length}, so 2**{length} - 1 masks. Use method='mc' or 'auto'."
        )
    codes = torch.arange(1, 2**length)
    return ((codes[:, None] >> torch.arange(length)) & 1).bool()


def elbo_weights(masks: Tensor) -> Tensor:
    """The weight L / l of each mask, float64 (num_masks,), L its length and l its masked count.

    With l uniform in 1..L and the l positions uniform, the mean of (L / l) times the summed log
    probabilities of the masked tokens is the evidence lower bound on log p(x0); where the
    conditionals are exact it equals log p(x0). LLaDA (arXiv 2502.09992) Eq. 14.

    Args:
        masks: bool (num_masks, length), each with at least one masked position.
    """
    return masks.shape[1] / masks.sum(dim=1).double()


def mask_probabilities(masks: Tensor) -> Tensor:
    """The chance 1 / (L * C(L, l)) that Eq. 14 draws each mask, float64 (num_masks,).

    Over all masks of one length these sum to 1, so weighing with them replaces sampling.
    """
    length = masks.shape[1]
    counts = masks.sum(dim=1).tolist()
    return torch.tensor(
        [1.0 / (length * math.comb(length, num_masked)) for num_masked in counts],
        dtype=torch.float64,
    )


def forward_process(
    input_ids: Tensor,
    *,
    mask_token_id: int,
    t_range: tuple[float, float] = (1e-3, 1.0),
    maskable: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Noised:
    """Corrupts a training batch: t uniform per sequence, each token masked with probability t.

    The loss is `(weight * cross_entropy * is_masked).sum() / num_maskable`: each position is
    masked with probability t and weighs 1/t, so its expected weight is 1 whatever t_range is.
    This is LLaDA's training loss (arXiv 2502.09992, section 2.2).

    Args:
        input_ids: int64 (batch, seq), clean tokens.
        mask_token_id: id written over masked tokens.
        t_range: t is uniform in [low, high), 0 < low <= high <= 1. A low of 0 would allow an
            infinite weight.
        maskable: bool (batch, seq); False keeps a token, such as a prompt or padding, unmasked.
        generator: source of randomness, on the device of input_ids.

    Returns:
        xt int64 (batch, seq), is_masked bool (batch, seq), weight 1/t float32 (batch, 1).

    Raises:
        ValueError: if t_range is out of order or outside (0, 1].
    """
    low, high = t_range
    if not 0 < low <= high <= 1:
        raise ValueError(f"t_range must satisfy 0 < low <= high <= 1; got ({low}, {high}).")
    device = input_ids.device
    t = low + (high - low) * torch.rand(len(input_ids), 1, generator=generator, device=device)
    is_masked = torch.rand(input_ids.shape, generator=generator, device=device) < t
    if maskable is not None:
        is_masked = is_masked & maskable
    return Noised(input_ids.masked_fill(is_masked, mask_token_id), is_masked, 1 / t)
