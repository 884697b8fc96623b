"""Where the task files are, and which lengths the group ``niah`` holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NIAH_LENGTHS: tuple[int, ...] = tuple(512 * 2**step for step in range(9))
"""Lengths, in tokens, that have a task ``niah_<length>``: 512 to 131072."""

GROUP_LIMIT = 32_768
"""Longest length in the group ``niah`` where nothing is known about the model."""

_PACKAGE = Path(__file__).resolve().parents[1]


def tasks_path() -> Path:
    """Return the folder of the task files.

    That is ``tasks/`` beside the package in a checkout, or else the copy inside the installed
    package. The checkout comes first because an editable install can leave a stale copy.

    Raises:
        FileNotFoundError: If neither is there, which means a broken installation.
    """
    for folder in (_PACKAGE.parent / "tasks", _PACKAGE / "_tasks"):
        # Another distribution may own a site-packages/tasks; only ours holds this file.
        if (folder / "niah" / "_niah.yaml").is_file():
            return folder
    raise FileNotFoundError(
        f"No task files in {_PACKAGE.parent / 'tasks'} or {_PACKAGE / '_tasks'}; install "
        "lm_eval_llada again."
    )


def niah_lengths(limit: int = GROUP_LIMIT) -> list[int]:
    """Return the lengths with a NIAH task, in tokens, up to and including ``limit``.

    Args:
        limit: Longest length that makes sense for the model, in tokens.

    Raises:
        ValueError: If ``limit`` is below the shortest length.
    """
    lengths = [length for length in NIAH_LENGTHS if length <= limit]
    if not lengths:
        raise ValueError(
            f"The shortest NIAH task has {NIAH_LENGTHS[0]} tokens, more than the limit of {limit}; "
            "name niah_tiny or a task file of your own."
        )
    return lengths


def niah_group(limit: int = GROUP_LIMIT) -> dict[str, Any]:
    """Return the group ``niah`` with the lengths up to ``limit``, as its YAML file would have it.

    lm-eval 0.4.13 accepts a group from a file or from its index, but not as a dict among the names
    of tasks: write it into a folder that comes after ``tasks_path()`` in ``include_path``.

    Args:
        limit: Longest length to include, in tokens.

    Raises:
        ValueError: If ``limit`` is below the shortest length.
    """
    return {
        "group": "niah",
        "task": [f"niah_{length}" for length in niah_lengths(limit)],
        "aggregate_metric_list": [
            {
                "metric": name,
                "aggregation": "mean",
                "weight_by_size": False,
                "filter_list": ["none"],
            }
            for name in ("score", "exact")
        ],
        "metadata": {"version": 1},
    }
