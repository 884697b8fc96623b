"""Runs beside a baseline: what is equal, better, worse, or not told apart, by task."""

from __future__ import annotations

from collections.abc import Sequence

from lm_eval_llada.report.document import (
    GAP,
    Block,
    Paragraph,
    Section,
    Table,
    number,
    signed,
    table,
)
from lm_eval_llada.report.evaluations import Evaluation
from lm_eval_llada.report.kinds import Difference, by_kind, kind_of
from lm_eval_llada.report.verdicts import EQUAL, NOT_TOLD_APART, Verdict, verdict

_CHANCE = 0.05  # share of differences beyond a 95 % interval where there is none
_COLUMNS = ("B - A", "standard error", "in standard errors", "compared")


def baseline_section(baseline: Evaluation, others: Sequence[Evaluation]) -> Section:
    """Every other run beside a baseline: a table of verdicts, then each of them at length."""
    names = sorted({name for other in others for name in shared_tasks(baseline, other)})
    rows = [
        [other.label, name, *_verdict_cells(verdict(baseline, other, name, metric))]
        for other in others
        for name in names
        if name in shared_tasks(baseline, other)
        for metric in _metrics(baseline, other, name)[:1]
    ]
    title = f"Against {baseline.label}"
    if not rows:
        text = "No other run shares a task with samples of one length with it."
        return Section(title, (Paragraph(text),))
    header = ["run", "task", "baseline", "run's score", "verdict", "same texts", "compared"]
    return Section(title, (table(header, rows, _VERDICTS),))


def against_section(first: Evaluation, second: Evaluation) -> Section:
    """The second run less the first, for everything both measured."""
    shared = shared_tasks(first, second)
    found = [
        (name, metric, verdict(first, second, name, metric))
        for name in shared
        for metric in _metrics(first, second, name)
    ]
    blocks: list[Block] = [Paragraph(f"A is {first.label}; B is {second.label}.")]
    if not found:
        blocks.append(Paragraph("The two share no task with samples of one length."))
    else:
        blocks += [_kinds(first, second)] if by_kind(first, second) else []
        blocks += [_tasks(found), Paragraph(_summary(found))]
    for own, other, name in ((first, second, "A"), (second, first, "B")):
        alone = [task for task in own.tasks if task not in shared]
        if alone:
            why = "in that form " if set(alone) & set(other.tasks) else ""
            blocks.append(Paragraph(f"Only {name} ran {why}{', '.join(sorted(alone))}."))
    return Section("Two runs side by side", tuple(blocks))


def shared_tasks(first: Evaluation, second: Evaluation) -> list[str]:
    """The tasks that both ran, at the same length where they have one."""
    return [
        name
        for name, task in first.tasks.items()
        if name in second.tasks and kind_of(task) == kind_of(second.tasks[name])
    ]


_VERDICTS = (
    "Equal: every sample has the same text in both runs. Better, worse: the 95 % interval of the "
    "difference, paired by sample where both logged the same samples, leaves out nought; ± is half "
    "of it. All else is not told apart."
)


def _metrics(first: Evaluation, second: Evaluation, task: str) -> list[str]:
    """The score of our tasks; of others, every metric both have."""
    one, other = first.tasks[task], second.tasks[task]
    if one.score is not None and other.score is not None:
        return ["score"]
    return [metric for metric in one.metrics if metric in other.metrics]


def _kinds(first: Evaluation, second: Evaluation) -> Table:
    rows = [
        [kind.name, kind.benchmark, f"{kind.length:,}", str(count), *_cells(d)]
        for kind, count, d in by_kind(first, second)
    ]
    header = ["kind of task", "benchmark", "length", "tasks", "A", "B", *_COLUMNS]
    return table(header, rows, "By kind of task: mean scores (0-100) over the tasks both ran.")


def _tasks(found: Sequence[tuple[str, str, Verdict]]) -> Table:
    rows = [[name, metric, *_cells(v.difference), v.text] for name, metric, v in found]
    header = ["task", "metric", "A", "B", *_COLUMNS, "verdict"]
    caption = (
        "By task. Where both runs logged the same samples the standard error is that of the "
        "differences sample by sample, clustered by needle for needle tasks; otherwise the two "
        f"runs count as independent. {_VERDICTS}"
    )
    return table(header, rows, caption)


def _cells(d: Difference) -> list[str]:
    return [number(d.first, 2), number(d.second, 2), signed(d.value, 2), number(d.stderr, 2),
            d.in_errors, d.how]  # fmt: skip


def _verdict_cells(found: Verdict) -> list[str]:
    d = found.difference
    same = GAP if found.same is None else f"{number(100 * found.same, 0)} %"
    return [number(d.first, 2), number(d.second, 2), found.text, same, d.how]


def _summary(found: Sequence[tuple[str, str, Verdict]]) -> str:
    known = [v for _, _, v in found if v.half is not None]
    clear = sum(v.kind not in (EQUAL, NOT_TOLD_APART) for v in known)
    return (
        f"{clear} of {len(known)} differences with a standard error exceed their 95 % interval; by "
        f"chance alone about {_CHANCE * len(known):.1f} would."
    )
