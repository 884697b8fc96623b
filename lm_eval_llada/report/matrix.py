"""The first thing of a report: every run and task in one matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from lm_eval_llada.report.benchmarks import (
    Scores,
    longbench_means,
    longbench_scores,
    ruler_means,
    ruler_scores,
)
from lm_eval_llada.report.document import Section, number, signed
from lm_eval_llada.report.evaluations import Evaluation, TaskResult
from lm_eval_llada.report.kinds import difference, kind_of, mean_difference
from lm_eval_llada.report.page_blocks import Matrix, MatrixRow, Run, Score, cell_anchor
from lm_eval_llada.report.perplexity import is_at_length
from lm_eval_llada.report.settings import named_runs
from lm_eval_llada.report.verdicts import (
    BETTER,
    EQUAL,
    NOT_TOLD_APART,
    WORSE,
    lower_is_better,
    score_interval,
    spans,
    verdict,
)
from lm_eval_llada.tasks.statistics import NORMAL

_GROUPS = ("NIAH", "RULER", "LongBench", "Perplexity", "Other tasks")
_WIDEST = 100.0
# Of tasks of others, the metric that is usually quoted; else their first.
_USUAL = ("score", "acc_norm", "acc", "exact_match", "pass@1", "f1", "rouge1", "bits_per_byte")
_CAPTION = (
    "Scores 0-100 (perplexities per token), 95 % intervals below them. The best of a line is "
    "marked; what is not told apart from it may be as good."
)

_Changes = Mapping[str, tuple[tuple[str, str], ...]]
_Means = Callable[[Scores], Mapping[str, tuple[float | None, float | None]]]


def matrix_section(evaluations: Sequence[Evaluation], baseline: str = "") -> Section | None:
    """Run by task: scores, intervals, the best of each line, differences to every other run.

    Args:
        evaluations: In the order of the report.
        baseline: Label of the run that a page shows the others against at first; empty for none.
    """
    runs = named_runs(evaluations)
    rows = [*_mean_rows(evaluations, runs), *_task_rows(evaluations, runs)]
    if not rows:
        return None
    ordered = sorted(rows, key=lambda row: _GROUPS.index(row.group))
    tag = next((run.tag for run in runs if run.label == baseline), "")
    return Section("All runs", (Matrix(runs, tuple(ordered), _CAPTION, tag),))


def benchmarks_of(evaluations: Iterable[Evaluation]) -> list[str]:
    """What was run, in the order of the matrix: ``NIAH``, ``RULER`` and so on."""
    found = {
        _group(task, metric)
        for evaluation in evaluations
        for task in evaluation.tasks.values()
        for metric in _shown(task)
    }
    others = {t.name for e in evaluations for t in e.tasks.values() for m in _shown(t)
              if _group(t, m) == _GROUPS[-1]}  # fmt: skip
    named = [name for name in _GROUPS[:3] if name in found]
    named += ["perplexity"] if _GROUPS[3] in found else []
    return [*named, *(sorted(others) if len(others) < 3 else ["others"])]


def _task_rows(evaluations: Sequence[Evaluation], runs: Sequence[Run]) -> list[MatrixRow]:
    names: dict[tuple[str, str], TaskResult] = {}
    for evaluation in evaluations:
        for task in evaluation.tasks.values():
            for metric in _shown(task):
                names.setdefault((task.name, metric), task)
    ordered = sorted(names.items(), key=lambda item: _place(item[1], item[0][1]))
    return [
        MatrixRow(
            _group(task, metric),
            _name(name, metric),
            _scores(evaluations, runs, name, metric),
            _changes(evaluations, runs, name, metric),
        )
        for (name, metric), task in ordered
    ]


def _place(task: TaskResult, metric: str) -> tuple[int, int, str]:
    kind = kind_of(task)
    at = int(metric.removeprefix("ppl_")) if is_at_length(metric) else 0
    return (task.length or at, kind.order if kind else 0, task.name)


def _shown(task: TaskResult) -> list[str]:
    """The metrics of a task that a matrix has: one, or the perplexity at every length."""
    lengths = sorted(metric for metric in task.metrics if is_at_length(metric))
    if lengths:
        return lengths
    usual = [
        metric for name in _USUAL for metric in task.metrics if metric.partition(",")[0] == name
    ]
    return (usual or list(task.metrics))[:1]


def _group(task: TaskResult, metric: str) -> str:
    kind = kind_of(task)
    if kind is not None:
        return kind.benchmark
    return "Perplexity" if is_at_length(metric) else _GROUPS[-1]


def _name(task: str, metric: str) -> str:
    if is_at_length(metric):
        return f"{task} at {int(metric.removeprefix('ppl_')):,}"
    return task if metric == "score" else f"{task} ({metric})"


def _scores(
    evaluations: Sequence[Evaluation], runs: Sequence[Run], name: str, metric: str
) -> tuple[Score | None, ...]:
    found = [_score(e, run, name, metric) for e, run in zip(evaluations, runs, strict=True)]
    values = [e.tasks[name].metrics[metric] if s else None
              for e, s in zip(evaluations, found, strict=True)]  # fmt: skip
    return _with_best(found, values, lower_is_better(metric))


def _score(evaluation: Evaluation, run: Run, name: str, metric: str) -> Score | None:
    task = evaluation.tasks.get(name)
    if task is None or metric not in task.metrics:
        return None
    value, samples = task.metrics[metric], evaluation.samples.get(name, ())
    interval = score_interval(task, samples, metric)
    is_score = metric == "score"
    digits = 1 if is_score else 2 if is_at_length(metric) else 4
    words = ""
    if interval is not None:
        low, high = interval
        words = spans(*interval) if is_score else f"{number(low, digits)}–{number(high, digits)}"
    count = "number of samples unknown" if task.samples is None else f"{task.samples} samples"
    extent = "" if task.is_whole or task.planned is None else f" of {task.planned}"
    return Score(
        number(value, digits),
        value if is_score else None,
        words,
        f"{run.tag}, {name}: {count}{extent}",
        cell_anchor(run.tag, name) if samples else "",
    )


def _with_best(
    scores: Sequence[Score | None], values: Sequence[float | None], is_lower: bool
) -> tuple[Score | None, ...]:
    known = [value for value in values if value is not None]
    # Where all are alike, nothing is best.
    if len(known) < 2 or len(set(known)) < 2:
        return tuple(scores)
    best = min(known) if is_lower else max(known)
    return tuple(
        replace(s, is_best=True) if s and v == best else s
        for s, v in zip(scores, values, strict=True)
    )


def _changes(
    evaluations: Sequence[Evaluation], runs: Sequence[Run], name: str, metric: str
) -> _Changes:
    return {
        run.tag: tuple(_change(base, other, name, metric) for other in evaluations)
        for base, run in zip(evaluations, runs, strict=True)
        if _has(base, name, metric)
    }


def _change(base: Evaluation, other: Evaluation, name: str, metric: str) -> tuple[str, str]:
    if base is other:
        return "baseline", "base"
    if not _has(other, name, metric) or kind_of(base.tasks[name]) != kind_of(other.tasks[name]):
        return "", ""
    found = verdict(base, other, name, metric)
    if found.kind == EQUAL:
        return EQUAL, EQUAL
    # Few samples make intervals wider than any score.
    known = "" if found.half is None else f" ± {number(found.half, found.digits)}"
    half = " ± over 100" if found.half is not None and found.half > _WIDEST else known
    kind = "" if found.kind == NOT_TOLD_APART else found.kind
    return f"{signed(found.difference.value, found.digits)}{half}", kind


def _has(evaluation: Evaluation, name: str, metric: str) -> bool:
    return name in evaluation.tasks and metric in evaluation.tasks[name].metrics


def _mean_rows(evaluations: Sequence[Evaluation], runs: Sequence[Run]) -> list[MatrixRow]:
    """The means that the benchmarks define, where all of their tasks were run."""
    rows = []
    for group, find, means, wanted in _BENCHMARKS:
        keys = sorted({(s.length, s.protocol) for e in evaluations for s in find(e)})
        for length, protocol in keys:
            by_run = [
                next((s for s in find(e) if (s.length, s.protocol) == (length, protocol)), None)
                for e in evaluations
            ]
            of = "" if protocol == "package" else f", {protocol}"
            for name, title in wanted.items():
                row = _mean_row(f"{title} at {length:,}{of}", group, by_run, means, name)
                if row is not None:
                    changes = _mean_changes(evaluations, runs, by_run)
                    is_all = name in ("average", "datasets")
                    rows.append(replace(row, changes=changes) if is_all else row)
    return rows


def _mean_row(
    title: str, group: str, by_run: Sequence[Scores | None], means: _Means, name: str
) -> MatrixRow | None:
    scores: list[Score | None] = []
    values: list[float | None] = []
    for found in by_run:
        value, error = means(found)[name] if found else (None, None)
        values.append(value)
        if value is None:
            scores.append(None)
            continue
        interval = ""
        if error:  # without spread its interval is not known to be a point
            interval = spans(max(0.0, value - NORMAL * error), min(100.0, value + NORMAL * error))
        scores.append(Score(number(value), value, interval, "mean of all its tasks"))
    if not any(scores):
        return None
    return MatrixRow(group, title, _with_best(scores, values, False))


def _mean_changes(
    evaluations: Sequence[Evaluation], runs: Sequence[Run], by_run: Sequence[Scores | None]
) -> _Changes:
    changes: dict[str, tuple[tuple[str, str], ...]] = {}
    for base, run, own in zip(evaluations, runs, by_run, strict=True):
        if own is None:
            continue
        line = []
        for other, found in zip(evaluations, by_run, strict=True):
            if found is None or other is base or found.tasks.keys() != own.tasks.keys():
                line.append(("baseline", "base") if other is base else ("", ""))
                continue
            names = [task.name for task in own.tasks.values()]
            change = mean_difference([difference(base, other, n, "score") for n in names])
            half = None if change.stderr is None else NORMAL * change.stderr
            is_clear = half is not None and abs(change.value) > half
            kind = (BETTER if change.value > 0 else WORSE) if is_clear else ""
            known = "" if half is None else f" ± {number(half)}"
            line.append((f"{signed(change.value)}{known}", kind))
        changes[run.tag] = tuple(line)
    return changes


_BENCHMARKS: tuple[
    tuple[str, Callable[[Evaluation], list[Scores]], _Means, Mapping[str, str]], ...
] = (
    (
        "RULER",
        ruler_scores,
        ruler_means,
        {"average": "average of 13", "niah": "NIAH (8)", "agg": "AGG (3)", "qa": "QA (2)"},
    ),
    ("LongBench", longbench_scores, longbench_means, {"datasets": "mean of 21"}),
)
