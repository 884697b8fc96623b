"""The two recipes: what differs between them, for one trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from lm_eval_llada.tiny.corpus import Corpus, train_tokenizer
from lm_eval_llada.tiny.curriculum import FINAL_STAGE, STAGES, Batch, Stage, draw_batch
from lm_eval_llada.tiny.ruler_curriculum import (
    RULER_FINAL_STAGE,
    RULER_STAGES,
    draw_ruler_batch,
)
from lm_eval_llada.tiny.ruler_samples import RulerSampleMaker
from lm_eval_llada.tiny.ruler_tokenizer import train_ruler_tokenizer
from lm_eval_llada.tiny.samples import SampleMaker


@dataclass(frozen=True)
class Recipe:
    """What is trained on.

    Attributes:
        stages: of the curriculum, each ended by its accuracy.
        final_stage: what follows them for a fixed number of steps.
        train_tokenizer: makes the tokenizer of a corpus.
        make_samples: makes the maker of samples; arguments as of `SampleMaker`.
        draw_batch: from the maker of samples, a stage, and about how many tokens.
    """

    stages: tuple[Stage, ...]
    final_stage: Stage
    train_tokenizer: Callable[[Corpus], Tokenizer]
    make_samples: Callable[..., SampleMaker]
    draw_batch: Callable[[Any, Stage, int], Batch]


RECIPES: Mapping[str, Recipe] = {
    "needles": Recipe(STAGES, FINAL_STAGE, train_tokenizer, SampleMaker, draw_batch),
    "ruler": Recipe(
        RULER_STAGES,
        RULER_FINAL_STAGE,
        train_ruler_tokenizer,
        RulerSampleMaker,
        draw_ruler_batch,
    ),
}
"""By name: that of the first shipped models, and that of those for RULER's tasks."""
