"""The recipes: what differs between them, for one trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from lm_eval_llada.tiny.curriculum import FINAL_STAGE, STAGES, Batch, Stage, draw_batch
from lm_eval_llada.tiny.ruler_curriculum import (
    RULER_FINAL_STAGE,
    RULER_STAGES,
    draw_ruler_batch,
)
from lm_eval_llada.tiny.ruler_samples import RulerSampleMaker
from lm_eval_llada.tiny.ruler_tokenizer import add_ruler_words
from lm_eval_llada.tiny.samples import SampleMaker


@dataclass(frozen=True)
class Recipe:
    """What is trained on.

    Attributes:
        stages: of the curriculum, each ended by its accuracy; there may be none.
        final_stage: what follows them for a fixed number of steps.
        extend_tokenizer: adds tokens behind those of the corpus.
        make_samples: makes the maker of samples; arguments as of `SampleMaker`.
        draw_batch: from the maker of samples, a stage, and about how many tokens.
    """

    stages: tuple[Stage, ...]
    final_stage: Stage
    extend_tokenizer: Callable[[Tokenizer], Tokenizer]
    make_samples: Callable[..., SampleMaker]
    draw_batch: Callable[[Any, Stage, int], Batch]


# Running text alone: what is left of the recipe where only perplexity is looked at.
PROSE_FINAL_STAGE = Stage(512, 1, 0.0, 1.0, 1.0)


def _as_it_is(tokenizer: Tokenizer) -> Tokenizer:
    return tokenizer


RECIPES: Mapping[str, Recipe] = {
    "needles": Recipe(STAGES, FINAL_STAGE, _as_it_is, SampleMaker, draw_batch),
    "prose": Recipe((), PROSE_FINAL_STAGE, _as_it_is, SampleMaker, draw_batch),
    "ruler": Recipe(
        RULER_STAGES,
        RULER_FINAL_STAGE,
        add_ruler_words,
        RulerSampleMaker,
        draw_ruler_batch,
    ),
}
"""By name: of the first shipped models, of text alone, and of the models for RULER's tasks."""
