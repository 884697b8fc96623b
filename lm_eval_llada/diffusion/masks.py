"""The forward process of a masked diffusion model, and its denoiser called on unequal sequences.

A sequence x0 is corrupted by replacing tokens with the mask token; a denoiser predicts each masked
token from the rest. This module draws and weighs masks, and turns sequences of unequal length
into one call of a denoiser. It knows tensors and a callable, no model class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lm_eval_llada.diffusion.denoiser import (
    Denoiser,
    DenoiserCache,
    DenoiserStats,
)
from lm_eval_llada.errors import require_whole

MAX_ENUMERATED_LENGTH = 7
"""Longest target whose 2**length - 1 masks are enumerated: 127, under the usual 128 draws."""


NOT_FINITE = (
    "The denoiser returned logits that are NaN or infinite. Check dtype first: float16 overflows "
    "in some checkpoints, so use dtype=bfloat16 or float32; then rope_scale and rope_theta, and "
    "the weights themselves."
)


class Noised(NamedTuple):
    """A corrupted training batch, see `forward_process`."""

    xt: Tensor
    is_masked: Tensor
    weight: Tensor


def num_transfer_tokens(num_masked: int, steps: int) -> list[int]:
    """Tokens to reveal at each of `steps` steps: equal shares, the first ones take the remainder.

    The shares sum to `num_masked` and differ by at most one. LLaDA (arXiv 2502.09992) section 2.4:
    under a linear schedule the expected number revealed is the same at every step.

    Raises:
        ValueError: if num_masked is negative or steps is not positive.
    """
    require_whole("num_masked", num_masked, 0)
    require_whole("steps", steps, 1)
    base, remainder = divmod(num_masked, steps)
    return [base + 1] * remainder + [base] * (steps - remainder)


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
    """The factor L / l of each mask, float64 (num_masks,), L its length and l its masked count.

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


@dataclass(frozen=True)
class Predictor:
    """A denoiser with what it takes to call it on a list of unequal sequences.

    Attributes:
        denoise: the seam.
        mask_token_id: id that stands for an unknown token.
        pad_token_id: id written into padding; None writes mask_token_id. Padding is hidden by the
            attention mask, so the value never matters to a correct denoiser.
        cfg_scale: weight of classifier-free guidance, 0 = off.
        device: where the denoiser expects its input.
        stats: filled as passes run, if given.
    """

    denoise: Denoiser
    mask_token_id: int
    pad_token_id: int | None = None
    cfg_scale: float = 0.0
    device: torch.device | str = "cpu"
    stats: DenoiserStats | None = None

    @torch.no_grad()
    def logits(
        self,
        sequences: Sequence[Tensor],
        positions: Sequence[Tensor],
        prompt_lengths: Sequence[int],
        *,
        cache: DenoiserCache | None = None,
        windows: Sequence[range] | None = None,
    ) -> Tensor:
        """Logits at `positions[b]` of `sequences[b]` for all b in order, (num_rows, vocab).

        At least fp32, whatever the denoiser returns: in bf16, probabilities above 0.99 tie.

        With guidance, conditional and unconditional sequences share one pass and the result is
        u + (cfg_scale + 1) * (c - u), where u sees the prompt masked, as in LLaDA's generate.py.

        Args:
            sequences: int64 (length_b,) each, on the CPU; prompt first.
            positions: int64 (num_rows_b,) each, on the CPU.
            prompt_lengths: tokens at the start of each sequence that guidance masks.
            cache: an empty one to fill, or a filled one to read; None for an exact pass.
            windows: with a filled cache, the part of each sequence to read anew, all of one length.
        """
        batch = list(sequences)
        rows = _rows(positions)
        spans = None if windows is None else list(windows)
        if self.cfg_scale == 0:
            return self._run(batch, rows, cache, spans)
        for sequence, prompt_length in zip(sequences, prompt_lengths, strict=True):
            unconditional = sequence.clone()
            unconditional[:prompt_length] = self.mask_token_id
            batch.append(unconditional)
        shifted = rows + torch.tensor([len(sequences), 0])
        both = torch.cat([rows, shifted])
        spans = None if spans is None else spans * 2
        conditional, unconditional = self._run(batch, both, cache, spans).chunk(2)
        return unconditional + (self.cfg_scale + 1) * (conditional - unconditional)

    def keep(self, cache: DenoiserCache, kept: Sequence[int], num_texts: int) -> None:
        """Drops all texts of a cached batch of num_texts but these."""
        # With guidance, the unconditional sequences follow all of the conditional ones.
        shifts = (0, num_texts) if self.cfg_scale else (0,)
        cache.keep(torch.tensor([i + shift for shift in shifts for i in kept]))

    def _run(
        self,
        sequences: Sequence[Tensor],
        rows: Tensor,
        cache: DenoiserCache | None,
        windows: Sequence[range] | None,
    ) -> Tensor:
        pad_token_id = self.mask_token_id if self.pad_token_id is None else self.pad_token_id
        key_length = None if cache is None or windows is None else cache.key_length
        input_ids, attention_mask = pad_right(sequences, pad_token_id, key_length)
        num_tokens = sum(map(len, sequences))
        keywords: dict[str, Any] = {} if cache is None else {"cache": cache}
        if windows is not None:
            position_ids = torch.tensor([list(window) for window in windows])
            input_ids = input_ids.gather(1, position_ids)
            keywords["position_ids"] = position_ids.to(self.device)
            num_tokens = input_ids.numel()
        if attention_mask is not None:
            attention_mask = attention_mask.to(self.device)
        logits = self.denoise(
            input_ids.to(self.device),
            attention_mask=attention_mask,
            rows=rows.to(self.device),
            **keywords,
        )
        if logits.shape[0] != len(rows):
            raise ValueError(
                f"The denoiser was asked for {len(rows)} rows and returned logits of shape "
                f"{tuple(logits.shape)}; expected ({len(rows)}, vocab)."
            )
        if self.stats is not None:
            self.stats.record(len(sequences), num_tokens, len(rows))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def pad_right(
    sequences: Sequence[Tensor], pad_token_id: int, length: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Stacks sequences into int64 (batch, length) and a key-padding mask, None if none is needed.

    Padding follows the tokens, so that every sequence keeps positions 0, 1, 2, ... whatever shares
    its batch.

    Differs from scripts that pad left without a mask: there, answers change with the batch.

    Args:
        sequences: int64 (length_b,) each.
        pad_token_id: written behind the shorter ones.
        length: at least that of the longest, which None means.
    """
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    input_ids = torch.nn.utils.rnn.pad_sequence(
        list(sequences), batch_first=True, padding_value=pad_token_id
    )
    if length is not None and length > input_ids.shape[1]:
        extra = (0, length - input_ids.shape[1])
        input_ids = torch.nn.functional.pad(input_ids, extra, value=pad_token_id)
    if bool((lengths == input_ids.shape[1]).all()):
        return input_ids, None
    return input_ids, (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()


def choose_tokens(
    logits: Tensor, forbidden: Sequence[int], noised: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The token of each row and its probability, int64 and float32 (num_rows,), on the CPU.

    The token is the argmax of the logits, the lowest id among equals; the probability is its
    softmax in fp32. Forbidden tokens get a logit of -inf before both, so probabilities are those
    of the remaining vocabulary.

    Differs from LLaDA's generate.py, where the mask token may be chosen: a mask would then survive
    into the text. Setting its logit to -inf is the zero-masking rule of MDLM (arXiv 2406.07524).
    Differs from it too in the type of the probability, which there is that of the logits.

    Args:
        logits: (num_rows, vocab), before noise.
        forbidden: ids never chosen.
        noised: (num_rows,) tokens already drawn by noise; None takes the argmax.

    Raises:
        ValueError: if a row holds NaN or +inf.
    """
    allowed = forbid(logits, forbidden).float()
    tokens = allowed.argmax(dim=-1) if noised is None else noised.to(logits.device)
    probabilities = allowed.softmax(dim=-1).gather(1, tokens[:, None]).squeeze(1).cpu()
    if bool(probabilities.isnan().any()):
        raise ValueError(NOT_FINITE)
    return tokens.cpu(), probabilities


def forbid(logits: Tensor, forbidden: Sequence[int]) -> Tensor:
    """A copy of the logits, (num_rows, vocab), with -inf for the tokens never to be chosen."""
    return logits.index_fill(1, torch.tensor(list(forbidden), device=logits.device), -math.inf)


def most_confident(confidence: Tensor, count: int) -> Tensor:
    """Indices of the `count` largest values, int64 (count,), in descending order.

    Tie rule: of equal values the lower index comes first, so results do not depend on the sorting
    algorithm of a device (`topk` leaves the order of equals open).
    """
    return confidence.sort(descending=True, stable=True).indices[:count]


def token_ids(name: str, tokens: Tensor) -> Tensor:
    """The tokens as int64 on the CPU.

    Raises:
        ValueError: if they are not a 1-D tensor of integers.
    """
    if tokens.dim() != 1 or tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise ValueError(
            f"{name} must be a 1-D tensor of token ids; got {tokens.dtype} of shape "
            f"{tuple(tokens.shape)}."
        )
    return tokens.to("cpu", torch.int64)


def check_seeds(seeds: Sequence[int] | None, num_requests: int) -> None:
    """Raises ValueError unless there is one seed for each request, or none at all."""
    if seeds is not None and len(seeds) != num_requests:
        raise ValueError(
            f"Expected one seed for each of {num_requests} requests; got {len(seeds)}."
        )


def _rows(positions: Sequence[Tensor]) -> Tensor:
    counts = torch.tensor([len(position) for position in positions])
    batch = torch.repeat_interleave(torch.arange(len(positions)), counts)
    return torch.stack([batch, torch.cat(list(positions))], dim=1)
