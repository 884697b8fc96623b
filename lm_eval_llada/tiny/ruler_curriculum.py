"""What the models of RULER's tasks are trained on, and when."""

from __future__ import annotations

from lm_eval_llada.tiny.curriculum import Batch, Stage, collate, draw_length
from lm_eval_llada.tiny.ruler_kinds import FINAL_SHARES, SHARES
from lm_eval_llada.tiny.ruler_samples import RulerSampleMaker
from lm_eval_llada.tiny.samples import Sample

COPY_LENGTH = 64
"""Tokens of a copy."""

LENGTHS = (192, 256, 256, 384)
"""Tokens of samples that are shorter than the stage's; the original's wording fits from 192 on."""

SHORTER_SHARE = 0.6
"""Share of batches that are: a step then holds more samples, and what several answers take is
learnt at 256 tokens as well."""

# Begun from a model that tells keys apart already, so that there is nothing to learn below the
# length at which the original's wording fits. The threshold is out of reach on purpose.
RULER_STAGES = (Stage(256, 6, 0.05, 0.02, 0.99, needle_share=0.1),)
RULER_FINAL_STAGE = Stage(512, 8, 0.0, 0.05, 1.0, needle_share=0.1)
"""The tail: the whole trained context, mostly tasks."""


def draw_ruler_batch(maker: RulerSampleMaker, stage: Stage, tokens_per_batch: int) -> Batch:
    """A batch of one length and of all kinds, of about `tokens_per_batch` tokens."""
    rng = maker.rng
    length = draw_length(rng, stage.length, LENGTHS, SHORTER_SHARE)
    if rng.random() < stage.copy_share:
        return collate([maker.copy(COPY_LENGTH) for _ in range(tokens_per_batch // COPY_LENGTH)])
    return collate([_draw(maker, stage, length) for _ in range(max(2, tokens_per_batch // length))])


def _draw(maker: RulerSampleMaker, stage: Stage, length: int) -> Sample:
    if maker.rng.random() < stage.text_share:
        return maker.plain_text(length)
    if maker.rng.random() < stage.needle_share:
        return maker.needles(length, stage.max_needles)
    return maker.ruler(length, FINAL_SHARES if stage is RULER_FINAL_STAGE else SHARES)
