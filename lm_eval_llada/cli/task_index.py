"""The harness' list of tasks without its own where a run asks for none of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from lm_eval_llada.tasks.grid import shipped_configs


def are_shipped(tasks: Sequence[str]) -> bool:
    """Whether all tasks and groups of a run are this package's own, by name."""
    return bool(tasks) and all(
        any(name in configs for configs in shipped_configs().values()) for name in tasks
    )


@contextlib.contextmanager
def without_defaults() -> Iterator[None]:
    """Keep the harness from reading its own 14,000 task files while the block runs.

    It has an option for that, which its command line does not hand on.
    """
    import lm_eval.tasks

    original = lm_eval.tasks.TaskManager

    class OwnTasks(original):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{"include_defaults": False, **kwargs})

    lm_eval.tasks.TaskManager = OwnTasks  # type: ignore[misc]
    try:
        yield
    finally:
        lm_eval.tasks.TaskManager = original  # type: ignore[misc]
