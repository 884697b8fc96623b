"""Evaluations side by side: a process of the command line each, with its log."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_COMMAND = (sys.executable, "-m", "lm_eval_llada")
_POLL_SECONDS = 0.5
_REPORT_SECONDS = 20.0
_LOG_TAIL = 15


def run_evaluations(evaluations: Mapping[str, Sequence[str]], folder: Path) -> None:
    """Run evaluations side by side, each a process with its share of the cores and a log file.

    As many run at a time as there are cores, and at least two, in the order given.

    Args:
        evaluations: Arguments of ``lm-eval-llada`` by name.
        folder: Where ``<name>.log`` goes.

    Raises:
        RuntimeError: If one fails; the message ends with the last lines of its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cores = os.cpu_count() or 1
    at_once = max(1, min(max(2, cores), len(evaluations)))
    # Small matrices gain little from a second thread, so the cores go to the evaluations first.
    threads = max(1, cores // at_once)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    waiting = list(evaluations)
    processes: dict[str, subprocess.Popen[bytes]] = {}
    started = reported = time.monotonic()
    try:
        while waiting or _running(processes):
            while waiting and len(_running(processes)) < at_once:
                name = waiting.pop(0)
                processes[name] = _start(evaluations[name], folder / f"{name}.log", environment)
            time.sleep(_POLL_SECONDS)
            _check(processes, folder)
            if time.monotonic() - reported >= _REPORT_SECONDS:
                reported = time.monotonic()
                _report(processes, waiting, folder, reported - started)
        # One that ended since it was last looked at.
        _check(processes, folder)
    finally:
        for process in _running(processes).values():
            process.terminate()
            process.wait()


def _start(
    arguments: Sequence[str], log_path: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    print(f"$ {shlex.join(['lm-eval-llada', *arguments])}", flush=True)
    with log_path.open("wb") as log:
        return subprocess.Popen(
            [*_COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def _running(
    processes: Mapping[str, subprocess.Popen[bytes]],
) -> dict[str, subprocess.Popen[bytes]]:
    return {name: process for name, process in processes.items() if process.poll() is None}


def _report(
    processes: Mapping[str, subprocess.Popen[bytes]],
    waiting: Sequence[str],
    folder: Path,
    seconds: float,
) -> None:
    """Say how far those that run are, and how many have ended and have not begun."""
    for name in _running(processes):
        last = _last_lines(folder / f"{name}.log", 1) or "starting"
        print(f"[{seconds:4.0f} s] {name}: {last}", flush=True)
    done = len(processes) - len(_running(processes))
    print(f"[{seconds:4.0f} s] {done} done, {len(waiting)} to come", flush=True)


def _check(processes: Mapping[str, subprocess.Popen[bytes]], folder: Path) -> None:
    """Raise a ``RuntimeError`` with the end of its log if a process has failed."""
    for name, process in processes.items():
        if process.poll():
            tail = _last_lines(folder / f"{name}.log", _LOG_TAIL)
            raise RuntimeError(f"the evaluation {name!r} failed; its log ends with:\n{tail}")


def _last_lines(log: Path, count: int) -> str:
    """The last lines of a log that are not empty; what a progress bar overwrote is left out."""
    lines = [
        line.rstrip("\r").rpartition("\r")[2].strip()
        for line in log.read_bytes().decode("utf-8", errors="replace").split("\n")
    ]
    return "\n".join([line for line in lines if line][-count:])
