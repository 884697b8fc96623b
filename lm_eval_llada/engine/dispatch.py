"""Requests of all ranks on their way to answers: read from disk where they are, dealt out by cost.

What one rank does for the requests it was given, once all ranks serve the same kind:

    deal them anew, so that ranks finish together; drop those whose answers are on disk;
    run the rest, saving every batch; give the answers back to the ranks that were asked.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lm_eval_llada.engine import preemption
from lm_eval_llada.engine.answers import Answer, AnswerStore
from lm_eval_llada.engine.batching import Progress
from lm_eval_llada.engine.jobs import (
    KINDS,
    Job,
    Run,
)
from lm_eval_llada.engine.ranks import Ranks
from lm_eval_llada.engine.sharding import redistribute

_logger = logging.getLogger("lm_eval_llada")
_ORDER = (*KINDS, "barrier", "gather")


class Dispatcher:
    """Sees to it that every job of every rank is answered, once.

    Attributes:
        num_from_disk: Jobs answered from disk on this rank.
        seconds: Time that this rank has spent on others.
    """

    def __init__(
        self,
        ranks: Ranks,
        store: AnswerStore | None,
        runs: dict[str, Run],
        finished: Callable[[str, tuple[Any, ...], Answer], None],
        new_progress: Callable[[str, int], Progress],
    ) -> None:
        """Set up for one run.

        Args:
            ranks: Of the run.
            store: Of finished answers; None keeps none.
            runs: For each of `KINDS`, what runs its items.
            finished: Told the kind, the request's arguments and the answer of each job that ran.
            new_progress: Makes a progress bar for a kind and a number of jobs.
        """
        self.num_from_disk = 0
        self.seconds = 0.0
        self._ranks = ranks
        self._store = store
        self._runs = runs
        self._finished = finished
        self._new_progress = new_progress

    def answers(self, kind: str, jobs: Sequence[Job]) -> list[Answer]:
        """The answers of this rank's jobs, in their order.

        Args:
            kind: One of `KINDS`.
            jobs: Any number, none included.

        Raises:
            Preempted: If the process was told to stop; finished jobs are saved.
        """
        self.wait_for(kind)
        return self._serve(kind, jobs)

    def wait_for(self, purpose: str) -> None:
        """Return once every rank has come to `purpose`, and help those that still work.

        A rank that got no requests of a kind does not know that others did: the harness asks it
        for the next kind, or for its results. So ranks agree on what comes first, and all take
        part in it.

        Args:
            purpose: One of `KINDS`, barrier, or gather.
        """
        while (agreed := self._ranks.first_of(purpose, _ORDER)) != purpose:
            if agreed in KINDS:
                self._serve(agreed, ())

    def _serve(self, kind: str, jobs: Sequence[Job]) -> list[Answer]:
        own, give_back = redistribute(
            self._ranks,
            jobs,
            [job.cost for job in jobs],
            [job.key for job in jobs],
            groups=[job.group for job in jobs],
        )
        answers = self._known(own)
        for batch in self._run(kind, [job for job in own if job.key not in answers]):
            answers.update((job.key, answer) for job, answer in batch)
        return give_back([answers[job.key] for job in own])

    def _known(self, jobs: Sequence[Job]) -> dict[str, Answer]:
        """The answers that are on disk, by key."""
        if self._store is None:
            return {}
        stored = {job.key: self._store.get(job.key) for job in jobs}
        known = {key: answer for key, answer in stored.items() if answer is not None}
        if known:
            self.num_from_disk += len(known)
            _logger.warning(
                "%d of %d requests were answered by an earlier run (%s).",
                *(len(known), len(jobs), self._store.folder),
            )
        return known

    def _run(self, kind: str, jobs: Sequence[Job]) -> Iterator[list[tuple[Job, Answer]]]:
        """Run jobs; yields them with their answers, batch by batch, each saved before the next."""
        if not jobs:
            return
        items = [dataclasses.replace(job.item, index=place) for place, job in enumerate(jobs)]
        with self._new_progress(kind, len(items)) as progress:
            for batch in self._runs[kind](items, progress):
                finished = [(jobs[place], answer) for place, answer in batch]
                self._save(kind, finished)
                yield finished
                preemption.check()
        self.seconds += progress.seconds

    def _save(self, kind: str, finished: Sequence[tuple[Job, Answer]]) -> None:
        if self._store is not None:
            self._store.put_many((job.key, answer) for job, answer in finished)
        for job, answer in finished:
            self._finished(kind, job.args, answer)
