"""A tokenizer that holds RULER's tasks in few tokens: whole words, digits in groups."""

from __future__ import annotations

import json
import random
import re
import string
from collections import Counter
from itertools import product

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from lm_eval_llada.tasks.prompts import RULER_KINDS, RULER_TEXTS, ruler_template, ruler_text
from lm_eval_llada.tiny.corpus import SPECIAL_TOKENS, Corpus

NUM_MERGED = 3584
"""Tokens of the byte-pair encoding, special ones and bytes included."""

NUM_WORDS = 768
"""The most frequent words of the corpus, each a token of its own with a space in front."""

# Words with the space before them; digits by three and capitals by two from the left, so that a
# value of seven digits is three tokens and a name of five letters as well; dots of a row together.
_PIECES = (
    r" ?VAR(?![A-Za-z])| ?[A-Z][a-z]+| ?[a-z]+| ?\d{1,3}| ?[A-Z]{1,2}| ?\.\.\.|\n"
    r"| ?[^\sA-Za-z\d]| +|\s+"
)
_WORD = re.compile(r"[A-Za-z][a-z]+")
_SPACE = "\u0120"
"""How byte-level tokens write a space."""

NUM_CODES, CODE_LENGTH = 4000, 4
"""Random letters among the text that merges are learnt from, so that coded words are short too."""


def train_ruler_tokenizer(corpus: Corpus) -> Tokenizer:
    """A byte-level tokenizer of the corpus and of the wording of RULER's tasks.

    Digits and capitals have tokens for every group of up to three and two, with a space in front
    and without, whatever the corpus holds. The words of wonderwords, which evaluation draws from,
    are not looked at: those of them that the corpus does not use often are spelled in pieces.
    """
    merged = json.loads(_merged(corpus).to_str())["model"]
    vocabulary: dict[str, int] = merged["vocab"]
    for token in _whole_tokens(corpus):
        vocabulary.setdefault(token, len(vocabulary))
    merges = [tuple(merge) for merge in merged["merges"]]
    # Whole tokens have no merges that lead to them: a piece that is one is taken as it stands.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def _merged(corpus: Corpus) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_MERGED,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = random.Random(0)
    codes = ["".join(rng.choices(string.ascii_lowercase, k=CODE_LENGTH)) for _ in range(NUM_CODES)]
    # Each distinct word once: spelling matters here, and frequent words have tokens of their own.
    tokenizer.train_from_iterator([" ".join(corpus.words), " ".join(codes)], trainer)
    return tokenizer


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _whole_tokens(corpus: Corpus) -> list[str]:
    """Tokens that are there whatever merges were learnt, in a fixed order."""
    wording = [ruler_template(kind) for kind in RULER_KINDS]
    texts = [part for text in wording for part in (text.template, text.answer_prefix)]
    texts += [ruler_text(name) for name in RULER_TEXTS]
    asked = dict.fromkeys(word for text in texts for word in _WORD.findall(text))
    counts = Counter(word for text in corpus.documents for word in _WORD.findall(text))
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[:NUM_WORDS]
    words = [*asked, *frequent, "VAR", "..."]
    groups = ["".join(g) for n in (1, 2, 3) for g in product(string.digits, repeat=n)]
    groups += ["".join(g) for n in (1, 2) for g in product(string.ascii_uppercase, repeat=n)]
    marks = [_SPACE + mark for mark in string.punctuation]
    starts = [word for word in words if not word.islower()]
    return (
        [_SPACE + word for word in words] + starts + groups + [_SPACE + g for g in groups] + marks
    )
