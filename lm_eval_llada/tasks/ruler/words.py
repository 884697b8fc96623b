"""RULER's words: the lists of the package ``wonderwords``, and key words made of them.

The lists belong to the release of wonderwords that is installed. Every word key of the needle
tasks and every word of cwe is drawn from them, so these samples are the same only where the release
is the same: ``words_release`` names it, and the samples record it. In 3.0.1 there are 6,782 nouns,
910 adjectives and 1,041 verbs; a test pins their checksum.
"""

from __future__ import annotations

import random
from functools import lru_cache
from importlib.metadata import version

from lm_eval_llada.errors import missing_package

# Every sample of a needle task names the release, and the metadata take a millisecond to read.
_version = lru_cache(maxsize=1)(version)


def draw_key_word(rng: random.Random) -> str:
    """Draw a key such as ``dusty-harbor``: an adjective, a hyphen and a noun.

    Differs from RULER, which writes out and sorts all six million pairs first. Every pair is as
    likely here as there, since no two of them read the same.

    Args:
        rng: Where the randomness comes from.

    Raises:
        ImportError: If wonderwords is not installed.
    """
    return f"{rng.choice(adjectives())}-{rng.choice(nouns())}"


def plain_words() -> tuple[str, ...]:
    """Return the nouns, adjectives and verbs together, sorted, each once.

    A few hold a space or a hyphen, as in the original.

    Raises:
        ImportError: If wonderwords is not installed.
    """
    return tuple(sorted({*nouns(), *adjectives(), *verbs()}))


def nouns() -> tuple[str, ...]:
    """Return the nouns, sorted, each once.

    Raises:
        ImportError: If wonderwords is not installed.
    """
    return _words("NOUNS")


def adjectives() -> tuple[str, ...]:
    """Return the adjectives, sorted, each once.

    Raises:
        ImportError: If wonderwords is not installed.
    """
    return _words("ADJECTIVES")


def verbs() -> tuple[str, ...]:
    """Return the verbs, sorted, each once.

    Raises:
        ImportError: If wonderwords is not installed.
    """
    return _words("VERBS")


def words_release() -> str:
    """Return which release the words come from, such as ``wonderwords 3.0.1``.

    Raises:
        ImportError: If wonderwords is not installed.
    """
    _words("NOUNS")
    return f"wonderwords {_version('wonderwords')}"


@lru_cache(maxsize=3)
def _words(category: str) -> tuple[str, ...]:
    """Return a list of wonderwords, by its name in ``wonderwords.Defaults``."""
    try:
        from wonderwords import Defaults, RandomWord
    except ImportError as error:
        raise missing_package("Each word list of RULER's tasks", "wonderwords", "ruler") from error
    # Differs from RULER and lm-eval, which reach for a private function and a private attribute.
    # The public filter() draws nothing at random and returns each word once.
    return tuple(sorted(RandomWord(words=Defaults[category]).filter()))
