"""What the models of RULER's tasks are trained on, and when."""

from __future__ import annotations

from lm_eval_llada.tiny.curriculum import LENGTHS, SHORTER_SHARE, Batch, Stage, collate
from lm_eval_llada.tiny.ruler_samples import RulerSampleMaker
from lm_eval_llada.tiny.samples import Sample

COPY_LENGTH = 64
"""Longest copies, in tokens."""


# Most steps are for keys at 96 and 128 tokens, where tasks are asked in few words; the original
# wording, which takes about 70 tokens, comes with the longer contexts.
RULER_STAGES = (
    Stage(32, 0, 1.0, 0.0, 0.6, needle_share=0.0),
    Stage(64, 0, 1.0, 0.0, 0.8, needle_share=0.0),
    Stage(96, 4, 0.3, 0.0, 0.7, needle_share=0.6, max_steps=800),
    Stage(128, 6, 0.25, 0.02, 0.8, needle_share=0.2, max_steps=2000),
    Stage(256, 8, 0.1, 0.02, 0.8, needle_share=0.1, max_steps=1000),
)
RULER_FINAL_STAGE = Stage(512, 8, 0.0, 0.05, 1.0, needle_share=0.1)
"""The tail: the whole trained context, mostly tasks."""


def draw_ruler_batch(maker: RulerSampleMaker, stage: Stage, tokens_per_batch: int) -> Batch:
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


def _draw(maker: RulerSampleMaker, stage: Stage, length: int) -> Sample:
    if maker.rng.random() < stage.text_share:
        return maker.plain_text(length)
    if maker.rng.random() < stage.needle_share:
        return maker.needles(length, stage.max_needles)
    return maker.ruler(length)
