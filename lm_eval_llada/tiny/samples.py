"""Training samples: copies, needles with questions, and plain text, each with its masks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lm_eval_llada.tiny.corpus import (
    EOS_ID,
    SPECIAL_TOKENS,
    Corpus,
)

ATTRIBUTES = [
    "magic number",
    "lucky number",
    "locker code",
    "badge number",
    "ticket number",
    "gate code",
    "access code",
    "room number",
    "pin",
    "serial number",
    "order number",
    "extension",
    "account number",
    "hidden value",
    "password",
    "index",
    "port",
    "entry number",
    "token",
    "secret value",
]
STATEMENTS = (
    *["The {a} for {k} is {n}."] * 4,
    *["{k}: {n}."] * 2,
    *["{k} is {n}."] * 2,
    "{k} = {n}",
    "The {a} of {k} is {n}.",
    "One {a} for {k} is: {n}.",
    "{k} has the {a} {n}.",
)
"""Mostly with the key close to its value: telling keys apart forms there first."""

QUESTIONS = (
    *["\n"] * 2,
    *["\n\nQuestion: What is the {a} for {k}?\nAnswer: "] * 2,
    "\nWhat is the {a} of {k}? ",
)
SUBJECTS = [
    "The dog",
    "A bird",
    "My friend",
    "The old man",
    "The river",
    "A small boat",
    "The train",
    "Our teacher",
    "The garden",
    "Some rain",
    "The market",
    "A child",
    "The window",
    "Her brother",
    "A letter",
    "The engine",
]
VERBS = [
    "sleeps",
    "runs",
    "sings",
    "waits",
    "falls",
    "moves slowly",
    "looks green",
    "seems quiet",
    "comes back",
    "is cold",
    "is open",
    "goes home",
    "stands still",
    "was there",
    "had gone",
    "makes noise",
]
PLACES = [
    "near the house",
    "in the morning",
    "under the bridge",
    "after lunch",
    "by the sea",
    "without a sound",
    "on Sunday",
    "again and again",
    "for a while",
    "before noon",
    "at the door",
    "with the others",
]
CHUNK_LENGTH = 64
"""Tokens of text masked together, as in LongLLaDA's perplexity."""


@dataclass(frozen=True)
class Sample:
    """One training sequence.

    Attributes:
        input_ids: int64 (length,), unmasked.
        is_masked: bool (length,), what the model must predict; at least one position.
        is_decisive: bool (length,), where a right token shows that the right place was found: any
            token of a copy, the first one of a needle's value. The running accuracies count those
            of them that are masked with a known left neighbour.
        kind: `copy`, `needle` or `text`, or a kind of RULER's tasks.
        weights: float32 (length,), of the tokens in the loss, before those of the sequence are made
            to sum to one; None weighs all alike.
    """

    input_ids: NDArray[np.int64]
    is_masked: NDArray[np.bool_]
    is_decisive: NDArray[np.bool_]
    kind: str
    weights: NDArray[np.float32] | None = None


class SampleMaker:
    """Draws samples of any length from one seeded stream.

    All randomness comes from `rng` (choices) and `array_rng` (masks), so that saving the two
    states is enough to go on after an interruption.
    """

    def __init__(
        self, corpus: Corpus, tokenizer: Tokenizer, seed: int, *, is_causal: bool = False
    ) -> None:
        """Tokenises the corpus once.

        Args:
            corpus: text and words to draw from.
            tokenizer: of the model.
            seed: of all samples.
            is_causal: whether what is masked must be told by what stands before it.
        """
        self.is_causal = is_causal
        self.tokenizer = tokenizer
        self.words = corpus.words
        self.vocab_size = tokenizer.get_vocab_size()
        self.rng = random.Random(seed)
        self.array_rng = np.random.default_rng(seed)
        encoded = tokenizer.encode_batch(list(corpus.documents))
        self.text = np.concatenate([np.array([*e.ids, EOS_ID], dtype=np.int64) for e in encoded])

    def copy(self, length: int) -> Sample:
        """Noise in which one segment occurs twice; tokens of one occurrence are masked.

        It teaches in a few minutes to look a token up by its neighbours, from which answering
        questions grows. Started on questions alone, retrieval takes far longer to form. From 64
        tokens on the noise is often drawn from a few tokens, so that one neighbour is not enough.
        """
        rng = self.array_rng
        segment = int(rng.integers(length // 4, length // 2))
        alphabet = rng.permutation(np.arange(len(SPECIAL_TOKENS), self.vocab_size))
        most_masked = 0.6
        if length >= 64:
            alphabet = alphabet[: int(rng.choice((len(alphabet), 64, 24)))]
            most_masked = 0.9
        ids = rng.choice(alphabet, length)
        first = int(rng.integers(0, length - 2 * segment + 1))
        second = int(rng.integers(first + segment, length - segment + 1))
        ids[second : second + segment] = ids[first : first + segment]
        start = first if rng.random() < 0.5 and not self.is_causal else second
        is_masked = np.zeros(length, dtype=bool)
        is_masked[start : start + segment] = rng.random(segment) < rng.uniform(0.1, most_masked)
        is_masked[start + int(rng.integers(segment))] = True
        return Sample(ids, is_masked, np.ones(length, dtype=bool), "copy")

    def plain_text(self, length: int) -> Sample:
        """Running text with masks everywhere or in one chunk, at the end as often as inside."""
        ids = self._text(length)
        rng, ratio = self.array_rng, self.array_rng.random()
        start, width = 0, length
        if self.rng.random() < 0.7:
            width = min(CHUNK_LENGTH, length // 2)
            at_end = self.rng.random() < 0.6
            start = length - width if at_end else self.rng.randrange(length - width)
        is_masked = np.zeros(length, dtype=bool)
        is_masked[start : start + width] = rng.random(width) < ratio
        is_masked[start + int(rng.integers(width))] = True
        return Sample(ids, is_masked, np.ones(length, dtype=bool), "text")

    def needles(self, length: int, max_needles: int) -> Sample:
        """A haystack with needles, then questions about some of them, their answers masked.

        Args:
            length: tokens of the sample, at least 64.
            max_needles: most needles in the haystack; fewer where they do not fit.
        """
        num_needles = self.rng.randint(1, max_needles)
        while True:
            sample = self._try_needles(length, num_needles)
            if sample is not None:
                return sample
            num_needles = max(1, num_needles - 1)

    def _try_needles(self, length: int, num_needles: int) -> Sample | None:
        rng = self.rng
        statements, questions = self._facts(num_needles)
        asked = rng.sample(range(num_needles), rng.randint(1, min(num_needles, 4)))
        parts = [part for n in asked for part in questions[n]]
        encoded = [e.ids for e in self.tokenizer.encode_batch([*statements, *parts])]
        hidden, tail, spans = encoded[:num_needles], [], []
        for stem, answer in zip(
            encoded[num_needles::2], encoded[num_needles + 1 :: 2], strict=True
        ):
            tail += stem
            spans.append((len(tail), len(tail) + len(answer)))
            tail += answer
        if rng.random() < 0.5:  # what follows an answer: the end of the line, then of the text
            ending = [*self.tokenizer.encode("\n").ids, *[EOS_ID] * rng.randint(0, 8)]
            spans[-1] = (spans[-1][0], len(tail) + len(ending))
            tail += ending
        room = length - len(tail) - sum(map(len, hidden))
        if room < 0:
            return None
        ids = np.array([*self._hide(hidden, room), *tail], dtype=np.int64)
        offset = length - len(tail)
        is_decisive = np.zeros(length, dtype=bool)
        space = self.tokenizer.token_to_id("Ġ")
        for start, _ in spans:  # digits have a token for the space before them, words do not
            is_decisive[offset + start + (tail[start] == space)] = True
        return Sample(ids, self._answer_mask(length, offset, spans), is_decisive, "needle")

    def _answer_mask(
        self, length: int, offset: int, spans: Sequence[tuple[int, int]]
    ) -> NDArray[np.bool_]:
        """Masks whole answers, whole values, the rest of answers, and random parts of answers.

        Decoding goes through these states in this order, since the token after the last known one
        is the surest; random parts keep any other order possible.
        """
        is_masked = np.zeros(length, dtype=bool)
        for start, end in spans:
            width = end - start
            state = self.rng.choices(("whole", "value", "rest", "part"), (3, 3, 2, 2))[0]
            if state == "part":
                count = self.rng.randint(1, width)
                is_masked[offset + start + self.array_rng.permutation(width)[:count]] = True
            else:
                known = {"whole": 0, "value": 1}.get(state, self.rng.randint(1, width))
                known = min(known, width - 1)
                is_masked[offset + start + known : offset + end] = True
        return is_masked

    def _facts(self, count: int) -> tuple[list[str], list[tuple[str, str]]]:
        """Statements with distinct keys, and for each (question with stem, answer)."""
        rng = self.rng
        keys: list[str] = []
        while len(keys) < count:
            key = self._key()
            if key not in keys:
                keys.append(key)
        mixed = rng.random() < 0.3
        pattern, attribute = rng.choice(STATEMENTS), rng.choice(ATTRIBUTES)
        question = rng.choice(QUESTIONS)
        statements, questions = [], []
        for key in keys:
            if mixed:
                pattern, attribute = rng.choice(STATEMENTS), rng.choice(ATTRIBUTES)
                question = rng.choice(QUESTIONS)
            value = self._value()
            sentence = pattern.format(a=attribute, k=key, n="\x00")
            if rng.random() < 0.5:
                sentence = sentence[0].upper() + sentence[1:]
            stem, rest = sentence.split("\x00")
            statements.append(f"\n{stem}{value}{rest}\n")
            asking = question.format(a=attribute, k=key)
            questions.append((asking + stem.rstrip(" "), f" {value}{rest}"))
        return statements, questions

    def _value(self) -> str:
        if self.rng.random() < 0.1:
            return self.rng.choice(self.words)
        return "".join(self.rng.choices("0123456789", k=self.rng.choice((3, 4, 5, 5, 5, 6, 7))))

    def _key(self) -> str:
        separator = self.rng.choice(("-", "-", " "))
        return separator.join(self._word() for _ in range(self.rng.choice((1, 2, 2, 2))))

    def _word(self) -> str:
        """A word of the corpus, or one made of syllables, so that any spelling can be a key."""
        rng = self.rng
        if rng.random() < 0.7:
            return rng.choice(self.words)
        count = rng.randint(1, 3)
        syllables = [rng.choice("bcdfghjklmnpqrstvwz") + rng.choice("aeiou") for _ in range(count)]
        return "".join(syllables) + rng.choice(("", "n", "r", "s", "l"))

    def _hide(self, needles: list[list[int]], room: int) -> list[int]:
        """A haystack of `room` tokens with the needles at random places."""
        haystack = self._noise(room) if self.rng.random() < 0.4 else self._text(room).tolist()
        cuts = sorted(self.rng.randint(0, room) for _ in needles)
        ids: list[int] = []
        start = 0
        for cut, needle in zip(cuts, needles, strict=True):
            ids += haystack[start:cut] + needle
            start = cut
        return ids + haystack[start:]

    def _noise(self, length: int) -> list[int]:
        """A few short sentences, repeated in random order."""
        rng = self.rng
        sentences = [
            f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(PLACES)}. "
            for _ in range(rng.randint(3, 40))
        ]
        encoded = [e.ids for e in self.tokenizer.encode_batch(sentences)]
        ids: list[int] = []
        while len(ids) < length:
            ids += rng.choice(encoded)
        return ids[:length]

    def _text(self, length: int) -> NDArray[np.int64]:
        start = self.rng.randrange(len(self.text) - length)
        return self.text[start : start + length].copy()
