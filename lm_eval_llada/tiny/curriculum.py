"""What is trained when: stages that end when answers come out right, then a fixed tail."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lm_eval_llada.tiny.corpus import MASK_ID
from lm_eval_llada.tiny.samples import Sample, SampleMaker


@dataclass(frozen=True)
class Stage:
    """One step of the curriculum.

    Attributes:
        length: longest samples, in tokens.
        max_needles: most needles in a sample; 0 for copies only.
        copy_share: share of batches made of copies.
        text_share: share of the other batches made of plain text.
        accuracy: running share of right tokens, of the decisive ones, that begins the next stage.
        needle_share: share of the rest that are needles; what is left of it are RULER's tasks.
    """

    length: int
    max_needles: int
    copy_share: float
    text_share: float
    accuracy: float
    needle_share: float = 1.0


# Looking up by several neighbours comes first: a model that met single needles before it
# learnt to copy whatever number is in sight, and took far longer to tell keys apart. That is
# learnt at 96 and 128 tokens, where steps are cheap; longer contexts then come quickly.
STAGES = (
    Stage(32, 0, 1.0, 0.0, 0.6),
    Stage(64, 0, 1.0, 0.0, 0.8),
    Stage(96, 4, 0.4, 0.1, 0.8),
    Stage(128, 6, 0.2, 0.15, 0.85),
    Stage(192, 8, 0.1, 0.2, 0.85),
    Stage(256, 8, 0.05, 0.3, 0.85),
    Stage(384, 8, 0.05, 0.3, 0.85),
)
FINAL_STAGE = Stage(512, 8, 0.02, 0.6, 1.0)
"""The tail: the whole trained context, and more plain text than questions, since the model is to be
a language model as well."""

LENGTHS = (64, 128, 192, 256, 384, 512)
SHORTER_SHARE = 0.4
"""Share of batches whose samples are shorter than the stage's, so that no length is forgotten."""


@dataclass(frozen=True)
class Batch:
    """A training batch on the CPU.

    Attributes:
        input_ids: int64 (batch, length), masked.
        rows: int64 (num_masked, 2) of (batch, position).
        targets: int64 (num_masked,).
        weights: float32 (num_masked,), summing to one over each sequence.
        is_decisive: bool (num_masked,), of the sample, and with a visible token to the left.
        kinds: what each sequence is.
    """

    input_ids: Tensor
    rows: Tensor
    targets: Tensor
    weights: Tensor
    is_decisive: Tensor
    kinds: tuple[str, ...]


def draw_length(
    rng: random.Random, longest: int, lengths: Sequence[int], shorter_share: float
) -> int:
    """The longest length, or as often as `shorter_share` says one of `lengths` below it."""
    shorter = [length for length in lengths if length < longest]
    if shorter and rng.random() < shorter_share:
        return rng.choice(shorter)
    return longest


def draw_batch(maker: SampleMaker, stage: Stage, tokens_per_batch: int) -> Batch:
    """A batch of one kind and one length, of about `tokens_per_batch` tokens."""
    rng = maker.rng
    length = draw_length(rng, stage.length, LENGTHS, SHORTER_SHARE)
    count = max(2, tokens_per_batch // length)
    if rng.random() < stage.copy_share:
        samples = [maker.copy(min(length, 64)) for _ in range(tokens_per_batch // min(length, 64))]
    elif rng.random() < stage.text_share:
        samples = [maker.plain_text(length) for _ in range(count)]
    else:
        samples = [maker.needles(length, stage.max_needles) for _ in range(count)]
    return collate(samples)


def collate(samples: list[Sample]) -> Batch:
    """Stacks samples of one length and hides their masked tokens."""
    x0 = torch.from_numpy(np.stack([sample.input_ids for sample in samples]))
    is_masked = torch.from_numpy(np.stack([sample.is_masked for sample in samples]))
    is_decisive = torch.from_numpy(np.stack([sample.is_decisive for sample in samples]))
    rows = is_masked.nonzero()
    weighted = is_masked.float()
    for row, sample in enumerate(samples):
        if sample.weights is not None:
            weighted[row] *= torch.from_numpy(sample.weights)
    weights = (weighted / weighted.sum(dim=1, keepdim=True))[is_masked]
    return Batch(
        input_ids=x0.masked_fill(is_masked, MASK_ID),
        rows=rows,
        targets=x0[is_masked],
        weights=weights,
        is_decisive=(is_decisive & ~is_masked.roll(1, dims=1))[is_masked],
        kinds=tuple(sample.kind for sample in samples),
    )


def begun_with(batch: Batch, token: int) -> Batch:
    """The same batch with a token in the first place of each sequence, which is then not asked for.

    The weights of a sequence whose first token was asked for sum to less than one from then on.
    """
    ids = batch.input_ids.clone()
    ids[:, 0] = token
    kept = batch.rows[:, 1] > 0
    parts = {
        name: getattr(batch, name)[kept] for name in ("rows", "targets", "weights", "is_decisive")
    }
    return replace(batch, input_ids=ids, **parts)
