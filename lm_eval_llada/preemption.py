"""SIGTERM, by which schedulers announce that they will take a machine away, ends a run cleanly.

Processes that a run forks, such as those in which the harness bootstraps its standard errors, end
on SIGTERM as if nobody watched: whoever tells them to stop and waits would wait for ever.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

EXIT_CODE = 75
"""Of a run that was told to stop: neither done nor wrong, worth starting again (EX_TEMPFAIL)."""

_told = False


class Preempted(Exception):
    """The process was told to stop; what it had finished is saved."""


def watch() -> None:
    """From now on have SIGTERM noted instead of ending the process; for the main thread."""
    signal.signal(signal.SIGTERM, _note)


def _hold() -> None:
    """Keep SIGTERM pending while a process forks: its child would note it, and go on."""
    if signal.getsignal(signal.SIGTERM) is _note:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def _release() -> None:
    if signal.getsignal(signal.SIGTERM) is _note:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _release_child() -> None:
    if signal.getsignal(signal.SIGTERM) is _note:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_release_child)


def was_told() -> bool:
    """Whether SIGTERM has come since `watch`."""
    return _told


def check() -> None:
    """Stop here if the process was told to; called wherever everything finished is saved.

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
