"""The values of one task in lm-eval's results: numbers, standard errors, and what is neither."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NOT_MEASURED = "not measured"

_NO_FILTER = "none"
_ERROR = "_stderr"


def read_numbers(
    values: Mapping[str, Any],
) -> tuple[dict[str, float], dict[str, float], dict[str, str]]:
    """Metrics and standard errors by metric, and of metrics without a number what they have.

    RULER's tasks of lm-eval list every length and have -1 at those that were not run. That is no
    score, and named only where no length at all was.

    Args:
        values: The task's entry of ``results``, with keys of the form ``metric,filter``.
    """
    metrics: dict[str, float] = {}
    errors: dict[str, float] = {}
    gaps: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for key, value in values.items():
        metric, comma, filtered = key.partition(",")
        if not comma:
            continue
        suffix = "" if filtered == _NO_FILTER else f",{filtered}"
        name, gap = metric + suffix, _gap(value)
        if metric.endswith(_ERROR):
            if gap is None:
                errors[metric.removesuffix(_ERROR) + suffix] = float(value)
        elif gap is not None:
            gaps[name] = gap
        elif metric.isdecimal() and value == -1:
            left_out[name] = NOT_MEASURED
        else:
            metrics[name] = float(value)
    return metrics, errors, gaps if metrics else gaps | left_out


def listed_metrics(config: Mapping[str, Any]) -> set[str]:
    """The metrics that a task's file lists, as far as they have names."""
    listed = config.get("metric_list")
    entries = listed if isinstance(listed, list) else []
    names = (entry.get("metric") for entry in entries if isinstance(entry, dict))
    return {name for name in names if isinstance(name, str)}


def metric_names(values: Mapping[str, Any]) -> set[str]:
    """The metrics of a task's entry of ``results``, whatever their filter and value."""
    return {key.partition(",")[0] for key in values}


def _gap(value: Any) -> str | None:
    """What a value is that is no finite number; None for one that is."""
    if not isinstance(value, int | float):
        return NOT_MEASURED if value is None or isinstance(value, str) else "not a number"
    if math.isnan(value):
        return "not a number"
    return "infinite" if math.isinf(value) else None
