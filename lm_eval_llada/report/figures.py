"""Pictures in general: an empty one, and one written as PNG, SVG and PDF."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from lm_eval_llada.errors import missing_package

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DOTS_PER_INCH = 150


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, its sizes in inches, whose parts make room for each other.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_package("A picture", "matplotlib", "plot") from error
    # Figure alone, without pyplot, draws through Agg and leaves no global state behind.
    return Figure(figsize=(width, height), layout="constrained")


def svg_bytes(figure: Figure) -> bytes:
    """A figure as SVG, the same bytes for the same figure.

    Args:
        figure: Letters stay letters, to be searched, copied and edited.
    """
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "lm_eval_llada"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def save_figure(figure: Figure, folder: Path, name: str) -> bytes:
    """Write a figure as ``<name>.png``, ``<name>.svg`` and ``<name>.pdf``.

    Args:
        figure: What to write.
        folder: Exists.
        name: File name without its ending.

    Returns:
        The SVG.
    """
    from matplotlib import rc_context

    figure.savefig(folder / f"{name}.png", dpi=_DOTS_PER_INCH)
    # Parts keep the room they have made, which takes longer to find than all else.
    figure.set_layout_engine("none")
    with rc_context({"pdf.fonttype": 42}):
        figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
    svg = svg_bytes(figure)
    (folder / f"{name}.svg").write_bytes(svg)
    return svg
