"""The command ``verify``: whether a checkpoint runs on this machine as it should."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from lm_eval_llada.cli.arguments import add_model_args, model_args_of

_DESCRIPTION = (
    "Load a checkpoint and check its config, files, weights and logits, find ten needles with it, "
    "and compare it with its own published code where that may run. Prints a line for each check; "
    "the exit code is 1 if one fails."
)


def add_parser(subparsers: Any) -> None:
    """Add the command to what ``add_subparsers`` returned."""
    parser = subparsers.add_parser(
        "verify", help="Check a checkpoint on this machine", description=_DESCRIPTION
    )
    add_model_args(parser, "checkpoint, dtype, device, position embeddings")
    parser.add_argument(
        "--official",
        action="store_true",
        help="consent to run the Python code that the checkpoint's config names (auto_map, "
        "trust_remote_code) in a process of its own, and compare its logits with ours",
    )
    parser.add_argument(
        "--official_python",
        default=sys.executable,
        metavar="PATH",
        help="interpreter for that code, such as one with an older transformers (default: this)",
    )
    parser.add_argument(
        "--prompts", type=int, default=4, help="prompts to compare (default: %(default)s)"
    )
    parser.add_argument(
        "--needles", type=int, default=10, help="needles to find, or 0 (default: %(default)s)"
    )
    parser.add_argument("--length", type=int, help="a longer context to try, in tokens")
    parser.set_defaults(func=_verify)


def _verify(namespace: argparse.Namespace) -> None:
    # Imported here, as it takes seconds: other commands share this command line.
    from lm_eval_llada.engine.arguments import parse_model_args
    from lm_eval_llada.verify.checkpoint_checks import (
        VerifyOptions,
        unchecked,
        verify,
    )
    from lm_eval_llada.verify.model_checks import FAILED

    options = VerifyOptions(
        prompts=namespace.prompts,
        needles=namespace.needles,
        length=namespace.length,
        official=namespace.official,
        official_python=namespace.official_python,
    )
    arguments = parse_model_args(model_args_of(namespace))
    outcomes = []
    for check in verify(arguments, options):
        outcomes.append(check.outcome)
        detail = check.detail.replace("\n", "\n      ")
        print(f"{check.outcome}  {check.name}: {detail}", flush=True)
    for phrase in unchecked(arguments, options):
        print(f"not checked: {phrase}")
    num_failed = outcomes.count(FAILED)
    print(f"{len(outcomes)} checks, {num_failed} failed")
    if num_failed:
        raise SystemExit(1)
