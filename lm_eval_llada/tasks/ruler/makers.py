"""Which maker makes the samples of each RULER task, and out of what."""

from __future__ import annotations

from collections.abc import Callable

from lm_eval_llada.tasks.ruler.common_and_frequent_words import (
    common_words_maker,
    frequent_words_maker,
)
from lm_eval_llada.tasks.ruler.draft import Maker
from lm_eval_llada.tasks.ruler.made_up_people import made_up_question_maker
from lm_eval_llada.tasks.ruler.needles import NIAH_TASKS, needle_maker
from lm_eval_llada.tasks.ruler.options import SYNTHETIC_QUESTIONS, RulerOptions
from lm_eval_llada.tasks.ruler.question_answering import question_maker
from lm_eval_llada.tasks.ruler.variable_tracking import tracing_maker
from lm_eval_llada.tasks.text.haystacks import HUB_REVISION, corpus


def make_maker(options: RulerOptions, index: int) -> Maker:
    """Return the maker of one sample, which can make it out of any number of units.

    Args:
        options: What the sample is made of. Of the length only the settings depend that the
            original has for it: it is up to ``fit`` to fill it.
        index: Number of the sample, from 0.

    Raises:
        ValueError: If a setting is unknown or wrong, or there is no sample of that number.
        FileNotFoundError: If the task needs a corpus that is neither there nor on the hub.
        ImportError: If a package of the extra ``ruler`` is needed and missing.
    """
    return _MAKERS[options.kind](options, index)


def _needles(options: RulerOptions, index: int) -> Maker:
    haystack = options.settings.get("type_haystack", NIAH_TASKS[options.task].type_haystack)
    essays = None
    if haystack == "essay":
        essays = corpus("essays", options.data_dir, options.hub_revision or HUB_REVISION)
    return needle_maker(
        options.task,
        seed=_seed(options, index),
        settings=options.settings,
        template=options.wording,
        essays=essays,
    )


def _variables(options: RulerOptions, index: int) -> Maker:
    return tracing_maker(
        seed=_seed(options, index), settings=options.settings, template=options.wording
    )


def _common_words(options: RulerOptions, index: int) -> Maker:
    return common_words_maker(
        seed=_seed(options, index),
        length=options.length,
        settings=options.settings,
        template=options.wording,
    )


def _frequent_words(options: RulerOptions, index: int) -> Maker:
    return frequent_words_maker(
        seed=_seed(options, index),
        length=options.length,
        settings=options.settings,
        template=options.wording,
    )


def _questions(options: RulerOptions, index: int) -> Maker:
    if options.settings:
        raise ValueError(f"{options.task} has no settings; got {', '.join(options.settings)}.")
    if options.task == SYNTHETIC_QUESTIONS:
        return made_up_question_maker(
            seed=_seed(options, index), length=options.length, template=options.wording
        )
    return question_maker(
        options.task,
        index=index,
        seed=_seed(options, index),
        data_dir=options.data_dir,
        hub_revision=options.hub_revision,
        template=options.wording,
    )


_MAKERS: dict[str, Callable[[RulerOptions, int], Maker]] = {
    "niah": _needles,
    "vt": _variables,
    "cwe": _common_words,
    "fwe": _frequent_words,
    "qa": _questions,
}


def _seed(options: RulerOptions, index: int) -> str:
    # Nothing else of the options: a sample keeps its needles and words at every length.
    return f"{options.seed}/{options.task}/{index}"
