"""Checks of arguments and their messages, shared by every part of the package."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

_EXACT = 2**53  # up to here every whole number is a float of its own


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Find the choice a mistyped name most likely meant.

    Args:
        name: What the user wrote. Case and the difference between ``-`` and ``_`` are ignored.
        choices: The valid names.

    Returns:
        The closest valid name, or ``None`` when nothing is similar enough to be worth suggesting.
    """
    by_spelling = {_normalised(choice): choice for choice in choices}
    found = difflib.get_close_matches(_normalised(name), list(by_spelling), n=1, cutoff=0.5)
    return by_spelling[found[0]] if found else None


def unknown_choice(what: str, value: object, choices: Iterable[str]) -> ValueError:
    """Build the error for a name that is not one of a fixed set.

    The error is returned, not raised, so that the call site reads ``raise unknown_choice(...)``.

    Args:
        what: What the name stands for, such as ``"rope_method"``.
        value: What the user gave.
        choices: The valid names, listed in the message in this order.

    Returns:
        A ``ValueError`` naming the value, the valid choices and the nearest of them.
    """
    allowed = list(choices)
    message = f"{what} must be one of {', '.join(allowed)}; got {value!r}."
    suggestion = nearest(value, allowed) if isinstance(value, str) else None
    if suggestion is not None:
        message += f" Did you mean {suggestion!r}?"
    return ValueError(message)


def missing_package(what: str, package: str, extra: str, instead: str = "") -> ImportError:
    """Build the error for a package that an extra installs, with the README's words for how.

    The error is returned, not raised, so that the call site reads ``raise missing_package(...)``.

    Args:
        what: What needs it, such as ``"peft="``.
        package: Name of the package.
        extra: The extra of this package that installs it.
        instead: What to do without it, such as ``"use length_unit=model"``.

    Returns:
        An ``ImportError`` in one sentence.
    """
    other = f", or {instead}" if instead else ""
    return ImportError(
        f"{what} needs {package}. Install it in a clone of lm_eval_llada with: "
        f'pip install -e ".[{extra}]"{other}.'
    )


def require_whole(name: str, value: object, minimum: int) -> None:
    """Raise a ``ValueError`` unless ``value`` is a whole number of at least ``minimum``.

    Args:
        name: Name of the argument, as the user writes it.
        value: What was given. ``True`` and ``1.0`` are not whole numbers here.
        minimum: Smallest value allowed.

    Raises:
        ValueError: If the check fails; the message names all three.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < minimum:
        raise ValueError(f"{name} must be a whole number >= {minimum}; got {value!r}.")


def require_number(name: str, value: object, minimum: float, *, inclusive: bool = False) -> None:
    """Raise a ``ValueError`` unless ``value`` is a finite number above ``minimum``.

    Args:
        name: Name of the argument, as the user writes it.
        value: What was given, whole or not. ``True`` is not a number here.
        minimum: Bound that the value must exceed.
        inclusive: Allow the bound itself.

    Raises:
        ValueError: If the check fails; the message names all three.
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # a whole number beyond the range of a float
            number = math.inf
        above = number >= minimum if inclusive else number > minimum
        if above and math.isfinite(number):
            return
    relation = ">=" if inclusive else ">"
    raise ValueError(f"{name} must be a number {relation} {minimum:g}; got {value!r}.")


def whole_from(value: Any) -> int | None:
    """A value as a whole number, from any way of writing it; None if it is none.

    A float counts up to 2**53, as in `1e3`: beyond, it is not the number that was typed.
    """
    if isinstance(value, int):
        return None if isinstance(value, bool) else value
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass
    number = real_from(value)
    if number is None or not math.isfinite(number) or abs(number) > _EXACT:
        return None
    return int(number) if number.is_integer() else None


def real_from(value: Any) -> float | None:
    """A value as a number, from any way of writing it; None if it is none."""
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _normalised(name: str) -> str:
    return name.strip().lower().replace("-", "_")
