"""A report as one HTML file that needs nothing else: no network, no other file.

Its style and its script are `page.css` and `page.js`, which become part of it; what it may load is
nothing. Without the script all is there but sorting, filtering and the choice of a baseline.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path

from lm_eval_llada.report.document import (
    Block,
    Bullets,
    Excerpt,
    Paragraph,
    Picture,
    Section,
    Table,
)
from lm_eval_llada.report.inline_svg import inline_svg
from lm_eval_llada.report.page_blocks import Heatmap, Matrix, SampleTable
from lm_eval_llada.report.page_parts import heatmap_html, matrix_html, samples_html

_FEWEST_TO_FILTER = 9  # rows
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def to_html(
    title: str,
    sections: Sequence[Section],
    pictures: Mapping[str, bytes],
    facts: Sequence[str] = (),
) -> str:
    """The whole report as one page.

    Args:
        title: Heading of the report.
        sections: In order.
        pictures: SVG of each picture by name; they become part of the page.
        facts: Lines under the heading, such as dates and versions.
    """
    page = _Page(sections, pictures)
    anchors = [_anchor(position, section.title) for position, section in enumerate(sections, 1)]
    bodies = [
        (anchor, section, page.section(anchor, section))
        for anchor, section in zip(anchors, sections, strict=True)
    ]
    # A section may hold nothing but what texts have.
    bodies = [body for body in bodies if body[2]]
    links = "\n".join(
        f'<li><a href="#{anchor}">{escape(section.title)}</a></li>' for anchor, section, _ in bodies
    )
    lines = "".join(f'<p class="facts">{escape(fact)}</p>\n' for fact in facts)
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{_shipped("page.css")}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{lines}<nav><ul>
{links}
</ul></nav>
{"".join(body for _, _, body in bodies)}</main>
<script>
{_shipped("page.js")}</script>
</body>
</html>
"""


@cache
def _shipped(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


class _Page:
    """What blocks of one page share: pictures, names of tables, anchors that links may go to."""

    def __init__(self, sections: Sequence[Section], pictures: Mapping[str, bytes]) -> None:
        blocks = [block for section in sections for block in section.blocks]
        rows = [row for block in blocks if isinstance(block, SampleTable) for row in block.rows]
        # A task leads to all of its depths.
        self._anchors = {anchor for row in rows for anchor in
                         (row.anchor, row.anchor.partition(".")[0])}  # fmt: skip
        self._tags = {run.label: run.tag for block in blocks if isinstance(block, Matrix)
                      for run in block.runs}  # fmt: skip
        self._pictures = pictures
        self._num_tables = 0

    def section(self, anchor: str, section: Section) -> str:
        """A section with its heading; empty where no block of it is for pages."""
        blocks = [block for block in section.blocks if getattr(block, "on_page", True)]
        if not blocks:
            return ""
        body = "\n".join(map(self._block, blocks))
        # Pictures that follow each other stand side by side where there is room.
        body = re.sub(
            r'(?:<figure class="chart">.*?</figure>\n?){2,}',
            lambda match: f'<div class="charts">\n{match[0]}</div>\n',
            body,
            flags=re.DOTALL,
        )
        return f'<section id="{anchor}">\n<h2>{escape(section.title)}</h2>\n{body}\n</section>\n'

    def _block(self, block: Block) -> str:
        if isinstance(block, Paragraph):
            return f"<p>{escape(block.text)}</p>"
        if isinstance(block, Bullets):
            lines = "\n".join(f"<li>{escape(line)}</li>" for line in block.lines)
            return f"<ul>\n{lines}\n</ul>"
        if isinstance(block, Table):
            return self._table(block)
        if isinstance(block, Picture):
            return _picture(block, self._pictures[block.name])
        if isinstance(block, Matrix):
            return matrix_html(block, self._name(), self._anchors)
        if isinstance(block, Heatmap):
            return heatmap_html(block, self._anchors)
        if isinstance(block, SampleTable):
            return samples_html(block, self._name())
        return _excerpt(block)

    def _table(self, block: Table) -> str:
        name = self._name()
        table = _table(block, name, self._tags)
        if len(block.rows) >= _FEWEST_TO_FILTER:
            table = (
                f'<div class="tools" hidden><label>Filter <input type="search" '
                f'data-filters="{name}"></label></div>\n{table}'
            )
        if block.is_detail:
            summary = escape(block.caption or "Details")
            return f"<details>\n<summary>{summary}</summary>\n{table}\n</details>"
        return table

    def _name(self) -> str:
        self._num_tables += 1
        return f"t{self._num_tables}"


def _table(block: Table, name: str, tags: Mapping[str, str]) -> str:
    classes = [
        ' class="number"' if block.is_numeric(column) else "" for column in range(len(block.header))
    ]
    # Above the box that scrolls, so that a narrow window shows all of it.
    has_caption = block.caption and not block.is_detail
    caption = f'<p class="caption">{escape(block.caption)}</p>\n' if has_caption else ""
    head = "".join(
        f'<th scope="col"{kind}>{_named(cell, tags)}</th>'
        for kind, cell in zip(classes, block.header, strict=True)
    )
    rows = "\n".join(
        "<tr>"
        + "".join(
            f"<td{kind}>{_named(cell, tags)}</td>" for kind, cell in zip(classes, row, strict=True)
        )
        + "</tr>"
        for row in block.rows
    )
    return (
        f'{caption}<div class="wide">\n<table id="{name}" class="sortable">\n<thead><tr>{head}</tr>'
        f"</thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
    )


def _named(cell: str, tags: Mapping[str, str]) -> str:
    """A cell, with its tag where it is the name of a run; a telephone shows the tag alone."""
    tag = tags.get(cell)
    if tag is None:
        return escape(cell)
    name = escape(cell)
    return f'<b class="tag" title="{name}">{tag}</b><span class="runname"> {name}</span>'


def _picture(block: Picture, svg: bytes) -> str:
    drawing = inline_svg(svg, block.name, block.alternative)
    return f'<figure class="chart">{drawing}</figure>'


def _excerpt(block: Excerpt) -> str:
    parts = "\n".join(
        # A line break right after <pre> is not part of its text, hence one of our own.
        f"<dt>{escape(name)}</dt>\n<dd><pre>\n{escape(text)}</pre></dd>"
        for name, text in block.parts
    )
    return f"<details>\n<summary>{escape(block.title)}</summary>\n<dl>\n{parts}\n</dl>\n</details>"


def _anchor(position: int, title: str) -> str:
    """Name of a section in links: its number makes it unique."""
    return f"s{position}-{re.sub('[^a-z0-9]+', '-', title.lower()).strip('-')}"
