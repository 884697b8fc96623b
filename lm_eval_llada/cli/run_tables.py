"""What a run prints at its end: our own tables in place of the harness', where they say more."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from typing import Any

from lm_eval_llada.report.run_summary import run_summary, scored_tasks


@contextlib.contextmanager
def own_tables(output_path: str | None) -> Iterator[None]:
    """Have the harness print our tables of our tasks while the block runs, and its own of others.

    Its table lists every metric by its name, so that 11 depths come before the score.

    Args:
        output_path: Where the results are kept; None where they are not.
    """
    # The harness fetches the function when a run is done.
    from lm_eval import utils

    original = utils.make_table

    def make_table(results: dict[str, Any], column: str = "results", **more: Any) -> str:
        ours = scored_tasks(results)
        # The groups, if any, are printed last.
        is_last = column != "results" or "groups" not in results
        end = f"\n{report_line(output_path)}" if ours and is_last else ""
        if not ours or column != "results":
            return str(original(results, column, **more)) + end
        rest = {name: v for name, v in results["results"].items() if name not in ours}
        # Groups have a table of their own.
        is_task = [name for name in rest if name in results["configs"]]
        parts = [run_summary(results)]
        if is_task:
            kept = {name: rest[name] for name in is_task}
            parts.append(str(original({**results, "results": kept}, column, **more)))
        return "\n" + "\n\n".join(parts) + f"\n{end}"

    utils.make_table = make_table
    try:
        yield
    finally:
        utils.make_table = original


def report_line(output_path: str | None) -> str:
    """How to make a page of what was just measured.

    Args:
        output_path: Where the results are kept; None where they are not.
    """
    if not output_path:
        return "Kept nowhere: --output_path results --log_samples keeps it for a report."
    # The harness takes a name that ends in .json for a file in the folder of results.
    folder = os.path.dirname(output_path) or "." if output_path.endswith(".json") else output_path
    return f"A page of it: lm-eval-llada report {shlex.quote(folder)}"
