"""RULER's cwe and fwe: find the words that come most often.

Source: RULER (arXiv 2404.06654), ``scripts/synthetic.yaml`` and, under ``scripts/data/synthetic/``,
``common_words_extraction.py`` and ``freq_words_extraction.py``.
"""

from __future__ import annotations

import heapq
import random
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import islice
from typing import Any

from lm_eval_llada.errors import require_number, require_whole
from lm_eval_llada.tasks.dataset import require_bool
from lm_eval_llada.tasks.prompts import RulerTemplate, ruler_template
from lm_eval_llada.tasks.ruler.draft import Draft
from lm_eval_llada.tasks.ruler.words import plain_words, words_release
from lm_eval_llada.tasks.settings import changed

SHORT_LENGTH = 4096
"""Length, in tokens, below which the original makes cwe of smaller numbers."""

# What fwe's question asks for. The text's most frequent word is the noise, which comes before them.
_NUM_ASKED = 3
_NOISE = "..."

# Under a steeper law the third word comes less than once in 4,000 words.
_STEEPEST = 6.0

# Tokens of a sample's length for each word of fwe's vocabulary.
_TOKENS_PER_WORD = 50


@dataclass(frozen=True)
class CommonWordsSettings:
    """What a sample of cwe is made of; the defaults are the original's from 4096 tokens on.

    Attributes:
        freq_cw: How often a common word comes.
        freq_ucw: How often an uncommon word comes.
        num_cw: Common words, all of which are asked for.
        num_examples: Worked examples in front.
        example_words: Words of an example, common and uncommon ones, each counted once.
        example_freq_cw: How often a common word comes in an example.
        example_freq_ucw: How often an uncommon word comes in an example.
        example_blank: Whether a blank parts an example's answer prefix from its answer, as in the
            original; OpenCompass has none there.

    Raises:
        ValueError: If a number is not a whole one or too small, a common word is no more frequent
            than an uncommon one, or an example has no uncommon word.
    """

    freq_cw: int = 30
    freq_ucw: int = 3
    num_cw: int = 10
    num_examples: int = 1
    example_words: int = 40
    example_freq_cw: int = 10
    example_freq_ucw: int = 3
    example_blank: bool = True

    def __post_init__(self) -> None:
        """Check each number, and that common words are the more frequent ones."""
        require_bool("example_blank", self.example_blank)
        for field in fields(self):
            if field.name == "example_blank":
                continue
            least = 0 if field.name == "num_examples" else 1
            require_whole(field.name, getattr(self, field.name), least)
        for part in ("", "example_"):
            common, uncommon = f"{part}freq_cw", f"{part}freq_ucw"
            if getattr(self, common) <= getattr(self, uncommon):
                raise ValueError(
                    f"{common}={getattr(self, common)} must be more than "
                    f"{uncommon}={getattr(self, uncommon)}, or no word is common."
                )
        if self.num_examples and self.example_words <= self.num_cw:
            raise ValueError(
                f"example_words={self.example_words} must be more than num_cw={self.num_cw}, which "
                "is a part of it."
            )


_SHORT = CommonWordsSettings(
    freq_cw=6, freq_ucw=1, example_words=20, example_freq_cw=3, example_freq_ucw=1
)


@dataclass(frozen=True)
class FrequentWordsSettings:
    """What a sample of fwe is made of; the defaults are the original's.

    Attributes:
        alpha: The word of rank k comes in proportion to k ** -alpha.
        word_length: Letters of a coded word.
        vocab_size: Words to choose from, the dots of the noise included; None makes it a 50th of
            the length.

    Raises:
        ValueError: If a number is of a wrong kind or out of range.
    """

    alpha: float = 2.0
    word_length: int = 6
    vocab_size: int | None = None

    def __post_init__(self) -> None:
        """Check each number."""
        require_number("alpha", self.alpha, 0)
        if self.alpha > _STEEPEST:
            raise ValueError(f"alpha must be at most {_STEEPEST:g}; got {self.alpha!r}.")
        # 26 ** 3 names are enough for the vocabulary of half a million tokens.
        require_whole("word_length", self.word_length, 3)
        if self.vocab_size is not None:
            require_whole("vocab_size", self.vocab_size, _NUM_ASKED + 1)
            if 2 * self.vocab_size > len(string.ascii_lowercase) ** self.word_length:
                raise ValueError(
                    f"vocab_size={self.vocab_size} is too many for words of {self.word_length} "
                    "letters; use a greater word_length."
                )


def common_words_maker(
    *,
    seed: str,
    length: int,
    settings: Mapping[str, Any] | None = None,
    template: RulerTemplate | None = None,
) -> CommonWordsMaker:
    """Return the maker of one sample of cwe.

    Args:
        seed: Names the sample; everything random depends on it alone.
        length: Tokens of prompt and output together. Below ``SHORT_LENGTH`` the original's numbers
            are smaller ones.
        settings: Fields of ``CommonWordsSettings`` that are to differ from the original's.
        template: Wording of the prompt; the original's where it is None, with ``num_cw`` in place
            of its 10.

    Raises:
        ValueError: If a setting is unknown or wrong.
        ImportError: If wonderwords, or lm-eval, which holds the wording, is not installed.
    """
    defaults = _SHORT if length < SHORT_LENGTH else CommonWordsSettings()
    chosen = changed(defaults, settings, "cwe")
    return CommonWordsMaker(chosen, seed, template or _asking_for(chosen.num_cw))


def frequent_words_maker(
    *,
    seed: str,
    length: int,
    settings: Mapping[str, Any] | None = None,
    template: RulerTemplate | None = None,
) -> FrequentWordsMaker:
    """Return the maker of one sample of fwe.

    Args:
        seed: Names the sample; everything random depends on it alone.
        length: Tokens of prompt and output together, from which the vocabulary's size follows.
        settings: Fields of ``FrequentWordsSettings`` that are to differ from the original's.
        template: Wording of the prompt; the original's where it is None.

    Raises:
        ValueError: If a setting is unknown or wrong.
        ImportError: If lm-eval, which holds the wording, is not installed.
    """
    chosen = changed(FrequentWordsSettings(), settings, "fwe")
    if chosen.vocab_size is None:
        # The least is for lengths that no sample fits anyway; the fit then says which would do.
        chosen = replace(chosen, vocab_size=max(length // _TOKENS_PER_WORD, _NUM_ASKED + 1))
    return FrequentWordsMaker(chosen, seed, template or ruler_template("fwe"))


class CommonWordsMaker:
    """Makes a sample of cwe out of any number of words, each counted once.

    A greater number keeps all words of a smaller one, the common ones first; the worked examples
    are the same at every number. References are the common words. ``details`` holds how often both
    kinds come and the release of the word lists.

    Differs from RULER, which orders the words of all samples by one and the same shuffle. It also
    draws all words of a sample from another, bigger list where wonderwords has too few, somewhere
    above 100,000 tokens. That list is in no package, so here further uncommon words are two words
    of the sample joined by a hyphen; words that are asked for never are.

    Attributes:
        settings: What the sample is made of.
        unit: ``word``.
        fewest: The common words and an uncommon one.
        most: None: there are tens of millions of joined words.
    """

    unit = "word"
    most: int | None = None

    def __init__(self, settings: CommonWordsSettings, seed: str, template: RulerTemplate) -> None:
        """Order the words and write the worked examples, both of which hold at any length."""
        words = plain_words()
        self.settings = settings
        self.fewest = settings.num_cw + 1
        self._seed = seed
        self._template = template
        rng = random.Random(f"{seed}/words")
        self._words = rng.sample(words, len(words))
        self._examples = "".join(
            self._write_example(rng, words) for _ in range(settings.num_examples)
        )

    def draft(self, num_units: int) -> Draft:
        """Make the sample out of that many words."""
        require_whole("num_units", num_units, self.fewest)
        settings = self.settings
        words = self._first_words(num_units)
        rng = random.Random(f"{self._seed}/order")
        prompt, prefix = self._ask(words, settings.freq_cw, settings.freq_ucw, rng)
        return Draft(
            prompt=self._examples + prompt,
            answer_prefix=prefix,
            references=tuple(words[: settings.num_cw]),
            details={
                "freq_cw": settings.freq_cw,
                "freq_ucw": settings.freq_ucw,
                "words": words_release(),
            },
        )

    def _first_words(self, number: int) -> list[str]:
        words = self._words[:number]
        if number > len(words):
            joined = _joined(self._words[self.settings.num_cw :], set(self._words))
            words += islice(joined, number - len(words))
        return words

    def _write_example(self, rng: random.Random, words: Sequence[str]) -> str:
        settings = self.settings
        chosen = rng.sample(words, settings.example_words)
        prompt, prefix = self._ask(chosen, settings.example_freq_cw, settings.example_freq_ucw, rng)
        blank = " " if settings.example_blank else ""
        return f"{prompt}{prefix}{blank}{_numbered(chosen[: settings.num_cw])}\n"

    def _ask(
        self, words: Sequence[str], freq_cw: int, freq_ucw: int, rng: random.Random
    ) -> tuple[str, str]:
        """Write prompt and answer prefix for a list that begins with the common words."""
        common, uncommon = words[: self.settings.num_cw], words[self.settings.num_cw :]
        entries = [*common] * freq_cw + [*uncommon] * freq_ucw
        rng.shuffle(entries)
        # The original fills in an empty query.
        prompt = self._template.template.format(context=_numbered(entries), query="")
        return prompt, self._template.answer_prefix.format(query="")


class FrequentWordsMaker:
    """Makes a sample of fwe out of any number of coded words, noise included.

    A greater number has every word at least as often as a smaller one. References are the three
    most frequent coded words. ``details`` holds how often each of them comes (``frequencies``), and
    how often the next one (``fourth_frequency``), which is always less.

    Differs from RULER in three ways. There a number of words is multiplied with each probability
    and rounded down, so that counts jump by several words at once; here words are added one by one
    in the very order in which they appear there. There all samples are ordered by one and the same
    shuffle. And there the room for the output is not taken off the length, as the fit does here.

    Attributes:
        settings: What the sample is made of.
        unit: ``word``.
        fewest: Words from which on the third and the fourth are never equally frequent.
        most: None, as words only become more frequent.
    """

    unit = "word"
    most: int | None = None

    def __init__(self, settings: FrequentWordsSettings, seed: str, template: RulerTemplate) -> None:
        """Draw the vocabulary, most frequent word first, which holds at any length."""
        num_words = settings.vocab_size
        if num_words is None:
            raise ValueError("vocab_size must be a number here; frequent_words_maker finds one.")
        self.settings = settings
        self.fewest = _fewest_without_tie(num_words, settings.alpha)
        self._num_words = num_words
        self._seed = seed
        self._template = template
        rng = random.Random(f"{seed}/vocabulary")
        words: dict[str, None] = {_NOISE: None}
        while len(words) < num_words:
            words["".join(rng.choices(string.ascii_lowercase, k=settings.word_length))] = None
        self._vocabulary = tuple(words)

    def draft(self, num_units: int) -> Draft:
        """Make the sample out of that many words."""
        require_whole("num_units", num_units, self.fewest)
        counts = _counts(num_units, self._num_words, self.settings.alpha)
        words = [
            word for word, count in zip(self._vocabulary, counts, strict=True) for _ in range(count)
        ]
        random.Random(f"{self._seed}/order").shuffle(words)
        asked = slice(1, _NUM_ASKED + 1)
        return Draft(
            prompt=self._template.template.format(context=" ".join(words), query=""),
            answer_prefix=self._template.answer_prefix.format(query=""),
            references=self._vocabulary[asked],
            details={
                "frequencies": list(counts[asked]),
                "fourth_frequency": sum(counts[_NUM_ASKED + 1 : _NUM_ASKED + 2]),
            },
        )


def _asking_for(num_words: int) -> RulerTemplate:
    """Return the original's wording with another number of words than its 10."""

    def asking(text: str) -> str:
        return re.sub(r"\b10\b", str(num_words), text)

    wording = ruler_template("cwe")
    return replace(
        wording,
        template=asking(wording.template),
        answer_prefix=asking(wording.answer_prefix),
    )


def _numbered(words: Sequence[str]) -> str:
    return " ".join(f"{number}. {word}" for number, word in enumerate(words, start=1))


def _joined(words: Sequence[str], taken: set[str]) -> Iterator[str]:
    """Yield pairs of words with a hyphen between them, neighbours first, none of them taken."""
    for distance in range(1, len(words)):
        for first, word in enumerate(words):
            pair = f"{word}-{words[(first + distance) % len(words)]}"
            # Some words hold a hyphen already, so that two pairs can read the same.
            if pair not in taken:
                taken.add(pair)
                yield pair


def _arrivals(num_words: int, alpha: float) -> Iterator[tuple[float, int]]:
    """Yield the rank, from 0, of each next word of a text by Zipf's law, and when it is due.

    The word of rank k, from 1, is due at every multiple of k ** alpha: up to any time t it has come
    floor(t * k ** -alpha) times. Of words that are due together the more frequent one comes first.
    """
    due = [(float(rank**alpha), rank, 1) for rank in range(1, num_words + 1)]
    heapq.heapify(due)
    while True:
        time, rank, times = due[0]
        yield time, rank - 1
        heapq.heapreplace(due, ((times + 1) * rank**alpha, rank, times + 1))


@lru_cache(maxsize=64)
def _counts(num_units: int, num_words: int, alpha: float) -> tuple[int, ...]:
    """Return how often each word comes, by rank. Samples of a length ask for the same numbers."""
    counts = [0] * num_words
    for _, rank in islice(_arrivals(num_words, alpha), num_units):
        counts[rank] += 1
    return tuple(counts)


@lru_cache(maxsize=64)
def _fewest_without_tie(num_words: int, alpha: float) -> int:
    """Return the least number of words from which on the fourth is rarer than the third."""
    third, fourth = _NUM_ASKED, _NUM_ASKED + 1  # ranks from 0, the noise being 0
    # From here on the third is ahead by a whole word, whatever is rounded down.
    settled = 1 / ((third + 1) ** -alpha - (fourth + 1) ** -alpha)
    counts = {third: 0, fourth: 0}
    fewest = 1
    for number, (time, rank) in enumerate(_arrivals(num_words, alpha), start=1):
        if rank in counts:
            counts[rank] += 1
        if counts[third] == counts[fourth]:
            fewest = number + 1
        if time >= settled and counts[third] > counts[fourth]:
            break
    return fewest
