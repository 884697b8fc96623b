"""Needles: the sentences that are hidden, and the questions that ask for them back."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lm_eval_llada.tasks.niah.words import ATTRIBUTES, KEYS
from lm_eval_llada.tasks.text.haystacks import HUB_REVISION, read_needlebench

STATEMENT = "The {attribute} for {key} is {number}."
"""Pattern of a generated needle."""

QUESTION = "What is the {attribute} for {key}?"
"""Pattern of the question about a generated needle."""

STEM = "The {attribute} for {key} is"
"""Pattern of the answer's beginning; the model continues it, starting with a space."""

# NeedleBench asks for the answer "in the format '<stem>________.'"; the group is the stem.
_ANSWER_FORMAT = re.compile(r"(?P<question>.*\?)\s*Please answer in the format '(?P<stem>.*?)_+")


@dataclass(frozen=True)
class Needle:
    """One hidden fact.

    Attributes:
        statement: The sentence that goes into the haystack.
        question: What is asked about it.
        stem: The beginning of the answer sentence, with which the prompt ends.
        answer: The keyword that a right answer holds.
        reference: The whole answer sentence, for the edit similarity of a wrong answer.
        key: What tells this needle from the others of one sample.
    """

    statement: str
    question: str
    stem: str
    answer: str
    reference: str
    key: str


def number_needle(attribute: str, key: str, number: int) -> Needle:
    """Write the needle that says which number belongs to a key.

    Args:
        attribute: What the number is called, such as ``magic number``.
        key: What it belongs to, such as ``amber-otter``.
        number: The number itself.

    Returns:
        The needle; its answer is the number in decimal digits.
    """
    statement = STATEMENT.format(attribute=attribute, key=key, number=number)
    return Needle(
        statement=statement,
        question=QUESTION.format(attribute=attribute, key=key),
        stem=STEM.format(attribute=attribute, key=key),
        answer=str(number),
        reference=statement,
        key=key,
    )


def number_needles(seed: int, repeat: int, num_distractors: int, avoid: str = "") -> list[Needle]:
    """Draw the needle of one repeat, followed by its distractors.

    All needles of a sample share the attribute, so that only the key tells them apart. Needles of
    different repeats have different keys.

    Args:
        seed: Seed of the data set.
        repeat: Number of the repeat, from 0.
        num_distractors: How many needles with other keys and other numbers to add.
        avoid: The haystack's source. Numbers that occur in it are drawn again.

    Returns:
        ``1 + num_distractors`` needles with distinct keys and distinct five-digit numbers.

    Raises:
        ValueError: If more needles or repeats are asked for than there are keys.
    """
    keys = _shuffled_keys(seed)
    _require_enough("generated needles", len(keys), repeat, num_distractors)
    rng = random.Random(f"{seed}/{repeat}/numbers")
    attribute = rng.choice(ATTRIBUTES)
    # Numbers come before keys and one by one: more distractors leave the needle as it was.
    numbers: list[int] = []
    while len(numbers) < 1 + num_distractors:
        number = rng.randrange(10_000, 100_000)
        if number not in numbers and str(number) not in avoid:
            numbers.append(number)
    others = rng.sample([key for key in keys if key != keys[repeat]], num_distractors)
    chosen = [keys[repeat], *others]
    return [number_needle(attribute, key, n) for key, n in zip(chosen, numbers, strict=True)]


def needlebench_needles(
    seed: int,
    repeat: int,
    num_distractors: int,
    data_dir: str | Path | None = None,
    revision: str = HUB_REVISION,
) -> list[Needle]:
    """Draw the needle of one repeat from NeedleBench's English ones, followed by its distractors.

    Args:
        seed: Seed of the data set.
        repeat: Number of the repeat, from 0. Different repeats get different needles.
        num_distractors: How many needles of other keys with other keywords to add.
        data_dir: Folder that holds ``needlebench/needles.jsonl``; the hub where it is None.
        revision: Revision of the hub repository.

    Returns:
        ``1 + num_distractors`` needles. None of their keywords is part of another's statement.

    Raises:
        ValueError: If the file has too few needles for ``repeat`` or ``num_distractors``.
        FileNotFoundError: If the file is neither there nor to be had from the hub.
    """
    needles = list(_needlebench(data_dir, revision))
    random.Random(f"{seed}/needlebench").shuffle(needles)
    _require_enough("NeedleBench's English needles", len(needles), repeat, num_distractors)
    chosen = [needles[repeat]]
    candidates = needles[:repeat] + needles[repeat + 1 :]
    random.Random(f"{seed}/{repeat}/needlebench").shuffle(candidates)
    for candidate in candidates:
        if len(chosen) == 1 + num_distractors:
            break
        if all(_distinct(candidate, needle) for needle in chosen):
            chosen.append(candidate)
    if len(chosen) < 1 + num_distractors:
        raise ValueError(
            f"num_distractors={num_distractors} is more than NeedleBench can give this needle: "
            f"{len(chosen) - 1} others have both another key and another keyword."
        )
    return chosen


def needlebench_drawn(
    repeat: int, data_dir: str | Path | None = None, revision: str = HUB_REVISION
) -> Needle:
    """Return the needle that NeedleBench's own single retrieval draws for a repeat.

    OpenCompass seeds Python's generator with the number of the repeat and chooses among the English
    needles, the same ones at every length and depth. Repeats 3 and 4 draw the same needle from the
    188 of the file, so that ten repeats have nine.

    Args:
        repeat: Number of the repeat, from 0.
        data_dir: Folder that holds ``needlebench/needles.jsonl``; the hub where it is None.
        revision: Revision of the hub repository.

    Raises:
        FileNotFoundError: If the file is neither there nor to be had from the hub.

    Source: OpenCompass 0.4.2, ``datasets/needlebench/origin.py``.
    """
    return random.Random(repeat).choice(_needlebench(data_dir, revision))


def parse_needlebench(row: dict[str, str]) -> Needle:
    """Turn a line of NeedleBench's ``needles.jsonl`` into a needle.

    The question loses its request to "answer in the format ...", and the sentence quoted there, up
    to its blank, becomes the stem. Source: the LongLLaDA protocol (arXiv 2506.14429).

    Args:
        row: A line with the fields needle, retrieval_question, gold_standard_answer, arg1 and arg2.

    Returns:
        The needle; its answer is ``arg2``.

    Raises:
        ValueError: If a field is missing or the question quotes no answer format.
    """
    required = ("needle", "retrieval_question", "gold_standard_answer", "arg1", "arg2")
    missing = [name for name in required if name not in row]
    if missing:
        raise ValueError(
            f"A line of needles.jsonl lacks {', '.join(missing)}; got the fields "
            f"{', '.join(sorted(row))}. Download the file again from the NeedleBench repository."
        )
    match = _ANSWER_FORMAT.match(row["retrieval_question"])
    if match is None:
        raise ValueError(
            "A retrieval_question must end in \"Please answer in the format '...________.'\"; got "
            f"{row['retrieval_question']!r}."
        )
    return Needle(
        statement=row["needle"],
        question=match["question"],
        stem=match["stem"].rstrip(),
        answer=row["arg2"],
        reference=row["gold_standard_answer"],
        key=row["arg1"],
    )


@lru_cache(maxsize=8)
def _shuffled_keys(seed: int) -> tuple[str, ...]:
    keys = list(KEYS)
    random.Random(f"{seed}/keys").shuffle(keys)
    return tuple(keys)


@lru_cache(maxsize=4)
def _needlebench(data_dir: str | Path | None, revision: str) -> tuple[Needle, ...]:
    rows = read_needlebench("needles.jsonl", data_dir, revision)
    needles: Sequence[Needle] = [
        parse_needlebench(row) for row in rows if row.get("language") == "English"
    ]
    return tuple(needles)


def _distinct(one: Needle, other: Needle) -> bool:
    return (
        one.key != other.key
        and one.answer not in other.statement
        and other.answer not in one.statement
    )


def _require_enough(what: str, available: int, repeat: int, num_distractors: int) -> None:
    if repeat >= available:
        raise ValueError(
            f"repeats must be at most {available}, the number of {what}; repeat {repeat + 1} was "
            "asked for."
        )
    if num_distractors >= available:
        raise ValueError(
            f"num_distractors must be less than {available}, the number of {what}; "
            f"got {num_distractors}."
        )
