"""What the models of RULER's tasks are trained on, and when."""

from __future__ import annotations

from dataclasses import dataclass

from lm_eval_llada.tiny.curriculum import LENGTHS, SHORTER_SHARE, Batch, collate
from lm_eval_llada.tiny.ruler_samples import RulerSampleMaker
from lm_eval_llada.tiny.samples import Sample

COPY_LENGTH = 64
"""Longest copies, in tokens."""


@dataclass(frozen=True)
class RulerStage:
    """One step of the curriculum.

    Attributes:
        length: longest samples, in tokens.
        max_needles: most needles in a sample of plain sentences; 0 for copies only.
        copy_share: share of batches made of copies.
        text_share: share of the sequences of other batches that are prose.
        needle_share: share of those that are plain sentences; the rest are RULER's tasks.
        accuracy: running share of right tokens, of the decisive ones, that begins the next stage.
    """

    length: int
    max_needles: int
    copy_share: float
    text_share: float
    needle_share: float
    accuracy: float


RULER_STAGES = (
    RulerStage(32, 0, 1.0, 0.0, 0.0, 0.6),
    RulerStage(64, 0, 1.0, 0.0, 0.0, 0.8),
    RulerStage(96, 4, 0.2, 0.0, 0.6, 0.75),
    RulerStage(128, 6, 0.1, 0.05, 0.3, 0.85),
    RulerStage(256, 8, 0.03, 0.05, 0.15, 0.85),
)
RULER_FINAL_STAGE = RulerStage(512, 8, 0.0, 0.15, 0.15, 1.0)
"""The tail: the whole trained context, mostly tasks."""


def draw_ruler_batch(maker: RulerSampleMaker, stage: RulerStage, tokens_per_batch: int) -> Batch:
    """A batch of one length and of all kinds, of about `tokens_per_batch` tokens."""
    rng = maker.rng
    length = stage.length
    shorter = [n for n in LENGTHS if 96 <= n < length]
    if shorter and rng.random() < SHORTER_SHARE:
        length = rng.choice(shorter)
    if rng.random() < stage.copy_share:
        length = min(length, COPY_LENGTH)
        return collate([maker.copy(length) for _ in range(tokens_per_batch // length)])
    return collate([_draw(maker, stage, length) for _ in range(max(2, tokens_per_batch // length))])


def _draw(maker: RulerSampleMaker, stage: RulerStage, length: int) -> Sample:
    choice = maker.rng.random()
    if choice < stage.text_share:
        return maker.plain_text(length)
    if choice < stage.text_share + stage.needle_share:
        return maker.needles(length, stage.max_needles)
    return maker.ruler(length)
