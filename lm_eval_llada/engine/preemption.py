"""SIGTERM, by which schedulers announce that they will take a machine away, ends a run cleanly.

Processes that a run forks, such as those in which the harness bootstraps its standard errors, end
on SIGTERM as if nobody watched: whoever tells them to stop and waits would wait for ever.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

EXIT_CODE = 75
"""Of a run that was told to stop: neither done nor wrong, worth starting again (EX_TEMPFAIL)."""

_told = False
_is_forking = False


class Preempted(Exception):
    """The process was told to stop; what it had finished is saved."""


def watch() -> None:
    """Has SIGTERM noted instead of ending the process, from now on; for the main thread."""
    signal.signal(signal.SIGTERM, _note)


def _forget() -> None:
    """Lets SIGTERM end a process that is about to be forked, wherever it is stuck from then on.

    Blocking it until the child has started is not enough: with threads around, a child can hang
    inside the fork itself, before any hook of ours runs in it.
    """
    global _is_forking
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is _note:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _is_forking = True


def _remember() -> None:
    global _is_forking
    if _is_forking:
        signal.signal(signal.SIGTERM, _note)
        _is_forking = False


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_forget, after_in_parent=_remember)


def was_told() -> bool:
    """Whether SIGTERM has come since `watch`."""
    return _told


def check() -> None:
    """Stops here if the process was told to; called wherever everything finished is saved.

    Raises:
        Preempted: If SIGTERM has come.
    """
    if _told:
        raise Preempted(
            "stopped by SIGTERM after the current batch; where answers are kept (--output_path, or "
            "answers_dir among the model_args), the same command goes on from here."
        )


def _note(signum: int, frame: FrameType | None) -> None:
    global _told
    if _told:
        # Told twice: do not wait for the batch.
        raise SystemExit(EXIT_CODE)
    _told = True
