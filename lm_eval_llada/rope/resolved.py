"""The ``rope_parameters`` that follow from a user's choice for one checkpoint.

Rotation pairs are split-half: pair n is dimensions n and n + head_dim / 2 of what is rotated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lm_eval_llada.errors import require_number
from lm_eval_llada.rope.choice import BASE_METHODS, CRITICAL_METHODS, RopeChoice
from lm_eval_llada.rope.formulas import (
    check_head,
    critical_dimension,
    ntk_fixed_scale,
    ntk_scale,
    reach,
)
from lm_eval_llada.rope.further import EXTRA_KEYS_OF, checked_extra

_LARGEST_THETA = 3.4e38  # float32, which transformers computes frequencies in
_JUMP = 0.05  # share by which a token of trained context may move λ without a word


@dataclass(frozen=True)
class ResolvedRope:
    """Position embeddings of one checkpoint under one ``RopeChoice``.

    Attributes:
        method: One of ``METHODS``.
        rope_scale: λ; 1.0 for the methods that do not change ``rope_theta``.
        factor: Target over trained context, never below 1; ``None`` where no target is known.
        target_length: Context to reach in tokens, if one was given.
        train_length: Trained context in tokens.
        head_dim: Rotated dimensions of one head: all of them, but for partial rotation.
        d_crit: Critical dimension; ``None`` for linear, dynamic, yarn, longrope and llama3.
        rope_theta: The base to run with, λ·b.
        reach: T_extra at this λ in tokens; ``None`` where ``d_crit`` is.
        extra: Further keys of ``rope_parameters``, defaults filled in.
        notes: Lines for the log about what the numbers mean here.
    """

    method: str
    rope_scale: float
    factor: float | None
    target_length: int | None
    train_length: int
    head_dim: int
    d_crit: float | None
    rope_theta: float
    reach: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    notes: tuple[str, ...] = ()

    @property
    def rope_parameters(self) -> dict[str, Any]:
        """A new dict for ``config.rope_parameters`` of transformers 5."""
        if self.d_crit is not None or self._is_identity:
            return {"rope_type": "default", "rope_theta": self.rope_theta}
        parameters: dict[str, Any] = {
            "rope_type": self.method,
            "rope_theta": self.rope_theta,
            "factor": self.factor,
        }
        if self.method in EXTRA_KEYS_OF:
            parameters["original_max_position_embeddings"] = self.train_length
        return parameters | dict(self.extra)

    @property
    def attention_factor(self) -> float:
        """What cosines and sines are multiplied by, so that its square multiplies every logit.

        By the rules of transformers: for longrope √(1 + ln s / ln T_train), for yarn
        0.1·ln s + 1, or the ratio of two such under ``mscale`` and ``mscale_all_dim``; 1 for all
        other methods, and at factor 1. A given ``attention_factor`` takes its place.
        """
        if "attention_factor" in self.extra:
            return float(self.extra["attention_factor"])
        if self.method not in ("yarn", "longrope") or self.factor is None or self.factor <= 1:
            return 1.0
        growth = math.log(self.factor)
        if self.method == "longrope":
            return math.sqrt(1 + growth / math.log(self.train_length))
        mscale, all_dim = self.extra.get("mscale"), self.extra.get("mscale_all_dim")
        if mscale and all_dim:
            return float((0.1 * mscale * growth + 1) / (0.1 * all_dim * growth + 1))
        return 0.1 * growth + 1

    @property
    def _is_identity(self) -> bool:
        # transformers blends two equal frequencies there, which rounds them.
        unscaled = self.method in ("linear", "yarn", "llama3") and self.factor == 1
        return unscaled and self.attention_factor == 1

    @property
    def max_position_embeddings(self) -> int:
        """The ``config.max_position_embeddings`` that goes with ``rope_parameters``, in tokens.

        Dynamic scaling measures growth against it, so there it stays the trained context.
        """
        if self.method in ("none", "dynamic") or self.target_length is None:
            return self.train_length
        return max(self.train_length, self.target_length)


def resolve(
    choice: RopeChoice, *, rope_theta: float, head_dim: int, train_length: int
) -> ResolvedRope:
    """Work out the position embeddings of a checkpoint under a user's choice.

    Args:
        choice: What the user asked for.
        rope_theta: Base b in the checkpoint's config.
        head_dim: Rotated dimensions of one head: all of them, but for partial rotation.
        train_length: Trained context in tokens; ``choice.train_length`` takes its place if given.

    Returns:
        The method with all its numbers, and notes on what they mean.

    Raises:
        ValueError: If a number is out of range, or ``choice.scale`` comes with a
            ``choice.target_length`` shorter than the trained context.
    """
    method, target = choice.effective_method, choice.target_length
    train_length = train_length if choice.train_length is None else choice.train_length
    check_head(rope_theta, head_dim, train_length)
    if choice.scale is not None and target is not None and target < train_length:
        raise ValueError(
            f"target_length={target} is shorter than the trained context of {train_length} tokens, "
            f"which needs no scaling, yet rope_scale={choice.scale} is given; drop one of them."
        )
    factor = None if target is None else max(1.0, target / train_length)
    if method in ("none", *BASE_METHODS):
        return _resolve_base(choice, factor, rope_theta, head_dim, train_length)
    extra = checked_extra(method, choice.extra or {}, head_dim)
    resolved = ResolvedRope(
        method, 1.0, factor, target, train_length, head_dim, None, float(rope_theta), extra=extra
    )
    return replace(resolved, notes=tuple(_factor_notes(resolved)))


def describe(resolved: ResolvedRope) -> list[str]:
    """Lines for a person: method, λ or factor, critical dimension, reach, then the notes.

    Args:
        resolved: The result of ``resolve``.

    Returns:
        At least three lines without line breaks.
    """
    lines = [f"rope method: {resolved.method}, trained on {resolved.train_length} tokens"]
    theta = resolved.rope_theta
    if resolved.d_crit is None:
        lines.append(f"factor: {resolved.factor:.6g}, rope_theta {theta:.6g} unchanged")
    else:
        before = theta / resolved.rope_scale
        lines.append(
            f"rope_scale (λ): {resolved.rope_scale:.6g}, rope_theta {before:.6g} -> {theta:.6g}"
        )
        lines.append(f"d_crit: {resolved.d_crit:.6g} of {resolved.head_dim} dimensions")
        lines.append(f"reach: {resolved.reach:.1f} tokens")
    if resolved.target_length is not None:
        lines.append(f"target: {resolved.target_length} tokens")
    return [*lines, *resolved.notes]


def _resolve_base(
    choice: RopeChoice, factor: float | None, rope_theta: float, head_dim: int, train_length: int
) -> ResolvedRope:
    """Resolve the methods that change ``rope_theta`` alone, and ``none``."""
    method, target = choice.effective_method, choice.target_length
    bidirectional = method == "diffusion_ntk"
    raw = 1.0
    if choice.scale is not None:
        raw = float(choice.scale)
    elif method == "ntk_fixed" and factor is not None:
        raw = ntk_fixed_scale(head_dim, factor)
    elif method != "none" and target is not None:
        raw = ntk_scale(
            rope_theta, head_dim, train_length, target,
            bidirectional=bidirectional, d_crit=choice.d_crit,
        )  # fmt: skip
    scale = float(math.ceil(raw)) if choice.round_scale else raw
    require_number("rope_scale * rope_theta", scale * rope_theta, 1)
    if scale * rope_theta > _LARGEST_THETA:
        raise ValueError(
            f"rope_scale * rope_theta = {scale * rope_theta:.3g} exceeds {_LARGEST_THETA:.3g}, "
            "where frequencies in float32 become 0; use a nearer target_length, or another d_crit."
        )
    analytic = critical_dimension(rope_theta, head_dim, train_length, bidirectional=bidirectional)
    d_crit = analytic if choice.d_crit is None else choice.d_crit
    extended = reach(
        rope_theta, head_dim, train_length, scale, bidirectional=bidirectional, d_crit=d_crit
    )
    resolved = ResolvedRope(
        method, scale, factor, target, train_length, head_dim, d_crit, scale * rope_theta, extended
    )
    return replace(resolved, notes=tuple(_base_notes(resolved, choice, raw, rope_theta, analytic)))


def _factor_notes(resolved: ResolvedRope) -> list[str]:
    """Say what the methods with a factor do to prompts that are no longer than the trained ones."""
    notes, method = [], resolved.method
    if resolved.factor == 1:
        notes.append(
            f"target_length={resolved.target_length} lies within the trained context: {method} has "
            f"factor 1."
        )
    if resolved.attention_factor != 1:
        short = "short prompts change as well"
        if method == "longrope":
            short += "; rope_attention_factor=1.0 leaves them as they are"
        notes.append(
            f"{method} multiplies the logits of attention by {resolved.attention_factor**2:.6g} at "
            f"every length: {short}."
        )
    return notes


def _base_notes(
    resolved: ResolvedRope, choice: RopeChoice, raw: float, rope_theta: float, analytic: int
) -> list[str]:
    """Say where a number is not what its name suggests."""
    target, train, extended = resolved.target_length, resolved.train_length, resolved.reach
    notes: list[str] = []
    if resolved.rope_scale != raw:
        notes.append(f"λ = {raw:.6g} is rounded up to {resolved.rope_scale:.0f}.")
    if choice.d_crit is not None:
        notes.append(f"d_crit = {choice.d_crit:g} was given; the formula gives {analytic}.")
    if target is None or extended is None:
        return notes
    if target <= train:
        notes.append(
            f"target_length={target} lies within the trained context of {train} tokens: "
            f"λ = {resolved.rope_scale:g}."
        )
    elif resolved.rope_scale == 1 and extended >= target:
        notes.append(f"λ = 1 already reaches {extended:.1f} tokens: nothing is scaled.")
    # Rounding noise in the inverse formula must not read as a shortfall.
    elif extended < target * (1 - 1e-9):
        notes.append(f"reach is {extended:.1f} tokens, short of target_length={target}.")
    if resolved.method in CRITICAL_METHODS and choice.scale is None and choice.d_crit is None:
        notes += _jumps(resolved, raw, rope_theta, analytic)
    if resolved.method == "diffusion_ntk" and choice.scale is None and target > train:
        other = ntk_scale(rope_theta, resolved.head_dim, train, target)
        notes.append(f"ntk would give λ = {other:.6g} for the same target.")
    return notes


def _jumps(resolved: ResolvedRope, raw: float, rope_theta: float, analytic: int) -> list[str]:
    """Say where one token more or less of trained context is another critical dimension."""
    train, target, head_dim = resolved.train_length, resolved.target_length, resolved.head_dim
    bidirectional = resolved.method == "diffusion_ntk"
    notes = []
    for word, length in (("less", train - 1), ("more", train + 1)):
        if target is None or length < 7 or target <= max(train, length):
            continue
        near = ntk_scale(rope_theta, head_dim, length, target, bidirectional=bidirectional)
        if abs(near - raw) > _JUMP * raw:
            there = critical_dimension(rope_theta, head_dim, length, bidirectional=bidirectional)
            notes.append(
                f"one token {word} of trained context, {length}, would give λ = {near:.6g}: the "
                f"critical dimension jumps from {analytic} to {there} between the two."
            )
    return notes
