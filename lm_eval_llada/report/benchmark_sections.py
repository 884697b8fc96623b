"""RULER and LongBench in a report: means by length or category, heatmaps of tasks, charts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from lm_eval_llada.report.benchmarks import (
    RULER_TASKS,
    Scores,
    longbench_means,
    longbench_scores,
    ruler_means,
    ruler_scores,
)
from lm_eval_llada.report.charts import Line, draw_bars, draw_lines
from lm_eval_llada.report.document import (
    GAP,
    Block,
    Paragraph,
    Picture,
    Section,
    Table,
    number,
    table,
    with_error,
)
from lm_eval_llada.report.evaluations import Evaluation, TaskResult
from lm_eval_llada.report.page_blocks import Heatmap, HeatPanel, Run, Score, cell_anchor
from lm_eval_llada.report.settings import named_runs
from lm_eval_llada.report.verdicts import score_interval, spans
from lm_eval_llada.tasks.longbench.scores import CATEGORIES, DATASETS
from lm_eval_llada.tasks.ruler.scores import GROUPS
from lm_eval_llada.tasks.statistics import NORMAL

_Found = Sequence[tuple[Evaluation, Scores]]
_Means = Callable[[Scores], Mapping[str, tuple[float | None, float | None]]]
_GROUP_NAMES = {"niah": "NIAH", "agg": "AGG", "qa": "QA"}


def ruler_section(evaluations: Iterable[Evaluation]) -> Section | None:
    """RULER by length and by task, or None where nothing of it was run."""
    runs = list(evaluations)
    by_run = [(e, s) for e in runs for s in ruler_scores(e)]
    if not by_run:
        return None
    means = _mean_table(
        by_run,
        ruler_means,
        {**_GROUP_NAMES, "average": "average"},
        RULER_TASKS,
        "RULER by length: mean scores (0-100) ± standard error. AGG is vt, cwe and fwe; the "
        "average is (8 NIAH + 3 AGG + 2 QA) / 13. A mean with a task missing is not given.",
    )
    blocks: list[Block] = [*means, *_heatmaps("RULER", runs, by_run, RULER_TASKS)]
    panels = _panels_by_length(by_run)
    order = [run.label for run in runs]
    if panels:
        title = "RULER by context length"
        blocks.append(Picture("ruler-by-length", title, partial(draw_lines, panels, title, order)))
    blocks.append(_task_table(by_run, RULER_TASKS, "RULER by task"))
    return Section("RULER", tuple(blocks))


def longbench_section(evaluations: Iterable[Evaluation]) -> Section | None:
    """LongBench by category, language and dataset, or None where nothing of it was run."""
    runs = list(evaluations)
    by_run = [(e, s) for e in runs for s in longbench_scores(e)]
    if not by_run:
        return None
    names = {name: name.replace("_", " ") for name in CATEGORIES}
    names |= {"english": "English", "chinese": "Chinese"}
    names |= {"datasets": "mean of 21 datasets", "categories": "mean of 6 categories"}
    means = _mean_table(
        by_run,
        longbench_means,
        names,
        tuple(DATASETS),
        "LongBench by category and language: mean scores (0-100) ± standard error where each "
        "dataset has one. Code counts for both languages. A mean with a dataset missing is not "
        "given.",
    )
    note = Paragraph(
        "The published averages are reproduced by none of the natural means over the published "
        "columns, so two means are given under their own names."
    )
    charts = _category_bars(by_run, [run.label for run in runs])
    heatmaps = _heatmaps("LongBench", runs, by_run, tuple(DATASETS))
    by_task = _task_table(by_run, tuple(DATASETS), "LongBench by dataset")
    return Section("LongBench", (*means, note, *charts, *heatmaps, by_task))


def _heatmaps(
    benchmark: str, runs: Sequence[Evaluation], by_run: _Found, names: Sequence[str]
) -> list[Block]:
    """Tasks downwards, lengths to the right; those of each protocol by themselves."""
    tags = dict(zip([run.label for run in runs], named_runs(runs), strict=True))
    blocks: list[Block] = []
    for protocol in dict.fromkeys(scores.protocol for _, scores in by_run):
        own = [(e, s) for e, s in by_run if s.protocol == protocol]
        lengths = sorted({scores.length for _, scores in own})
        rows = [name for name in names if any(name in s.values for _, s in own)]
        of = "" if protocol == "package" else f" ({protocol})"
        panels = []
        for label in dict.fromkeys(e.label for e, _ in own):
            scores = {s.length: s for e, s in own if e.label == label}
            evaluation = next(e for e, _ in own if e.label == label)
            cells = tuple(
                tuple(_heat_cell(evaluation, tags[label], scores.get(n), name) for n in lengths)
                for name in rows
            )
            panels.append(HeatPanel(tags[label], cells))
        blocks.append(
            Heatmap(
                f"{benchmark}{of}: scores by task and context length",
                "task",
                tuple(rows),
                "context length (tokens)",
                tuple(f"{length:,}" for length in lengths),
                tuple(panels),
            )
        )
    return blocks


def _heat_cell(evaluation: Evaluation, run: Run, scores: Scores | None, name: str) -> Score | None:
    task: TaskResult | None = scores.tasks.get(name) if scores else None
    if task is None or task.score is None:
        return None
    samples = evaluation.samples.get(task.name, ())
    interval = score_interval(task, samples)
    parts = [f"{task.name}: score {number(task.score)}"]
    parts += [f"{task.samples} samples"] if task.samples is not None else []
    parts += [f"95 % interval {spans(*interval)}"] if interval else []
    target = cell_anchor(run.tag, task.name) if samples else ""
    return Score(number(task.score, 0), task.score, note=", ".join(parts), target=target)


def _panels_by_length(by_run: _Found) -> dict[str, list[Line]]:
    """Lines over the tasks of a group that were run at every length by all; none for one length.

    A mean over other tasks at another length would show the tasks, not the length.
    """
    panels = {}
    for group, members in {**GROUPS, "average": RULER_TASKS}.items():
        own = [(e, s) for e, s in by_run if set(members) & s.values.keys()]
        protocols = {scores.protocol for _, scores in own}
        common = [name for name in members if all(name in s.values for _, s in own)]
        if not common or len(protocols) > 1 or len({s.length for _, s in own}) < 2:
            continue
        if group == "average" and len(common) < len(RULER_TASKS):
            continue
        name = _GROUP_NAMES.get(group, "average of 13")
        some = common[0] if len(common) == 1 else f"{len(common)} of {len(members)}"
        title = name if len(common) == len(members) else f"{name}: {some}"
        panels[title] = [
            _line(label, [s for e, s in own if e.label == label], common)
            for label in dict.fromkeys(e.label for e, _ in own)
        ]
    return panels


def _line(label: str, by_length: Sequence[Scores], names: Sequence[str]) -> Line:
    values = {s.length: sum(s.values[n] for n in names) / len(names) for s in by_length}
    errors = {s.length: NORMAL * e for s in by_length if (e := s.stderr(names)) is not None}
    return Line(label, values, errors)


def _category_bars(by_run: _Found, order: Sequence[str]) -> list[Block]:
    """Bars of the categories, a figure for each length."""
    blocks: list[Block] = []
    for protocol, length in dict.fromkeys((s.protocol, s.length) for _, s in by_run):
        own = [(e, s) for e, s in by_run if (s.protocol, s.length) == (protocol, length)]
        values = [(e.label, [longbench_means(s)[name][0] for name in CATEGORIES]) for e, s in own]
        if all(value is None for _, line in values for value in line):
            continue
        names = [name.replace("_", " ") for name in CATEGORIES]
        of = "" if protocol == "package" else f", {protocol}"
        title = f"LongBench by category, prompts of {length:,} tokens{of}"
        name = f"longbench-{protocol}-{length}".replace(", ", "-")
        blocks.append(Picture(name, title, partial(draw_bars, names, values, title, order)))
    return blocks


def _mean_table(
    by_run: _Found,
    means_of: _Means,
    columns: Mapping[str, str],
    wanted: tuple[str, ...],
    caption: str,
) -> list[Block]:
    """A line for each run and length of which there is a mean; nothing where there is none."""
    rows = []
    for evaluation, scores in by_run:
        means = means_of(scores)
        cells = [with_error(*means[name]) for name in columns]
        if all(cell == GAP for cell in cells):
            continue
        head = [evaluation.label, scores.protocol, f"{scores.length:,}"]
        rows.append([*head, *cells, scores.remarks(wanted) or "complete"])
    header = ["run", "tasks of", "length", *columns.values(), "remarks"]
    return [table(header, rows, caption)] if rows else []


def _task_table(by_run: _Found, names: tuple[str, ...], what: str) -> Table:
    """A line for each task and a column for each run and length; tasks nobody ran are left out."""
    rows = []
    for name in names:
        cells = [number(scores.values.get(name)) for _, scores in by_run]
        if any(cell != GAP for cell in cells):
            rows.append([name, *cells])
    header = ["task", *(f"{e.label}, {s.protocol}, {s.length:,}" for e, s in by_run)]
    caption = f"{what}: scores (0-100); {GAP} where a task was not run."
    return table(header, rows, caption, is_detail=True)
