"""Samples too long for `max_length` under `truncation=skip`, kept out of every mean of a run.

The harness asks a model for answers and knows no sample without one. So its evaluation is told
here: a task's `process_results` gives a mark in place of each metric of such a sample, under the
same names, as ranks must agree on them; and marks are taken out before anything is averaged.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lm_eval import evaluator
from lm_eval.api.instance import Instance

from lm_eval_llada.engine.arguments import RequestOptions
from lm_eval_llada.engine.requests import fit_prompt, is_left_out
from lm_eval_llada.harness.runlog import RunLog

NO_TEXT, NO_SCORE = "", (0.0, False)
"""What the harness gets as the answer to a request that was left out; nothing reads it."""

_GIVEN = "llada_leaves_out"  # set on functions of the harness that know of us


class _Mark(enum.Enum):
    LEFT_OUT = "left out"  # An enum's member stays itself on its way from rank to rank.


class LeftOut:
    """The samples that a model left out, by task.

    One is made for each model with `truncation=skip`; evaluations of others go on as ever.
    """

    def __init__(self) -> None:
        """Have the harness' evaluation know of such samples from now on."""
        self._samples: dict[str, set[int]] = {}
        self._is_watched = False
        for name, wrapped in (("evaluate", _evaluate), ("_process_results", _process_results)):
            theirs = getattr(evaluator, name, None)
            if theirs is None:
                raise ValueError(
                    f"truncation=skip does not know this release of lm-eval, which has no "
                    f"evaluator.{name}; use truncation=error, middle or left."
                )
            if not hasattr(theirs, _GIVEN):
                changed = functools.wraps(theirs)(functools.partial(wrapped, theirs))
                setattr(changed, _GIVEN, True)
                setattr(evaluator, name, changed)

    def add(self, task: str, doc_id: int) -> None:
        """Note a sample.

        Raises:
            ValueError: If nobody would leave it out: the evaluation is not the harness' own.
        """
        if not self._is_watched:
            raise ValueError(
                "truncation=skip leaves samples out of the means of lm_eval's evaluate and "
                "simple_evaluate, taken from lm_eval or lm_eval.evaluator after the model is "
                "made; elsewhere use truncation=error, middle or left."
            )
        self._samples.setdefault(task, set()).add(doc_id)

    def watch(self, task: Any) -> None:
        """Have a task give marks for the samples that were left out."""
        iterate, score = task.doc_iterator, task.process_results
        name = task.config.task
        current: list[int] = []

        def doc_iterator(*args: Any, **kwargs: Any) -> Iterator[tuple[int, Any]]:
            for doc_id, doc in iterate(*args, **kwargs):
                current[:] = [doc_id]
                yield doc_id, doc

        def process_results(doc: Any, results: Any) -> dict[str, Any]:
            values: dict[str, Any] = score(doc, results)
            is_out = bool(current) and current[0] in self._samples.get(name, ())
            return dict.fromkeys(values, _Mark.LEFT_OUT) if is_out else values

        task.doc_iterator, task.process_results = doc_iterator, process_results
        self._is_watched = True


def fitted(
    request: Instance,
    prompt: list[int],
    num_reserved: int,
    options: RequestOptions,
    log: RunLog,
    left_out: LeftOut | None,
) -> list[int] | None:
    """The prompt beside the tokens it is for, cut if it has to be; None where it is left out.

    Args:
        request: Of the prompt.
        prompt: Token ids.
        num_reserved: Tokens to score or generate.
        options: Of the run.
        log: Gets what was cut or left out.
        left_out: The same; None unless `options` have it so.

    Raises:
        ValueError: As `fit_prompt`.
    """
    task = request.task_name or ""
    num_tokens = len(prompt) + num_reserved
    if left_out is not None and is_left_out(num_tokens, options.max_length, options.truncation):
        left_out.add(task, request.doc_id)
        log.saw_left_out(task, request.doc_id, num_tokens)
        return None
    what = f"{task} sample {request.doc_id}"
    kept = fit_prompt(prompt, num_reserved, options.max_length, options.truncation, what)
    log.saw_prompt(task, (request.doc_id, request.idx), len(prompt) - len(kept))
    return kept


def with_gaps(asked: Sequence[Any], answers: Iterable[Any], gap: Any) -> list[Any]:
    """Answers in the places of what was asked, and `gap` in those of None."""
    rest = iter(answers)
    return [gap if one is None else next(rest) for one in asked]


def refuse_cache(cache_hook: Any) -> None:
    """Refuse the harness' own cache, which would answer for a sample that was left out.

    Raises:
        ValueError: If there is one.
    """
    if cache_hook.dbdict is not None:
        raise ValueError(
            "--use_cache would keep an empty answer for each sample that truncation=skip leaves "
            "out, and count it the next time; drop it: --output_path and answers_dir keep answers."
        )


def _evaluate(theirs: Any, /, *args: Any, **kwargs: Any) -> Any:
    """The harness' `evaluate`, its tasks watched where the model leaves samples out."""
    lm = kwargs.get("lm", args[0] if args else None)
    tasks = kwargs.get("task_dict", args[1] if len(args) > 1 else None)
    left_out = getattr(lm, "left_out", None)
    if isinstance(left_out, LeftOut) and isinstance(tasks, Mapping):
        for task in _single_tasks(tasks):
            left_out.watch(task)
    return theirs(*args, **kwargs)


def _single_tasks(tasks: Mapping[Any, Any]) -> Iterator[Any]:
    """The tasks of either form that the harness takes: by kind, or nested in their groups."""
    for task in tasks.get("tasks", tasks).values():
        if isinstance(task, Mapping):
            yield from _single_tasks(task)
        else:
            yield task


def _process_results(theirs: Any, /, collected: Any, *args: Any, **kwargs: Any) -> Any:
    """The harness' averaging, of what is left without marks; a log of samples has null there."""
    for one in collected.values():
        for key, values in list(one["raw_metrics"].items()):
            kept = [value for value in values if value is not _Mark.LEFT_OUT]
            if kept:
                one["raw_metrics"][key] = kept
            else:
                del one["raw_metrics"][key]
        for sample in one["logged_samples"]:
            for name in sample["metrics"]:
                if sample[name] is _Mark.LEFT_OUT:
                    sample[name] = None
    return theirs(collected, *args, **kwargs)
