"""Arguments as they are typed, `name=value,name=value`, read alike wherever they come from."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lm_eval._cli.utils import key_val_to_dict

_CLOSING = {"[": "]", "(": ")", "{": "}"}


def read_pairs(text: str, where: str) -> dict[str, Any]:
    """The names and values of a text, as the command line reads them.

    Differs from the harness' `simple_parse_args_string`, which Python's `simple_evaluate` and a
    `--config` file come by: that one makes None of the word `none` and parts lists at their commas.

    Args:
        text: Such as `pretrained=tiny-llada,cache=none`.
        where: What holds them, for messages, such as `model_args`.

    Raises:
        ValueError: If a name has no value, or a quote or a bracket is not closed.
    """
    check_pairs(text, where)
    try:
        return key_val_to_dict(text.strip())
    except ValueError as error:
        raise ValueError(f"{where}: {error}.") from error


def check_pairs(text: str, where: str) -> None:
    """Refuse a text whose open quote or bracket would swallow the arguments behind it.

    Args:
        text: As typed; JSON is left to its own parser.
        where: What holds it, for the message.

    Raises:
        ValueError: If a quote or a bracket is not closed.
    """
    if _is_json(text) or (opened := _left_open(text)) is None:
        return
    place, letter = opened
    start = max(text.rfind(",", 0, place), text.rfind(" ", 0, place)) + 1
    name = text[start:place].partition("=")[0]
    closing = _CLOSING.get(letter, letter)
    example = f", such as {name}={_quoted_example(letter)}" if name.isidentifier() else ""
    raise ValueError(
        f"{where}: {letter} in {text[start:]!r} is not closed by {closing}, so that nothing behind "
        f"it would be an argument of its own; close it, or put the value into quotes of the other "
        f"kind{example}."
    )


def text_from(name: str, value: Any) -> str:
    """A value that has to be text, which a number that a parser made of it is not any more.

    Args:
        name: Of the argument.
        value: What the parser made.

    Raises:
        ValueError: If it is no text; the message shows the quotes that keep a number as typed.
    """
    if isinstance(value, str | Path):
        return str(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(
            f"{name} must be text, but was read as the number {value!r}, which is no longer what "
            f"was typed; keep it as text by quotes inside of the shell's, "
            f'\'{name}="..."\', or {name}: "..." in a --config file.'
        )
    raise ValueError(f"{name} must be text; got {value!r}.")


def check_texts(values: Mapping[str, Any], function: Callable[..., Any]) -> None:
    """Refuse numbers where a function's parameters are texts and nothing else.

    Args:
        values: Arguments by name.
        function: What they are for; its annotations say which parameters are texts.

    Raises:
        ValueError: As `text_from` does.
    """
    for name, parameter in inspect.signature(function).parameters.items():
        kinds = set(re.findall(r"\w+", str(parameter.annotation)))
        is_text = "str" in kinds and kinds.isdisjoint(("int", "float", "bool"))
        if is_text and isinstance(values.get(name), int | float):
            text_from(name, values[name])


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _left_open(text: str) -> tuple[int, str] | None:
    """Place and kind of the first quote or bracket without an end, by the harness' rules."""
    quote: tuple[int, str] | None = None
    brackets: list[tuple[int, str]] = []
    for place, letter in enumerate(text):
        if quote is not None:
            quote = None if letter == quote[1] else quote
        elif letter in "\"'":
            quote = place, letter
        elif letter in _CLOSING:
            brackets.append((place, letter))
        elif letter in _CLOSING.values() and brackets:
            brackets.pop()
    return quote or (brackets[0] if brackets else None)


def _quoted_example(letter: str) -> str:
    return "'...'" if letter == '"' else '"..."'
