"""A report as plain text, for terminals of any kind and for pipes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from lm_eval_llada.report.document import Block, Bullets, Paragraph, Section, Table, matrix_table
from lm_eval_llada.report.page_blocks import Matrix

_WIDTH = 100
_BOLD, _PLAIN = "\033[1m", "\033[0m"
# For terminals that know nothing beyond ASCII; anything else they lack becomes a question mark.
_ASCII = str.maketrans(
    {"λ": "lambda", "−": "-", "–": "-", "±": "+/-", "×": "x", "…": "...", "≥": ">=", "≤": "<="}
)


def to_text(title: str, sections: Sequence[Section], *, bold: bool = False) -> str:
    """Headings, paragraphs, lists and tables; pictures, excerpts and details are for the pages.

    Args:
        title: Heading of the report.
        sections: In order; those with nothing to print are left out.
        bold: Print headings bold, by the codes that terminals share.
    """
    parts = [_heading(title, bold)]
    for section in sections:
        blocks = [text for block in section.blocks if (text := _block(block))]
        if blocks:
            parts.append("\n\n".join([_heading(section.title, bold), *blocks]))
    return "\n\n".join(parts) + "\n"


def printable(text: str, encoding: str | None) -> str:
    """The text as far as an encoding can write it.

    Args:
        text: Any text.
        encoding: Of the stream, such as ``ascii``; UTF-8 if None.
    """
    name = encoding or "utf-8"
    try:
        text.encode(name)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(name, "replace").decode(name)
    return text


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """A table in columns as wide as their widest cell, with two spaces between them.

    Args:
        header: Name of each column.
        rows: Cells.
        right: Whether a column is set to the right.
    """
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def _heading(title: str, bold: bool) -> str:
    return f"{_BOLD}{title}{_PLAIN}" if bold else f"{title}\n{'=' * len(title)}"


def _block(block: Block) -> str:
    if isinstance(block, Paragraph):
        return textwrap.fill(block.text, _WIDTH, break_on_hyphens=False)
    if isinstance(block, Bullets):
        return "\n".join(f"- {line}" for line in block.lines)
    if isinstance(block, Table) and not block.is_detail:
        right = [block.is_numeric(column) for column in range(len(block.header))]
        text = aligned(block.header, block.rows, right)
        return f"{textwrap.fill(block.caption, _WIDTH)}\n{text}" if block.caption else text
    if isinstance(block, Matrix):
        return "\n\n".join(_block(part) for part in matrix_table(block))
    return ""
