"""The parts of a page that a text has no like of: the matrix, heatmaps, samples to filter."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable
from html import escape
from itertools import groupby

from lm_eval_llada.report.colours import scale_gradient, score_colours
from lm_eval_llada.report.document import GAP, number
from lm_eval_llada.report.page_blocks import (
    Heatmap,
    HeatPanel,
    Matrix,
    MatrixRow,
    Run,
    SampleRow,
    SampleTable,
    Score,
)
from lm_eval_llada.report.samples import FAILED_BELOW

_FEWEST_TO_FILTER = 9  # rows
_SAMPLE_FILTERS = {"run": 0, "task": 1, "length": 2, "depth": 3}


def matrix_html(matrix: Matrix, name: str, anchors: Container[str]) -> str:
    """A matrix as a table with a choice of baseline.

    Args:
        matrix: What to show.
        name: Id of the table.
        anchors: What links may go to.
    """
    heads = "".join(f'<th scope="col">{_run(run)}</th>' for run in matrix.runs)
    bodies = "\n".join(
        _group(group, list(rows), len(matrix.runs), anchors)
        for group, rows in groupby(matrix.rows, key=lambda row: row.group)
    )
    return (
        f'{_matrix_tools(matrix, name)}<p class="caption" id="{name}-c">{escape(matrix.caption)}'
        '</p>\n<div class="wide matrix">\n'
        f'<table id="{name}" class="sortable" aria-describedby="{name}-c">\n'
        f'<thead><tr><th scope="col">task</th>{heads}</tr></thead>\n{bodies}\n</table>\n</div>'
    )


def heatmap_html(heatmap: Heatmap, anchors: Container[str]) -> str:
    """Panels in a row, under one scale of colours.

    Args:
        heatmap: What to show.
        anchors: What links may go to.
    """
    panels = "\n".join(_panel(heatmap, panel, anchors) for panel in heatmap.panels)
    scale = f'<span class="scale">0 <i style="background:{scale_gradient()}"></i> 100</span>'
    note = f'\n<p class="note">{escape(heatmap.note)}</p>' if heatmap.note else ""
    return (
        f'<figure class="heat">\n<figcaption>{escape(heatmap.title)} {scale}</figcaption>\n'
        f'<div class="panels">\n{panels}\n</div>{note}\n</figure>'
    )


def samples_html(samples: SampleTable, name: str) -> str:
    """Samples as a table to sort and filter, each behind the cell that it belongs to.

    Args:
        samples: What to show.
        name: Id of the table.
    """
    if not samples.rows:
        return ""
    choices = "".join(
        f'<label>{what} <select data-column="{column}"><option value="">all</option></select>'
        "</label>\n"
        for what, column in _SAMPLE_FILTERS.items()
    )
    seen: set[str] = set()
    rows = "\n".join(_sample(row, seen) for row in samples.rows)
    heads = ("run", "task", "length", "depth (%)", "score", "expected", "answer")
    head = "".join(f'<th scope="col">{one}</th>' for one in (*heads, "prompt, around the needle"))
    return (
        f'<div class="tools" id="{name}-tools" hidden>\n{choices}'
        '<label>text <input type="search" data-is="text"></label>\n'
        '<label><input type="checkbox" data-is="failed"> failed only</label>\n'
        '<button type="button" data-is="clear" hidden></button>\n<span data-is="count"></span>\n'
        '<button type="button" data-is="more" hidden>show all</button>\n'
        f'</div>\n<div class="wide">\n<table id="{name}" class="sortable samples">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
    )


def _matrix_tools(matrix: Matrix, name: str) -> str:
    options = "".join(
        f'<option value="{run.tag}"{" selected" if run.tag == matrix.baseline else ""}>'
        f"{run.tag}: {escape(run.label)}</option>"
        for run in matrix.runs
    )
    parts = []
    if len(matrix.runs) > 1:
        parts.append(
            f'<label>Differences to <select data-baseline="{name}"><option value="">none, show '
            f"intervals</option>{options}</select></label>"
        )
    if len(matrix.rows) >= _FEWEST_TO_FILTER:
        parts.append(f'<label>Filter tasks <input type="search" data-filters="{name}"></label>')
    return f'<div class="tools" hidden>\n{"".join(parts)}\n</div>\n' if parts else ""


def _run(run: Run) -> str:
    chips = "".join(f'<span class="chip">{escape(chip)}</span>' for chip in run.chips)
    return f'<b class="tag" title="{escape(run.label)}">{run.tag}</b> {chips}'


def _group(name: str, rows: Iterable[MatrixRow], num_runs: int, anchors: Container[str]) -> str:
    lines = "\n".join(_matrix_row(row, anchors) for row in rows)
    head = f'<tr class="group"><th scope="rowgroup">{escape(name)}</th>'
    return f'<tbody>\n{head}<td colspan="{num_runs}"></td></tr>\n{lines}\n</tbody>'


def _matrix_row(row: MatrixRow, anchors: Container[str]) -> str:
    changes = ""
    if row.changes:
        text = json.dumps(row.changes, ensure_ascii=False, separators=(",", ":"))
        changes = f' data-changes="{escape(text)}"'
    cells = "".join(_matrix_cell(score, anchors) for score in row.scores)
    return f'<tr{changes}><th scope="row">{escape(row.name)}</th>{cells}</tr>'


def _matrix_cell(score: Score | None, anchors: Container[str]) -> str:
    if score is None:
        return f"<td>{GAP}</td>"
    bar = "" if score.score is None else f' style="--v:{score.score:.0f}"'
    best = ' class="best"' if score.is_best else ""
    return f"<td{bar}{best}>{_value(score, anchors)}<small>{escape(score.interval)}</small></td>"


def _value(score: Score, anchors: Container[str], style: str = "") -> str:
    note = f' title="{escape(score.note)}"' if score.note else ""
    if score.target and score.target in anchors:
        return f'<a href="#{escape(score.target)}"{note}{style}>{escape(score.text)}</a>'
    return f"<span{note}{style}>{escape(score.text)}</span>"


def _panel(heatmap: Heatmap, panel: HeatPanel, anchors: Container[str]) -> str:
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in heatmap.columns)
    lines = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        f"{''.join(_heat_cell(score, anchors) for score in row)}</tr>"
        for name, row in zip(heatmap.rows, panel.rows, strict=True)
    )
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in panel.notes)
    return (
        f'<div class="panel">\n<div class="head">{_run(panel.run)}</div>\n<div class="wide">\n'
        f'<table aria-label="{escape(panel.run.label)}">\n<thead><tr><th scope="col">'
        f"{escape(heatmap.row_title)}</th>{heads}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n"
        f'</table>\n<p class="note">{escape(heatmap.column_title)}</p>\n</div>\n{notes}</div>'
    )


def _heat_cell(score: Score | None, anchors: Container[str]) -> str:
    if score is None:
        return "<td></td>"
    paper, ink = score_colours(score.score or 0.0)
    found = ' class="found"' if score.is_first_found else ""
    style = f' style="background:{paper};color:{ink}"'
    return f"<td{found}>{_value(score, anchors, style)}</td>"


def _sample(row: SampleRow, seen: set[str]) -> str:
    # The first row of a cell, and of a task, is where its links go without the script.
    names = [one for one in dict.fromkeys((row.anchor.partition(".")[0], row.anchor))
             if one not in seen]  # fmt: skip
    seen.update(names)
    ids = "".join(f'<i id="{escape(one)}"></i>' for one in names)
    failed = row.score is not None and row.score < FAILED_BELOW
    length = GAP if row.length is None else f"{row.length:,}"
    depth = GAP if row.depth is None else str(row.depth)
    mark = ' data-failed="1"' if failed else ""
    return (
        f'<tr data-cell="{escape(row.anchor)}"{mark}><td>{ids}{escape(row.run)}</td>'
        f"<td>{escape(row.task)}</td>"
        f'<td class="number">{length}</td><td class="number">{depth}</td>'
        f'<td class="number">{number(row.score)}</td>'
        f'<td class="text">{escape(row.target)}</td><td class="text">{escape(row.answer)}</td>'
        f'<td class="prompt">{_marked(row.prompt, row.marked)}</td></tr>'
    )


def _marked(text: str, marked: Iterable[str]) -> str:
    """A text with some of its parts marked; the longest first, each place once."""
    longest_first = sorted(set(marked), key=len, reverse=True)
    if not longest_first:
        return escape(text)
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    parts, at = [], 0
    for match in pattern.finditer(text):
        parts.append(f"{escape(text[at : match.start()])}<mark>{escape(match[0])}</mark>")
        at = match.end()
    return "".join(parts) + escape(text[at:])
