"""Pass keys, number strings and key-value pairs, in the manner of InfiniteBench (2402.13718).

What is asked and how it is scored are InfiniteBench's; all wording and the filler are ours, so
scores do not compare with published ones.
"""

from __future__ import annotations

import random

from lm_eval_llada.tasks.generated.puzzle import Puzzle
from lm_eval_llada.tasks.text.haystacks import noise_sentences

_OPENING = "Somewhere in the text below one thing is noted down twice. Find it and give it back."
_DIGITS = "0123456789"


def passkey(seed: str) -> Puzzle:
    """A number of five digits in running text."""
    key = str(random.Random(f"{seed}/key").randrange(10_000, 100_000))
    return _noted(seed, "pass key", key)


def number_string(seed: str) -> Puzzle:
    """Ten digits, each up to three times in a row, in running text: easy to miscount."""
    rng = random.Random(f"{seed}/digits")
    digits = ""
    while len(digits) < 10:
        digits += rng.choice([d for d in _DIGITS if not digits.endswith(d)]) * rng.randint(1, 3)
    return _noted(seed, "digit string", digits[:10])


def key_value(seed: str) -> Puzzle:
    """The value of a key among pairs of random ones, as lines of one JSON object."""
    key, value = (_uuid(f"{seed}/{name}") for name in ("key", "value"))

    def filler(number: int) -> str:
        return _pair(_uuid(f"{seed}/{number}/key"), _uuid(f"{seed}/{number}/value"))

    return Puzzle(
        statements=(_pair(key, value),),
        filler=filler,
        opening="The object below pairs keys with values.\n\n{",
        question=f'}}\n\nWhich value does the key "{key}" have?',
        answer_prefix=f' The value of "{key}" is "',
        references=(value,),
        unit="pair",
    )


def _noted(seed: str, name: str, value: str) -> Puzzle:
    sentences = list(noise_sentences())
    random.Random(f"{seed}/order").shuffle(sentences)
    return Puzzle(
        statements=(f"Note this down: the {name} is {value}. Once more, {value} is the {name}.",),
        filler=lambda number: sentences[number % len(sentences)],
        opening=_OPENING,
        question=f"What is the {name}?",
        answer_prefix=f" The {name} is",
        references=(value,),
        unit="sentence",
        joint=" ",
    )


def _pair(key: str, value: str) -> str:
    return f'"{key}": "{value}",'


def _uuid(seed: str) -> str:
    digits = f"{random.Random(seed).getrandbits(128):032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
