"""The command line: all of `lm_eval`, with our model, our tasks and their defaults filled in.

lm-eval-llada --tasks niah                      tiny-llada on every length that suits it
lm-eval-llada --tasks niah --model_args pretrained=GSAI-ML/LLaDA-8B-Base,target_length=16384
lm-eval-llada rope --target_length 16384        λ and reach, without running anything
lm-eval-llada report results                    pages and pictures of what has been measured
lm_eval --model llada --tasks "$(lm-eval-llada tasks-path)/niah/niah_tiny.yaml"
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval._cli import HarnessCLI

from lm_eval_llada import __version__
from lm_eval_llada.checkpoints.names import DEFAULT_CHECKPOINT
from lm_eval_llada.cli import (
    curve,
    demo,
    new_task,
    plan,
    plot,
    posttrain,
    prefetch,
    report,
    rope,
    verify,
)
from lm_eval_llada.cli.arguments import refusal
from lm_eval_llada.cli.commit import quiet_commit
from lm_eval_llada.cli.run import OUR_MODEL, fill_in, kept_answers, task_names
from lm_eval_llada.cli.run_checks import explain_ranks
from lm_eval_llada.cli.run_tables import own_tables
from lm_eval_llada.cli.task_errors import explain_missing, explained_validation
from lm_eval_llada.cli.task_folders import lay_out
from lm_eval_llada.cli.task_index import are_shipped, without_defaults
from lm_eval_llada.cli.typed import check_quotes
from lm_eval_llada.engine import preemption
from lm_eval_llada.tasks.grid import tasks_path

# What takes seconds to import (torch, transformers) is imported where it is needed: `tasks-path`
# is part of other commands, and the libraries read the settings of `_quieten` on import.

DEBUG = "LM_EVAL_LLADA_DEBUG"
"""Environment variable; 1 shows the traceback of an error."""

_COMMANDS = (rope, report, plan, verify, prefetch, curve, plot, posttrain, new_task, demo)
# Commands that go on where they were stopped; they watch for signals once they have begun.
_GOING_ON = ("run", "curve", "posttrain")
# Messages of the harness that every run of our tasks would cause, and that ask nothing of the user.
_EXPECTED_MESSAGES = ("Custom kwargs can be passed to", "overrides existing task from")


class CommandLine(HarnessCLI):
    """The harness' command line with our own commands beside its own."""

    def __init__(self) -> None:
        """Add the commands to the parser."""
        super().__init__()
        self._parser.prog = "lm-eval-llada"
        self._parser.description = (
            "lm-evaluation-harness for LLaDA and longer contexts. Every argument of lm_eval works; "
            f"--model {OUR_MODEL} and pretrained={DEFAULT_CHECKPOINT} are filled in."
        )
        self._parser.epilog = None
        version = f"lm-eval-llada {__version__}"
        self._parser.add_argument("--version", action="version", version=version)
        _add_tasks_path(self._subparsers)
        for command in _COMMANDS:
            command.add_parser(self._subparsers)
        for name, parser in self._subparsers.choices.items():
            parser.prog = f"lm-eval-llada {name}"
        check_quotes(self._parser)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse arguments; without a command they are those of `run`.

        Args:
            arguments: Without the program's name.
        """
        known = (*self._subparsers.choices, "-h", "--help", "--version")
        if arguments and arguments[0] not in known:
            arguments = ["run", *arguments]
        namespace, rest = self._parser.parse_known_args(arguments)
        if rest:
            self._parser.error(refusal(rest, getattr(namespace, "command", None)))
        return namespace


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and turn what is wrong into one sentence on stderr.

    Args:
        arguments: Without the program's name; those of the process if None.

    Returns:
        0, or 1 after one sentence on stderr that says what is wrong, or `preemption.EXIT_CODE`
        where SIGTERM or Ctrl-C ended the run and the same command goes on with it, or 130 after a
        Ctrl-C with nothing to go on from.
    """
    _quieten()
    try:
        run(sys.argv[1:] if arguments is None else arguments)
    except preemption.Preempted as stop:
        print(f"lm-eval-llada: {stop}", file=sys.stderr)
        return preemption.EXIT_CODE
    except KeyboardInterrupt:
        print("lm-eval-llada: stopped by Ctrl-C.", file=sys.stderr)
        return preemption.INTERRUPTED
    except (ValueError, ImportError, OSError, MemoryError) as error:
        if os.environ.get(DEBUG) == "1":
            raise
        sentence = " ".join(str(error).split())
        print(f"lm-eval-llada: error: {sentence}", file=sys.stderr)
        return 1
    return 0


def run(arguments: Sequence[str]) -> None:
    """Run one command.

    Args:
        arguments: Without the program's name.

    Raises:
        ValueError: If an argument is wrong.
        SystemExit: From the parser, for --help and for arguments it does not know.
    """
    from lm_eval.utils import setup_logging

    setup_logging()
    for name in ("lm_eval.api.task", "lm_eval.tasks._index"):
        logging.getLogger(name).addFilter(_is_unexpected)
    command_line = CommandLine()
    namespace = command_line.parse(arguments)
    if getattr(namespace, "command", None) not in _GOING_ON:
        preemption.leave_start()
    # Lives as long as the run: the harness reads task files when it builds the tasks.
    with tempfile.TemporaryDirectory(prefix="lm_eval_llada_") as folder:
        if getattr(namespace, "command", None) in ("run", "plan"):
            fill_in(namespace, Path(folder))
        elif getattr(namespace, "command", None) in ("ls", "validate", "prefetch"):
            tasks = task_names(getattr(namespace, "tasks", None)) or None
            laid_out = lay_out(Path(folder), tasks, namespace.include_path)
            namespace.include_path = laid_out.include_path
            is_one_text = isinstance(getattr(namespace, "tasks", None), str)
            namespace.tasks = ",".join(laid_out.tasks) if is_one_text else laid_out.tasks
        is_run = getattr(namespace, "command", None) == "run"
        if is_run:
            preemption.watch()
        include_path = getattr(namespace, "include_path", None) or []
        try:
            output = getattr(namespace, "output_path", None)
            with contextlib.ExitStack() as during:
                during.enter_context(kept_answers(output))
                if is_run:
                    during.enter_context(quiet_commit())
                    during.enter_context(own_tables(output))
                # Files of the user's may ask for the harness' tasks by any name.
                is_ours = len(include_path) == 1 and are_shipped(task_names(namespace.tasks))
                if is_run and is_ours:
                    during.enter_context(without_defaults())
                if getattr(namespace, "command", None) == "validate":
                    explained_validation(lambda: command_line.execute(namespace), include_path)
                else:
                    command_line.execute(namespace)
        except ValueError as error:
            raise explain_ranks(explain_missing(error, include_path)) from error
        finally:
            _leave_ranks()


def _is_unexpected(record: logging.LogRecord) -> bool:
    return not any(message in record.getMessage() for message in _EXPECTED_MESSAGES)


def _add_tasks_path(subparsers: Any) -> None:
    help_text = "Print a folder with a plain file of each shipped task, for lm_eval itself"
    parser = subparsers.add_parser("tasks-path", help=help_text, description=help_text)
    parser.set_defaults(func=lambda namespace: print(tasks_path()))


def _leave_ranks() -> None:
    # Without torch there was no run to join.
    if "torch" in sys.modules:
        from lm_eval_llada.engine.ranks import leave_ranks

        leave_ranks()


def _quieten() -> None:
    """Ask the libraries for warnings only; what a user has set stays."""
    os.environ.setdefault("LMEVAL_LOG_LEVEL", "WARNING")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
