"""Scores of RULER: which references an output holds, and the averages over its 13 tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from lm_eval_llada.errors import unknown_choice

GROUPS: dict[str, tuple[str, ...]] = {
    "niah": (
        *("niah_single_1", "niah_single_2", "niah_single_3"),
        *("niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
        *("niah_multivalue", "niah_multiquery"),
    ),
    "agg": ("vt", "cwe", "fwe"),
    "qa": ("qa_1", "qa_2"),
}
"""The tasks of each group; together the 13 of the benchmark."""


def string_match_all(prediction: str, references: Sequence[str]) -> float:
    """Return the share of the references that the output holds, 0 to 100, whatever their case.

    The original first turns control characters of the output into line breaks, which matters to
    no reference without them.

    Args:
        prediction: What the model wrote.
        references: What it should hold, at least one, none of them empty.

    Raises:
        ValueError: If there is no reference, or an empty one, which every output would hold.

    Source: RULER (arXiv 2404.06654), recall of all tasks but QA.
    """
    return 100.0 * fmean(_found(prediction, references))


def string_match_part(prediction: str, references: Sequence[str]) -> float:
    """Return 100 where the output holds any of the references, else 0, whatever their case.

    Args:
        prediction: What the model wrote.
        references: Answers of which each is enough, at least one, none of them empty.

    Raises:
        ValueError: If there is no reference, or an empty one, which every output would hold.

    Source: RULER (arXiv 2404.06654), score of the QA tasks.
    """
    return 100.0 * max(_found(prediction, references))


def ruler_averages(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Return the mean of each group of tasks, and of all 13 tasks as ``average``.

    Every task weighs the same, so the average is (8 NIAH + 3 AGG + 2 QA) / 13 of the groups.

    Args:
        scores: Score of each task that was run, by the names of ``GROUPS``, in any unit.

    Returns:
        A mean for ``niah``, ``agg``, ``qa`` and ``average``; None where a task of it was not run,
        for a mean over fewer tasks is not the published one.

    Raises:
        ValueError: If a task is unknown.

    Source: LongLLaDA (arXiv 2506.14429) and UltraLLaDA (arXiv 2510.10481).
    """
    tasks = [task for group in GROUPS.values() for task in group]
    for task in scores:
        if task not in tasks:
            raise unknown_choice("task", task, tasks)
    return {
        name: fmean(scores[task] for task in group) if set(group) <= set(scores) else None
        for name, group in [*GROUPS.items(), ("average", tasks)]
    }


def ruler_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return the score of one sample, as lm-eval's ``process_results``.

    Args:
        doc: A sample of ``data.ruler``: its task and, under outputs, its references.
        results: The output, alone in a list.

    Returns:
        Under ``score``, 0 to 100: ``string_match_part`` for the QA tasks, ``string_match_all`` for
        the others.
    """
    score = string_match_part if doc["task"] in GROUPS["qa"] else string_match_all
    return {"score": score(results[0], doc["outputs"])}


def _found(prediction: str, references: Sequence[str]) -> list[bool]:
    if isinstance(references, str) or not references or not all(references):
        raise ValueError(
            f"references must be a list of at least one text, none of them empty; got "
            f"{references!r}."
        )
    lowered = prediction.lower()
    return [reference.lower() in lowered for reference in references]
