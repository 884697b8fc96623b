"""Perplexity curves of one or more files of ppl/curve.py as one picture, PNG and SVG.

    python ppl/plot.py results/tiny-llada.jsonl results/tiny-llama.jsonl --output curves.png

Lines carry bands of two standard errors: over documents where there are several, else over the
masks drawn. Trained contexts and targets are marked. Models with different tokenizers compare in
--unit bits_per_byte.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lm_eval_llada.report.curves import (
    KINDS,
    UNITS,
    Series,
    draw_curves,
    read_curves,
)
from lm_eval_llada.report.figures import new_figure, save_figure

_SUFFIXES = (".png", ".svg")


def save_curves(
    series: Sequence[Series], path: str | Path, *, unit: str, kind: str, title: str
) -> list[Path]:
    """Paths of the pictures: the one named and its twin, PNG and SVG.

    Args:
        series: At least one.
        path: Where to write; its suffix is .png, .svg or none.
        unit: See `draw_curves`.
        kind: See `draw_curves`.
        title: Heading of the picture.

    Raises:
        ValueError: If the suffix is another one, or as `draw_curves`.
        ImportError: If matplotlib is not installed.
    """
    target = Path(path)
    if target.suffix not in ("", *_SUFFIXES):
        raise ValueError(f"--output must end in .png or .svg; got {str(path)!r}.")
    figure = new_figure(8.0, 5.0)
    axes = figure.subplots()
    draw_curves(axes, series, unit=unit, kind=kind)
    axes.set_title(title, fontsize=12, fontweight="bold")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, target.parent, target.stem)
    return [target.with_suffix(suffix) for suffix in _SUFFIXES]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 1 after one sentence on what went wrong.

    Args:
        argv: Arguments; those of the process if None.
    """
    arguments = _parser().parse_args(argv)
    try:
        paths = save_curves(
            read_curves(arguments.files),
            arguments.output,
            unit=arguments.unit,
            kind=arguments.kind,
            title=arguments.title,
        )
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"Pictures: {', '.join(map(str, paths))}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("files", nargs="+", type=Path, help="JSON-lines files of ppl/curve.py")
    add("--output", type=Path, default=Path("curves.png"), help="picture to write (curves.png)")
    add("--unit", default="perplexity", help=f"one of {', '.join(UNITS)} (perplexity)")
    add("--kind", default="cumulative", help=f"one of {', '.join(KINDS)} (cumulative)")
    add("--title", default="Perplexity against context length", help="heading")
    return parser


if __name__ == "__main__":
    sys.exit(main())
