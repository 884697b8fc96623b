"""What a run came to, for the terminal: scores, needles by length and depth, RULER by kind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval_llada.report.benchmarks import RULER_TASKS, Scores, ruler_scores
from lm_eval_llada.report.document import GAP, number, with_error
from lm_eval_llada.report.evaluations import Evaluation, TaskResult
from lm_eval_llada.report.files import Found, ResultFile
from lm_eval_llada.report.needles import needle_scores
from lm_eval_llada.report.reading import read_evaluations
from lm_eval_llada.report.tables import FRONTIER_NOTE, depth_table
from lm_eval_llada.report.terminal import aligned
from lm_eval_llada.report.verdicts import score_interval, spans
from lm_eval_llada.tasks.ruler.scores import GROUPS

_KINDS = {**GROUPS, "all": RULER_TASKS}
# Shown by the score itself, or by the table of depths.
_SAID = ("score", "score_clustered_se")


def scored_tasks(results: Mapping[str, Any]) -> list[str]:
    """The tasks of a run that have a score of 0-100, which ``run_summary`` is about."""
    evaluation = _evaluation(results)
    return [] if evaluation is None else [t.name for t in evaluation.tasks.values() if _has(t)]


def run_summary(results: Mapping[str, Any]) -> str:
    """Tables of all tasks of the package that a run had; empty where it had none.

    Args:
        results: Of lm-eval, as ``simple_evaluate`` returns them.
    """
    evaluation = _evaluation(results)
    if evaluation is None:
        return ""
    tasks = [task for task in evaluation.tasks.values() if _has(task)]
    if not tasks:
        return ""
    needles = needle_scores(evaluation)
    parts = [_scores(tasks), *(depth_table(run) for run in needles.values())]
    if any(run.rope is not None for run in needles.values()):
        parts.append(FRONTIER_NOTE)
    by_kind = _ruler(ruler_scores(evaluation))
    return "\n\n".join([*parts, *([by_kind] if by_kind else [])])


def _has(task: TaskResult) -> bool:
    return task.score is not None


def _evaluation(results: Mapping[str, Any]) -> Evaluation | None:
    """The run as a report has it; None where a report could not read it either."""
    file = ResultFile(Path("run"), results)
    found = read_evaluations(Found((file,), (), (), ())).evaluations
    return found[0] if found else None


def _scores(tasks: Sequence[TaskResult]) -> str:
    others = list(
        dict.fromkeys(
            metric
            for task in tasks
            for metric in task.metrics
            if metric not in _SAID and not metric.startswith("depth_")
        )
    )
    rows = []
    for task in tasks:
        interval = score_interval(task, ())
        count = GAP if task.samples is None else str(task.samples)
        extent = count if task.is_whole or task.planned is None else f"{count} of {task.planned}"
        values = [number(task.metrics.get(metric), 2) for metric in others]
        known = spans(*interval) if interval else GAP
        rows.append([task.name, number(task.score), known, extent, *values])
    header = ["task", "score", "95 %", "samples", *others]
    return aligned(header, rows, [False, *[True] * (len(header) - 1)])


def _ruler(found: Sequence[Scores]) -> str:
    """Means by kind and length over the tasks that were run, with their number."""
    rows = []
    for scores in found:
        cells = []
        for names in _KINDS.values():
            run = [name for name in names if name in scores.values]
            if not run:
                cells.append(GAP)
                continue
            mean = math.fsum(scores.values[name] for name in run) / len(run)
            some = "" if len(run) == len(names) else f" ({len(run)} of {len(names)})"
            cells.append(with_error(mean, scores.stderr(run)) + some)
        of = "" if scores.protocol == "package" else scores.protocol
        rows.append([f"{scores.length:,}", *cells, of])
    if not rows:
        return ""
    header = ["length", "NIAH", "AGG", "QA", "mean", ""]
    text = aligned(header, rows, [True] * 5 + [False])
    return f"RULER by kind of task: mean score (0-100) ± standard error\n{text}"
