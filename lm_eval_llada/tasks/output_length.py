"""How long an output is, by whichever of its names a task or a user gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval_llada.errors import require_whole, whole_from

LENGTH_NAMES: tuple[str, ...] = (
    "gen_length",
    "max_gen_toks",
    "max_new_tokens",
    "max_tokens",
    "max_completion_tokens",
)
"""Names of an output's length in tokens: ours, and those that the harness' models share."""


def output_length(generation: Mapping[str, Any]) -> int | None:
    """The tokens of an output by generation settings; None where they do not say.

    Of several names the last counts. The harness puts what a user gives behind what a task file
    says, so that a user's ``max_gen_toks=8`` wins over a task's ``gen_length: 32``.

    Differs from the harness' own models, for which the order of the names decides.

    Args:
        generation: The task's settings, then the user's. A value of None counts as not given.

    Raises:
        ValueError: If the length is no whole number of at least 1; the message has its name.
    """
    given = [name for name in generation if name in LENGTH_NAMES and generation[name] is not None]
    if not given:
        return None
    value = generation[given[-1]]
    length = whole_from(value)
    if length is None and not isinstance(value, int):
        raise ValueError(f"{given[-1]} must be an integer; got {value!r}.")
    require_whole(given[-1], value if length is None else length, 1)
    return length
