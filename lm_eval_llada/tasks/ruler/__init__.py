"""RULER's 13 tasks: samples of any length, and the data set of a task file."""

from __future__ import annotations

from lm_eval_llada.tasks.ruler.options import (
    FILELESS_TASKS,
    RULER_TASKS,
    RulerOptions,
)
from lm_eval_llada.tasks.ruler.samples import (
    build_ruler,
    ruler_dataset,
)

__all__ = [
    "FILELESS_TASKS",
    "RULER_TASKS",
    "RulerOptions",
    "build_ruler",
    "ruler_dataset",
]
