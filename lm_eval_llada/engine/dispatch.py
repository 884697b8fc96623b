"""Jobs of all ranks on their way to answers: read from disk where they are, dealt out by cost.

What one rank does for the jobs it was given, once all ranks serve the same kind:

    deal them anew, so that ranks finish together; drop those whose answers are on disk;
    run the rest, saving every batch; give the answers back to the ranks that were asked.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from lm_eval_llada.engine import preemption
from lm_eval_llada.engine.answers import Answer, AnswerStore
from lm_eval_llada.engine.batching import Progress
from lm_eval_llada.engine.jobs import KINDS, Arguments, Job
from lm_eval_llada.engine.ranks import Ranks
from lm_eval_llada.errors import require_number, require_whole

_logger = logging.getLogger("lm_eval_llada")
_ORDER = (*KINDS, "barrier", "gather")

Answering = Callable[[str, Sequence[Job], Progress], Iterator[list[tuple[Job, Answer]]]]
"""From a kind, jobs and a progress bar to batches of the jobs with their answers."""


class _HasKey(Protocol):
    """What is dealt out, and can be pickled."""

    @property
    def key(self) -> str: ...

    @property
    def cost(self) -> float: ...

    @property
    def group(self) -> str: ...


Dealt = TypeVar("Dealt", bound=_HasKey)
Result = TypeVar("Result")


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
        answering: Answering,
        finished: Callable[[str, Arguments, Answer], None],
        new_progress: Callable[[str, int], Progress],
    ) -> None:
        """Sets up for one run.

        Args:
            ranks: Of the run.
            store: Of finished answers; None keeps none.
            answering: Runs jobs.
            finished: Told the kind, the request's arguments and the answer of each job that ran.
            new_progress: Makes a progress bar for a kind and a number of jobs.
        """
        self.num_from_disk = 0
        self.seconds = 0.0
        self._ranks = ranks
        self._store = store
        self._answering = answering
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
        """Returns once every rank has come to `purpose`; helps those that still work.

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
        own, give_back = redistribute(self._ranks, jobs)
        answers = self._known(own)
        for batch in self._run(kind, [job for job in own if job.key not in answers]):
            answers.update((job.key, answer) for job, answer in batch)
        return give_back(answers)

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
        """Jobs with their answers, batch by batch, each saved before the next."""
        if not jobs:
            return
        with self._new_progress(kind, len(jobs)) as progress:
            for batch in self._answering(kind, jobs, progress):
                self._save(kind, batch)
                yield batch
                preemption.check()
        self.seconds += progress.seconds

    def _save(self, kind: str, finished: Sequence[tuple[Job, Answer]]) -> None:
        if self._store is not None:
            self._store.put_many((job.key, answer) for job, answer in finished)
        for job, answer in finished:
            self._finished(kind, job.args, answer)


def deal(costs: Sequence[float], num_ranks: int) -> list[list[int]]:
    """Indices of `costs` in one list for each rank, the loads as even as this rule makes them.

    The dearest goes first and to the rank with the least so far (longest processing time first), so
    that the greatest load exceeds the average by less than one item. Equal input gives equal output
    everywhere, ties going to the lower index and the lower rank.

    Each list ascends by cost: the shortest contexts run first, and a wrong setting shows early.

    Args:
        costs: Finite, not negative, in any unit.
        num_ranks: Number of lists; some are empty where it exceeds the number of costs.

    Raises:
        ValueError: If a number is out of its range.
    """
    require_whole("num_ranks", num_ranks, 1)
    for value in costs:
        require_number("Each cost", value, 0, inclusive=True)
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    loads = [(0.0, rank) for rank in range(num_ranks)]
    for index in sorted(range(len(costs)), key=lambda i: -costs[i]):
        load, rank = loads[0]
        heapq.heapreplace(loads, (load + costs[index], rank))
        shares[rank].append(index)
    return [sorted(share, key=lambda i: (costs[i], i)) for share in shares]


def redistribute(
    ranks: Ranks, jobs: Sequence[Dealt]
) -> tuple[list[Dealt], Callable[[Mapping[str, Result]], list[Result]]]:
    """The jobs for this rank to run, of those of all ranks; every rank calls this at one point.

    Jobs with equal keys are dealt once, and the answer goes to all of them: a rank that repeats
    its last job to be as long as the others costs nothing. Only keys, costs and groups are
    known to all ranks; a job itself goes to the rank that runs it.

    Args:
        ranks: Of the run.
        jobs: Of this rank; jobs of one group go to one rank.

    Returns:
        The jobs, the cheapest first, and a function to be called with their results by key, on
        every rank, that returns those of this rank's own `jobs` in order.
    """
    tables = ranks.all_gather_object([(job.key, job.cost, job.group) for job in jobs])
    shares, holder_of = _shares(tables)
    own_keys = shares[ranks.rank]
    held = [[key for key in share if holder_of[key] == ranks.rank] for share in shares]
    received = _exchanged(ranks, {job.key: job for job in jobs}, held)
    asked = [{key for key, _, _ in table} for table in tables]
    wanted = [[key for key in own_keys if key in theirs] for theirs in asked]

    def give_back(results: Mapping[str, Result]) -> list[Result]:
        returned = _exchanged(ranks, results, wanted)
        return [returned[job.key] for job in jobs]

    return [received[key] for key in own_keys], give_back


def _shares(
    tables: Sequence[Sequence[tuple[str, float, str]]],
) -> tuple[list[list[str]], dict[str, int]]:
    """The keys for each rank to run, and the first rank that has a job of each key.

    Args:
        tables: Keys, costs and groups of the jobs of each rank.
    """
    cost_of: dict[str, float] = {}
    holder_of: dict[str, int] = {}
    members: dict[str, list[str]] = {}
    for rank, table in enumerate(tables):
        for key, value, group in table:
            if key not in cost_of:
                cost_of[key], holder_of[key] = value, rank
                members.setdefault(group, []).append(key)
    parts = list(members.values())
    shares = deal([sum(cost_of[key] for key in part) for part in parts], len(tables))
    return [[key for i in share for key in parts[i]] for share in shares], holder_of


def _exchanged(
    ranks: Ranks, values: Mapping[str, Result], keys_for: Sequence[Sequence[str]]
) -> dict[str, Result]:
    """What the ranks have sent to this one, which sends to each the values of its keys."""
    parts = ranks.exchange_objects([{key: values[key] for key in keys} for keys in keys_for])
    return {key: value for part in parts for key, value in part.items()}
