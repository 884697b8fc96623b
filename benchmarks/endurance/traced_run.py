"""`lm-eval-llada` without the harness' own tasks, noting what it does where a kill cannot undo it.

Each process appends to a file of its own in the folder `ENDURANCE_TRACE`: `start n` as a batch of n
requests starts, `kept n` once n answers are on disk. The harness' own tasks, thousands of files,
would take seconds to list.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager

from lm_eval_llada.cli.main import main
from lm_eval_llada.engine.answers import AnswerStore
from lm_eval_llada.engine.batching import Batcher

FOLDER = "ENDURANCE_TRACE"
"""Environment variable; without it nothing is noted."""


def trace(folder: Path) -> None:
    """From now on note batches and kept answers in a file of this process."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{os.getpid()}.txt"
    process, put_many = Batcher.process, AnswerStore.put_many

    def note(event: str, number: int) -> None:
        with path.open("a", buffering=1) as file:
            file.write(f"{event} {number}\n")

    def noted_process(
        self: Batcher,
        items: Any,
        measure: Any,
        read: Callable[..., Any],
        *others: Any,
        **options: Any,
    ) -> Any:
        def noted_read(batch: Sequence[Any], size: int) -> Any:
            # The options of a question come as one item.
            note("start", sum(len(item) if isinstance(item, list) else 1 for item in batch))
            return read(batch, size)

        return process(self, items, measure, noted_read, *others, **options)

    def noted_put_many(self: AnswerStore, items: Iterable[Any]) -> None:
        listed = list(items)
        put_many(self, listed)
        note("kept", len(listed))

    Batcher.process, AnswerStore.put_many = noted_process, noted_put_many  # type: ignore[method-assign]


if __name__ == "__main__":
    TaskManager.__init__ = functools.partialmethod(  # type: ignore[method-assign]
        TaskManager.__init__, include_defaults=False
    )
    if FOLDER in os.environ:
        trace(Path(os.environ[FOLDER]))
    sys.exit(main())
