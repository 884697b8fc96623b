"""Ends runs, curves and post-training by SIGTERM and Ctrl-C at random moments, and goes on.

    python -m benchmarks.endurance.signals
    python -m benchmarks.endurance.signals --kinds run --kills 3

Each command runs whole once. Then, for each way of ending it, the same command starts again and
again in one folder and is told to stop until `--kills` processes were: one time in five while it
starts, otherwise after some new work and a random part of a second. Where it comes to its end, a
new folder begins. Every process has to end with 75 or 130 and to say one sentence on stderr, and
nothing else that the whole run did not say (a Ctrl-C is acknowledged by a line before it); work on
disk never shrinks; and every finished folder holds what the whole run gave: texts, scores and
weights to the bit. A table comes first, one JSON line last; the exit code is 1 where something of
this does not hold.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.endurance.signal_subjects import SUBJECTS, Subject, ended, new_lines, send, start

WAYS = ("SIGTERM", "SIGINT", "SIGINT twice")
_EARLY = 5  # one of so many
# Seconds: what a second Ctrl-C waits, and a first one behind the work it waits for.
_BETWEEN, _LATE = 0.5, 1.0
_FIRST_MOMENT = 1.0  # seconds: Python itself has started by then
_SENTENCE, _NOTICE = "lm-eval-llada: stopped by ", "lm-eval-llada: stopping after this batch"
_CODES = {"SIGTERM": (75,), "SIGINT": (75, 130), "SIGINT twice": (75, 130)}


@dataclass
class Count:
    """What came of one way of ending one command.

    Attributes:
        kills: Processes that were told to stop and did.
        codes: How often each exit code came.
        finished: Folders that came to their end and equal the whole run.
        late: Signals that came as the run was ending anyway: it ended with 0.
        faults: A sentence for each thing that does not hold.
    """

    kills: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    finished: int = 0
    late: int = 0
    faults: list[str] = field(default_factory=list)


class Trial:
    """One command, told to stop in one way until it was often enough."""

    def __init__(self, subject: Subject, way: str, folder: Path, generator: random.Random) -> None:
        """A trial in a folder of its own.

        Args:
            subject: The command, run whole before.
            way: One of `WAYS`.
            folder: Takes a folder for each run to the end.
            generator: Of the moments.
        """
        self.count = Count()
        self._subject, self._way, self._generator = subject, way, generator
        self._folders = (folder / str(number) for number in range(10_000))
        self._output = next(self._folders)

    def run(self, num_kills: int) -> Count:
        """Kill until there were `num_kills`, then let the last run end."""
        early = set(self._generator.sample(range(num_kills), -(-num_kills // _EARLY)))
        while self.count.kills < num_kills:
            left = num_kills - self.count.kills
            self._kill_once(is_early=self.count.kills in early, left=left)
        process = start(self._subject, self._output)
        self._finish(process.wait())
        return self.count

    def _kill_once(self, *, is_early: bool, left: int) -> None:
        before = self._subject.progress(self._output)
        process = start(self._subject, self._output)
        if is_early:
            time.sleep(self._generator.uniform(_FIRST_MOMENT, self._subject.seconds / 2))
        else:
            share = max((self._subject.total - before) // (left + 1), 1)
            after = before + self._generator.randint(1, share)
            while process.poll() is None and self._subject.progress(self._output) < after:
                time.sleep(0.01)
            time.sleep(self._generator.uniform(0, _LATE))
        if process.poll() is not None:
            self._finish(process.wait())
            return
        send(process, self._way, self._generator.uniform(0, _BETWEEN))
        code = process.wait()
        if code == 0:
            self.count.late += 1
            self._finish(code)
            return
        self.count.kills += 1
        self.count.codes[code] += 1
        self._check(code, before)

    def _check(self, code: int, before: int) -> None:
        lines = new_lines(self._subject, self._output)
        sentences = [line for line in lines if line.startswith(_SENTENCE)]
        notices = [line for line in lines if line.startswith(_NOTICE)]
        others = [line for line in lines if line not in (*sentences, *notices)]
        if code not in _CODES[self._way]:
            self._fault(f"ended with {code}")
        if others:
            self._fault(f"said besides: {' / '.join(others[-3:])}")
        if len(sentences) + len(notices) == 0 or len(sentences) > 1 or len(notices) > 1:
            self._fault(f"said {len(sentences)} sentences and {len(notices)} acknowledgements")
        after = self._subject.progress(self._output)
        if after < before:
            self._fault(f"had {before} on disk and then {after}")
        print(json.dumps([self._subject.name, self._way, code, before, after]), file=sys.stderr)

    def _finish(self, code: int) -> None:
        if code != 0:
            self._fault(f"went on and ended with {code}: {ended(self._output)}")
        elif self._subject.result(self._output) != self._subject.whole:
            self._fault("came to another result than the whole run")
        else:
            self.count.finished += 1
        self._output = next(self._folders)

    def _fault(self, text: str) -> None:
        self.count.faults.append(f"{self._subject.name}, {self._way}: {text}")
        print(self.count.faults[-1], file=sys.stderr)


def measure(
    kinds: Sequence[str], ways: Sequence[str], num_kills: int, seed: int, folder: Path
) -> list[dict[str, Any]]:
    """Run everything.

    Returns:
        A row for each kind and way.

    Raises:
        RuntimeError: If a command fails without being told to stop.
    """
    generator, rows = random.Random(seed), []
    for kind in kinds:
        subject = SUBJECTS[kind](folder / kind)
        begin = time.monotonic()
        subject.run_whole()
        subject.seconds = time.monotonic() - begin
        for way in ways:
            trial = Trial(subject, way, folder / kind / way.replace(" ", "-"), generator)
            count = trial.run(num_kills)
            row = {"kind": kind, "way": way, **vars(count), "codes": dict(count.codes)}
            print(_line(row), file=sys.stderr)
            rows.append(row)
    return rows


def _line(row: dict[str, Any]) -> str:
    codes = ", ".join(f"{code}: {number}" for code, number in sorted(row["codes"].items()))
    return (
        f"{row['kind']:9}  {row['way']:12}  {row['kills']:5}  {codes:15}  {row['late']:4}  "
        f"{row['finished']:8}  {len(row['faults']):6}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trials; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=tuple(SUBJECTS), default=tuple(SUBJECTS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--kills", type=int, default=10, help="of each kind and way")
    parser.add_argument("--seed", type=int, default=2025, help="of the moments")
    parser.add_argument("--folder", type=Path, help="keeps the runs; must be empty")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="endurance_") as scratch:
        folder = given.folder or Path(scratch)
        rows = measure(given.kinds, given.ways, given.kills, given.seed, folder)
    print("kind       way           kills  codes            late  finished  faults")
    for row in rows:
        print(_line(row))
    faults = [fault for row in rows for fault in row["faults"]]
    print("\n".join(faults) or "nothing lost; every finished run equals the whole one")
    print(json.dumps({"platform": platform.platform(), "seed": given.seed, "rows": rows}))
    return 1 if faults else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, ValueError) as error:
        sys.exit(f"signals: {error}")
