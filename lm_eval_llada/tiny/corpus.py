"""Training text and vocabulary: what every Python carries, less the words kept for evaluation."""

from __future__ import annotations

import ast
import hashlib
import platform
import pydoc_data.topics as pydoc_topics
import re
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lm_eval_llada.tasks.niah.words import EVALUATION_WORDS

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|mdm_mask|>",
    "<|startoftext|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
)
"""LLaDA's special tokens; their order gives the ids 0, 1, 2, ..."""

EOS_ID, MASK_ID, BOS_ID, EOT_ID = range(4)
SKIPPED_FOLDERS = ("site-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip")
MIN_DOCSTRING_LENGTH = 60
"""Shorter docstrings, in characters, say little but their function's name."""

_WORD = re.compile(r"[a-z]+")
_LONG_WORD = re.compile(r"\b[A-Za-z]{3,10}\b")


@dataclass(frozen=True)
class Corpus:
    """Training documents and what identifies them.

    Attributes:
        documents: help topics and the docstrings of one standard library module each.
        words: lower-case words of 3 to 10 letters that occur in them, sorted.
        python_version: the Python whose text it is; others differ in places.
        sha256: checksum of the documents.
    """

    documents: tuple[str, ...]
    words: tuple[str, ...]
    python_version: str
    sha256: str


@cache
def read_corpus() -> Corpus:
    """The training text of the running Python.

    Paragraphs that hold a word of the evaluation's keys are left out, so no such word is ever
    trained on.
    """
    documents = [pydoc_topics.topics[name] for name in sorted(pydoc_topics.topics)]
    documents += _docstring_documents(Path(sysconfig.get_paths()["stdlib"]))
    kept = tuple(text for text in map(_without_evaluation_words, documents) if text)
    words = {word.lower() for text in kept for word in _LONG_WORD.findall(text)}
    digest = hashlib.sha256("\x00".join(kept).encode()).hexdigest()
    return Corpus(kept, tuple(sorted(words)), platform.python_version(), digest)


def _docstring_documents(stdlib: Path) -> list[str]:
    documents = []
    for path in sorted(stdlib.rglob("*.py")):
        if any(part in SKIPPED_FOLDERS for part in path.relative_to(stdlib).parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue  # a few modules are bad on purpose, to test Python itself
        kinds = (ast.Module, ast.FunctionDef, ast.ClassDef)
        found = [
            ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)
        ]
        long_enough = [text for text in found if len(text) >= MIN_DOCSTRING_LENGTH]
        if long_enough:
            documents.append("\n\n".join(long_enough))
    return documents


def _without_evaluation_words(text: str) -> str:
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        paragraph
        for paragraph in paragraphs
        if EVALUATION_WORDS.isdisjoint(_WORD.findall(paragraph.lower()))
    )


def train_tokenizer(corpus: Corpus, vocab_size: int = 1024) -> Tokenizer:
    """A byte-level BPE tokenizer of the corpus, in which each digit and newline stands alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.documents, trainer)
    return tokenizer
