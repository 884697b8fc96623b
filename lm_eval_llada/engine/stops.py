"""What ends a text, as tasks and users write it."""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

_ESCAPE = re.compile(r"\\[nrt]")
_logger = logging.getLogger("lm_eval_llada")


def stops_of(until: Any) -> tuple[str, ...]:
    """What ends a text; empty ones, which would end every text at once, are left out.

    A stop that holds a backslash and an n stays what it is, with a hint that it is no line break.

    Args:
        until: A text, a list of texts, or None for nothing.

    Raises:
        ValueError: If it is something else.
    """
    listed = [] if until is None else [until] if isinstance(until, str) else until
    if not isinstance(listed, list | tuple) or not all(isinstance(stop, str) for stop in listed):
        raise ValueError(f"until must be a text or a list of texts; got {until!r}.")
    for stop in listed:
        if _ESCAPE.search(stop):
            _hint_at_escape(stop)
    return tuple(filter(None, listed))


@lru_cache
def _hint_at_escape(stop: str) -> None:
    """Say once for each stop that a shell hands a backslash on as it is."""
    _logger.warning(
        "until=%s holds a backslash and a letter, not a line break or a tab. Quotes inside of the "
        "shell's make one of them: --gen_kwargs 'until=\"%s\"'.",
        *(stop, stop),
    )
