"""Formulas of rotary position embeddings beyond the trained context.

Symbols: b is ``rope_theta``, d is ``head_dim``, T_train the trained context and T the target, both
in tokens. Pair n (0 <= n < d/2) turns by b^(-2n/d) radians a token, so its period is
P_n = 2π·b^(2n/d) tokens.
"""

from __future__ import annotations

import math

from lm_eval_llada.errors import require_number, require_whole

_TWO_PI = 2 * math.pi


def critical_dimension(
    rope_theta: float, head_dim: int, train_length: int, *, bidirectional: bool = False
) -> int:
    """Number of head dimensions that saw at least one full period in training.

    d_crit = 2·ceil((d/2)·log_b(T_train / 2π)), with 2·T_train for T_train when ``bidirectional``.
    When the trained context outlasts every period (T_train > 2πb) the result exceeds ``head_dim``:
    the formula counts on as if the head had more dimensions, which keeps λ continuous.

    Args:
        rope_theta: Base b the model was trained with, > 1.
        head_dim: Dimensions of one head, even.
        train_length: Trained context in tokens, >= 7, one period of the fastest pair.
        bidirectional: Count the relative positions of both signs, as UltraLLaDA does.

    Returns:
        The critical dimension, even and >= 2.

    Raises:
        ValueError: If an argument is out of range.

    Source: LongLLaDA, arXiv 2506.14429v3, Eq. 3-6; bidirectional: UltraLLaDA, arXiv 2510.10481.
    """
    check_head(rope_theta, head_dim, train_length)
    span = train_length * _num_directions(bidirectional)
    return 2 * math.ceil(head_dim / 2 * math.log(span / _TWO_PI) / math.log(rope_theta))


def ntk_scale(
    rope_theta: float,
    head_dim: int,
    train_length: int,
    target_length: int,
    *,
    bidirectional: bool = False,
    d_crit: float | None = None,
    round_up: bool = False,
) -> float:
    """The λ at which the critical dimension completes one period in ``target_length`` tokens.

    λ = b^-1·(T / 2π)^(d / d_crit), with 2·T for T when ``bidirectional``; the model then runs with
    ``rope_theta`` = λ·b. Where the formula gives less than 1, λ is 1: the model gets there as is.

    Args:
        rope_theta: Base b the model was trained with, > 1.
        head_dim: Dimensions of one head, even.
        train_length: Trained context in tokens.
        target_length: Context to reach, in tokens.
        bidirectional: Diffusion-aware NTK: both lengths count twice.
        d_crit: Takes the place of ``critical_dimension``; need be neither even nor whole.
        round_up: Round λ up to a whole number, as LongLLaDA's tables do.

    Returns:
        λ, never below 1.

    Raises:
        ValueError: If an argument is out of range, or λ·b exceeds the range of a float.

    Source: LongLLaDA, arXiv 2506.14429v3, Eq. 3-6; bidirectional: UltraLLaDA, arXiv 2510.10481.
    """
    require_whole("target_length", target_length, 1)
    dimension = _critical(rope_theta, head_dim, train_length, bidirectional, d_crit)
    turns = target_length * _num_directions(bidirectional) / _TWO_PI
    scaled_theta = _power(turns, head_dim / dimension, f"d_crit={dimension}")
    # Inside the trained context nothing needs scaling, whatever d_crit was given.
    scale = 1.0 if target_length <= train_length else max(1.0, scaled_theta / rope_theta)
    return float(math.ceil(scale)) if round_up else scale


def ntk_fixed_scale(head_dim: int, factor: float) -> float:
    """The λ that divides the slowest frequency by exactly ``factor``: s^(d/(d-2)).

    It looks at neither the base nor the trained context, unlike ``ntk_scale``.

    Args:
        head_dim: Dimensions of one head, even, > 2.
        factor: Context-extension ratio s = T / T_train, >= 1.

    Returns:
        λ, >= 1.

    Raises:
        ValueError: If an argument is out of range.
    """
    require_number("factor", factor, 1, inclusive=True)
    require_whole("head_dim", head_dim, 4)
    if head_dim % 2:
        raise ValueError(f"head_dim must be even, since RoPE rotates pairs; got {head_dim}.")
    return _power(factor, head_dim / (head_dim - 2), f"{factor=}")


def reach(
    rope_theta: float,
    head_dim: int,
    train_length: int,
    rope_scale: float,
    *,
    bidirectional: bool = False,
    d_crit: float | None = None,
) -> float:
    """T_extra, the context in tokens in which the critical dimension completes one period.

    T_extra = 2π·(λ·b)^(d_crit/d), half of that when ``bidirectional``; undoes ``ntk_scale``.

    Args:
        rope_theta: Base b the model was trained with, > 1.
        head_dim: Dimensions of one head, even.
        train_length: Trained context in tokens.
        rope_scale: λ, >= 1.
        bidirectional: Read λ as diffusion-aware NTK does.
        d_crit: Takes the place of ``critical_dimension``.

    Returns:
        Tokens, not rounded.

    Raises:
        ValueError: If an argument is out of range.

    Source: LongLLaDA, arXiv 2506.14429v3, Eq. 3-6; bidirectional: UltraLLaDA, arXiv 2510.10481.
    """
    require_number("rope_scale", rope_scale, 1, inclusive=True)
    dimension = _critical(rope_theta, head_dim, train_length, bidirectional, d_crit)
    period = _TWO_PI * _power(rope_scale * rope_theta, dimension / head_dim, f"{rope_scale=}")
    return period / _num_directions(bidirectional)


def coverage(
    rope_theta: float, head_dim: int, train_length: int, *, bidirectional: bool = False
) -> list[float]:
    """Share of its period that each rotation pair saw in training.

    coverage_n = min(1, S / P_n), where S = T_train - 1 is the largest relative position and twice
    that is the span of both signs (``bidirectional``).

    Args:
        rope_theta: Base b the model was trained with, > 1.
        head_dim: Dimensions of one head, even.
        train_length: Trained context in tokens.
        bidirectional: Count the relative positions of both signs.

    Returns:
        ``head_dim / 2`` values in (0, 1], from the fastest pair to the slowest.

    Raises:
        ValueError: If an argument is out of range.
    """
    check_head(rope_theta, head_dim, train_length)
    span = (train_length - 1) * _num_directions(bidirectional)
    periods = (_TWO_PI * rope_theta ** (2 * n / head_dim) for n in range(head_dim // 2))
    return [min(1.0, span / period) for period in periods]


def predicted_frontier(
    context_length: int,
    rope_theta: float,
    head_dim: int,
    train_length: int,
    rope_scale: float = 1.0,
    *,
    bidirectional: bool = False,
    d_crit: float | None = None,
) -> float:
    """Shallowest depth from which a needle is expected to be retrieved: a heuristic, not a law.

    The frontier is 1 - T_eff / L, where T_eff is T_train at λ = 1 and T_extra(λ) above. On
    LLaDA-8B-Base it is too bold from λ = 31 on, so show it with its error.

    Args:
        context_length: Length L of the whole context in tokens.
        rope_theta: Base b the model was trained with, > 1.
        head_dim: Dimensions of one head, even.
        train_length: Trained context in tokens.
        rope_scale: λ, >= 1.
        bidirectional: Read λ as diffusion-aware NTK does.
        d_crit: Takes the place of ``critical_dimension``.

    Returns:
        A depth in [0, 1], where 0 is the start of the context and 1 its end.

    Raises:
        ValueError: If an argument is out of range.

    Source: the reach is that of LongLLaDA, arXiv 2506.14429v3, Eq. 3-6.
    """
    require_whole("context_length", context_length, 1)
    extended = reach(
        rope_theta, head_dim, train_length, rope_scale, bidirectional=bidirectional, d_crit=d_crit
    )
    effective_length = train_length if rope_scale == 1 else extended
    return max(0.0, 1.0 - effective_length / context_length)


def _critical(
    rope_theta: float,
    head_dim: int,
    train_length: int,
    bidirectional: bool,
    d_crit: float | None,
) -> float:
    analytic = critical_dimension(rope_theta, head_dim, train_length, bidirectional=bidirectional)
    if d_crit is None:
        return analytic
    require_number("d_crit", d_crit, 0)
    if d_crit > max(head_dim, analytic):
        raise ValueError(
            f"d_crit={d_crit} exceeds head_dim={head_dim}; the formula gives {analytic}."
        )
    return d_crit


def _num_directions(bidirectional: bool) -> int:
    return 2 if bidirectional else 1


def _power(base: float, exponent: float, cause: str) -> float:
    try:
        return base**exponent
    except OverflowError as error:
        raise ValueError(
            f"{cause} leads to {base:g} ** {exponent:g}, beyond the range of a float; a less "
            f"extreme value is needed."
        ) from error


def check_head(rope_theta: float, head_dim: int, train_length: int) -> None:
    """Raise a ``ValueError`` unless the three numbers can describe a trained RoPE.

    Args:
        rope_theta: Base b the model was trained with, > 1.
        head_dim: Dimensions of one head, even.
        train_length: Trained context in tokens, >= 7, one period of the fastest pair.

    Raises:
        ValueError: If one is out of range.
    """
    require_number("rope_theta", rope_theta, 1)
    require_whole("head_dim", head_dim, 2)
    if head_dim % 2:
        raise ValueError(f"head_dim must be even, since RoPE rotates pairs; got {head_dim}.")
    # In fewer tokens than the fastest period, 2π, no dimension is trained: d_crit would be 0.
    require_whole("train_length", train_length, 7)
