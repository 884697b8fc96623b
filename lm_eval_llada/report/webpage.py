"""A report as one HTML file that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape

from lm_eval_llada.report.document import (
    Block,
    Bullets,
    Excerpt,
    Paragraph,
    Picture,
    Section,
    Table,
)

_STYLE = """\
body { margin: 0; background: #fff; color: #1a1a1a;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1400px; margin: 0 auto; padding: 16px 32px 64px; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.5em;
  border-bottom: 1px solid #bbb; padding-bottom: .2em; }
p { max-width: 75ch; } nav li { display: inline-block; margin-right: 1.2em; }
nav ul { padding: 0; } a { color: #00457c; }
.wide { overflow-x: auto; margin: 1em 0; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #444; padding-bottom: .4em; }
td:first-child { min-width: 9em; }
th, td { padding: .3em .4em; border-bottom: 1px solid #ddd; text-align: left;
  vertical-align: top; }
th { border-bottom: 2px solid #555; vertical-align: bottom; }
.number { text-align: right; } td.number { white-space: nowrap; }
img { max-width: 100%; height: auto; }
figure { margin: 1.5em 0; }
details { margin: .6em 0; border: 1px solid #ccc; border-radius: 4px; padding: .4em .8em; }
summary { cursor: pointer; } dt { font-weight: 600; margin-top: .6em; } dd { margin: 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f4f4f4; margin: .3em 0;
  padding: .6em .8em; font-size: .85rem; }
"""


def to_html(title: str, sections: Sequence[Section], pictures: Mapping[str, bytes]) -> str:
    """The whole report as one page.

    Args:
        title: Heading of the report.
        sections: In order.
        pictures: SVG of each picture by name; they become part of the page.
    """
    anchors = [_anchor(position, section.title) for position, section in enumerate(sections, 1)]
    links = "\n".join(
        f'<li><a href="#{anchor}">{escape(section.title)}</a></li>'
        for anchor, section in zip(anchors, sections, strict=True)
    )
    bodies = "\n".join(
        _section(anchor, section, pictures)
        for anchor, section in zip(anchors, sections, strict=True)
    )
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<nav><ul>
{links}
</ul></nav>
{bodies}
</main>
</body>
</html>
"""


def _section(anchor: str, section: Section, pictures: Mapping[str, bytes]) -> str:
    blocks = "\n".join(_block(block, pictures) for block in section.blocks)
    return f'<section id="{anchor}">\n<h2>{escape(section.title)}</h2>\n{blocks}\n</section>'


def _block(block: Block, pictures: Mapping[str, bytes]) -> str:
    if isinstance(block, Paragraph):
        return f"<p>{escape(block.text)}</p>"
    if isinstance(block, Bullets):
        lines = "\n".join(f"<li>{escape(line)}</li>" for line in block.lines)
        return f"<ul>\n{lines}\n</ul>"
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Picture):
        return _picture(block, pictures[block.name])
    return _excerpt(block)


def _table(block: Table) -> str:
    classes = [
        ' class="number"' if block.is_numeric(column) else "" for column in range(len(block.header))
    ]
    caption = f"<caption>{escape(block.caption)}</caption>\n" if block.caption else ""
    head = "".join(
        f'<th scope="col"{kind}>{escape(cell)}</th>'
        for kind, cell in zip(classes, block.header, strict=True)
    )
    rows = "\n".join(
        f"<tr>{''.join(f'<td{k}>{escape(c)}</td>' for k, c in zip(classes, row, strict=True))}</tr>"
        for row in block.rows
    )
    return (
        f'<div class="wide">\n<table>\n{caption}<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table>\n</div>"
    )


def _picture(block: Picture, svg: bytes) -> str:
    data = base64.b64encode(svg).decode("ascii")
    alternative = escape(block.alternative)
    return f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{alternative}"></figure>'


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
