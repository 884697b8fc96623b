"""What fills in a run where neither the command line nor a ``--config`` file says anything."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm_eval_llada.checkpoints.names import DEFAULT_CHECKPOINT
from lm_eval_llada.cli.run_checks import check_run
from lm_eval_llada.cli.task_folders import SHIPPED, lay_out
from lm_eval_llada.cli.typed import given_values
from lm_eval_llada.engine.answers import ANSWERS_DIR
from lm_eval_llada.rope import ResolvedRope
from lm_eval_llada.tasks.grid import niah_group, write_configs, write_shipped
from lm_eval_llada.tasks.papers.protocols import fill_protocols, protocols_of

OUR_MODEL = "llada"
_OUR_NAMES = (OUR_MODEL, "mdlm")
# Models that take the arguments which protocols fill in.
_PROTOCOL_MODELS = (*_OUR_NAMES, "hf_rope")
# The group runs up to this many times the trained context where no longer target is named: far
# enough to see retrieval fail, near enough to be done.
_LENGTHS_BEYOND = 4


def fill_in(namespace: argparse.Namespace, folder: Path) -> None:
    """Put our defaults where neither the command line nor a `--config` file says anything.

    Args:
        namespace: Parsed arguments of `run` or `plan`; modified.
        folder: An empty folder that outlives the run, for task files.

    Raises:
        ValueError: If model_args are wrong or the checkpoint cannot be read.
    """
    given = given_values(namespace)
    namespace.model = given.get("model") or OUR_MODEL
    tasks = task_names(given.get("tasks"))
    laid_out = lay_out(folder, tasks, given.get("include_path"))
    namespace.include_path = laid_out.include_path
    if laid_out.tasks != tasks:
        tasks = namespace.tasks = laid_out.tasks
    model_args = given.get("model_args") or {}
    metadata = _metadata(given)
    if metadata:
        namespace.metadata = metadata
    check_run(given, tasks, namespace.include_path)
    if namespace.model in _PROTOCOL_MODELS:
        family = _family(namespace.model, model_args) if protocols_of(tasks) else None
        filled = fill_protocols(tasks, model_args, _changes(given), family)
        model_args = namespace.model_args = filled.model_args
        _say(*filled.lines)
    if namespace.model not in _OUR_NAMES:
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
        _say(restrict_niah(rope, folder / SHIPPED))


def restrict_niah(rope: ResolvedRope, folder: Path) -> str:
    """Write the group `niah` with the lengths that suit a checkpoint.

    Returns:
        A line that says which lengths run and how to have others.

    Raises:
        ValueError: If even the shortest length is too long.
    """
    beyond = _LENGTHS_BEYOND * rope.train_length
    limit = max(rope.target_length or 0, beyond)
    group = niah_group(limit)
    write_shipped(folder, group["task"])
    write_configs(folder / "niah", {"niah": group}, "niah.yaml")
    lengths = ", ".join(name.removeprefix("niah_") for name in group["task"])
    return (
        f"niah runs at {lengths} tokens: up to {_LENGTHS_BEYOND} times the trained context of "
        f"{rope.train_length}, or target_length if that is longer. Name others one by one, such as "
        f"--tasks niah_{2 * int(group['task'][-1].removeprefix('niah_'))}."
    )


@contextlib.contextmanager
def kept_answers(output_path: str | None) -> Iterator[None]:
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


def _family(model: str, model_args: dict[str, Any]) -> str | None:
    """The family of a model of ours, from its config or a known shape; None for another."""
    if model not in _OUR_NAMES:
        return None
    from lm_eval_llada.modeling import find_config

    pretrained = str(model_args.get("pretrained") or DEFAULT_CHECKPOINT)
    with contextlib.suppress(ValueError):  # What is wrong is said where the checkpoint is opened.
        return find_config(pretrained, model_args.get("revision"))[0].family
    return None


def _say(*lines: str) -> None:
    """Print lines on stderr, once for all ranks."""
    if os.environ.get("RANK", "0") == "0":
        for line in lines:
            print(line, file=sys.stderr)


def _checked_rope(model_args: dict[str, Any]) -> ResolvedRope:
    """The position embeddings of the checkpoint that model_args name, once all of it is checked."""
    from lm_eval_llada.engine.arguments import parse_model_args
    from lm_eval_llada.engine.loading import open_checkpoint

    return open_checkpoint(parse_model_args(model_args), keep=True).rope


def _planned_rope(model_args: dict[str, Any]) -> ResolvedRope:
    """The same from a config or a known shape: a plan needs no checkpoint."""
    from lm_eval_llada.plan.costs import checked_rope

    return checked_rope(model_args)


def task_names(tasks: str | list[str] | None) -> list[str]:
    """The names and paths that `--tasks` lists, commas taken apart."""
    listed = [tasks] if isinstance(tasks, str) else list(tasks or [])
    return [name.strip() for entry in listed for name in str(entry).split(",")]
