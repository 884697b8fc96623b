"""What fuzzing asks of every input: a right result, or one sentence of ours about what is wrong."""

from __future__ import annotations

import datetime
import linecache
import tempfile
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

import lm_eval_llada

REFUSALS = (ValueError, ImportError, OSError, MemoryError)
_PACKAGE = str(Path(lm_eval_llada.__file__).parent)
_LONGEST_MESSAGE = 2000


@dataclass(frozen=True)
class Family:
    """One kind of input.

    Attributes:
        name: Of the family.
        inputs: Draws an input.
        run: Feeds it to the package and asserts what a result has to satisfy.
        words: From an input to the words one of which a refusal has to hold.
        weight: Inputs of this family for each that is asked for; slow ones have less than 1.
    """

    name: str
    inputs: st.SearchStrategy[Any]
    run: Callable[[Any], None]
    words: Callable[[Any], Iterable[str]]
    weight: float = 1.0


def is_accepted(family: Family, value: Any) -> bool:
    """Whether the package took an input; fails where it neither took nor properly refused it."""
    try:
        family.run(value)
    except REFUSALS as error:
        check_refusal(error, family.words(value))
        return False
    return True


def check_refusal(error: Exception, words: Iterable[str]) -> None:
    """Fail unless an error is of a declared class and its message is ours and names the input."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{last.filename}:{last.lineno}"
    line = linecache.getline(last.filename, last.lineno or 0)
    # int("x") in a line of ours would be a ValueError whose words are not.
    is_ours = last.filename.startswith(_PACKAGE) and "raise" in line
    message = str(error)
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return  # the system's own words, such as: File name too long: '...'
    if not is_ours:
        raise AssertionError(f"the words of {place}: {type(error).__name__}: {message}") from error
    if not 10 <= len(message) <= _LONGEST_MESSAGE:
        raise AssertionError(f"{len(message)} characters at {place}: {message[:500]}") from error
    wanted = [word for word in words if word]
    if wanted and not any(word in message for word in wanted):
        raise AssertionError(f"{place} names nothing of the input: {message}") from error


def named(values: Mapping[str, Any]) -> list[str]:
    """Names and values of settings, as a message may write them."""
    written = [form for value in values.values() for form in (repr(value), str(value))]
    return [*values, *written]


def wild() -> st.SearchStrategy[Any]:
    """Values that YAML, JSON and a command line can hold, of every type."""
    scalars = (
        st.none()
        | st.booleans()
        | st.integers(-3, 300)
        | st.sampled_from([2**31, 2**63, -(2**64), 10**400])
        | st.floats()
        | st.text(max_size=12)
        | st.sampled_from(
            ["", "None", "auto", "nan", "inf", "-1", "0", "1e999", "1_0", "٣", "true", "../x", "\0"]
        )
        | st.just(datetime.date(2025, 1, 1))
    )
    return (
        scalars
        | st.lists(scalars, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.integers(0, 3), scalars, max_size=2)
    )


def settings_of(plausible: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Some of the settings, most with a value that may be right and some with any value."""

    def value_of(name: str) -> st.SearchStrategy[Any]:
        return st.integers(0, 3).flatmap(lambda dice: plausible[name] if dice else wild())

    names = st.lists(st.sampled_from(sorted(plausible)), unique=True, max_size=4)
    return names.flatmap(
        lambda some: st.fixed_dictionaries({name: value_of(name) for name in some})
    )


def mutated(base: Any) -> st.SearchStrategy[Any]:
    """A JSON value with up to three of its parts left out or replaced by anything."""
    places = sorted(_places(base), key=repr)
    changes = st.lists(
        st.tuples(st.sampled_from(places), st.booleans(), json_values()), min_size=1, max_size=3
    )
    return changes.map(lambda some: _changed(base, some))


def json_values() -> st.SearchStrategy[Any]:
    """Values of every type that JSON has."""
    scalars = (
        st.none()
        | st.booleans()
        | st.integers(-3, 300)
        | st.just(10**30)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=12)
        | st.just("\ud800")
    )
    return (
        scalars
        | st.lists(scalars, max_size=3)
        | st.dictionaries(st.text(max_size=5), scalars, max_size=2)
    )


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    found = [path] if path else []
    return found + [place for key in keys for place in _places(value[key], (*path, key))]


def _changed(value: Any, changes: list[tuple[tuple[Any, ...], bool, Any]]) -> Any:
    import copy

    value = copy.deepcopy(value)
    for path, is_left_out, replacement in changes:
        parent = value
        try:
            for key in path[:-1]:
                parent = parent[key]
            if is_left_out:
                del parent[path[-1]]
            else:
                parent[path[-1]] = replacement
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    return value


def fresh_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for one input: files are remembered by their path."""
    return tempfile.TemporaryDirectory(prefix="fuzz_")
