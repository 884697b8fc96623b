"""Scores of NIAH, by depth and in all."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rapidfuzz.distance import Levenshtein

DEPTHS: tuple[int, ...] = tuple(range(0, 101, 10))
"""Depths in percent that the tasks report, each under its own name."""

_WHITE_SPACE = re.compile(r"\s+")


def edit_similarity(prediction: str, reference: str) -> float:
    """Return ``100 (1 - distance / length of the longer)`` of two texts, 0 to 100.

    The distance is Levenshtein's, with white space removed from both texts. Two empty texts are
    equal.
    """
    one, other = (_WHITE_SPACE.sub("", text) for text in (prediction, reference))
    return 100.0 * Levenshtein.normalized_similarity(one, other)


def niah_exact(prediction: str, answer: str) -> float:
    """Return 100 where the output holds the keyword, else 0.

    Raises:
        ValueError: If the keyword is empty, which every output would hold.
    """
    if not answer:
        raise ValueError("The answer of a NIAH sample must not be empty; got ''.")
    return 100.0 if answer in prediction else 0.0


def niah_score(prediction: str, answer: str, reference: str) -> float:
    """Return LongLLaDA's score of one output, 0 to 100.

    It is 100 where the output holds the keyword, else a fifth of the edit similarity to the whole
    answer sentence, so that a wrong output in the right words earns a few points.

    Args:
        prediction: What the model wrote.
        answer: The keyword.
        reference: The answer sentence.

    Source: LongLLaDA (arXiv 2506.14429) and the NeedleBench evaluator it uses.
    """
    return niah_exact(prediction, answer) or 0.2 * edit_similarity(prediction, reference)


def niah_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Score one output for lm-eval, with the same keys whatever the sample.

    Args:
        doc: A sample of ``data.niah``.
        results: The output, alone in a list.

    Returns:
        ``score`` and ``exact`` as numbers; ``depth_000`` to ``depth_100`` as (score, weight), with
        weight 1 at the sample's own depth and 0 elsewhere, for ``weighted_mean``; and
        ``score_clustered_se`` as (score, needle), for ``clustered_stderr_of_pairs``.
    """
    prediction = results[0]
    score = niah_score(prediction, doc["answer"], doc["reference"])
    by_depth = {
        f"depth_{depth:03d}": (score, 1.0) if doc["depth"] == depth else (0.0, 0.0)
        for depth in DEPTHS
    }
    return {
        "score": score,
        "exact": niah_exact(prediction, doc["answer"]),
        **by_depth,
        "score_clustered_se": (score, doc["needle_id"]),
    }


def niah_multi_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Score one output that was asked for several needles, with the same keys whatever the sample.

    Each needle scores 100 if its keyword is in the output, else 0. Nothing is given for similar
    words here: an output of many sentences is not to be compared to any one of them.

    Args:
        doc: A sample of ``data.niah_multi``.
        results: The output, alone in a list.

    Returns:
        ``score``, the mean over the needles; ``all_found``, 100 if none is missing, else 0; and
        ``depth_000`` to ``depth_100`` as (score, weight) of the needle at that depth, with weight 0
        where there is none, for ``weighted_mean``.

    Raises:
        ValueError: If the sample has no needle, or one without a keyword.

    Source: OpenCompass 0.4.2, ``datasets/needlebench/parallel.py``.
    """
    if not doc["answers"]:
        raise ValueError("A sample with several needles must have answers; got none.")
    scores = [niah_exact(results[0], answer) for answer in doc["answers"]]
    by_depth = {f"depth_{depth:03d}": (0.0, 0.0) for depth in DEPTHS}
    for depth, score in zip(doc["depths"], scores, strict=True):
        by_depth[f"depth_{int(depth):03d}"] = (score, 1.0)
    return {"score": math.fsum(scores) / len(scores), "all_found": min(scores), **by_depth}
