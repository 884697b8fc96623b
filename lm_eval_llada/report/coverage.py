"""How much of its period each rotary dimension saw in training, as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_llada.report.figures import new_figure
from lm_eval_llada.rope import coverage, critical_dimension

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FULL_COLOUR, _PART_COLOUR, _SCALED_COLOUR = "#00457c", "#e69f00", "#555555"
_LINE_COLOUR = "#d7191c"


def draw_coverage(
    rope_theta: float,
    head_dim: int,
    train_length: int,
    *,
    rope_scale: float = 1.0,
    bidirectional: bool = False,
    title: str | None = None,
) -> Figure:
    """Figure of the period of each rotation pair against the span of positions seen in training.

    Pairs whose period the span covers whole are marked as such; the others saw the share of it
    that the second panel shows. With λ above 1 the periods it leads to are drawn as well.

    Args:
        rope_theta: Base b the model was trained with, > 1.
        head_dim: Dimensions of one head, even.
        train_length: Trained context in tokens.
        rope_scale: λ, >= 1.
        bidirectional: Count the relative positions of both signs, as masked diffusion sees them.
        title: Heading; says the numbers if None.

    Raises:
        ValueError: If a number is out of range.
        ImportError: If matplotlib is not installed.
    """
    shares = coverage(rope_theta, head_dim, train_length, bidirectional=bidirectional)
    d_crit = critical_dimension(rope_theta, head_dim, train_length, bidirectional=bidirectional)
    span = (train_length - 1) * (2 if bidirectional else 1)
    figure = new_figure(10.0, 6.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _draw_periods(upper, _periods(rope_theta, head_dim), shares, span)
    if rope_scale > 1:
        scaled = _periods(rope_scale * rope_theta, head_dim)
        label = f"period with λ = {rope_scale:.4g}"
        upper.plot(range(len(scaled)), scaled, color=_SCALED_COLOUR, linestyle=":", label=label)
    _draw_shares(lower, shares)
    for axes in (upper, lower):
        axes.axvline(d_crit / 2 - 0.5, color=_LINE_COLOUR, linestyle="--", linewidth=1.2)
    upper.plot([], [], color=_LINE_COLOUR, linestyle="--", label=f"d_crit = {d_crit}")
    upper.legend(frameon=False)
    figure.suptitle(
        title
        or f"rope_theta {rope_theta:g}, head_dim {head_dim}, trained on {train_length:,} "
        f"tokens, positions of {'both signs' if bidirectional else 'one sign'}",
        fontsize=12,
        fontweight="bold",
    )
    return figure


def save_coverage(path: str | Path, figure: Figure) -> Path:
    """Path that a figure was written to; folders are made as needed.

    Args:
        path: Where to write; the suffix decides the format, such as ``.png`` or ``.svg``.
        figure: Of ``draw_coverage``.

    Raises:
        ValueError: If the suffix is no format that matplotlib knows.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=150)
    return target


def _periods(rope_theta: float, head_dim: int) -> list[float]:
    return [2 * math.pi * rope_theta ** (2 * n / head_dim) for n in range(head_dim // 2)]


def _draw_periods(axes: Any, periods: list[float], shares: list[float], span: int) -> None:
    whole = [n for n, share in enumerate(shares) if share == 1]
    part = [n for n, share in enumerate(shares) if share < 1]
    # Shapes differ as well as colours, for prints and for eyes that see few colours.
    for pairs, colour, marker, what in (
        (whole, _FULL_COLOUR, "o", "whole period seen"),
        (part, _PART_COLOUR, "^", "part of the period seen"),
    ):
        axes.plot(
            pairs,
            [periods[n] for n in pairs],
            linestyle="none",
            marker=marker,
            color=colour,
            label=f"{what}: {len(pairs)} of {len(shares)} pairs",
        )
    axes.axhline(span, color="black", linewidth=1.2, label=f"span seen in training: {span:,}")
    axes.set_yscale("log")
    axes.set_ylabel("period (tokens)")


def _draw_shares(axes: Any, shares: list[float]) -> None:
    colours = [_FULL_COLOUR if share == 1 else _PART_COLOUR for share in shares]
    axes.bar(range(len(shares)), [100 * share for share in shares], color=colours)
    axes.set_ylim(0, 105)
    axes.set_ylabel("period seen (%)")
    axes.set_xlabel("rotation pair, from the fastest to the slowest")
