"""Blocks of texts that share a prefix, partly masked, as sequences that `read_masks` takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lm_eval_llada.diffusion.block_reader import BlockReader
from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.diffusion.block_work import read_at
from lm_eval_llada.diffusion.denoiser import Part

SHARED = -1
"""In the place of a branch: any of its text, where the block sees what all of them begin with."""

_ADDRESS = 3


class Span(NamedTuple):
    """Tokens start..end of a text to score, and the seed of their masks; None draws none."""

    start: int
    end: int
    seed: int | None


@dataclass(frozen=True)
class Branch:
    """A text with spans to score; branches of one text share all before their prompt's last block.

    Attributes:
        text: of the reader.
        tokens: int64 (length,), from the first on.
        prompt_length: tokens that all branches of the text begin with.
        spans: what to score.
    """

    text: int
    tokens: Tensor
    prompt_length: int
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class AtWork:
    """Blocks at work as `read_masks` takes sequences: an address, then the tokens of the block.

    The address is the text, the branch (`SHARED`: any of the text) and where the block begins.
    """

    reader: BlockReader
    rules: BlockRules
    branches: Sequence[Branch]
    slots: Sequence[tuple[range, ...]]
    mask_token_id: int
    cfg_scale: float = 0.0

    def logits(
        self,
        sequences: Sequence[Tensor],
        positions: Sequence[Tensor],
        prompt_lengths: Sequence[int],
    ) -> Tensor:
        """See `MaskReader`."""
        parts = [self._part(*pair) for pair in zip(sequences, positions, strict=True)]
        # Parts of one text follow each other in a pass.
        order = sorted(range(len(parts)), key=lambda i: parts[i].text)
        found = self.reader.logits([parts[i] for i in order])
        by_part = dict(zip(order, found.split([len(parts[i].rows) for i in order]), strict=True))
        return torch.cat([by_part[i] for i in range(len(parts))])

    def _part(self, sequence: Tensor, positions: Tensor) -> Part:
        text, number, block = sequence[:_ADDRESS].tolist()
        if number == SHARED:
            number = next(i for i, branch in enumerate(self.branches) if branch.text == text)
        tokens = sequence[_ADDRESS:]
        ids = torch.full((self.rules.block_length,), self.mask_token_id)
        ids[: len(tokens)] = tokens
        rows = read_at(positions - _ADDRESS, self.rules).clamp_min(0)
        numbers = torch.zeros(len(ids), dtype=torch.int64)
        return Part(text, ids, block, _first(self.slots[number], block), numbers, rows, keep=False)


def _first(slots: tuple[range, ...], count: int) -> tuple[range, ...]:
    """The first so many of some slots."""
    taken = []
    for some in slots:
        if count <= 0:
            break
        taken.append(some[:count])
        count -= len(some)
    return tuple(taken)
