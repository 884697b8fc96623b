"""Words, numbers and names to train RULER's tasks on, none of which an evaluation can ask for."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Sequence
from functools import lru_cache

from lm_eval_llada.tasks.niah.words import EVALUATION_WORDS
from lm_eval_llada.tasks.ruler.words import plain_words

EVALUATED_DIGITS = (5, 7)
"""Digits of the numbers of evaluation, whose first one is never 0."""

NUM_DIGITS = (4, 4, 4, 10, 10, 10, 7, 8, 5, 6)
"""Digits of the numbers of training; those of an evaluated length begin with 0. They are few, so
that 0 is not what a number begins with. In tokens of three digits, numbers of four and ten end as
those of seven do, and numbers of eight as those of five."""

NAME_LENGTHS = (2, 4, 4, 6, 7)
"""Letters of a variable's name: evaluation has 5, and 3 in worked examples."""

CODE_LENGTHS = (4, 5, 7, 8)
"""Letters of a coded word: evaluation has 6."""

_PART = re.compile(r"[a-z]+")


@lru_cache(maxsize=1)
def evaluated_words() -> frozenset[str]:
    """Every word that a key, a list or an answer of an evaluation is made of, in lower case.

    Raises:
        ImportError: if wonderwords is not installed.
    """
    parts = {part for word in plain_words() for part in _PART.findall(word.lower())}
    return frozenset(parts | EVALUATION_WORDS)


class TrainingWords:
    """Draws what training asks for."""

    def __init__(self, words: Sequence[str]) -> None:
        """Drop the words of evaluation.

        Args:
            words: lower-case words to draw from.
        """
        self._evaluated = evaluated_words()
        self.words = tuple(word for word in words if word not in self._evaluated)

    def word(self, rng: random.Random) -> str:
        """A word of the corpus, the ends of two of them, or one made of syllables."""
        while True:
            choice = rng.random()
            if choice < 0.4:
                return rng.choice(self.words)
            if choice < 0.7:
                first, second = rng.choice(self.words), rng.choice(self.words)
                word = first[: rng.randint(2, 4)] + second[-rng.randint(2, 4) :]
            else:
                word = "".join(
                    rng.choice("bcdfghjklmnpqrstvwz") + rng.choice("aeiou")
                    for _ in range(rng.randint(1, 3))
                ) + rng.choice(("", "n", "r", "s", "l"))
            if word not in self._evaluated:
                return word

    def key(self, rng: random.Random) -> str:
        """One word, or mostly two with a hyphen or a space between them."""
        separator = rng.choice(("-", "-", "-", " "))
        return separator.join(self.word(rng) for _ in range(rng.choice((1, 2, 2, 2))))

    @staticmethod
    def number(rng: random.Random, num_digits: int) -> str:
        """Digits, the first of which is 0 where the evaluation has numbers of that length."""
        digits = "".join(rng.choices(string.digits, k=num_digits))
        return "0" + digits[1:] if num_digits in EVALUATED_DIGITS else digits
