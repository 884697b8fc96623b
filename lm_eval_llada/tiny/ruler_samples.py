"""Training samples of RULER's kinds of task, each with its masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from lm_eval_llada.tasks.ruler.draft import Draft
from lm_eval_llada.tasks.ruler.fitting import fit
from lm_eval_llada.tiny.corpus import EOS_ID, SPECIAL_TOKENS, Corpus
from lm_eval_llada.tiny.ruler_kinds import KINDS, SHARES, Task, draw_task
from lm_eval_llada.tiny.ruler_words import NUM_DIGITS, TrainingWords
from lm_eval_llada.tiny.samples import Sample, SampleMaker

MAX_ENDING = 24
"""Most end-of-text tokens that a sample plans to have behind its answer."""

MAX_ATTEMPTS = 6
"""Draws of one kind of task before another kind is drawn, since not every one fits every length."""

MIN_CONTINUED = 48
"""Tokens from which on copies are also masked to their end."""

EOS_WEIGHT, DECISIVE_WEIGHT, FAR_WEIGHT = 0.1, 2.0, 0.3
"""Weights in the loss: of end-of-text tokens, of each answer's first token, and, as a factor, of a
token whose left neighbour is masked as well. Decoding has no need of those yet."""


class RulerSampleMaker(SampleMaker):
    """Draws copies, needles, prose and RULER's tasks from one seeded stream."""

    def __init__(
        self, corpus: Corpus, tokenizer: Tokenizer, seed: int, *, is_causal: bool = False
    ) -> None:
        """Tokenises the corpus once; arguments as in `SampleMaker`."""
        super().__init__(corpus, tokenizer, seed, is_causal=is_causal)
        self.training_words = TrainingWords(corpus.words)
        self._documents = [text for text in corpus.documents if len(text) > 100]
        self._num_digits = NUM_DIGITS[0]

    def copy(self, length: int) -> Sample:
        """As in `SampleMaker`, or with runs of the second occurrence masked.

        Then only what stands before a run tells its first token, and with a small alphabet one
        token before is not enough. That is what telling keys apart takes, and there are several
        runs a sample to learn it from.
        """
        if length < MIN_CONTINUED or self.rng.random() < 0.3:
            return super().copy(length)
        rng = self.array_rng
        alphabet = rng.permutation(np.arange(len(SPECIAL_TOKENS), self.vocab_size))
        ids = rng.choice(alphabet[: int(rng.choice((12, 24, 48)))], length)
        segment = int(rng.integers(length // 4, length // 2))
        first = int(rng.integers(0, length - 2 * segment + 1))
        second = int(rng.integers(first + segment, length - segment + 1))
        ids[second : second + segment] = ids[first : first + segment]
        is_masked = np.zeros(length, dtype=bool)
        is_decisive = np.zeros(length, dtype=bool)
        start = second + int(rng.integers(2, 4))
        while start < second + segment:
            end = min(start + int(rng.integers(2, 5)), second + segment)
            is_masked[start:end] = True
            is_decisive[start] = True
            start = end + int(rng.integers(2, 4))
        weights = np.where(is_decisive, 1.0, FAR_WEIGHT).astype(np.float32)
        return Sample(ids, is_masked, is_decisive, "continuation", weights)

    def _facts(self, count: int) -> tuple[list[str], list[tuple[str, str]]]:
        self._num_digits = self.rng.choice(NUM_DIGITS)
        return super()._facts(count)

    def _value(self) -> str:
        if self.rng.random() < 0.1:
            return self.training_words.word(self.rng)
        return self.training_words.number(self.rng, self._num_digits)

    def _key(self) -> str:
        return self.training_words.key(self.rng)

    def ruler(self, length: int, shares: Sequence[float] = SHARES) -> Sample:
        """A task of RULER's, its answer masked as decoding meets it.

        Args:
            length: tokens of the sample. What the task leaves over is end-of-text behind it.
            shares: how often each of `KINDS` is drawn, against the others.
        """
        while True:
            kind = self.rng.choices(KINDS, shares)[0]
            for attempt in range(MAX_ATTEMPTS):
                # What does not fit in the original's wording is asked in fewer words.
                is_short = attempt > 1 or self.rng.random() < 0.2
                task = draw_task(
                    self.rng, self.training_words, self._prose, length, kind, is_short=is_short
                )
                sample = self._try_ruler(task, length)
                if sample is not None:
                    return sample

    def _try_ruler(self, task: Task, length: int) -> Sample | None:
        """The sample, or None if the task does not fit."""
        written = self._written(task, task.maker.draft(task.maker.fewest))
        ending = self.rng.randint(0, min(MAX_ENDING, length // 8))
        budget = length - sum(map(len, written)) - ending
        try:
            draft = fit(task.maker, budget, self._count).draft
        except ValueError:
            return None
        ids = self.tokenizer.encode(draft.text).ids
        # A longer haystack may change the answers; numbers and words in any order are as long.
        written = self._written(task, draft)
        starts, spans = [], []
        space = self.tokenizer.token_to_id("Ġ")
        for number, piece in enumerate(written):
            if number % 2:  # an answer, behind what parts it from the one before
                # Digits may have a token for the space before them, which decides nothing.
                starts.append(len(ids) + (piece[0] == space))
                spans.append((len(ids), len(ids) + len(piece)))
            ids += piece
        answer = (spans[0][0] - len(written[0]), len(ids))
        if len(ids) > length:
            return None
        ids += [EOS_ID] * (length - len(ids))
        is_decisive = np.zeros(length, dtype=bool)
        is_decisive[starts] = True
        weights = np.ones(length, dtype=np.float32)
        weights[starts] = DECISIVE_WEIGHT
        weights[answer[1] :] = EOS_WEIGHT
        is_masked = self._masked(length, answer, spans)
        weights[1:][is_masked[:-1]] *= FAR_WEIGHT
        return Sample(np.array(ids, dtype=np.int64), is_masked, is_decisive, task.kind, weights)

    def _masked(
        self, length: int, answer: tuple[int, int], spans: Sequence[tuple[int, int]]
    ) -> NDArray[np.bool_]:
        """Masks everything, all from an answer or a token on, some answers, or random tokens.

        Mostly from an answer on: which one is next is what decoding has to decide, without those
        behind it, by which the last one left could be told.

        The end of the text is masked with the answer or known before it, for its tokens are the
        surest of all.
        """
        rng, array_rng = self.rng, self.array_rng
        start, end = answer
        is_masked = np.zeros(length, dtype=bool)
        state = rng.choices(("whole", "next", "rest", "items", "part"), (3, 4, 1, 1, 2))[0]
        if state == "whole":
            is_masked[start:end] = True
        elif state == "next":
            is_masked[rng.choice([start, *(last for _, last in spans[:-1])]) : end] = True
        elif state == "rest":
            is_masked[rng.randrange(start, end) : end] = True
        elif state == "items":
            for first, last in rng.sample(list(spans), rng.randint(1, len(spans))):
                is_masked[first:last] = True
        else:
            is_masked[start + array_rng.permutation(end - start)[: rng.randint(1, end - start)]] = (
                True
            )
        ending = rng.random()
        if ending < 0.5:
            is_masked[end:] = True
        elif ending < 0.7:
            is_masked[end:] = array_rng.random(length - end) < array_rng.random()
        return is_masked

    def _written(self, task: Task, draft: Draft) -> list[list[int]]:
        """Token ids of the answer: what parts it from the text before, then an answer, in turn."""
        answers = task.answers(draft)
        last = len(answers) - 1
        pieces: list[str] = []
        for number, answer in enumerate(answers):
            between = ""
            if task.kind == "cwe":
                between = f" {number + 1}."
            elif number and task.kind != "vt":
                between = "," if number < last or task.stems else ", and"
            if task.stems:
                between += f" {task.stems[number]}"
            pieces += [between, f" {answer}"]
        if task.kind not in ("vt", "cwe"):
            pieces.append(".")
        return [self.tokenizer.encode(piece).ids for piece in pieces]

    def _count(self, text: str) -> int:
        return len(self.tokenizer.encode(text).ids)

    def _prose(self, num_characters: int) -> str:
        text = self.rng.choice(self._documents)
        start = self.rng.randrange(max(1, len(text) - num_characters))
        return text[start : start + num_characters]
