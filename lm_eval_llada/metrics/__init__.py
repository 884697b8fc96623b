"""Scores of the tasks, and the intervals around their means.

NIAH's are here; the benchmarks' own are in ``metrics.ruler`` and ``metrics.longbench``.
"""

from __future__ import annotations

from lm_eval_llada.metrics.niah import (
    clustered_interval,
    clustered_stderr,
    clustered_stderr_of_pairs,
    edit_similarity,
    niah_exact,
    niah_multi_results,
    niah_results,
    niah_score,
    weighted_mean,
    wilson_interval,
)

__all__ = [
    "clustered_interval",
    "clustered_stderr",
    "clustered_stderr_of_pairs",
    "edit_similarity",
    "niah_exact",
    "niah_multi_results",
    "niah_results",
    "niah_score",
    "weighted_mean",
    "wilson_interval",
]
