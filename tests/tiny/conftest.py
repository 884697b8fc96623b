"""The training text, read and tokenised once, and a part of it for what does not depend on it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.tiny.corpus import Corpus, read_corpus


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    return read_corpus()


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer("tiny-llada").backend_tokenizer


@pytest.fixture(scope="session")
def small_corpus(corpus: Corpus) -> Corpus:
    """Enough text to draw samples from, in a tenth of the time."""
    return replace(corpus, documents=corpus.documents[:40])
