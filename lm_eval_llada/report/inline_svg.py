"""A picture as part of a page: its names are its own, and its ink follows light and dark."""

from __future__ import annotations

import re
from html import escape

# Matplotlib's paper, ink and grey of texts and rules.
_INK = {
    "#ffffff": "none",
    "#000000": "currentColor",
    "#595959": "var(--muted)",
}
_METADATA = re.compile(r"<metadata>.*?</metadata>\s*", re.DOTALL)
_COLOUR = re.compile(r"(fill|stroke): (#ffffff|#000000|#595959)\b")


def inline_svg(svg: bytes, name: str, alternative: str) -> str:
    """The ``<svg>`` of a picture for a page.

    Args:
        svg: Of ``figures.svg_bytes``.
        name: Of the picture, unique on the page; ids in it begin with it.
        alternative: What it shows, for those who do not see it.
    """
    text = svg.decode("utf-8")
    text = _METADATA.sub("", text[text.index("<svg") :])
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    prefix = re.sub(r"[^A-Za-z0-9_-]", "-", name)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'((?:xlink:)?href="#|url\(#)', rf"\g<1>{prefix}-", text)
    text = _COLOUR.sub(lambda match: f"{match[1]}: {_INK[match[2]]}", text)
    label = f'<svg role="img" aria-label="{escape(alternative)}"'
    text = text.replace("<svg", label, 1).replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    text = text.replace(' xmlns="http://www.w3.org/2000/svg"', "").replace("xlink:href", "href")
    return text.strip()
