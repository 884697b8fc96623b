"""Stands in for a model: a program that reads the prompt of a RULER task and answers it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import NoReturn

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM


def answer(prompt: str) -> str:
    """Answer a task out of its prompt: rightly but for QA, which takes more than reading."""
    opening = prompt[:300]
    if "numbered list of words" in opening:
        return _most_common(_listed_words(prompt), 10)
    if "coded text" in opening:
        _, _, text = prompt.partition("coded words.")
        text, _, _ = text.rpartition("Question:")
        return _most_common([word for word in text.split() if word.strip(".")], 3)
    if "variable assignment" in opening:
        return _variables(prompt)
    if "given documents" in opening:
        return _lines_about_the_last_word(prompt)
    return _hidden_values(prompt)


def second_half(prompt: str) -> str:
    """Forget the first half of the context, but not the words before it, as a short reach would."""
    opening, _, rest = prompt.partition("\n")
    return opening + "\n" + rest[len(rest) // 2 :]


def _most_common(words: list[str], number: int) -> str:
    return " ".join(word for word, _ in Counter(words).most_common(number))


def _listed_words(prompt: str) -> list[str]:
    _, _, asked = prompt.rpartition("Below is a numbered list")
    listed, _, _ = asked.partition("Question:")
    return [word.strip() for word in re.split(r"(?:^|\s)\d+\. ", listed)[1:]]


def _variables(prompt: str) -> str:
    _, _, asked = prompt.rpartition("Memorize and track")
    (value,) = re.findall(r"assigned the value (\d+) in", asked)
    holders = [value]
    for name, source in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)", asked):
        if source in holders:
            holders.append(name)
    return " ".join(holders[1:])


def _lines_about_the_last_word(prompt: str) -> str:
    documents, _, question = prompt.rpartition("\nQuestion: ")
    word = question.split("?")[0].split()[-1]
    return "\n".join(line for line in documents.splitlines() if word in line)


def _hidden_values(prompt: str) -> str:
    context, _, question = prompt.rpartition("\nWhat ")
    asked = re.findall(r" for (.+?) mentioned in", question)
    keys = re.split(r", and |, ", asked[0])
    found = re.findall(r"special magic \w+ for ([^\n:]+?) is: ([\w-]+)\.", context)
    return " ".join(value for key, value in found if key in keys)


class Reader(LM):
    """A model that answers by ``answer``, from what ``sees`` leaves of the prompt."""

    def __init__(self, sees: Callable[[str], str] = str) -> None:
        super().__init__()
        self.sees = sees

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return [answer(self.sees(request.args[0])) for request in requests]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> NoReturn:
        raise NotImplementedError

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> NoReturn:
        raise NotImplementedError
