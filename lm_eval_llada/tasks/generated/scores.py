"""Scores of the generated sets, as the sets they follow define them, 0 to 100."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from lm_eval_llada.tasks.generated.facts import PLACES

_NOT_DIGITS = re.compile(r"[^0-9]+")
_MARKS = re.compile(r"[\n:\"'.,?!{}]")
_LIST = re.compile(r"Final Answer:\s*\[([^\]\n]*)\]?")


def first_number(prediction: str, references: Sequence[str]) -> float:
    """Return 100 where the first run of digits is the reference, else 0 (InfiniteBench)."""
    found = [digits for digits in _NOT_DIGITS.split(prediction) if digits]
    return 100.0 if found[:1] == [references[0]] else 0.0


def any_word(prediction: str, references: Sequence[str]) -> float:
    """Return 100 where the reference is one of the words, marks taken out (InfiniteBench)."""
    return 100.0 if references[0] in _MARKS.sub(" ", prediction).split() else 0.0


def node_f1(prediction: str, references: Sequence[str]) -> float:
    """Return the F1 of two sets of nodes, those of the last list among them (GraphWalks).

    Args:
        prediction: Holds `Final Answer: [node, node]`, or has no answer. A list that its text ends
            in before it closes counts as it stands: its beginning is part of the prompt here.
        references: The right nodes.
    """
    lists = _LIST.findall(prediction)
    if not lists:
        return 0.0
    found = {name.strip().strip("'\"") for name in lists[-1].split(",") if name.strip()}
    wanted = set(references)
    overlap = len(found & wanted)
    return 200.0 * overlap / (len(found) + len(wanted)) if overlap else 0.0


def only_place(prediction: str, references: Sequence[str]) -> float:
    """Return 100 where the first sentence names the right place and no other (BABILong)."""
    sentence = prediction.lower().split(".")[0]
    return 100.0 if {place for place in PLACES if place in sentence} == {references[0]} else 0.0


def copied(prediction: str, references: Sequence[str]) -> float:
    """Return the mean over references of how well each is there (RULERv2).

    A reference that the output holds, in whatever case, counts 1; else one less the share of word
    errors of the whole output against it, never under 0.
    """
    text = prediction.lower()
    shares = [_share(text, reference.lower()) for reference in references]
    return 100.0 * sum(shares) / len(shares)


def _share(text: str, reference: str) -> float:
    if reference in text:
        return 1.0
    words = reference.split()
    return max(0.0, 1.0 - Levenshtein.distance(text.split(), words) / len(words))
