"""Two runs side by side: differences by task and by kind of task, in standard errors."""

from __future__ import annotations

from lm_eval_llada.report.document import Block, Paragraph, Section, Table, number, signed, table
from lm_eval_llada.report.evaluations import Evaluation
from lm_eval_llada.report.kinds import Difference, by_kind, difference, kind_of

_CLEAR = 2.0  # standard errors
_CHANCE = 0.05  # share of differences beyond them where there is none, for a normal distribution
_COLUMNS = ("B - A", "standard error", "in standard errors", "compared")


def against_section(first: Evaluation, second: Evaluation) -> Section:
    """The second run less the first, for everything both measured."""
    shared = [name for name in first.tasks if _is_shared(first, second, name)]
    differences = [
        (name, metric, difference(first, second, name, metric))
        for name in shared
        for metric in _metrics(first, second, name)
    ]
    blocks: list[Block] = [Paragraph(f"A is {first.label}; B is {second.label}.")]
    if not differences:
        blocks.append(Paragraph("The two share no task with samples of one length."))
    else:
        blocks += [_kinds(first, second)] if by_kind(first, second) else []
        blocks += [_tasks(differences), Paragraph(_summary(differences))]
    for own, other, name in ((first, second, "A"), (second, first, "B")):
        alone = [task for task in own.tasks if not _is_shared(first, second, task)]
        if alone:
            why = "in that form " if set(alone) & set(other.tasks) else ""
            blocks.append(Paragraph(f"Only {name} ran {why}{', '.join(sorted(alone))}."))
    return Section("Two runs side by side", tuple(blocks))


def _is_shared(first: Evaluation, second: Evaluation, task: str) -> bool:
    """Whether both ran a task, at the same length where it has one."""
    if task not in first.tasks or task not in second.tasks:
        return False
    return kind_of(first.tasks[task]) == kind_of(second.tasks[task])


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


def _tasks(differences: list[tuple[str, str, Difference]]) -> Table:
    rows = [[name, metric, *_cells(d)] for name, metric, d in differences]
    header = ["task", "metric", "A", "B", *_COLUMNS]
    caption = (
        "By task. Where both runs logged the same samples the standard error is that of the "
        "differences sample by sample, clustered by needle for needle tasks; otherwise the two "
        "runs count as independent."
    )
    return table(header, rows, caption)


def _cells(d: Difference) -> list[str]:
    return [number(d.first, 2), number(d.second, 2), signed(d.value, 2), number(d.stderr, 2),
            d.in_errors, d.how]  # fmt: skip


def _summary(differences: list[tuple[str, str, Difference]]) -> str:
    known = [d for _, _, d in differences if d.stderr]
    clear = sum(abs(d.value) > _CLEAR * d.stderr for d in known if d.stderr)
    return (
        f"{clear} of {len(known)} differences with a standard error exceed {_CLEAR:g} of it; by "
        f"chance alone about {_CHANCE * len(known):.1f} would."
    )
