"""What a user asks of RoPE, checked as far as no checkpoint is needed.

Two numbers must not be confused. ``rope_scale`` is λ, which multiplies ``rope_theta``;
``factor`` is the context-extension ratio s = T / T_train.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lm_eval_llada.errors import require_number, require_whole, unknown_choice
from lm_eval_llada.rope.further import checked_extra, with_files_read

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

CRITICAL_METHODS = ("ntk", "diffusion_ntk")
"""Those whose λ follows from a critical dimension."""
BASE_METHODS = ("ntk", "diffusion_ntk", "ntk_fixed")
"""Those that change ``rope_theta`` alone, by λ."""
_LONGEST_TARGET = 10**12


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
            (required), ``short_factor``, ``attention_factor``. A factor list may be the name of a
            file that holds it, in whose place the numbers stand from then on.

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
        if self.extra:
            # Read once, so that what is kept of a choice are numbers, not a file that may change.
            object.__setattr__(self, "extra", with_files_read(self.extra))
        checked_extra(self.effective_method, self.extra or {})

    @property
    def effective_method(self) -> str:
        """The method with ``None`` resolved to ``ntk`` or ``none``."""
        if self.method is not None:
            return self.method
        return "none" if self.scale is None and self.target_length is None else "ntk"

    def _check_combination(self) -> None:
        method = self.effective_method
        if self.d_crit is not None and method not in CRITICAL_METHODS:
            raise ValueError(
                f"d_crit={self.d_crit} has no effect with rope_method={method!r}; drop it, or use "
                f"rope_method=ntk or diffusion_ntk with a target_length or rope_scale."
            )
        if self.scale is not None and method not in BASE_METHODS:
            raise ValueError(
                f"rope_scale={self.scale} is λ, the multiplier of rope_theta, which "
                f"rope_method={method!r} does not use; drop it, or use one of "
                f"{', '.join(BASE_METHODS)}. Other methods take their factor from target_length."
            )
        if self.round_scale and method not in (*BASE_METHODS, "none"):
            raise ValueError(
                f"round_scale rounds λ, and rope_method={method!r} has none; drop round_scale."
            )
        if self.round_scale and self.scale is not None and self.scale != int(self.scale):
            raise ValueError(
                f"round_scale=true contradicts rope_scale={self.scale}; give rope_scale="
                f"{math.ceil(self.scale)}, or drop round_scale."
            )
        if method != "none" and self.target_length is None and self.scale is None:
            alternative = " or rope_scale" if method in BASE_METHODS else ""
            raise ValueError(f"rope_method={method!r} needs target_length{alternative}.")
