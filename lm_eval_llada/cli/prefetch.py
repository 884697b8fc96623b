"""The command ``prefetch``: everything that a run on a machine without a network will read."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import constants
from lm_eval._cli.utils import SplitArgs
from tqdm import tqdm

from lm_eval_llada.cli.arguments import add_model_args, model_args_of

if TYPE_CHECKING:
    from lm_eval_llada.plan.prefetching import Item

_DESCRIPTION = (
    "Fetch what a run of these tasks reads, by building the tasks as the run does, and print where "
    "it is and the variables to set where there is no network. The exit code is 1 if something "
    "could not be had; the rest is fetched all the same."
)


def add_parser(subparsers: Any) -> None:
    """Add the command to what ``add_subparsers`` returned."""
    parser = subparsers.add_parser(
        "prefetch", help="Fetch what tasks and a model need offline", description=_DESCRIPTION
    )
    parser.add_argument(
        "tasks",
        nargs="+",
        action=SplitArgs,
        metavar="TASKS",
        help="tasks, groups, patterns or task files",
    )
    add_model_args(parser, "all of them")
    parser.add_argument("--data_dir", help="folder with corpora, read in place of the hub")
    parser.add_argument("--include_path", help="folder with further task files")
    parser.add_argument("--weights", action="store_true", help="fetch the weights as well")
    parser.set_defaults(func=_prefetch)


def _prefetch(namespace: argparse.Namespace) -> None:
    # Imported here, as it takes seconds: other commands share this command line.
    from lm_eval_llada.engine.arguments import parse_model_args
    from lm_eval_llada.plan.prefetching import (
        TaskFiles,
        offline_variables,
        on_disk,
        prefetch_checkpoint,
    )

    model_args = _model_args(namespace)
    loading = parse_model_args(model_args).loading
    # A misspelt name stops here, before gigabytes of weights come.
    tasks = TaskFiles(namespace.tasks, model_args, namespace.include_path)
    if constants.HF_HUB_OFFLINE:
        print("HF_HUB_OFFLINE is set, so nothing is fetched: this checks what is here.")
    items: list[Item] = []

    def note(item: Item) -> None:
        items.append(item)
        _print_item(item)

    for name in dict.fromkeys(filter(None, [loading.pretrained, loading.tokenizer])):
        is_model = name == loading.pretrained
        revision = loading.revision if is_model else None
        note(prefetch_checkpoint(name, revision, weights=namespace.weights and is_model))
    if "data_dir" in model_args:
        note(on_disk("data_dir, to be copied", Path(model_args["data_dir"])))
    for item in tasks.fetch():
        note(item)
    print("On the machine without a network, with the same folders:")
    for name, value in offline_variables().items():
        print(f"export {name}={shlex.quote(value)}")
    if num_failed := sum(item.error is not None for item in items):
        print(f"{num_failed} of {len(items)} items could not be had.")
        raise SystemExit(1)


def _model_args(namespace: argparse.Namespace) -> dict[str, Any]:
    """The model arguments, the data folder included.

    Raises:
        ValueError: If the folder was given twice.
    """
    model_args = model_args_of(namespace)
    if namespace.data_dir is None:
        return model_args
    if "data_dir" in model_args:
        raise ValueError("data_dir came by --data_dir and among --model_args; give it once.")
    return {**model_args, "data_dir": namespace.data_dir}


def _print_item(item: Item) -> None:
    if item.error is not None:
        line = f"FAIL  {item.what}: {item.error}"
    elif item.path is None:
        line = f"none  {item.what}: needs no further files"
    else:
        line = f"ok    {item.what}: {item.path} ({tqdm.format_sizeof(item.num_bytes, 'B')})"
    print(line, flush=True)
