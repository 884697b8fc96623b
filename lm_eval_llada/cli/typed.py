"""What a user has typed, on the command line or in a `--config` file, before it loses its form."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from lm_eval._cli.utils import MergeDictAction

from lm_eval_llada.engine.argument_text import check_pairs, read_pairs

# YAML reads these as numbers of base 8 and 60.
_OTHER_BASES = re.compile(r"[-+]?(0[0-7_]+|[1-9][0-9_]*(:[0-5]?[0-9])+)$")


class _CheckedPairs(MergeDictAction):
    """The harness' `name=value,name=value`, where an open quote is an error."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        for text in values or ():
            check_pairs(text, option_string or self.dest)
        super().__call__(parser, namespace, values, option_string)


def check_quotes(parser: argparse.ArgumentParser) -> None:
    """Have a parser and its subparsers refuse arguments that an open quote would swallow.

    Args:
        parser: With options of the harness' `MergeDictAction`; modified.
    """
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                check_quotes(subparser)
        elif type(action) is MergeDictAction:
            action.__class__ = _CheckedPairs


def given_values(namespace: argparse.Namespace) -> dict[str, Any]:
    """What the command line and, behind it, a `--config` file say, in names and values.

    Texts of pairs in the file are read as on the command line, and put into the namespace so that
    the harness does not read them in its other way.

    Args:
        namespace: Parsed arguments of `run` or `plan`; modified.

    Raises:
        ValueError: If the file is not YAML, holds no mapping, or a number of another base.
        FileNotFoundError: If there is no such file.
    """
    config = _read_config(namespace.config) if namespace.config else {}
    for name, value in config.items():
        if getattr(namespace, name, None) is None:
            setattr(namespace, name, value)
    if isinstance(template := getattr(namespace, "apply_chat_template", None), str):
        # Else they would be taken for names of templates.
        word = {"true": True, "false": False}.get(template.lower(), template)
        namespace.apply_chat_template = word
    return {**config, **{k: v for k, v in vars(namespace).items() if v is not None}}


def _read_config(path: str | Path) -> dict[str, Any]:
    from lm_eval.config.evaluate_config import DICT_KEYS  # takes a second

    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"There is no --config file {file}.")
    try:
        text = file.read_text(encoding="utf-8-sig")
        _check_bases(yaml.compose(text, Loader=_Loader), file)
        # A subclass of SafeLoader, which makes plain values only.
        values = yaml.load(text, Loader=_Loader)  # noqa: S506
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file} must hold names and values; got {type(values).__name__}.")
    return {
        name: read_pairs(value, name) if name in DICT_KEYS and isinstance(value, str) else value
        for name, value in values.items()
    }


class _Loader(yaml.SafeLoader):
    """YAML in which `1e3` is a number, as on the command line."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _check_bases(node: yaml.Node | None, path: Path) -> None:
    """Refuse `0123` and `12:30`, of which YAML makes 83 and 750."""
    if isinstance(node, yaml.ScalarNode):
        if node.style is None and _OTHER_BASES.match(node.value):
            number = yaml.safe_load(node.value)
            raise ValueError(
                f"{path}, line {node.start_mark.line + 1}: YAML reads {node.value} as {number}; "
                f'write {number}, or "{node.value}" for the text.'
            )
        return
    for child in getattr(node, "value", ()):
        for part in child if isinstance(child, tuple) else (child,):
            _check_bases(part, path)
