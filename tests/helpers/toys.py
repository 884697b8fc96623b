"""Denoisers small enough to be known completely, in place of a model."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from lm_eval_llada.diffusion.denoiser import Denoiser, DenoiserStats, Forward

NUM_SYMBOLS = 3
JOINT_LENGTH = 4
JOINT_MASK_ID = NUM_SYMBOLS


class KnownJoint:
    """Exact conditionals of a random joint distribution over 3 symbols at 4 positions.

    Shorter sequences get the conditionals of the marginal over their first positions. The mask
    token, id 3, has a logit low enough for its probability to be 0.
    """

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.states = torch.tensor(list(itertools.product(range(NUM_SYMBOLS), repeat=JOINT_LENGTH)))
        weights = torch.rand(len(self.states), generator=generator, dtype=torch.float64) ** 3 + 1e-3
        self.probs = weights / weights.sum()

    def log_prob(self, target: Tensor, prefix: Tensor | None = None) -> float:
        """log p(target | prefix), by summation over the table."""
        prefix = target[:0] if prefix is None else prefix
        return self._log_marginal(torch.cat([prefix, target])) - self._log_marginal(prefix)

    def _log_marginal(self, start: Tensor) -> float:
        return float(self.probs[(self.states[:, : len(start)] == start).all(dim=1)].sum().log())

    def __call__(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None,
        rows: Tensor | None = None,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: object | None = None,
    ) -> Tensor:
        batch, seq = input_ids.shape
        is_known = input_ids != JOINT_MASK_ID
        if attention_mask is not None:
            is_known = is_known & attention_mask.bool()
        agrees = (self.states[None, :, :seq] == input_ids[:, None]) | ~is_known[:, None]
        weights = agrees.all(dim=2) * self.probs
        one_hot = torch.nn.functional.one_hot(self.states[:, :seq], NUM_SYMBOLS).double()
        probs = torch.einsum("bs,spv->bpv", weights, one_hot)
        logits = torch.full((batch, seq, NUM_SYMBOLS + 1), -1e4, dtype=torch.float64)
        logits[..., :NUM_SYMBOLS] = probs.clamp_min(1e-300).log()
        return pick_rows(logits, rows)


class RandomNetwork:
    """A fixed random attention layer: every logit depends on every visible token and position.

    Computed in float64, so that different paddings agree far beyond any decision; float32 out.
    """

    def __init__(self, vocab: int = 13, width: int = 16, seed: int = 0, scale: float = 3.0) -> None:
        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        generator = torch.Generator().manual_seed(seed)
        self.embedding = normal(vocab, width)
        self.positions = normal(128, width)
        self.query, self.key, self.value = normal(3, width, width) / width**0.5
        self.head = normal(width, vocab) * scale / width**0.5

    def __call__(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None,
        rows: Tensor | None = None,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: object | None = None,
    ) -> Tensor:
        hidden = self.embedding[input_ids] + self.positions[: input_ids.shape[1]]
        scores = (hidden @ self.query) @ (hidden @ self.key).mT / hidden.shape[-1] ** 0.5
        if attention_mask is not None:
            scores = scores.masked_fill(attention_mask[:, None] == 0, -torch.inf)
        mixed = hidden + scores.softmax(dim=-1) @ (hidden @ self.value)
        return pick_rows((torch.tanh(mixed) @ self.head).float(), rows)


class Recorder:
    """Passes calls on to a denoiser and keeps what they asked for."""

    def __init__(self, denoise: Forward) -> None:
        self.denoise = denoise
        self.calls: list[dict[str, Any]] = []

    def __call__(self, input_ids: Tensor, **kwargs: Any) -> Tensor:
        self.calls.append({"input_ids": input_ids.clone(), **kwargs})
        return self.denoise(input_ids, **kwargs)


class FixedLogits:
    """The same logits (seq, vocab) whatever the input: scripts what a decoder is offered."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def __call__(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None,
        rows: Tensor | None = None,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: object | None = None,
    ) -> Tensor:
        return pick_rows(self.logits[: input_ids.shape[1]].expand(len(input_ids), -1, -1), rows)


def pick_rows(logits: Tensor, rows: Tensor | None) -> Tensor:
    if rows is None:
        return logits.flatten(0, 1)
    return logits[rows[:, 0], rows[:, 1]]


def denoiser(
    forward: Forward, mask_token_id: int, *, stats: DenoiserStats | None = None, **settings: Any
) -> Denoiser:
    """A toy as samplers and likelihoods take it."""
    return Denoiser(forward, mask_token_id, stats=stats or DenoiserStats(), **settings)
