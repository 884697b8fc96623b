"""What a page shows and a text cannot: a matrix of runs, coloured panels, samples to filter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Run:
    """How a page names a run.

    Attributes:
        tag: A letter or two, unique in a report.
        label: Its whole name.
        chips: Model and settings, a few words each.
    """

    tag: str
    label: str
    chips: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """One value of a page.

    Attributes:
        text: The value.
        score: 0-100, which colours it; None where it is no such score.
        interval: In words; empty where none is known.
        note: What to say where a pointer rests on it.
        target: Anchor of the samples behind it; empty for none.
        is_best: Whether no other run has a better one.
        is_first_found: Whether it is the first, from above, that the frontier predicts as found.
    """

    text: str
    score: float | None = None
    interval: str = ""
    note: str = ""
    target: str = ""
    is_best: bool = False
    is_first_found: bool = False


@dataclass(frozen=True)
class MatrixRow:
    """A line of a matrix.

    Attributes:
        group: What it belongs to, such as a benchmark.
        name: Of the task, or of a mean of some.
        scores: Of each run; None where it was not run.
        changes: By the tag of a baseline, of each run: what it is beside it, and its kind, such as
            ``better`` or ``equal``; empty where they are not told apart.
    """

    group: str
    name: str
    scores: tuple[Score | None, ...]
    changes: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Matrix:
    """All runs beside each other, a column each.

    Attributes:
        runs: In order.
        rows: In order; those of one group together.
        caption: What the numbers are.
        baseline: Tag of the run that the others are shown against at first; empty for none.
    """

    runs: tuple[Run, ...]
    rows: tuple[MatrixRow, ...]
    caption: str
    baseline: str = ""


@dataclass(frozen=True)
class HeatPanel:
    """Scores of one run, coloured.

    Attributes:
        run: Whose they are.
        rows: By row and column of the heatmap; None where nothing was measured.
        notes: Lines under the panel.
    """

    run: Run
    rows: tuple[tuple[Score | None, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Heatmap:
    """Panels of one kind with the same rows, columns and colours. Only a page has it.

    Attributes:
        title: What it shows.
        row_title: What the rows are.
        rows: Name of each row.
        column_title: What the columns are.
        columns: Name of each column.
        panels: At least one.
        note: What the line between rows is; empty for none.
    """

    title: str
    row_title: str
    rows: tuple[str, ...]
    column_title: str
    columns: tuple[str, ...]
    panels: tuple[HeatPanel, ...]
    note: str = ""


@dataclass(frozen=True)
class SampleRow:
    """A sample to read.

    Attributes:
        anchor: Name for links; the samples of one cell have the same.
        run: Tag of its run.
        task: Name of the task.
        length: Context in tokens, None where unknown.
        depth: Of its needle in per cent, None where it has none.
        score: 0-100, None where it has none.
        prompt: Around the needle, and its end.
        marked: Texts to mark in the prompt.
        target: What a right answer holds.
        answer: What the model wrote.
    """

    anchor: str
    run: str
    task: str
    length: int | None
    depth: int | None
    score: float | None
    prompt: str
    marked: tuple[str, ...]
    target: str
    answer: str


@dataclass(frozen=True)
class SampleTable:
    """Samples of all runs, to be filtered. Only a page has it.

    Attributes:
        rows: In order.
    """

    rows: tuple[SampleRow, ...]


def cell_anchor(tag: str, task: str, depth: int | None = None) -> str:
    """Name for links of the samples of a task in a run, or of one depth of it."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", task)
    return f"x-{tag}-{name}" + ("" if depth is None else f".{depth}")
