"""Kills a run at random moments, goes on with another number of ranks, and compares the answers.

    python -m benchmarks.endurance.kill_and_resume
    python -m benchmarks.endurance.kill_and_resume --ratio

Sampled texts, multiple choice and rolling likelihoods of a shipped model run whole on 1, 2 and 3
CPU ranks. Then one run gets SIGKILL, all of its ranks at once, `--kills` times: two of the kills
come while processes start, the others after a random number of new answers and a random part of a
second. Each time 1, 2 or 3 ranks go on, never as many as before. All runs have to give equal texts
and choices, and log-likelihoods that agree to 1e-5; and a kill may cost each of its ranks the batch
it was working on, not more: the ranks note each batch as it starts and as its answers are on disk.

`--ratio` measures how well two ranks share the work instead: a run over 2 ranks with twice the
documents against a run on 1 rank, each rank with one thread. What limits it are cores that other
processes use, so the machine has to have two idle ones. A table comes first, one JSON line last;
the exit code is 1 where a bound does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.endurance.runs import (
    NUM_ANSWERS,
    Setting,
    answers,
    finish,
    kill,
    largest_difference,
    num_kept,
    run_whole,
    start,
)
from benchmarks.endurance.runs import work as work_of
from benchmarks.endurance.traced_run import FOLDER

TOLERANCE = 1e-5
MOST_RATIO = 1.25
_RANKS = (1, 2, 3)
_EARLY_KILLS = 2
# Seconds: processes take a few to start, a batch a fraction of one.
_LONGEST_EARLY, _LONGEST_LATE = 8.0, 0.5


@dataclass(frozen=True)
class Kill:
    """What one kill cost.

    Attributes:
        num_ranks: Ranks that were killed.
        after: Answers the run was to add before the kill, None for a kill while it starts.
        before_run: Answers on disk when it started.
        kept: Answers on disk after the kill.
        batches_lost: For the rank that lost most, batches that had started and are not on disk.
        answers_lost: Requests in all these batches.
    """

    num_ranks: int
    after: int | None
    before_run: int
    kept: int
    batches_lost: int
    answers_lost: int


def kill_and_resume(
    setting: Setting, output: Path, num_kills: int, generator: random.Random
) -> tuple[list[Kill], int]:
    """Kill a run again and again, then let it end.

    Returns:
        The kills, and the number of ranks of the run that ended.

    Raises:
        RuntimeError: If a run fails, or ends before it could be killed.
    """
    total = NUM_ANSWERS * setting.num_documents
    early = set(generator.sample(range(num_kills), min(_EARLY_KILLS, num_kills)))
    kills: list[Kill] = []
    num_ranks = 0
    for number in range(num_kills):
        num_ranks = generator.choice([n for n in _RANKS if n != num_ranks])
        # The later kills get their share of the work: one that comes too late meets no run.
        share = (total - num_kept(output)) // (num_kills - number + 1)
        after = None if number in early else generator.randint(0, share)
        kills.append(_killed(setting, output, num_ranks, after, generator))
        print(json.dumps(asdict(kills[-1])), file=sys.stderr)
    num_ranks = generator.choice([n for n in _RANKS if n != num_ranks])
    finish(start(setting, output, num_ranks), output)
    return kills, num_ranks


def _killed(
    setting: Setting, output: Path, num_ranks: int, after: int | None, generator: random.Random
) -> Kill:
    before = num_kept(output)
    folder = output / "trace" / str(len(list(output.glob("trace/*"))))
    process = start(setting, output, num_ranks, {FOLDER: str(folder)})
    longest = _LONGEST_EARLY if after is None else _LONGEST_LATE
    while after is not None and process.poll() is None and num_kept(output) <= before + after:
        time.sleep(0.01)
    time.sleep(generator.uniform(0, longest))
    if process.poll() is not None:
        finish(process, output)
        raise RuntimeError("The run ended before it was killed; use more --documents.")
    kill(process)
    lost = [_lost(file) for file in folder.glob("*.txt")]
    batches, requests = [n for n, _ in lost], [n for _, n in lost]
    return Kill(num_ranks, after, before, num_kept(output), max(batches, default=0), sum(requests))


def _lost(trace: Path) -> tuple[int, int]:
    """Batches, and requests in them, that a process had started and not yet put on disk."""
    events = [line.split() for line in trace.read_text(encoding="utf-8").splitlines()]
    started = [int(number) for event, number in events if event == "start"]
    num_kept = sum(event == "kept" for event, _ in events)
    return len(started[num_kept:]), sum(started[num_kept:])


def compare(setting: Setting, num_kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """Run everything and return what is to be reported."""
    whole = {n: run_whole(setting, folder / f"whole-{n}", n) for n in _RANKS}
    output = folder / "killed"
    kills, last_ranks = kill_and_resume(setting, output, num_kills, random.Random(seed))
    resumed = answers(output)
    differences = {f"{n} ranks": largest_difference(whole[1], whole[n]) for n in _RANKS[1:]}
    differences["killed"] = largest_difference(whole[1], resumed)
    total = NUM_ANSWERS * setting.num_documents
    return {
        "num_documents": setting.num_documents,
        "num_answers": total,
        "answers_on_disk": num_kept(output),
        "seed": seed,
        "kills": [asdict(kill) for kill in kills],
        "last_ranks": last_ranks,
        "largest_difference": differences,
        "answers_recomputed": sum(kill.answers_lost for kill in kills),
        "holds": max(differences.values()) <= TOLERANCE
        and all(kill.batches_lost <= 1 for kill in kills)
        and num_kept(output) == total,
    }


def print_kills(report: dict[str, Any]) -> None:
    """Print the kills as a table, then the comparison."""
    print("kill  ranks  on disk before  after  batches lost a rank  answers lost")
    for number, row in enumerate(report["kills"], start=1):
        early = " (starting)" if row["after"] is None else ""
        print(
            f"{number:4}  {row['num_ranks']:5}  {row['before_run']:14}  {row['kept']:5}  "
            f"{row['batches_lost']:19}  {row['answers_lost']:12}{early}"
        )
    print(
        f"{report['answers_on_disk']} of {report['num_answers']} answers on disk at the end, on "
        f"{report['last_ranks']} ranks; {report['answers_recomputed']} computed again."
    )
    for name, difference in report["largest_difference"].items():
        print(f"{name} against 1 rank: equal texts, numbers apart by {difference:.1e} at most")


def ratio(setting: Setting, folder: Path, repeats: int) -> dict[str, Any]:
    """Time runs on one rank against runs on two ranks with twice the documents.

    Returns:
        For each, the median seconds of the process and of its work, and their ratios.
    """
    doubled = Setting(2 * setting.num_documents, setting.model_args, setting.threads)
    seconds: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for repeat in range(repeats):
        for num_ranks, given in ((1, setting), (2, doubled)):
            output = folder / f"ratio-{num_ranks}-{repeat}"
            begin = time.perf_counter()
            finish(start(given, output, num_ranks), output)
            took = time.perf_counter() - begin
            seconds[num_ranks].append((took, float(work_of(output)["seconds"])))
    medians = {n: [sorted(column)[repeats // 2] for column in zip(*seconds[n], strict=True)]
               for n in seconds}  # fmt: skip
    whole, inside = (two / one for one, two in zip(medians[1], medians[2], strict=True))
    return {
        "num_documents": setting.num_documents,
        "repeats": repeats,
        "one_rank": {"seconds": medians[1][0], "work_seconds": medians[1][1]},
        "two_ranks": {"seconds": medians[2][0], "work_seconds": medians[2][1]},
        "ratio": whole,
        "work_ratio": inside,
        "num_cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "holds": whole <= MOST_RATIO,
    }


def print_ratio(report: dict[str, Any]) -> None:
    """Print the times as a table."""
    print("run                    seconds  of work")
    for name in ("one_rank", "two_ranks"):
        row = report[name]
        documents = report["num_documents"] * (1 if name == "one_rank" else 2)
        label = f"{name.replace('_', ' ')}, {documents} documents"
        print(f"{label:21}  {row['seconds']:7.1f}  {row['work_seconds']:7.1f}")
    print(
        f"ratio {report['ratio']:.2f} (of work {report['work_ratio']:.2f}), at most {MOST_RATIO}; "
        f"load {report['load']:.1f} on {report['num_cpus']} processors"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison or the timing; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--documents", type=int, default=24, help="documents of each task")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=2025, help="of the moments and rank counts")
    parser.add_argument("--pretrained", default="tiny-llada")
    parser.add_argument("--ratio", action="store_true", help="time 2 ranks against 1 instead")
    parser.add_argument("--repeats", type=int, default=3, help="of the timing")
    parser.add_argument("--folder", type=Path, help="keeps the runs; must be empty")
    given = parser.parse_args(arguments)
    setting = Setting(given.documents, {"pretrained": given.pretrained})
    with tempfile.TemporaryDirectory(prefix="endurance_") as scratch:
        folder = given.folder or Path(scratch)
        if given.ratio:
            report = ratio(setting, folder, given.repeats)
            print_ratio(report)
        else:
            report = compare(setting, given.kills, given.seed, folder)
            print_kills(report)
    print(json.dumps({"platform": platform.platform(), **report}))
    return 0 if report["holds"] else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, ValueError, subprocess.SubprocessError) as error:
        sys.exit(f"kill_and_resume: {error}")
