"""Needles of the user's: sentences with a question and a keyword, from a task file or a jsonl."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval_llada.tasks.niah.needles import Needle
from lm_eval_llada.tasks.text.sources import read_json_lines

NUMBER = "{number}"
"""In a needle, its question or its answer: five digits, others in each repeat."""

_FIELDS = ("needle", "question", "answer")
_OPTIONAL = ("stem",)

Rows = str | Path | Sequence[Mapping[str, Any]]


def own_needles(
    given: Rows, seed: int, repeat: int, num_distractors: int, avoid: str = ""
) -> list[Needle]:
    """Return the needle of one repeat, followed by others that distract from it.

    Repeats take the needles in turn. One that holds `NUMBER` is another in each, so it may come
    again; one that does not may not.

    Args:
        given: Mappings with needle, question, answer and maybe stem, the beginning of the answer
            sentence (what the needle has before its answer); or a JSON-lines file of them.
        seed: Seed of the numbers and of the order of distractors.
        repeat: Number of the repeat, from 0.
        num_distractors: How many others to add.
        avoid: The haystack's source. Numbers that occur in it are drawn again.

    Raises:
        ValueError: If a needle lacks something or the haystack holds its answer, or there are too
            few.
        FileNotFoundError: If there is no such file.
    """
    rows = _rows(given)
    if repeat >= len(rows) and NUMBER not in rows[repeat % len(rows)]["needle"]:
        raise ValueError(
            f"repeats must be at most {len(rows)}, the number of needles, unless they hold "
            f"{NUMBER}; repeat {repeat + 1} was asked for."
        )
    if num_distractors >= len(rows):
        raise ValueError(
            f"num_distractors must be less than {len(rows)}, the number of needles; got "
            f"{num_distractors}."
        )
    first = repeat % len(rows)
    others = [place for place in range(len(rows)) if place != first]
    random.Random(f"{seed}/{repeat}/own").shuffle(others)
    rng = random.Random(f"{seed}/{repeat}/numbers")
    numbers: list[int] = []
    while len(numbers) < 1 + num_distractors:
        number = rng.randrange(10_000, 100_000)
        if number not in numbers and str(number) not in avoid:
            numbers.append(number)
    chosen = [first, *others[:num_distractors]]
    needles = [
        _needle(rows[place], place, number) for place, number in zip(chosen, numbers, strict=True)
    ]
    if needles[0].answer in avoid:
        raise ValueError(
            f"The haystack itself holds the answer {needles[0].answer!r}, so that finding it says "
            "nothing; change the needle or the haystack."
        )
    return needles


def check_needles(given: Any) -> None:
    """Stop unless these are needles of one's own.

    Raises:
        ValueError: Naming what is wrong with which.
        FileNotFoundError: If there is no such file.
    """
    for place, row in enumerate(_rows(given)):
        _needle(row, place, 12_345)


def _rows(given: Any) -> list[dict[str, str]]:
    if isinstance(given, str | Path):
        found: Any = read_json_lines(Path(given).expanduser())
    else:
        found = list(given) if isinstance(given, Sequence) else given
    if not isinstance(found, list) or not found:
        raise ValueError(
            "needles must be auto, numbers, needlebench, a .jsonl file, or a list with needle, "
            f"question and answer each; got {given!r}."
        )
    for place, row in enumerate(found):
        if not isinstance(row, Mapping) or not all(isinstance(v, str) for v in row.values()):
            raise ValueError(
                f"Needle {place + 1} must have texts as needle, question and answer; got {row!r}."
            )
        if missing := [name for name in _FIELDS if not row.get(name)]:
            raise ValueError(f"Needle {place + 1} lacks {' and '.join(missing)}; got {dict(row)}.")
        if unknown := sorted(row.keys() - {*_FIELDS, *_OPTIONAL}):
            raise ValueError(
                f"Needle {place + 1} has {', '.join(unknown)}, which nothing reads; its names are "
                f"{', '.join((*_FIELDS, *_OPTIONAL))}."
            )
    return [dict(row) for row in found]


def _needle(row: Mapping[str, str], place: int, number: int) -> Needle:
    filled = {name: text.replace(NUMBER, str(number)) for name, text in row.items()}
    statement, answer = filled["needle"], filled["answer"]
    if answer in filled["question"]:
        raise ValueError(f"The question of needle {place + 1} holds its answer {answer!r}.")
    before, found, _ = statement.partition(answer)
    stem = filled.get("stem") or (before.rstrip() if found else "")
    if not stem:
        raise ValueError(
            f"Needle {place + 1} must hold its answer {answer!r} behind some words, with which "
            "the answer begins; or give these as stem."
        )
    return Needle(
        statement=statement,
        question=filled["question"],
        stem=stem,
        answer=answer,
        reference=f"{stem} {answer}." if not found else statement,
        key=f"needle {place + 1}",
    )
