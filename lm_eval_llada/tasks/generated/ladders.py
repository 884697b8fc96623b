"""Ladders of several keys and several values, in the manner of RULERv2: find, copy, use.

Each rung asks more of the same list: a value by its key; the entry itself; the entry and what
follows from it; what follows from it alone. The original fills its lists with exam questions, which
are no part of this package; here entries are sums, so scores do not compare.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from lm_eval_llada.tasks.generated.puzzle import Puzzle
from lm_eval_llada.tasks.niah.words import KEYS

RUNGS = ("basic", "easy", "medium", "hard")
NUM_VALUES = 4
_OPENING = "Below is a list of entries. Read it to its end; a question about it follows."


def several_keys(seed: str, rung: str) -> Puzzle:
    """One entry among many of the same form.

    Args:
        seed: Names the sample.
        rung: One of `RUNGS`.
    """
    key, filler = _names(seed)
    first, second = _terms(f"{seed}/asked")
    if rung == "basic":
        lines, question = [_number_line(key, first)], f"What is the number of {key}?"
        prefix = f" The number of {key} is"
        return _asked(seed, lines, filler, _number_line, question, prefix, [str(first)])
    entry, total = f"{first} + {second}", str(first + second)
    question, prefix, references = {
        "easy": (f"Copy the sum of {key}.", f" The sum of {key} is", [entry]),
        "medium": (
            f"First copy the sum of {key}, then work it out.",
            f" The sum of {key} is",
            [entry, total],
        ),
        "hard": (f"Work out the sum of {key}.", f" The sum of {key} comes to", [total]),
    }[rung]
    return _asked(
        seed, [_sum_line(key, first, second)], filler, _sum_line, question, prefix, references
    )


def several_values(seed: str, rung: str) -> Puzzle:
    """All entries of one key, among those of others.

    Args:
        seed: Names the sample.
        rung: One of `RUNGS`.
    """
    key, filler = _names(seed)
    numbers = random.Random(f"{seed}/values").sample(range(10_000, 100_000), NUM_VALUES)
    values, largest = [str(number) for number in numbers], str(max(numbers))
    question, prefix, references = {
        "basic": (f"What are all numbers of {key}?", f" The numbers of {key} are", values),
        "easy": (
            f"Copy all entries of {key}.",
            "",
            [_number_line(key, number) for number in numbers],
        ),
        "medium": (
            f"First copy all numbers of {key}, then say which is the largest.",
            f" The numbers of {key} are",
            [*values, f"largest is {largest}"],
        ),
        "hard": (
            f"Which is the largest number of {key}?",
            f" The largest number of {key} is",
            [largest],
        ),
    }[rung]
    lines = [_number_line(key, number) for number in numbers]
    return _asked(seed, lines, filler, _number_line, question, prefix, references)


def _asked(
    seed: str,
    lines: list[str],
    name_of: Callable[[int], str],
    line: Callable[..., str],
    question: str,
    prefix: str,
    references: list[str],
) -> Puzzle:
    def filler(number: int) -> str:
        first, second = _terms(f"{seed}/{number}/terms")
        return line(name_of(number), first, second)

    return Puzzle(
        statements=tuple(lines),
        filler=filler,
        opening=_OPENING,
        question=question,
        answer_prefix=prefix,
        references=tuple(references),
        unit="entry",
    )


def _names(seed: str) -> tuple[str, Callable[[int], str]]:
    """The key that is asked about, and those of other entries, each of which is another."""
    start = random.Random(f"{seed}/keys").randrange(len(KEYS))
    step = 5_003  # prime to their number, so that neighbours in the list have little in common

    def name_of(number: int) -> str:
        lap, place = divmod(number + 1, len(KEYS))
        name = KEYS[(start + step * place) % len(KEYS)]
        return f"{name}-{lap + 1}" if lap else name

    return KEYS[start], name_of


def _terms(seed: str) -> tuple[int, int]:
    rng = random.Random(seed)
    return rng.randrange(10_000, 100_000), rng.randrange(10_000, 100_000)


def _number_line(key: str, number: int, _: int = 0) -> str:
    return f"The number of {key} is {number}."


def _sum_line(key: str, first: int, second: int) -> str:
    return f"The sum of {key} is {first} + {second}."
