"""Haystacks of RULER's needle tasks: running text out of essays, or lines."""

from __future__ import annotations

import random
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

DEPTHS: tuple[int, ...] = tuple(round(100 * step / 39) for step in range(40))
"""Depths in percent at which a needle may stand in an essay: 40 of them, evenly from 0 to 100."""

# A word at which a sentence may end, with closing quotes and brackets behind the mark.
_SENTENCE_END = re.compile(r"[.!?][\"'\u2019\u201d)\]]*$")
# Initials and abbreviations, whose full stop ends no sentence in most cases.
_ABBREVIATION = re.compile(r"\(?(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|vs|cf|e\.g|i\.e|U\.S)\.$")
_LOWER_CASE = re.compile(r"[^\w]*[a-z]")


class Haystack(Protocol):
    """Text of any number of units, into which sentences can be put."""

    @property
    def unit(self) -> str:
        """What the text is made of, in the singular."""
        ...

    def hide(
        self, num_units: int, statements: Sequence[str], rng: random.Random
    ) -> tuple[str, list[float]]:
        """Put sentences at random places of the first ``num_units`` units.

        Args:
            num_units: Length of the haystack.
            statements: The sentences.
            rng: Where the places come from.

        Returns:
            The text, and for each sentence in the order given how much of the haystack stands
            before it, in percent.
        """
        ...


class LineHaystack:
    """Lines, with needles as further lines before randomly chosen ones.

    Args:
        lines: Gives the first so many lines.
    """

    unit = "line"

    def __init__(self, lines: Callable[[int], Sequence[str]]) -> None:
        """Store where the lines come from."""
        self._lines = lines

    def hide(
        self, num_units: int, statements: Sequence[str], rng: random.Random
    ) -> tuple[str, list[float]]:
        """Put each sentence before a line of its own; see ``Haystack``."""
        lines = self._lines(num_units)
        # Drawn without order, so that each sentence is as likely at each of the places.
        places = rng.sample(range(num_units), len(statements))
        text = _merge(
            lambda start, end: "\n".join(lines[start:end]),
            num_units,
            sorted(zip(places, statements, strict=True)),
            "\n",
        )
        return text, [100 * place / num_units for place in places]


class EssayHaystack:
    """Words of essays, over again when used up, with needles between sentences.

    Differs from RULER, which splits sentences with nltk's model punkt, whose data are a download of
    their own. Here a sentence ends in a word with ``.``, ``!`` or ``?``, unless that is an initial
    or a common abbreviation or the next word begins in lower case. The texts differ as well where
    they are NeedleBench's: RULER collects its essays from their author's site and a repository, and
    joins them in whatever order the file system lists them.

    Args:
        essays: The essays' texts, in the order in which every haystack reads them.
        full_stops: False takes away each full stop before a blank, as OpenCompass does, which
            splits the text there and joins it by blanks: the last word alone can keep one.

    Raises:
        ValueError: If they hold no word.
    """

    unit = "word"

    def __init__(self, essays: Sequence[str], full_stops: bool = True) -> None:
        """Split the essays into words and sentences, once for all samples of the same essays."""
        self._words, self._starts = _split(tuple(essays))
        self._full_stops = full_stops

    def hide(
        self, num_units: int, statements: Sequence[str], rng: random.Random
    ) -> tuple[str, list[float]]:
        """Put each sentence at a depth of its own out of ``DEPTHS``; see ``Haystack``."""
        num_sentences = self._num_sentences(num_units)
        depths = rng.sample(DEPTHS, len(statements))
        placed = []
        for depth, statement in sorted(zip(depths, statements, strict=True)):
            sentence = num_sentences * depth // 100
            last = sentence == num_sentences
            placed.append((num_units if last else self._start(sentence), statement))

        def text(start: int, end: int) -> str:
            words = self._first_words(end)[start:]
            if not self._full_stops:
                kept = words[-1:] if end == num_units else []
                words = [word.removesuffix(".") for word in words[: len(words) - len(kept)]] + kept
            return " ".join(filter(None, words))

        return _merge(text, num_units, placed, " "), [float(depth) for depth in depths]

    def _num_sentences(self, num_words: int) -> int:
        """Return the sentences that begin within the first words; the last may be cut short."""
        rounds, rest = divmod(num_words, len(self._words))
        return rounds * len(self._starts) + bisect_left(self._starts, rest)

    def _start(self, sentence: int) -> int:
        rounds, rest = divmod(sentence, len(self._starts))
        return rounds * len(self._words) + self._starts[rest]

    def _first_words(self, number: int) -> list[str]:
        rounds = -(-number // len(self._words))
        words = self._words if rounds <= 1 else self._words * rounds
        return words[:number]


# All samples of a run share the essays; splitting 300,000 words takes half a second.
@lru_cache(maxsize=2)
def _split(essays: tuple[str, ...]) -> tuple[list[str], list[int]]:
    """Return the words of all essays in order, and the places at which sentences begin."""
    words = " ".join(essays).split()
    if not words:
        raise ValueError("essays must hold at least one word; got none.")
    starts = [0]
    for place, (word, following) in enumerate(zip(words, words[1:], strict=False), start=1):
        if (
            _SENTENCE_END.search(word)
            and not _ABBREVIATION.match(word)
            and not _LOWER_CASE.match(following)
        ):
            starts.append(place)
    return words, starts


def _merge(
    text: Callable[[int, int], str],
    end: int,
    placed: Sequence[tuple[int, str]],
    separator: str,
) -> str:
    """Return the text up to ``end`` with statements before some of its units, in order."""
    parts: list[str] = []
    start = 0
    for place, statement in placed:
        parts += [text(start, place), statement]
        start = place
    parts.append(text(start, end))
    # Differs from RULER, which leaves a second separator where nothing stands between two needles,
    # or before the first or behind the last.
    return separator.join(part for part in parts if part)
