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

    Args:
        evaluations: Arguments of ``lm-eval-llada`` by name.
        folder: Where ``<name>.log`` goes.

    Raises:
        RuntimeError: If one fails; the message ends with the last lines of its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Small matrices gain little from a second thread, so the cores go to the evaluations first.
    threads = max(1, (os.cpu_count() or 1) // len(evaluations))
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, arguments in evaluations.items():
            print(f"$ {shlex.join(['lm-eval-llada', *arguments])}", flush=True)
            with (folder / f"{name}.log").open("wb") as log:
                processes[name] = subprocess.Popen(
                    [*_COMMAND, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                )
        _wait(processes, folder)
    finally:
        for process in processes.values():
            if process.poll() is None:
                process.terminate()
                process.wait()


def _wait(processes: Mapping[str, subprocess.Popen[bytes]], folder: Path) -> None:
    """Return once all processes have ended well, saying now and then how far they are."""
    started = reported = time.monotonic()
    while any(process.poll() is None for process in processes.values()):
        _check(processes, folder)
        time.sleep(_POLL_SECONDS)
        if time.monotonic() - reported >= _REPORT_SECONDS:
            reported = time.monotonic()
            for name in processes:
                last = _last_lines(folder / f"{name}.log", 1) or "starting"
                state = last if processes[name].poll() is None else "done"
                print(f"[{reported - started:4.0f} s] {name}: {state}", flush=True)
    _check(processes, folder)


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
