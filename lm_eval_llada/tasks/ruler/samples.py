"""RULER: samples of any of the 13 tasks, filled to a length, and the data set of a task file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lm_eval_llada.tasks.dataset import make_dataset
from lm_eval_llada.tasks.ruler.draft import Maker
from lm_eval_llada.tasks.ruler.fitting import fit
from lm_eval_llada.tasks.ruler.makers import make_maker
from lm_eval_llada.tasks.ruler.options import (
    FILELESS_TASKS,
    RulerOptions,
)
from lm_eval_llada.tasks.settings import own_settings
from lm_eval_llada.tasks.token_counts import make_counter


def build_ruler(
    tokenizer: Any, *, task: str, length: int, gen_length: int, **options: Any
) -> list[dict[str, Any]]:
    """Make the samples of one task at one length.

    A sample holds the largest number of units (words, lines, documents) with which prompt, answer
    prefix and reserved output stay within the length. It is a function of the options and its index
    alone: neither the order of making nor any global random state matters.

    Args:
        tokenizer: A transformers tokenizer: the model's.
        task: One of ``RULER_TASKS``.
        length: Tokens of prompt, answer prefix and output together.
        gen_length: Tokens reserved for the output.
        **options: The other fields of ``RulerOptions``.

    Returns:
        The samples, with the keys input (the prompt), gen_prefix (the answer's beginning, which
        follows the prompt directly, or opens the answer of a chat), outputs (all references), task,
        index, length, gen_length, num_tokens (of prompt and answer prefix, with those of the chat
        format, in ``length_unit``), num_units, and details where the task has some.

    Raises:
        ValueError: If an option is wrong, or the length below the shortest possible, which is
            named.
        FileNotFoundError: If the task needs a corpus that is neither there nor on the hub.
        ImportError: If a package of the extra ``ruler`` is needed and missing.
    """
    checked = RulerOptions(task=task, length=length, gen_length=gen_length, **options)
    count = _count_function(checked, tokenizer)
    makers = _make_makers(checked)
    if _needed(checked, makers, count) > length:
        whose = "of the model's tokens" if checked.length_unit == "model" else "cl100k tokens"
        raise ValueError(
            f"length={length} is too short for {task}: with {gen_length} tokens for the output its "
            f"shortest possible length is {_shortest(checked, count)} {whose}. Use at least that, "
            "or smaller settings."
        )
    return [_sample(checked, index, maker, count) for index, maker in enumerate(makers)]


def ruler_dataset(
    *, ruler_task: str | None = None, output_budget: int | None = None, **given: Any
) -> dict[str, Any]:
    """Make the data set of a task file; see ``make_dataset``, whose ``given`` lm-eval hands over.

    Args:
        ruler_task: One of ``RULER_TASKS``.
        output_budget: Tokens reserved for the output; None means the ``gen_length`` in effect, so
            that samples leave exactly the room that generation will use.
        **given: Fields of ``RulerOptions`` among others; ``length`` is required.

    Raises:
        ValueError: If a setting is missing, misspelt or wrong, or the length is too short.
        FileNotFoundError: If the task needs a corpus that is neither there nor on the hub.
        ImportError: If a package of the extra ``ruler`` is needed and missing.
    """
    if ruler_task is None:
        raise ValueError("metadata of a RULER task must give ruler_task.")
    own_settings(given, ("output_budget",), "a RULER task")  # which refuses what is close to it
    try:
        return make_dataset(
            "a RULER task",
            build_ruler,
            RulerOptions,
            {**given, "task": ruler_task},
            required=("task", "length"),
            gen_length=output_budget,
        )
    except (FileNotFoundError, ImportError) as error:
        # One of a group's tasks stops the whole run, so say which, and what runs without files.
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ImportError
        raise kind(
            f"RULER's {ruler_task}: {error} Tasks without a corpus: {', '.join(FILELESS_TASKS)}."
        ) from error


def _make_makers(options: RulerOptions) -> list[Maker]:
    return [make_maker(options, index) for index in range(options.num_samples)]


def _count_function(options: RulerOptions, tokenizer: Any) -> Callable[[str], int]:
    """Return the function that counts all tokens of a prompt with its answer prefix."""
    counter = make_counter(
        tokenizer,
        options.length_unit,
        add_bos_token=options.add_bos_token,
        apply_chat_template=options.apply_chat_template,
    )
    ending = "\n" * options.answer_newlines
    return lambda text: counter.count(text + ending)


def _needed(options: RulerOptions, makers: Sequence[Maker], count: Callable[[str], int]) -> int:
    """Return the length that the longest among the samples of the fewest units takes."""
    most = max(count(maker.draft(maker.fewest).text) for maker in makers)
    return most + options.gen_length


def _shortest(options: RulerOptions, count: Callable[[str], int]) -> int:
    """Return the smallest sufficient length from ``options.length`` on.

    What cwe and fwe need grows with the length itself, since their settings follow it.
    """
    while (needed := _needed(options, _make_makers(options), count)) > options.length:
        options = replace(options, length=needed)
    return options.length


def _sample(
    options: RulerOptions, index: int, maker: Maker, count: Callable[[str], int]
) -> dict[str, Any]:
    fitted = fit(maker, options.length - options.gen_length, count)
    draft = fitted.draft
    prefix = draft.answer_prefix + "\n" * options.answer_newlines
    if options.apply_chat_template:
        # Differs from the original, which keeps the space that parts prompt and prefix where the
        # prefix opens an answer: no chat model writes, or was trained on, answers that begin so.
        prefix = prefix.lstrip()
    sample = {
        "input": draft.prompt,
        "gen_prefix": prefix,
        "outputs": list(draft.references),
        "task": options.task,
        "index": index,
        "length": options.length,
        "gen_length": options.gen_length,
        "num_tokens": fitted.num_tokens,
        "num_units": fitted.num_units,
    }
    # An empty dict would be a column without a type.
    return {**sample, "details": dict(draft.details)} if draft.details else sample
