"""SIGTERM, which schedulers send ahead of taking a machine away, and Ctrl-C end a run cleanly.

The first lets the current batch finish and be saved; a second one ends the process at once. Ranks
get a single Ctrl-C twice, from the terminal and from their launcher: what follows within moments
counts as the same word there.

Processes that a run forks, such as those in which the harness bootstraps its standard errors, end
on SIGTERM as if nobody watched: whoever tells them to stop and waits would wait for ever. Ctrl-C,
which reaches them too, they leave to the run, which would wait for the work they lost.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from types import FrameType

EXIT_CODE = 75
"""Of a run that was told to stop: neither done nor wrong, worth starting again (EX_TEMPFAIL)."""

INTERRUPTED = 130
"""Of a process that a Ctrl-C ended at once, as shells have it: the second one, or the first where
there is nothing to save."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SAME_WORD = 2.0  # seconds
_told: signal.Signals | None = None
_told_at = 0.0
_is_forking = False


class Preempted(Exception):
    """The process was told to stop; what it had finished is saved."""


def watch() -> None:
    """From now on have both signals noted instead of ending the process; for the main thread."""
    for number in _SIGNALS:
        signal.signal(number, _note)


def watch_start() -> None:
    """Until `watch`, have both signals end the process in one sentence; for the main thread.

    Libraries take seconds to import, and an interrupt inside of one ends in a trace or an abort.
    Nothing has begun by then that could be lost.
    """
    for number in _SIGNALS:
        signal.signal(number, _end)


def leave_start() -> None:
    """End what `watch_start` began, for commands with nothing to go on with."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(signum: int, frame: FrameType | None) -> None:
    number = signal.Signals(signum)
    if os.environ.get("RANK", "0") == "0":
        line = f"\nlm-eval-llada: stopped by {_word(number)} before anything began.\n"
        os.write(2, line.encode())
    os._exit(INTERRUPTED if number == signal.SIGINT else EXIT_CODE)


def _forget() -> None:
    """Lets SIGTERM end a process that is about to be forked, wherever it is stuck from then on.

    Blocking it until the child has started is not enough: with threads around, a child can hang
    inside the fork itself, before any hook of ours runs in it.
    """
    global _is_forking
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is _note:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _is_forking = True


def _remember() -> None:
    global _is_forking
    if _is_forking:
        watch()
        _is_forking = False


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_forget, after_in_parent=_remember)


def _leave() -> None:
    """Lets no signal end a watched process any more, as its work is done and its code is settled.

    The interpreter sets handlers back on its last way, and a signal then would end the process as
    if nobody watched, by a code that says that the work is lost.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) is _note:
            signal.signal(number, signal.SIG_IGN)


# Runs last of all that is registered: a second signal still ends whatever hangs before it.
atexit.register(_leave)


def was_told() -> bool:
    """Whether SIGTERM or SIGINT has come since `watch`."""
    return _told is not None


def check(
    saved: str = (
        "after the current batch; where answers are kept (--output_path, or answers_dir among the "
        "model_args), the same command goes on from here"
    ),
) -> None:
    """Stop here if the process was told to; called wherever everything finished is saved.

    Args:
        saved: What the message says of where the run stands.

    Raises:
        Preempted: If SIGTERM or SIGINT has come.
    """
    if _told is not None:
        raise Preempted(f"stopped by {_word(_told)} {saved}.")


def _word(number: signal.Signals) -> str:
    return "Ctrl-C" if number == signal.SIGINT else number.name


def _note(signum: int, frame: FrameType | None) -> None:
    global _told, _told_at
    number, is_rank = signal.Signals(signum), "RANK" in os.environ
    if _told is None:
        _told, _told_at = number, time.monotonic()
        if number == signal.SIGINT and os.environ.get("RANK", "0") == "0":
            # Not print, which another print may be in the middle of.
            os.write(2, b"\nlm-eval-llada: stopping after this batch; Ctrl-C again stops at once\n")
    elif not (is_rank and time.monotonic() - _told_at < _SAME_WORD):
        # Told twice: do not wait for the batch, for threads or for other ranks.
        os._exit(INTERRUPTED if number == signal.SIGINT else EXIT_CODE)
