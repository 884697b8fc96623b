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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from lm_eval._cli import HarnessCLI

from lm_eval_llada.checkpoints.names import DEFAULT_CHECKPOINT
from lm_eval_llada.cli import plan as plan_command
from lm_eval_llada.cli import prefetch as prefetch_command
from lm_eval_llada.cli import report as report_command
from lm_eval_llada.cli import rope as rope_command
from lm_eval_llada.cli import verify as verify_command
from lm_eval_llada.cli.commit import quiet_commit
from lm_eval_llada.cli.run_checks import check_run, explain_ranks
from lm_eval_llada.cli.task_errors import explain_missing
from lm_eval_llada.cli.typed import check_quotes, given_values
from lm_eval_llada.engine import preemption
from lm_eval_llada.engine.answers import ANSWERS_DIR
from lm_eval_llada.rope import ResolvedRope
from lm_eval_llada.tasks.grid import niah_group, tasks_path
from lm_eval_llada.tasks.papers.protocols import fill_protocols

# What takes seconds to import (torch, transformers) is imported where it is needed: `tasks-path`
# is part of other commands, and the libraries read the settings of `_quieten` on import.

DEBUG = "LM_EVAL_LLADA_DEBUG"
"""Environment variable; 1 shows the traceback of an error."""

_OUR_MODEL = "llada"
# Models that take the arguments which protocols fill in.
_PROTOCOL_MODELS = (_OUR_MODEL, "hf_rope")
# The group runs up to this many times the trained context where no longer target is named: far
# enough to see retrieval fail, near enough to be done.
_LENGTHS_BEYOND = 4
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
            f"--model {_OUR_MODEL} and pretrained={DEFAULT_CHECKPOINT} are filled in."
        )
        self._parser.epilog = None
        _add_tasks_path(self._subparsers)
        rope_command.add_parser(self._subparsers)
        report_command.add_parser(self._subparsers)
        plan_command.add_parser(self._subparsers)
        verify_command.add_parser(self._subparsers)
        prefetch_command.add_parser(self._subparsers)
        check_quotes(self._parser)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse arguments; without a command they are those of `run`.

        Args:
            arguments: Without the program's name.
        """
        known = (*self._subparsers.choices, "-h", "--help")
        if arguments and arguments[0] not in known:
            arguments = ["run", *arguments]
        return self._parser.parse_args(arguments)


def main() -> int:
    """Run the command line of this process.

    Returns:
        0, or 1 after one sentence on stderr that says what is wrong, or `preemption.EXIT_CODE`
        where SIGTERM or Ctrl-C ended the run and the same command goes on with it, or 130 after a
        Ctrl-C with nothing to go on from.
    """
    _quieten()
    try:
        run(sys.argv[1:])
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
    # Lives as long as the run: the harness reads task files when it builds the tasks.
    with tempfile.TemporaryDirectory(prefix="lm_eval_llada_") as folder:
        if getattr(namespace, "command", None) in ("run", "plan"):
            fill_in(namespace, Path(folder))
        elif getattr(namespace, "command", None) in ("ls", "validate"):
            namespace.include_path = _include_paths(namespace.include_path)
        if getattr(namespace, "command", None) == "run":
            preemption.watch()
        include_path = _include_paths(getattr(namespace, "include_path", None))
        try:
            with _kept_answers(getattr(namespace, "output_path", None)), quiet_commit():
                command_line.execute(namespace)
        except ValueError as error:
            raise explain_ranks(explain_missing(error, include_path)) from error
        finally:
            _leave_ranks()


def fill_in(namespace: argparse.Namespace, folder: Path) -> None:
    """Put our defaults where neither the command line nor a `--config` file says anything.

    Args:
        namespace: Parsed arguments of `run` or `plan`; modified.
        folder: An empty folder that outlives the run, for a task file.

    Raises:
        ValueError: If model_args are wrong or the checkpoint cannot be read.
    """
    given = given_values(namespace)
    namespace.model = given.get("model") or _OUR_MODEL
    namespace.include_path = _include_paths(given.get("include_path"))
    model_args = given.get("model_args") or {}
    metadata = _metadata(given)
    if metadata:
        namespace.metadata = metadata
    tasks = _task_names(given.get("tasks"))
    check_run(given, tasks, namespace.include_path)
    if namespace.model in _PROTOCOL_MODELS:
        filled = fill_protocols(tasks, model_args, _changes(given))
        model_args = namespace.model_args = filled.model_args
        _say(*filled.lines)
    if namespace.model != _OUR_MODEL:
        return
    # Named, so that the harness calls the results folder after it.
    namespace.model_args = {"pretrained": DEFAULT_CHECKPOINT, **model_args}
    namespace.output_path = given.get("output_path")
    namespace.batch_size = given.get("batch_size", "auto")
    namespace.device = given.get("device") or "auto"
    # The harness makes the model only after its own tasks, thousands of files, have been listed.
    is_plan = getattr(namespace, "command", None) == "plan"
    rope = (_planned_rope if is_plan else _checked_rope)(namespace.model_args)
    if "niah" in tasks:
        namespace.include_path.insert(1, str(folder))
        _say(restrict_niah(rope, folder))


def restrict_niah(rope: ResolvedRope, folder: Path) -> str:
    """Write the group `niah` with the lengths that suit a checkpoint.

    Args:
        rope: Trained and target context of the checkpoint.
        folder: Where the file goes.

    Returns:
        A line that says which lengths run and how to have others.

    Raises:
        ValueError: If even the shortest length is too long.
    """
    beyond = _LENGTHS_BEYOND * rope.train_length
    limit = max(rope.target_length or 0, beyond)
    group = niah_group(limit)
    (folder / "niah.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")
    lengths = ", ".join(name.removeprefix("niah_") for name in group["task"])
    return (
        f"niah runs at {lengths} tokens: up to {_LENGTHS_BEYOND} times the trained context of "
        f"{rope.train_length}, or target_length if that is longer. Name others one by one, such as "
        f"--tasks niah_{2 * int(group['task'][-1].removeprefix('niah_'))}."
    )


@contextlib.contextmanager
def _kept_answers(output_path: str | None) -> Iterator[None]:
    """Have finished answers go beside the results, if any, unless model_args say otherwise."""
    if not output_path or os.environ.get(ANSWERS_DIR):
        yield
        return
    path = Path(output_path)
    # The harness takes a name that ends in .json for a file in the folder of results.
    folder = path.parent if path.suffix == ".json" else path
    os.environ[ANSWERS_DIR] = str(folder / "answers")
    try:
        yield
    finally:
        del os.environ[ANSWERS_DIR]


def _metadata(given: dict[str, Any]) -> dict[str, Any]:
    """The settings for samples: the user's, and what they have to know about the run.

    Samples of a length leave room for the output and for the chat format, so they have to know how
    long the one is and whether there is the other.
    """
    metadata: dict[str, Any] = {}
    if gen_kwargs := given.get("gen_kwargs"):
        metadata["gen_kwargs"] = gen_kwargs
    if template := given.get("apply_chat_template"):
        metadata["apply_chat_template"] = template
    return {**metadata, **(given.get("metadata") or {})}


def _changes(given: dict[str, Any]) -> list[str]:
    """What the user gave, beside model_args, that a protocol has otherwise."""
    changes = []
    for option in ("gen_kwargs", "metadata"):
        names = given.get(option) or ()
        # A --config file may have them as the text that the command line takes.
        changes += [
            f"{name} in --{option}" for name in ([names] if isinstance(names, str) else names)
        ]
    for option in ("apply_chat_template", "system_instruction"):
        if given.get(option):
            changes.append(f"--{option}")
    return changes


def _say(*lines: str) -> None:
    """Print lines on stderr, once for all ranks."""
    if os.environ.get("RANK", "0") == "0":
        for line in lines:
            print(line, file=sys.stderr)


def _checked_rope(model_args: dict[str, Any]) -> ResolvedRope:
    """The position embeddings of the checkpoint that model_args name, once all of it is checked."""
    from lm_eval_llada.engine.arguments import parse_model_args
    from lm_eval_llada.engine.runner import open_checkpoint

    return open_checkpoint(parse_model_args(model_args)).rope


def _planned_rope(model_args: dict[str, Any]) -> ResolvedRope:
    """The same from a config or a known shape: a plan needs no checkpoint."""
    from lm_eval_llada.plan.costs import checked_rope

    return checked_rope(model_args)


def _include_paths(given: str | list[str] | None) -> list[str]:
    """Our tasks, then the user's: of two tasks with one name the harness takes the later."""
    theirs = [given] if isinstance(given, str) else list(given or [])
    return [str(tasks_path()), *theirs]


def _task_names(tasks: str | list[str] | None) -> list[str]:
    listed = [tasks] if isinstance(tasks, str) else list(tasks or [])
    return [name.strip() for entry in listed for name in str(entry).split(",")]


def _is_unexpected(record: logging.LogRecord) -> bool:
    return not any(message in record.getMessage() for message in _EXPECTED_MESSAGES)


def _add_tasks_path(subparsers: Any) -> None:
    help_text = "Print the folder of our task files"
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
