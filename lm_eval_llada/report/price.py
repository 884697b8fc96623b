"""What an approximation costs: speed against score, and each beside its exact run."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import partial

from lm_eval_llada.report.against import shared_tasks
from lm_eval_llada.report.charts import Point, draw_scatter
from lm_eval_llada.report.document import (
    GAP,
    Block,
    Picture,
    Section,
    number,
    signed,
    table,
)
from lm_eval_llada.report.evaluations import Evaluation
from lm_eval_llada.report.files import ResultFile
from lm_eval_llada.report.kinds import mean_difference
from lm_eval_llada.report.settings import approximations, machine_of, own_entry, settings_of
from lm_eval_llada.report.verdicts import BETTER, EQUAL, NOT_TOLD_APART, WORSE, verdict
from lm_eval_llada.tasks.statistics import NORMAL

_SUMMARY_HEADER = (
    *("approximation", "of", "tasks", "exact", "approximate", "difference"),
    *(EQUAL, NOT_TOLD_APART, WORSE, BETTER, "same texts", "times as fast"),
)
_SUMMARY_CAPTION = (
    "The price of each approximation beside the exact run of the same settings: mean scores "
    "(0-100) over all tasks, and on how many of them it is equal, better, worse or not told apart. "
    "Equal is said only where every text of every sample is the same; ± is half of a 95 % "
    "interval, paired by sample."
)
_TASK_HEADER = (
    *("approximation", "of", "task", "exact", "approximate", "difference", "verdict"),
    "same texts",
)
_TASK_CAPTION = "Approximations by task."

# Equal for runs whose times compare: the tasks with their numbers of samples, and the machine.
_Work = tuple[frozenset[tuple[str, int]], str]


def price_section(evaluations: Sequence[Evaluation]) -> Section | None:
    """Speed against score, and approximations beside their exact runs; None where there is neither.

    Times compare only between runs of the same samples on the same machine, none of whose answers
    came from an earlier run.
    """
    blocks: list[Block] = []
    origins = {e.label: o for e in evaluations if (o := exact_run(e, evaluations)) is not None}
    order = [run.label for run in evaluations]
    for position, runs in enumerate(_comparable(evaluations)):
        points = [_point(run, origins) for run in runs]
        name = "speed-against-score" + (f"-{position + 1}" if position else "")
        title = f"Speed against score: {len(points)} runs of the same samples"
        draw = partial(draw_scatter, points, title, "seconds for each sample", order)
        blocks.append(Picture(name, title, draw))
    pairs = [(origins[run.label], run) for run in evaluations if run.label in origins]
    prices = [_price(exact, run) for exact, run in pairs if _scored(exact, run)]
    if prices:
        blocks += [
            table(_SUMMARY_HEADER, prices, _SUMMARY_CAPTION),
            table(_TASK_HEADER, [row for pair in pairs for row in _by_task(*pair)], _TASK_CAPTION,
                  is_detail=True),
        ]  # fmt: skip
    return Section("Speed against score", tuple(blocks)) if blocks else None


def exact_run(run: Evaluation, evaluations: Sequence[Evaluation]) -> Evaluation | None:
    """The run that has all the settings of an approximate one but those that approximate.

    None for a run that approximates nothing, or whose exact one is not among the given.
    """
    if not approximations(run):
        return None
    names = {name.partition("=")[0] for other in evaluations for name in approximations(other)}
    wanted = {name: value for name, value in settings_of(run).items() if name not in names}
    for other in evaluations:
        settings = settings_of(other)
        alike = {name: value for name, value in settings.items() if name not in names} == wanted
        if alike and other.kind == run.kind and not approximations(other):
            return other
    return None


def seconds_a_sample(run: Evaluation) -> float | None:
    """Time of the requests over the number of samples; None where it is not known for all files."""
    seconds = [_seconds(file) for file in run.files]
    counts = [_count(file) for file in run.files]
    if not seconds or None in seconds or not sum(counts):
        return None
    return math.fsum(s for s in seconds if s is not None) / sum(counts)


def _comparable(evaluations: Sequence[Evaluation]) -> list[list[Evaluation]]:
    groups: dict[_Work, list[Evaluation]] = defaultdict(list)
    for run in evaluations:
        work = _work(run)
        if work is not None and seconds_a_sample(run):
            groups[work].append(run)
    found = [runs for runs in groups.values() if len(runs) > 1]
    return sorted(found, key=len, reverse=True)


def _work(run: Evaluation) -> _Work | None:
    tasks = [(name, task.samples) for name, task in run.tasks.items() if task.score is not None]
    known = frozenset((name, count) for name, count in tasks if count)
    files = [file.content for file in run.files]
    machines = {machine_of(content) for content in files}
    names = [name for content in files for name in content["configs"]]
    # A task in two files was run twice, and has one score.
    is_plain = len(names) == len(set(names)) == len(known) and len(machines) == 1
    return (known, machines.pop()) if known and is_plain else None


def _point(run: Evaluation, origins: dict[str, Evaluation]) -> Point:
    tasks = [task for task in run.tasks.values() if task.score is not None]
    errors = [task.stderr for task in tasks]
    known = [error for error in errors if error is not None]
    half = None
    if len(known) == len(tasks):
        half = NORMAL * math.sqrt(math.fsum(e**2 for e in known)) / len(tasks)
    origin = origins[run.label].label if run.label in origins else ""
    score = math.fsum(task.score or 0.0 for task in tasks) / len(tasks)
    return Point(run.label, seconds_a_sample(run) or 0.0, score, half, origin)


def _scored(exact: Evaluation, run: Evaluation) -> list[str]:
    return [name for name in shared_tasks(exact, run) if exact.tasks[name].score is not None]


def _price(exact: Evaluation, run: Evaluation) -> list[str]:
    """The line of an approximation: means over all tasks, and how many of them are what."""
    names = _scored(exact, run)
    found = [verdict(exact, run, name) for name in names]
    change = mean_difference([one.difference for one in found])
    counts = Counter(one.kind for one in found)
    shares = [one.same for one in found]
    known = [share for share in shares if share is not None]
    same = GAP if len(known) < len(shares) else f"{100 * math.fsum(known) / len(known):.0f} %"
    # Without any spread the size of a change is not known to be exact.
    plus_minus = f" ± {number(NORMAL * change.stderr)}" if change.stderr else ""
    return [
        *(", ".join(approximations(run)), exact.label, str(len(names))),
        *(number(change.first), number(change.second), signed(change.value) + plus_minus),
        *(str(counts[kind]) for kind in (EQUAL, NOT_TOLD_APART, WORSE, BETTER)),
        *(same, _times_as_fast(exact, run)),
    ]


def _by_task(exact: Evaluation, run: Evaluation) -> Iterator[list[str]]:
    for name in _scored(exact, run):
        found = verdict(exact, run, name)
        same = GAP if found.same is None else f"{number(100 * found.same, 0)} %"
        change = found.difference
        yield [
            *(", ".join(approximations(run)), exact.label, name, number(change.first)),
            *(number(change.second), signed(change.value), found.text, same),
        ]


def _times_as_fast(exact: Evaluation, run: Evaluation) -> str:
    one, other = seconds_a_sample(exact), seconds_a_sample(run)
    is_fair = _work(exact) == _work(run) is not None
    return number(one / other, 2) if one and other and is_fair else GAP


def _seconds(file: ResultFile) -> float | None:
    own = own_entry(file.content.get("config", {}))
    work = own.get("work") if isinstance(own.get("work"), dict) else None
    if not work or work.get("answers_from_disk"):
        return None
    seconds = work.get("seconds")
    return float(seconds) if isinstance(seconds, int | float) and seconds > 0 else None


def _count(file: ResultFile) -> int:
    counts = file.content.get("n-samples", {})
    return sum(int((counts.get(n) or {}).get("effective") or 0) for n in file.content["configs"])
