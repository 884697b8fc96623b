"""All scores of a report as one table of plain values, for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from lm_eval_llada.report.cells import needle_cells
from lm_eval_llada.report.evaluations import Evaluation
from lm_eval_llada.report.settings import MODEL, SCALE, compared, named_runs, settings_of
from lm_eval_llada.report.verdicts import score_interval

_COLUMNS = ("run", "label", "kind", "task", "length", "depth", "metric", "value", "stderr")
_MORE = ("low_95", "high_95", "samples", "planned")


def to_csv(evaluations: Sequence[Evaluation]) -> str:
    """A line for each run, task and metric, and for each depth of a needle task.

    Settings in which the runs differ have a column each.
    """
    settings = list(dict.fromkeys([MODEL, SCALE, *compared(evaluations)]))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_COLUMNS, *_MORE, *("rope" if s == SCALE else s for s in settings)])
    for run, evaluation in zip(named_runs(evaluations), evaluations, strict=True):
        known = settings_of(evaluation)
        end = [known.get(name, "") for name in settings]
        for line in _lines(evaluation):
            writer.writerow([run.tag, evaluation.label, evaluation.kind, *line, *end])
    return out.getvalue()


def _lines(evaluation: Evaluation) -> Iterator[list[object]]:
    for task in evaluation.tasks.values():
        samples = evaluation.samples.get(task.name, ())
        cells = needle_cells(task.length, task.metrics) if task.length else []
        for cell in cells:
            yield [task.name, cell.length, cell.depth, "score", cell.score, *[None] * 5]
        for metric, value in task.metrics.items():
            # The cells above, and the standard error below.
            if cells and metric.startswith("depth_") or metric == "score_clustered_se":
                continue
            error = task.stderr if metric == "score" else task.errors.get(metric)
            interval = score_interval(task, samples, metric) or (None, None)
            counts = (task.samples, task.planned)
            yield [task.name, task.length, None, metric, value, error, *interval, *counts]
