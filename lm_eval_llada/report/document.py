"""A report as data: sections of paragraphs, tables, pictures and excerpts, in no format yet."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lm_eval_llada.report.page_blocks import Heatmap, Matrix, SampleTable, Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAP = "-"
"""What a cell shows where nothing was measured."""

_NUMBER = re.compile(r"[-+−]?[\d,.]+(?: ?%)?(?: ± [\d,.]+)?")


@dataclass(frozen=True)
class Paragraph:
    """Running text.

    Attributes:
        text: Without any markup.
        on_page: Whether the page has it.
    """

    text: str
    on_page: bool = True


@dataclass(frozen=True)
class Bullets:
    """A list of lines.

    Attributes:
        lines: At least one, without any markup.
        on_page: Whether the page has it.
    """

    lines: tuple[str, ...]
    on_page: bool = True


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        header: Name of each column.
        rows: As many cells each as the header has.
        caption: What the numbers are, with their unit; a sentence or nothing.
        is_detail: Whether a summary leaves it out.
        on_page: Whether the page has it; one that the page shows in another form does not.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    is_detail: bool = False
    on_page: bool = True

    def __post_init__(self) -> None:
        """Reject rows that do not fit the header.

        Raises:
            ValueError: If a row has more or fewer cells.
        """
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"A row needs {len(self.header)} cells, as the header has; got {list(row)}."
                )

    def is_numeric(self, column: int) -> bool:
        """Whether a column holds numbers and gaps only, so that it is set to the right."""
        cells = [row[column] for row in self.rows]
        return all(not cell or cell == GAP or _NUMBER.fullmatch(cell) for cell in cells)


@dataclass(frozen=True)
class Picture:
    """A drawing.

    Attributes:
        name: File name without its ending; unique in a report.
        alternative: What it shows, for those who do not see it.
        draw: Makes the drawing; needs matplotlib.
        on_page: Whether the page has it; one that the page shows in another form is a file alone.
    """

    name: str
    alternative: str
    draw: Callable[[], Figure]
    on_page: bool = True


@dataclass(frozen=True)
class Excerpt:
    """Texts to read when asked for, such as a failed sample.

    Attributes:
        title: One line.
        parts: (name, text) pairs; the texts are shown as they are.
        on_page: Whether the page has it.
    """

    title: str
    parts: tuple[tuple[str, str], ...]
    on_page: bool = True


Block = Paragraph | Bullets | Table | Picture | Excerpt | Matrix | Heatmap | SampleTable


@dataclass(frozen=True)
class Section:
    """A part of a report under a heading.

    Attributes:
        title: The heading.
        blocks: In order.
    """

    title: str
    blocks: tuple[Block, ...]


def number(value: float | None, digits: int = 1) -> str:
    """A number with a fixed count of decimals, or the gap where there is none."""
    if value is None:
        return GAP
    text = f"{value:,.{digits}f}"
    # Rounding must not leave a sign on nothing.
    return text.lstrip("-") if not text.strip("-0.,") else text


def with_error(value: float | None, stderr: float | None, digits: int = 1) -> str:
    """A number followed by its standard error where that is known.

    Args:
        value: The number.
        stderr: Standard error in the same unit.
        digits: Decimals of both.
    """
    if value is None or stderr is None:
        return number(value, digits)
    return f"{number(value, digits)} ± {stderr:.{digits}f}"


def signed(value: float | None, digits: int = 1) -> str:
    """A difference, with its sign even if it is positive."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 and text.strip("0.,") else text


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    caption: str = "",
    *,
    is_detail: bool = False,
    on_page: bool = True,
) -> Table:
    """A ``Table`` from any sequences."""
    return Table(tuple(header), tuple(map(tuple, rows)), caption, is_detail, on_page)


def without_pictures(section: Section) -> Section:
    """The same section where nothing can be drawn."""
    return replace(
        section, blocks=tuple(block for block in section.blocks if not isinstance(block, Picture))
    )


def matrix_table(matrix: Matrix) -> tuple[Table, Bullets]:
    """A matrix in texts, a column for each run under its tag, and which run a tag means."""
    rows = [[row.name, *map(_in_words, row.scores)] for row in matrix.rows]
    header = ["task", *(run.tag for run in matrix.runs)]
    legend = Bullets(tuple(f"{run.tag}: {run.label}" for run in matrix.runs))
    return table(header, rows, matrix.caption), legend


def _in_words(score: Score | None) -> str:
    if score is None:
        return GAP
    interval = f" ({score.interval})" if score.interval else ""
    return f"{score.text}{interval}{' *' if score.is_best else ''}"
