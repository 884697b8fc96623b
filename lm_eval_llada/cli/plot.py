"""The command ``plot``: perplexity curves of one or more files as one picture: PNG, SVG and PDF.

    lm-eval-llada plot results/tiny-llada.jsonl results/tiny-llama.jsonl --output curves.png

Lines carry bands of two standard errors: over documents where there are several, else over the
masks drawn. Trained contexts and targets are marked. Models with different tokenizers compare in
--unit bits_per_byte.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lm_eval_llada.report.curve_picture import KINDS, UNITS, draw_curves
from lm_eval_llada.report.curves import read_curves
from lm_eval_llada.report.figures import new_figure, save_figure

_SUFFIXES = (".png", ".svg", ".pdf")


def add_parser(subparsers: Any) -> None:
    """Add the command to what ``add_subparsers`` returned."""
    parser = subparsers.add_parser(
        "plot",
        help="Draw perplexity curves",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("files", nargs="+", type=Path, help="JSON-lines files of the command curve")
    add("--output", type=Path, default=Path("curves.png"), help="picture to write (curves.png)")
    add("--unit", default="perplexity", help=f"one of {', '.join(UNITS)} (perplexity)")
    add("--kind", default="cumulative", help=f"one of {', '.join(KINDS)} (cumulative)")
    add("--title", default="Perplexity against context length", help="heading")
    parser.set_defaults(func=_run)


def _run(namespace: argparse.Namespace) -> None:
    target: Path = namespace.output
    if target.suffix not in ("", *_SUFFIXES):
        raise ValueError(f"--output must end in .png, .svg or .pdf; got {str(target)!r}.")
    for path in namespace.files:
        if not path.is_file():
            raise ValueError(
                f"There is no file {path}; the command curve writes one, as its --output."
            )
    figure = new_figure(8.0, 5.0)
    axes = figure.subplots()
    draw_curves(axes, read_curves(namespace.files), unit=namespace.unit, kind=namespace.kind)
    axes.set_title(namespace.title, fontsize=12, fontweight="bold")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, target.parent, target.stem)
    print(f"Pictures: {', '.join(str(target.with_suffix(suffix)) for suffix in _SUFFIXES)}")
