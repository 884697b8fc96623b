"""Perplexity curves in a report: which files hold one, their picture, and the papers' numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lm_eval_llada.report.curve_picture import draw_curves
from lm_eval_llada.report.curves import Series, read_curve_file, read_curves
from lm_eval_llada.report.document import (
    GAP,
    Block,
    Bullets,
    Paragraph,
    Picture,
    Section,
    Table,
    number,
    table,
    with_error,
)
from lm_eval_llada.report.evaluations import Evaluation
from lm_eval_llada.report.figures import new_figure
from lm_eval_llada.report.files import Skipped
from lm_eval_llada.report.published import Measured, length_in_k, paper_name
from lm_eval_llada.tasks.perplexity.scores import Value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The estimators whose perplexity is LongLLaDA's; the ELBO and DUEL are other quantities.
_PUBLISHED_ESTIMATORS = ("masked_mean", "causal")
_MOST_LENGTHS = 8
_AT_LENGTH = re.compile(r"ppl_(\d+)")


@dataclass(frozen=True)
class Curves:
    """The perplexity curves among some files.

    Attributes:
        series: One for each estimator of each file.
        skipped: Files that hold none.
    """

    series: tuple[Series, ...]
    skipped: tuple[Skipped, ...]


def find_curves(paths: Sequence[Path]) -> Curves:
    """The curves in some files; files that hold none are named."""
    series: list[Series] = []
    skipped: list[Skipped] = []
    for path in paths:
        try:
            series += read_curves([path])
        except OSError as error:
            skipped.append(Skipped(path, f"cannot be read: {error.strerror}"))
        except ValueError as error:
            # The message begins with the path, which the line of a skipped file has anyway.
            reason = str(error).removeprefix(str(path)).lstrip(" ,:")
            skipped.append(Skipped(path, f"no perplexity curve: {reason}"))
        except (LookupError, TypeError, ZeroDivisionError) as error:
            skipped.append(Skipped(path, f"no perplexity curve: its settings are wrong ({error})"))
    return Curves(tuple(series), tuple(skipped))


def perplexity_section(
    series: Sequence[Series], evaluations: Iterable[Evaluation] = ()
) -> Section | None:
    """The curves as a picture and a table, and perplexity tasks; None where there is neither."""
    tasks = _task_table(evaluations)
    blocks = [*_curve_blocks(series), *([tasks] if tasks else [])]
    return Section("Perplexity", tuple(blocks)) if blocks else None


def is_at_length(metric: str) -> bool:
    """Whether a metric is the perplexity of a perplexity task at one length."""
    return _AT_LENGTH.fullmatch(metric) is not None


def _curve_blocks(series: Sequence[Series]) -> list[Block]:
    if not series:
        return []
    blocks: list[Block] = [
        Picture(
            "perplexity", "Perplexity by context length, one line a model", partial(_draw, series)
        ),
        Paragraph("Bands are two standard errors to either side."),
        _curve_table(series),
    ]
    unfinished = [one for one in series if one.num_missing]
    if unfinished:
        blocks.append(
            Bullets(
                tuple(f"{s.label}: partial, {s.num_missing} scores to come" for s in unfinished)
            )
        )
    return blocks


def _draw(series: Sequence[Series]) -> Figure:
    figure = new_figure(12.0, 5.2)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, kind in zip(panels, ("cumulative", "local"), strict=True):
        draw_curves(axes, series, kind=kind)
    figure.suptitle("Perplexity by context length", fontsize=13, fontweight="bold")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", frameon=False, ncols=2)
    return figure


def measured_perplexities(series: Sequence[Series]) -> list[Measured]:
    """The perplexities of models that a paper has, under its estimator, at every length."""
    found = []
    for one in series:
        settings = read_curve_file(one.source).settings
        model = paper_name(Path(settings["pretrained"]).name)
        if model is None or one.estimator not in _PUBLISHED_ESTIMATORS:
            continue
        scale = float(settings["rope"]["rope_scale"])
        for point in one.points:
            # Decimal or binary, lengths of whole K are the published ones.
            is_whole = point.length % 1000 == 0 or point.length % 1024 == 0
            if is_whole and point.cumulative is not None:
                value, stderr = _perplexity(point.cumulative)
                k = length_in_k(point.length)
                found.append(Measured(model, scale, "perplexity", k, value, stderr, one.label))
    return found


def _curve_table(series: Sequence[Series]) -> Table:
    """Three values of each series at the longest length and at those that halve it."""
    shown = _halving(sorted({point.length for one in series for point in one.points}))
    rows = []
    for one in series:
        points = {point.length: point for point in one.points}
        local = {length: point.local for length, point in points.items()}
        so_far = {length: point.cumulative for length, point in points.items()}
        rows += [
            [one.label, "perplexity of the chunk", *(_cell(local.get(n)) for n in shown)],
            [one.label, "perplexity so far", *(_cell(so_far.get(n)) for n in shown)],
            [one.label, "bits per byte so far", *(_bits(so_far.get(n)) for n in shown)],
        ]
    header = ["run", "value", *(number(length, 0) for length in shown)]
    caption = (
        "By context length in tokens: perplexity per token ± standard error of the chunk that ends "
        "there and of all text so far, the geometric mean. Models with different tokenizers "
        "compare in bits per byte. Values of all text wait for its last chunk."
    )
    return table(header, rows, caption)


def _cell(value: Value | None) -> str:
    return GAP if value is None else with_error(*_perplexity(value), 2)


def _bits(value: Value | None) -> str:
    return GAP if value is None else number(value.bits_per_byte, 3)


def _task_table(evaluations: Iterable[Evaluation]) -> Table | None:
    """Perplexities of tasks by length, a line for each run and task; None where there is none."""
    found: list[tuple[str, str, dict[int, str]]] = []
    for evaluation in evaluations:
        for task in evaluation.tasks.values():
            cells = {metric: number(value, 2) for metric, value in task.metrics.items()}
            by_length = {
                int(match.group(1)): cell
                for metric, cell in {**cells, **task.gaps}.items()
                if (match := _AT_LENGTH.fullmatch(metric))
            }
            if by_length:
                found.append((evaluation.label, task.name, by_length))
    if not found:
        return None
    lengths = sorted({length for _, _, values in found for length in values})
    rows = [[label, name, *(values.get(n, GAP) for n in lengths)] for label, name, values in found]
    header = ["run", "task", *(number(length, 0) for length in lengths)]
    caption = "Perplexity tasks: perplexity per token of the chunks that end at a length in tokens."
    return table(header, rows, caption)


def _perplexity(value: Value) -> tuple[float, float | None]:
    """Perplexity and its standard error: exp's slope turns an error in nats into one of it."""
    if value.stderr is None or math.isinf(value.perplexity):
        return value.perplexity, None
    return value.perplexity, value.perplexity * value.stderr


def _halving(lengths: Sequence[int]) -> list[int]:
    """The longest length, and of the others the closest to its half, quarter and so on."""
    shown: list[int] = []
    wanted = float(lengths[-1])
    while wanted >= lengths[0] and len(shown) < _MOST_LENGTHS:
        nearest = min(lengths, key=lambda length: abs(length - wanted))
        if nearest not in shown:
            shown.append(nearest)
        wanted /= 2
    return sorted(shown)
