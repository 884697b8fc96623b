"""Perplexity against context as a picture: a line for each series, with its band."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lm_eval_llada.errors import unknown_choice
from lm_eval_llada.report.curves import Series
from lm_eval_llada.tasks.perplexity.scores import Value, safe_exp

if TYPE_CHECKING:
    from matplotlib.axes import Axes

UNITS: Mapping[str, str] = {
    "perplexity": "perplexity per token",
    "nats": "cross entropy (nats per token)",
    "bits_per_byte": "cross entropy (bits per byte of text)",
}
"""What a picture may show, with the name of its axis."""

KINDS: Mapping[str, str] = {
    "cumulative": "all chunks so far, geometric mean",
    "local": "each chunk alone",
}
"""Which value of a point a picture may show."""

# Okabe and Ito's colours, told apart under the common colour deficiencies; the yellow is left out,
# too pale for a line. Estimators differ in dashes and markers as well, models in colour alone.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_STYLES: Mapping[str, tuple[str, str]] = {
    "elbo": ("-", "o"),
    "causal": ("-", "s"),
    "duel": ("--", "^"),
    "masked_mean": (":", "D"),
}
_BAND = 2.0  # standard errors to either side
_MARK_COLOUR = "0.35"
_MOST_MARKERS = 30


def draw_curves(
    axes: Axes, series: Sequence[Series], *, unit: str = "perplexity", kind: str = "cumulative"
) -> None:
    """Draw lines with bands of two standard errors into axes, trained contexts and targets marked.

    Args:
        axes: Of matplotlib. Titles and legends are left to the caller.
        series: At least one.
        unit: One of ``UNITS``.
        kind: One of ``KINDS``.

    Raises:
        ValueError: If there is nothing to draw, or unit or kind is unknown.
    """
    if unit not in UNITS:
        raise unknown_choice("unit", unit, UNITS)
    if kind not in KINDS:
        raise unknown_choice("kind", kind, KINDS)
    if not series:
        raise ValueError("No curve to draw; give at least one.")
    sources = list(dict.fromkeys(one.source for one in series))
    for one in series:
        colour = _COLOURS[sources.index(one.source) % len(_COLOURS)]
        _draw_line(axes, one, colour, unit, kind)
    _mark_lengths(axes, series)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if unit == "perplexity":
        _use_log_perplexity(axes)
    axes.set_xlabel("context length (tokens)")
    axes.set_ylabel(f"{UNITS[unit]}\n({KINDS[kind]})")
    axes.grid(alpha=0.25)


def _draw_line(axes: Axes, series: Series, colour: str, unit: str, kind: str) -> None:
    values = [(p.length, p.local if kind == "local" else p.cumulative) for p in series.points]
    measured = [(length, value) for length, value in values if value is not None]
    lengths = [length for length, _ in measured]
    bands = [_band(value, unit) for _, value in measured]
    low, middle, high = ([band[edge] for band in bands] for edge in range(3))
    dashes, marker = _STYLES.get(series.estimator, ("-", "o"))
    unfinished = " (unfinished)" if series.num_missing else ""
    axes.plot(
        lengths,
        middle,
        linestyle=dashes,
        marker=marker,
        markersize=4,
        markevery=max(1, len(lengths) // _MOST_MARKERS),
        color=colour,
        linewidth=1.6,
        label=series.label + unfinished,
    )
    axes.fill_between(lengths, low, high, color=colour, alpha=0.2, linewidth=0)


def _band(value: Value, unit: str) -> tuple[float, float, float]:
    """Lower edge, value and upper edge in a unit; without a known error the three are one."""
    half = _BAND * (value.stderr or 0.0)
    edges = (value.nats - half, value.nats, value.nats + half)
    if unit == "perplexity":
        low, middle, high = (safe_exp(edge) for edge in edges)
        return low, middle, high
    if unit == "bits_per_byte":
        # The same share of bytes to tokens turns value and error from one unit into the other.
        scale = (value.bits_per_byte or math.nan) / value.nats if value.nats else math.nan
        low, middle, high = (edge * scale for edge in edges)
        return low, middle, high
    return edges


def _use_log_perplexity(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _mark_lengths(axes: Axes, series: Sequence[Series]) -> None:
    """Vertical lines at trained contexts and targets, each length once, named at the top."""
    for name, dashes in (("train_length", ":"), ("target_length", "-.")):
        lengths = {getattr(one, name) for one in series} - {None}
        for length in sorted(lengths):
            axes.axvline(length, color=_MARK_COLOUR, linestyle=dashes, linewidth=1)
            what = "trained" if name == "train_length" else "target"
            axes.annotate(
                f"{what}: {length:,}",
                (length, 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, -3),
                textcoords="offset points",
                rotation=90,
                va="top",
                fontsize=8,
                color=_MARK_COLOUR,
            )
