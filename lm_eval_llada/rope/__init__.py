"""RoPE extrapolation: the formulas, and how a user's choice becomes ``rope_parameters``."""

from __future__ import annotations

from lm_eval_llada.rope.choice import (
    EXTRA_KEYS,
    METHODS,
    ResolvedRope,
    RopeChoice,
    describe,
    resolve,
)
from lm_eval_llada.rope.formulas import (
    coverage,
    critical_dimension,
    ntk_fixed_scale,
    ntk_scale,
    predicted_frontier,
    reach,
)

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
