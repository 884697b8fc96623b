"""The command ``rope``: what scaling does to a checkpoint, without its weights."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_eval_llada.cli.arguments import add_model_args, model_args_of
from lm_eval_llada.modeling.rope_numbers import rope_numbers
from lm_eval_llada.report.coverage import draw_coverage, save_coverage
from lm_eval_llada.rope import EXTRA_KEYS, METHODS, RopeChoice, coverage, describe, resolve

_NUMBERS = ("rope_theta", "head_dim", "train_length")
# Arguments of the command, as in model_args, and what `RopeChoice` calls them.
_CHOICE = {
    "rope_method": "method",
    "rope_scale": "scale",
    "target_length": "target_length",
    "train_length": "train_length",
    "d_crit": "d_crit",
    "round_scale": "round_scale",
}
_FACTORS_HELP = "file with head_dim / 2 factors: a JSON list, or parted by commas or blanks"
_FURTHER_HELP = {
    "long_factor": f"{_FACTORS_HELP}, for longrope beyond the trained context",
    "short_factor": f"{_FACTORS_HELP}, for longrope within it (default: all 1)",
    "attention_factor": "on cosines and sines, in place of the one that follows from the method",
}
_FURTHER = {f"rope_{key}": key for key in EXTRA_KEYS}


def add_parser(subparsers: Any) -> None:
    """Add the command to what ``add_subparsers`` returned."""
    help_text = "Print λ, critical dimension, reach and coverage of a checkpoint or of numbers"
    parser = subparsers.add_parser("rope", help=help_text, description=help_text)
    add_model_args(parser, "checkpoint and position embeddings")
    parser.add_argument("--rope_theta", type=float, help="base, in place of a checkpoint's")
    parser.add_argument("--head_dim", type=int, help="dimensions of a head, with --rope_theta")
    parser.add_argument("--train_length", type=int, help="trained context in tokens")
    parser.add_argument("--target_length", type=int, help="context to reach in tokens")
    parser.add_argument("--rope_method", help=f"one of {', '.join(METHODS)}")
    parser.add_argument("--rope_scale", type=float, help="λ, in place of the one for the target")
    parser.add_argument(
        "--d_crit", type=float, help="critical dimension, in place of the formula's"
    )
    parser.add_argument(
        "--round_scale", action="store_true", default=None, help="round λ up to an integer"
    )
    for name, key in _FURTHER.items():
        parser.add_argument(f"--{name}", help=_FURTHER_HELP.get(key, "as in --model_args"))
    parser.add_argument("--plot", type=Path, help="write the coverage of each pair as a picture")
    parser.set_defaults(func=_print_rope)


def _print_rope(namespace: argparse.Namespace) -> None:
    choice, rope_theta, head_dim, train_length = _choice_and_numbers(namespace)
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


def _choice_and_numbers(namespace: argparse.Namespace) -> tuple[RopeChoice, float, int, int]:
    """What was asked; base, head size and trained context, from numbers or from a checkpoint."""
    names = (*_CHOICE, *_FURTHER)
    flags = {name: value for name in names if (value := getattr(namespace, name)) is not None}
    if namespace.rope_theta is not None or namespace.head_dim is not None:
        return _chosen(flags), *_numbers(namespace)
    model_args = model_args_of(namespace)
    if twice := sorted(flags.keys() & model_args.keys()):
        raise ValueError(f"{', '.join(twice)} came twice, alone and in --model_args; give one.")
    if model_args.keys() <= {"pretrained", "revision"}:
        choice = _chosen(flags)
    else:
        from lm_eval_llada.engine.arguments import parse_model_args

        choice = parse_model_args({**model_args, **flags}).rope
    numbers = rope_numbers(model_args["pretrained"])
    if numbers is not None:
        return choice, *numbers
    from lm_eval_llada.modeling import load_config

    config = load_config(model_args["pretrained"], revision=model_args.get("revision"))
    return choice, config.rope_theta, config.rope_dim, config.train_length


def _chosen(flags: Mapping[str, Any]) -> RopeChoice:
    further = {key: flags[name] for name, key in _FURTHER.items() if name in flags}
    chosen = {key: flags[name] for name, key in _CHOICE.items() if name in flags}
    return RopeChoice(**chosen, extra=further)


def _numbers(namespace: argparse.Namespace) -> tuple[float, int, int]:
    """Base, head size and trained context without a checkpoint."""
    if namespace.model_args:
        raise ValueError(
            "A checkpoint brings its own rope_theta and head_dim; drop --model_args, or drop "
            "--rope_theta and --head_dim."
        )
    numbers = [getattr(namespace, name) for name in _NUMBERS]
    missing = [f"--{name}" for name, one in zip(_NUMBERS, numbers, strict=True) if one is None]
    if missing:
        raise ValueError(
            f"Without a checkpoint, {', '.join(f'--{name}' for name in _NUMBERS)} are all needed; "
            f"missing: {', '.join(missing)}."
        )
    return numbers[0], numbers[1], numbers[2]
