"""The command ``rope``: what scaling does to a checkpoint, without its weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lm_eval_llada.checkpoints.names import DEFAULT_CHECKPOINT
from lm_eval_llada.report.coverage import draw_coverage, save_coverage
from lm_eval_llada.rope import (
    EXTRA_KEYS,
    METHODS,
    RopeChoice,
    coverage,
    describe,
    resolve,
)

_FACTORS_HELP = "file with head_dim / 2 factors: a JSON list, or parted by commas or blanks"
_FURTHER_HELP = {
    "long_factor": f"{_FACTORS_HELP}, for longrope beyond the trained context",
    "short_factor": f"{_FACTORS_HELP}, for longrope within it (default: all 1)",
    "attention_factor": "on cosines and sines, in place of the one that follows from the method",
}


def add_parser(subparsers: Any) -> None:
    """Add the command to a command line.

    Args:
        subparsers: What ``argparse.ArgumentParser.add_subparsers`` returned.
    """
    help_text = "Print λ, critical dimension, reach and coverage of a checkpoint or of numbers"
    parser = subparsers.add_parser("rope", help=help_text, description=help_text)
    parser.add_argument(
        "--pretrained", help=f"shipped model, folder or hub id (default: {DEFAULT_CHECKPOINT})"
    )
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument("--rope_theta", type=float, help="base, in place of a checkpoint's")
    parser.add_argument("--head_dim", type=int, help="dimensions of a head, with --rope_theta")
    parser.add_argument("--train_length", type=int, help="trained context in tokens")
    parser.add_argument("--target_length", type=int, help="context to reach in tokens")
    parser.add_argument("--rope_method", help=f"one of {', '.join(METHODS)}")
    parser.add_argument("--rope_scale", type=float, help="λ, in place of the one for the target")
    parser.add_argument(
        "--d_crit", type=float, help="critical dimension, in place of the formula's"
    )
    parser.add_argument("--round_scale", action="store_true", help="round λ up to an integer")
    for key in EXTRA_KEYS:
        parser.add_argument(f"--rope_{key}", help=_FURTHER_HELP.get(key, "as in --model_args"))
    parser.add_argument("--plot", type=Path, help="write the coverage of each pair as a picture")
    parser.set_defaults(func=_print_rope)


def _print_rope(namespace: argparse.Namespace) -> None:
    further = {key: getattr(namespace, f"rope_{key}") for key in EXTRA_KEYS}
    choice = RopeChoice(
        method=namespace.rope_method,
        scale=namespace.rope_scale,
        target_length=namespace.target_length,
        train_length=namespace.train_length,
        d_crit=namespace.d_crit,
        round_scale=namespace.round_scale,
        extra={key: value for key, value in further.items() if value is not None},
    )
    rope_theta, head_dim, train_length = _rope_numbers(namespace)
    resolved = resolve(choice, rope_theta=rope_theta, head_dim=head_dim, train_length=train_length)
    for line in describe(resolved):
        print(line)
    seen = coverage(rope_theta, head_dim, resolved.train_length)
    whole = sum(share == 1 for share in seen)
    print(
        f"coverage: {whole} of {len(seen)} rotation pairs saw a whole period in training; "
        f"the slowest saw {seen[-1]:.2%} of its own"
    )
    if namespace.plot is not None:
        figure = draw_coverage(
            rope_theta,
            head_dim,
            resolved.train_length,
            rope_scale=resolved.rope_scale,
            bidirectional=resolved.method == "diffusion_ntk",
        )
        save_coverage(namespace.plot, figure)
        print(f"wrote {namespace.plot}")


def _rope_numbers(namespace: argparse.Namespace) -> tuple[float, int, int]:
    """Base, head size and trained context, from the arguments or from a checkpoint."""
    names = ("rope_theta", "head_dim", "train_length")
    numbers = [getattr(namespace, name) for name in names]
    if namespace.rope_theta is None and namespace.head_dim is None:
        from lm_eval_llada.modeling import load_config

        name = namespace.pretrained or DEFAULT_CHECKPOINT
        config = load_config(name, revision=namespace.revision)
        return config.rope_theta, config.head_dim, config.train_length
    if namespace.pretrained is not None:
        raise ValueError(
            f"--pretrained {namespace.pretrained} brings its own rope_theta and head_dim; drop it, "
            "or drop --rope_theta and --head_dim."
        )
    missing = [f"--{name}" for name, number in zip(names, numbers, strict=True) if number is None]
    if missing:
        raise ValueError(
            f"Without a checkpoint, {', '.join(f'--{name}' for name in names)} are all needed; "
            f"missing: {', '.join(missing)}."
        )
    return numbers[0], numbers[1], numbers[2]
