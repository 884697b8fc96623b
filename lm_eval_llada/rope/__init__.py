"""RoPE extrapolation: the formulas, and how a user's choice becomes ``rope_parameters``."""

from __future__ import annotations

from lm_eval_llada.rope.choice import METHODS, RopeChoice
from lm_eval_llada.rope.formulas import (
    coverage,
    critical_dimension,
    ntk_fixed_scale,
    ntk_scale,
    predicted_frontier,
    reach,
)
from lm_eval_llada.rope.further import EXTRA_KEYS
from lm_eval_llada.rope.resolved import ResolvedRope, describe, resolve

__all__ = [
    "EXTRA_KEYS",
    "METHODS",
    "ResolvedRope",
    "RopeChoice",
    "coverage",
    "critical_dimension",
    "describe",
    "ntk_fixed_scale",
    "ntk_scale",
    "predicted_frontier",
    "reach",
    "resolve",
]
