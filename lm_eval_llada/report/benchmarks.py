"""RULER and LongBench of an evaluation: scores by task, and the means that are published.

Scores are 0-100.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lm_eval_llada.report.evaluations import Evaluation, TaskResult
from lm_eval_llada.tasks.longbench.scores import CATEGORIES, DATASETS, longbench_averages
from lm_eval_llada.tasks.ruler.scores import GROUPS, ruler_averages

RULER_TASKS: tuple[str, ...] = tuple(task for group in GROUPS.values() for task in group)
_OWN_SETTING = "package"
_REDUCED = "reduced"
_MOST_NAMED = 4


@dataclass(frozen=True)
class Scores:
    """Scores of one benchmark at one length, of tasks that belong together.

    Attributes:
        protocol: The paper whose protocol the tasks follow, as their names begin; ``package`` for
            the package's own tasks; with ``reduced`` for those of smaller numbers.
        length: Of the context, for RULER in tokens of prompt and output, for LongBench of the
            prompt.
        tasks: What was measured, by the benchmark's own name of the task.
    """

    protocol: str
    length: int
    tasks: Mapping[str, TaskResult]

    @property
    def values(self) -> dict[str, float]:
        """Score by task."""
        return {name: score for name, t in self.tasks.items() if (score := t.score) is not None}

    def stderr(self, names: Iterable[str]) -> float | None:
        """Standard error of the mean over some tasks, which are independent of each other.

        None where the error of one of them is not known.
        """
        errors = [self.tasks[name].stderr if name in self.tasks else None for name in names]
        known = [error for error in errors if error is not None]
        if not errors or len(known) < len(errors):
            return None
        return math.sqrt(math.fsum(error**2 for error in known)) / len(errors)

    def remarks(self, wanted: Iterable[str]) -> str:
        """What is missing of some tasks, or was cut short; empty if nothing is."""
        names = list(wanted)
        absent = [name for name in names if name not in self.values]
        by_remark = {"not run": absent}
        for name in names:
            if name in self.tasks and not self.tasks[name].is_whole:
                by_remark.setdefault(self.tasks[name].extent, []).append(name)
        return "; ".join(
            f"{remark}: {_named(found, len(names))}" for remark, found in by_remark.items() if found
        )


def ruler_scores(evaluation: Evaluation) -> list[Scores]:
    """RULER's tasks by protocol and length, in this order."""
    return _gathered(evaluation, "ruler_task", RULER_TASKS)


def longbench_scores(evaluation: Evaluation) -> list[Scores]:
    """LongBench's datasets by protocol and prompt length, in this order."""
    return _gathered(evaluation, "dataset", DATASETS)


def ruler_means(scores: Scores) -> dict[str, tuple[float | None, float | None]]:
    """Mean and standard error of ``niah``, ``agg``, ``qa`` and, over the 13, of ``average``."""
    groups = {**GROUPS, "average": RULER_TASKS}
    means = ruler_averages(scores.values)
    return {
        name: (means[name], _error(scores, tasks, means[name])) for name, tasks in groups.items()
    }


def longbench_means(scores: Scores) -> dict[str, tuple[float | None, float | None]]:
    """Mean and standard error by name of ``metrics.longbench.longbench_averages``.

    The means of a language and of the categories carry no standard error here.
    """
    groups = {c: [n for n, d in DATASETS.items() if d.category == c] for c in CATEGORIES}
    groups["datasets"] = list(DATASETS)
    return {
        name: (mean, _error(scores, groups.get(name, ()), mean))
        for name, mean in longbench_averages(scores.values).items()
    }


def _gathered(evaluation: Evaluation, key: str, known: Iterable[str]) -> list[Scores]:
    """Tasks whose metadata name one of ``known``, by protocol and length."""
    names = set(known)
    found: dict[tuple[str, int], dict[str, TaskResult]] = {}
    for task in evaluation.tasks.values():
        name = task.metadata.get(key)
        is_known = isinstance(name, str) and name in names
        if is_known and task.length is not None and task.score is not None:
            found.setdefault((_protocol(task.name), task.length), {})[str(name)] = task
    return [Scores(protocol, length, tasks) for (protocol, length), tasks in sorted(found.items())]


def _protocol(task: str) -> str:
    head = task.partition("ruler_")[0] if "ruler_" in task else task.partition("longbench_")[0]
    name = head.strip("_") or _OWN_SETTING
    return f"{name}, {_REDUCED}" if _REDUCED in task.split("_") else name


def _error(scores: Scores, names: Iterable[str], mean: float | None) -> float | None:
    return None if mean is None else scores.stderr(names)


def _named(names: list[str], total: int) -> str:
    if len(names) > _MOST_NAMED:
        return f"{len(names)} of {total} tasks"
    return ", ".join(names)
