"""The command ``plan``: what a run will cost, before it runs and without its weights.

It takes the arguments of a run, so that ``plan`` in front of them is all there is to type.
"""

from __future__ import annotations

import argparse
from typing import Any

from lm_eval._cli.run import Run
from lm_eval._cli.subcommand import SubCommand

from lm_eval_llada.plan.hardware import DEFAULT_MEMORY_GB, DEFAULT_TFLOPS


def add_parser(subparsers: Any) -> None:
    """Add the command to what ``add_subparsers`` returned."""
    _PlanParser.create(subparsers)


class _PlanParser(Run):
    """The arguments of a run, and those of the machine."""

    def __init__(self, subparsers: Any) -> None:
        SubCommand.__init__(self)
        help_text = "Print requests, operations, hours and memory of a run, without its weights"
        self._parser = subparsers.add_parser("plan", help=help_text, description=help_text)
        self._add_args()
        add = self._parser.add_argument_group("machine").add_argument
        add("--tflops", type=float, default=DEFAULT_TFLOPS, help="of a GPU (default: 400)")
        add("--memory_gb", type=float, default=DEFAULT_MEMORY_GB, help="of a GPU (default: 80)")
        add("--num_processes", type=int, default=1, help="as of accelerate launch (default: 1)")
        self._parser.set_defaults(func=run)


def run(namespace: argparse.Namespace) -> None:
    """Print the plan of a run.

    Args:
        namespace: Of the parser that `add_parser` adds, completed as that of a run is.

    Raises:
        ValueError: If an argument is wrong, a task does not exist, or the model is not ours.
    """
    from lm_eval_llada.plan.text import describe

    print(describe(namespace), end="")
