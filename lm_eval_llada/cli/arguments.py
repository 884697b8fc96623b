"""The argument that commands share: a checkpoint is named in one way, as in a run."""

from __future__ import annotations

import argparse
from typing import Any

from lm_eval._cli.utils import MergeDictAction

from lm_eval_llada.checkpoints.names import DEFAULT_CHECKPOINT


def add_model_args(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--model_args``.

    Args:
        parser: Of a command.
        what: What of a run's model_args counts there.
    """
    parser.add_argument(
        "--model_args",
        nargs="+",
        action=MergeDictAction,
        metavar="name=value,...",
        help=f"as in a run: {what} (default: pretrained={DEFAULT_CHECKPOINT})",
    )


def model_args_of(namespace: argparse.Namespace) -> dict[str, Any]:
    """The model arguments that a command was given, its checkpoint filled in."""
    return {"pretrained": DEFAULT_CHECKPOINT, **(namespace.model_args or {})}


def refusal(words: list[str], command: str | None = None) -> str:
    """What to say of words on the command line that its command does not know."""
    text = f"unrecognized arguments: {' '.join(words)}"
    if any("pretrained" in word for word in words):
        text += ". A checkpoint is named as in a run: --model_args pretrained=<name>"
    if command == "prefetch" and "--tasks" in words:
        text += ". Tasks go first and by themselves: prefetch niah,ruler_16k --model_args ..."
    return text
