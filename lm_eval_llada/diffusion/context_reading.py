"""Masked targets beside the keys and values of their context, which is read once.

One pass over the context with the target masked serves all masks of it, and all targets of the same
context; each mask then reads its target's rows alone. The context has not seen which tokens of the
target a mask shows: that is the approximation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lm_eval_llada.diffusion.denoiser import (
    Denoiser,
    PromptCache,
    PromptReading,
)
from lm_eval_llada.diffusion.mask_passes import MaskReader, Pair, read_masks

ROOM = 64
"""Masks that follow a context in its pass: the least multiple of this that a target fits in."""


@dataclass
class ContextReader:
    """What `read_masks` asks for logits, for sequences that start with one context.

    The number of masks in the context's pass goes by the length of a target alone, so that scores
    depend neither on the other targets of the context nor on which of them are scored together.

    Attributes:
        denoiser: the model, guided or not.
        context: int64 (length,), at least one token.
    """

    denoiser: Denoiser
    context: Tensor
    _caches: dict[int, PromptCache] = field(default_factory=dict, init=False)

    @property
    def mask_token_id(self) -> int:
        """See `Denoiser`."""
        return self.denoiser.mask_token_id

    @property
    def cfg_scale(self) -> float:
        """See `Denoiser`."""
        return self.denoiser.cfg_scale

    def logits(
        self,
        sequences: Sequence[Tensor],
        positions: Sequence[Tensor],
        prompt_lengths: Sequence[int],
    ) -> Tensor:
        """As `Denoiser.logits`, of sequences that start with the context."""
        parts: list[Tensor | None] = [None] * len(sequences)
        by_length: dict[int, list[int]] = {}
        for index, sequence in enumerate(sequences):
            by_length.setdefault(len(sequence), []).append(index)
        for length, members in by_length.items():
            logits = self._of_length(
                length, [sequences[i] for i in members], [positions[i] for i in members]
            )
            for i, part in zip(
                members, logits.split([len(positions[i]) for i in members]), strict=True
            ):
                parts[i] = part
        return torch.cat([part for part in parts if part is not None])

    def _of_length(
        self, length: int, sequences: Sequence[Tensor], positions: Sequence[Tensor]
    ) -> Tensor:
        start = len(self.context)
        cache = self._cache_for(length - start)
        self.denoiser.choose(cache, [0] * len(sequences), 1)
        return self.denoiser.logits(
            sequences,
            positions,
            [start] * len(sequences),
            cache=cache,
            windows=[range(start, length)] * len(sequences),
        )

    def _cache_for(self, target_length: int) -> PromptCache:
        room = -(-target_length // ROOM) * ROOM
        if room not in self._caches:
            start = len(self.context)
            cache = self.denoiser.prompt_cache([start], PromptReading())
            masks = torch.full((room,), self.mask_token_id)
            sequence = torch.cat([self.context, masks])
            # A row has to be asked for; it is the cheapest part of the pass.
            self.denoiser.logits([sequence], [torch.tensor([start])], [start], cache=cache)
            self._caches[room] = cache
        return self._caches[room]


def keeps_context(pair: Pair) -> bool:
    """Whether a context is read apart: one that is no longer than its target saves nothing."""
    prefix, target = pair
    return len(prefix) > len(target) > 0


def reader_of(denoiser: Denoiser, pair: Pair) -> MaskReader:
    """What reads a pair's target: its context apart, or all of it where that saves nothing."""
    return ContextReader(denoiser, pair[0]) if keeps_context(pair) else denoiser


def read_masks_by(
    denoiser: Denoiser,
    pairs: Sequence[Pair],
    masks: Sequence[Tensor],
    batch_size: int,
    *,
    check_greedy: bool,
    cache: str = "none",
) -> tuple[list[Tensor], list[bool]]:
    """As `read_masks`, with contexts kept if asked.

    Args:
        denoiser: the model.
        pairs: targets with what precedes them.
        masks: for each pair bool (num_masks, target length).
        batch_size: sequences in a forward pass.
        check_greedy: whether to decode.
        cache: as of `LikelihoodOptions`.
    """
    if cache == "none":
        return read_masks(denoiser, pairs, masks, batch_size, check_greedy=check_greedy)
    groups: dict[bytes, list[int]] = {}
    for index, pair in enumerate(pairs):
        key = pair[0].numpy().tobytes() if keeps_context(pair) else b""
        groups.setdefault(key, []).append(index)
    scores: dict[int, Tensor] = {}
    matches: dict[int, bool] = {}
    for members in groups.values():
        found = read_masks(
            reader_of(denoiser, pairs[members[0]]),
            [pairs[i] for i in members],
            [masks[i] for i in members],
            batch_size,
            check_greedy=check_greedy,
        )
        scores |= dict(zip(members, found[0], strict=True))
        matches |= dict(zip(members, found[1], strict=True))
    order = range(len(pairs))
    return [scores[i] for i in order], [matches[i] for i in order]
