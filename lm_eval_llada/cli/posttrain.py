"""The command ``posttrain``: a model for longer contexts, as one YAML file says."""

from __future__ import annotations

from typing import Any

from lm_eval_llada.posttrain.__main__ import DESCRIPTION, add_arguments, run


def add_parser(subparsers: Any) -> None:
    """Add the command to what ``add_subparsers`` returned."""
    help_text = "Post-train a masked diffusion model for longer contexts"
    parser = subparsers.add_parser("posttrain", help=help_text, description=DESCRIPTION)
    add_arguments(parser)
    parser.set_defaults(func=run)
