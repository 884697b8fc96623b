"""The command ``verify``: whether a checkpoint runs on this machine as it should."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lm_eval_llada.cli.arguments import add_model_args, model_args_of

_DESCRIPTION = (
    "Load a checkpoint and check its config, files, weights and logits, find ten needles with it, "
    "and compare it with its own published code where that may run. Prints a line for each check; "
    "the exit code is 1 if one fails. With --against it compares instead the texts of another "
    "engine with those of the exact mode, and the exit code is 1 if one differs."
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
    _add_against(parser)
    parser.set_defaults(func=_verify)


def _add_against(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("against another engine").add_argument
    add(
        "--against",
        metavar="URL|FILE",
        help="a server with OpenAI's completions, or JSON lines with prompt and text (lm-eval's "
        "samples_*.jsonl as well): share of equal texts, first token that differs, scores",
    )
    add("--tasks", nargs="+", default=["niah_tiny"], help="whose prompts are asked (niah_tiny)")
    add("--limit", type=int, help="samples of each task (all)")
    add("--include_path", nargs="+", help="folders with tasks of your own, as in a run")
    add("--served_model", help="name of the model on the server (the first it lists)")
    add("--output", type=Path, help="JSON-lines file for all texts, scores and differences")
    add("--write_prompts", type=Path, help="JSON-lines file to write prompts to, and nothing else")


def _verify(namespace: argparse.Namespace) -> None:
    if namespace.against is not None or namespace.write_prompts is not None:
        from lm_eval_llada.cli.against import run_against

        if not run_against(namespace, model_args_of(namespace)):
            raise SystemExit(1)
        return
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
