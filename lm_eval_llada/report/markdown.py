"""A report as Markdown, with its pictures as files beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from lm_eval_llada.report.document import (
    Block,
    Bullets,
    Excerpt,
    Paragraph,
    Picture,
    Section,
    Table,
    matrix_table,
)
from lm_eval_llada.report.page_blocks import Matrix

# What begins or ends something in Markdown, or a tag in the HTML that Markdown lets through.
_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~$])")


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """The whole report as one text.

    Args:
        title: Heading of the report.
        sections: In order. Pictures are linked as ``<name>.svg`` in the same folder.
    """
    parts = [f"# {_escaped(title)}"]
    for section in sections:
        parts.append(f"## {_escaped(section.title)}")
        parts += [text for block in section.blocks if (text := _block(block))]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    if isinstance(block, Paragraph):
        return _escaped(block.text)
    if isinstance(block, Bullets):
        return "\n".join(f"- {_escaped(line)}" for line in block.lines)
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Picture):
        return f"![{_escaped(block.alternative)}]({block.name}.svg)"
    if isinstance(block, Matrix):
        return "\n\n".join(_block(part) for part in matrix_table(block))
    return _excerpt(block) if isinstance(block, Excerpt) else ""


def _table(block: Table) -> str:
    rules = ["---:" if block.is_numeric(i) else ":---" for i in range(len(block.header))]
    lines = [
        _line(_escaped(cell) for cell in block.header),
        _line(rules),
        *(_line(_escaped(cell) for cell in row) for row in block.rows),
    ]
    text = "\n".join(lines)
    return f"{_escaped(block.caption)}\n\n{text}" if block.caption else text


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _excerpt(block: Excerpt) -> str:
    parts = [f"**{_escaped(block.title)}**"]
    for name, text in block.parts:
        # A fence has to be longer than any run of its own character inside.
        longest = max(map(len, re.findall(r"`+", text)), default=0)
        fence = "`" * max(3, longest + 1)
        parts.append(f"{_escaped(name)}:\n\n{fence}text\n{text}\n{fence}")
    return "\n\n".join(parts)


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
