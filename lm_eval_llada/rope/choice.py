"""What a user asks of RoPE, and the ``rope_parameters`` that follow from it for one checkpoint.

The formulas are in ``rope_formulas`` and can be imported from here as well. Rotation pairs are
split-half: pair n is dimensions n and n + head_dim / 2 of a head.

Two numbers must not be confused. ``rope_scale`` is λ, which multiplies ``rope_theta``;
``factor`` is the context-extension ratio s = T / T_train.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lm_eval_llada.errors import (
    require_number,
    require_whole,
    unknown_choice,
)
from lm_eval_llada.rope.formulas import (
    check_head,
    critical_dimension,
    ntk_fixed_scale,
    ntk_scale,
    reach,
)

METHODS: tuple[str, ...] = (
    "none",
    "ntk",
    "diffusion_ntk",
    "ntk_fixed",
    "linear",
    "dynamic",
    "yarn",
    "longrope",
    "llama3",
)

_CRITICAL_METHODS = ("ntk", "diffusion_ntk")
_BASE_METHODS = ("ntk", "diffusion_ntk", "ntk_fixed")
# Keys of transformers' rope_parameters that a user may set, beyond those that we derive.
_EXTRA_KEYS: dict[str, tuple[str, ...]] = {
    "yarn": (
        "beta_fast",
        "beta_slow",
        "attention_factor",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ),
    "longrope": ("long_factor", "short_factor", "attention_factor"),
    "llama3": ("low_freq_factor", "high_freq_factor"),
}
EXTRA_KEYS: tuple[str, ...] = tuple(dict.fromkeys(sum(_EXTRA_KEYS.values(), ())))
"""The same for all methods together; each is given as rope_<key>."""

_LARGEST_THETA = 3.4e38  # float32, which transformers computes frequencies in
_LONGEST_TARGET = 10**12
# The values of the YaRN paper and of Llama 3.1.
_EXTRA_DEFAULTS: dict[str, dict[str, float]] = {
    "yarn": {"beta_fast": 32.0, "beta_slow": 1.0},
    "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
}
_EXTRA_ORDER = {
    "yarn": ("beta_slow", "beta_fast"),
    "llama3": ("low_freq_factor", "high_freq_factor"),
}


@dataclass(frozen=True)
class RopeChoice:
    """What a user asked of the position embeddings, validated as far as no checkpoint is needed.

    Attributes:
        method: One of ``METHODS``; ``None`` means ``ntk`` if a scale or a target is given, else
            ``none``.
        scale: λ (``rope_scale``), >= 1, in place of the one computed for ``target_length``.
        target_length: Context to reach, in tokens.
        train_length: Trained context in tokens, in place of the checkpoint's own.
        d_crit: Critical dimension in place of the computed one, > 0; ntk and diffusion_ntk only.
        round_scale: Round λ up to a whole number, as LongLLaDA's tables do.
        force: Let the loader rescale a checkpoint that post-training has already extended.
        extra: Further keys of transformers' ``rope_parameters``: for yarn ``beta_fast``,
            ``beta_slow``, ``attention_factor``, ``mscale``, ``mscale_all_dim``, ``truncate``; for
            llama3 ``low_freq_factor``, ``high_freq_factor``; for longrope ``long_factor``
            (required), ``short_factor``, ``attention_factor``.

    Raises:
        ValueError: If a value is out of range or two of them contradict each other.
    """

    method: str | None = None
    scale: float | None = None
    target_length: int | None = None
    train_length: int | None = None
    d_crit: float | None = None
    round_scale: bool = False
    force: bool = False
    extra: Mapping[str, Any] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        """Check every value on its own, then the combination."""
        if self.method is not None and self.method not in METHODS:
            raise unknown_choice("rope_method", self.method, METHODS)
        if self.scale is not None:
            require_number("rope_scale", self.scale, 1, inclusive=True)
        if self.target_length is not None:
            require_whole("target_length", self.target_length, 1)
            if self.target_length > _LONGEST_TARGET:
                raise ValueError(
                    f"target_length must be at most {_LONGEST_TARGET}; got {self.target_length}."
                )
        if self.train_length is not None:
            require_whole("train_length", self.train_length, 7)
        if self.d_crit is not None:
            require_number("d_crit", self.d_crit, 0)
        for name in ("round_scale", "force"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false; got {getattr(self, name)!r}.")
        self._check_combination()
        _checked_extra(self.effective_method, self.extra or {})

    @property
    def effective_method(self) -> str:
        """The method with ``None`` resolved to ``ntk`` or ``none``."""
        if self.method is not None:
            return self.method
        return "none" if self.scale is None and self.target_length is None else "ntk"

    def _check_combination(self) -> None:
        method = self.effective_method
        if self.d_crit is not None and method not in _CRITICAL_METHODS:
            raise ValueError(
                f"d_crit={self.d_crit} has no effect with rope_method={method!r}; drop it, or use "
                f"rope_method=ntk or diffusion_ntk with a target_length or rope_scale."
            )
        if self.scale is not None and method not in _BASE_METHODS:
            raise ValueError(
                f"rope_scale={self.scale} is λ, the multiplier of rope_theta, which "
                f"rope_method={method!r} does not use; drop it, or use one of "
                f"{', '.join(_BASE_METHODS)}. Other methods take their factor from target_length."
            )
        if self.round_scale and method not in (*_BASE_METHODS, "none"):
            raise ValueError(
                f"round_scale rounds λ, and rope_method={method!r} has none; drop round_scale."
            )
        if self.round_scale and self.scale is not None and self.scale != int(self.scale):
            raise ValueError(
                f"round_scale=true contradicts rope_scale={self.scale}; give rope_scale="
                f"{math.ceil(self.scale)}, or drop round_scale."
            )
        if method != "none" and self.target_length is None and self.scale is None:
            alternative = " or rope_scale" if method in _BASE_METHODS else ""
            raise ValueError(f"rope_method={method!r} needs target_length{alternative}.")


@dataclass(frozen=True)
class ResolvedRope:
    """Position embeddings of one checkpoint under one ``RopeChoice``.

    Attributes:
        method: One of ``METHODS``.
        rope_scale: λ; 1.0 for the methods that do not change ``rope_theta``.
        factor: Target over trained context, never below 1; ``None`` where no target is known.
        target_length: Context to reach in tokens, if one was given.
        train_length: Trained context in tokens.
        head_dim: Dimensions of one head.
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
        if self.d_crit is not None:
            return {"rope_type": "default", "rope_theta": self.rope_theta}
        parameters: dict[str, Any] = {
            "rope_type": self.method,
            "rope_theta": self.rope_theta,
            "factor": self.factor,
        }
        if self.method in _EXTRA_KEYS:
            parameters["original_max_position_embeddings"] = self.train_length
        return parameters | dict(self.extra)

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
        head_dim: Dimensions of one head.
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
    if method in ("none", *_BASE_METHODS):
        return _resolve_base(choice, factor, rope_theta, head_dim, train_length)
    extra = _checked_extra(method, choice.extra or {}, head_dim)
    within = target is not None and target <= train_length
    note = f"target_length={target} lies within the trained context: {method} has factor 1."
    return ResolvedRope(
        method, 1.0, factor, target, train_length, head_dim, None, float(rope_theta),
        extra=extra, notes=(note,) if within else (),
    )  # fmt: skip


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
    if resolved.method == "diffusion_ntk" and choice.scale is None and target > train:
        other = ntk_scale(rope_theta, resolved.head_dim, train, target)
        notes.append(f"ntk would give λ = {other:.6g} for the same target.")
    return notes


def _checked_extra(
    method: str, extra: Mapping[str, Any], head_dim: int | None = None
) -> dict[str, Any]:
    """Return the further keys of ``rope_parameters`` with defaults, or raise a ``ValueError``."""
    allowed = _EXTRA_KEYS.get(method, ())
    if extra and not allowed:
        given = sorted(map(str, extra))
        raise ValueError(f"rope_method={method!r} takes no further keys; got {given}.")
    values: dict[str, Any] = dict(_EXTRA_DEFAULTS.get(method, {}))
    for key, value in extra.items():
        if key not in allowed:
            raise unknown_choice(f"A further key for rope_method={method!r}", key, allowed)
        values[key] = _checked_value(key, value, head_dim)
    low, high = _EXTRA_ORDER.get(method, ("", ""))
    if low and values[low] >= values[high]:
        raise ValueError(
            f"{high} must be greater than {low}; got {values[high]:g} and {values[low]:g}."
        )
    if method == "longrope":
        if "long_factor" not in values:
            raise ValueError(
                "rope_method='longrope' needs long_factor, a list of head_dim / 2 numbers found by "
                "LongRoPE's search for this model; without one use yarn or ntk."
            )
        values.setdefault("short_factor", [1.0] * len(values["long_factor"]))
    return values


def _checked_value(key: str, value: Any, head_dim: int | None) -> Any:
    # transformers only logs a warning for these and then computes with them.
    if key == "truncate":
        if not isinstance(value, bool):
            raise ValueError(f"truncate must be true or false; got {value!r}.")
        return value
    if key not in ("long_factor", "short_factor"):
        require_number(key, value, 0)
        return float(value)
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{key} must be a list of numbers; got {value!r}.")
    if head_dim is not None and len(value) != head_dim // 2:
        raise ValueError(
            f"{key} must have head_dim / 2 = {head_dim // 2} numbers; got {len(value)}."
        )
    for index, number in enumerate(value):
        require_number(f"{key}[{index}]", number, 0)
    return [float(number) for number in value]
