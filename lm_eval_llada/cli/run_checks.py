"""What the harness takes without a word, refused before a run begins."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval_llada.cli.task_errors import check_includes
from lm_eval_llada.cli.task_settings import check_settings, has_own_tasks


def check_run(given: Mapping[str, Any], tasks: Sequence[str], include_path: Sequence[str]) -> None:
    """Refuse what would end without a reason, or in the numbers of another setting.

    Args:
        given: What the user gave, by the names of the harness' options.
        tasks: Names, patterns and files of tasks.
        include_path: Folders with task files, ours among them.

    Raises:
        ValueError: If a task file includes one that is missing, no task reads a name of
            `--metadata`, there are fewer documents than ranks, or `--cache_requests` could hand
            out prompts of other settings.
    """
    check_includes(tasks)
    _check_ranks(given)
    check_settings(given.get("metadata") or {}, tasks, include_path)
    cache = given.get("cache_requests") or {}
    if isinstance(cache, Mapping) and cache.get("cache_requests"):
        _check_prompt_cache(given, cache, tasks, include_path)


def _check_ranks(given: Mapping[str, Any]) -> None:
    shared = int((given.get("model_args") or {}).get("tp") or 1)
    num_ranks = int(os.environ.get("WORLD_SIZE", "1")) // shared
    limit, samples = given.get("limit"), given.get("samples")
    if isinstance(limit, int | float) and 1 <= limit < num_ranks:
        raise ValueError(
            f"--limit {limit:g} leaves fewer documents than the {num_ranks} ranks, each of which "
            f"needs one; use --limit {num_ranks} or more, or start fewer processes."
        )
    for task, chosen in samples.items() if isinstance(samples, Mapping) else ():
        if len(chosen) < num_ranks:
            raise ValueError(
                f"--samples names {len(chosen)} documents of {task}, fewer than the {num_ranks} "
                "ranks, each of which needs one; name more, or start fewer processes."
            )


def _check_prompt_cache(
    given: Mapping[str, Any],
    cache: Mapping[str, Any],
    tasks: Sequence[str],
    include_path: Sequence[str],
) -> None:
    """The harness keys its cache of prompts by task, examples and rank, not by what makes them."""
    if cache.get("rewrite_requests_cache"):
        return  # Prompts are made anew then.
    if has_own_tasks(tasks, include_path) or given.get("metadata") or given.get("gen_kwargs"):
        raise ValueError(
            "--cache_requests true would hand out the prompts of whatever run filled that cache, "
            "since it knows neither --metadata nor --gen_kwargs nor model_args, which make "
            "samples; drop it, or use --cache_requests refresh, which makes them anew. Finished "
            "answers are kept by --output_path or answers_dir."
        )


def explain_ranks(error: ValueError) -> ValueError:
    """The harness' error of a rank without documents, with its reason; any other as it is."""
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if num_ranks == 1 or "did not find any docs" not in str(error):
        return error
    return ValueError(
        f"A task has fewer documents than there are ranks, {num_ranks}, each of which needs one; "
        "start fewer processes."
    )
