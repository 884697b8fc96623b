"""Several needles in one haystack, at different depths, all of them asked for."""

from __future__ import annotations

import random
from typing import Any

from lm_eval_llada.tasks.niah.needlebench import (
    TokenCutter,
    fixed_context,
    raw_documents,
    shuffled_for,
)
from lm_eval_llada.tasks.niah.needles import Needle
from lm_eval_llada.tasks.niah.options import NiahOptions
from lm_eval_llada.tasks.niah.placing import (
    Haystack,
    fill,
    insert,
)
from lm_eval_llada.tasks.niah.single import (
    counter_of,
    draw_needles,
    niah_dataset,
    require_room,
)
from lm_eval_llada.tasks.niah.wording import has_stem, multi_template
from lm_eval_llada.tasks.text.haystacks import haystack_pieces
from lm_eval_llada.tasks.token_counts import TokenCounter, make_counter


def build_niah_multi(
    tokenizer: Any, *, length: int, gen_length: int, **options: Any
) -> list[dict[str, Any]]:
    """Make the samples of one length, each with a needle at every one of the depths.

    As in ``build_niah``, a sample is a function of the options and its number alone. Its needles
    have different keys and different answers. They are asked for in an order of their own, so that
    the depth of a needle says nothing about the place of its answer in the output.

    With a ``buffer`` the contexts are those of NeedleBench's multi-needle retrieval: a fixed number
    of tokens, one set of needles for all samples that changes places between them, and questions
    in the order of the text.

    Differs from NeedleBench in the wording, and in the set of needles, which OpenCompass draws from
    Python's global random state and which therefore cannot be known.

    Args:
        tokenizer: A transformers tokenizer: the model's.
        length: Tokens of prompt and output together.
        gen_length: Tokens of the output.
        **options: The other fields of ``NiahOptions``. ``depths`` are those of the needles in each
            sample, ``repeats`` is the number of samples.

    Returns:
        The samples, with the keys prompt, answers, depths (percent) and placed_depths (where they
        really are), each in the order of the text, asked (indices of the needles in the order of
        the questions), target (all answer sentences in that order), length, gen_length, num_tokens
        (of the prompt, in ``length_unit``) and repeat.

    Raises:
        ValueError: If an option is wrong, or needles, questions and output do not fit.
        FileNotFoundError: If a file of NeedleBench is neither there nor to be had from the hub.
        ImportError: If ``length_unit`` is ``cl100k`` and tiktoken is missing.
    """
    checked = NiahOptions(length=length, gen_length=gen_length, **options)
    if checked.num_distractors:
        raise ValueError(
            f"num_distractors={checked.num_distractors} is not for several needles, which distract "
            "from each other; leave it out, or give more depths."
        )
    counter, answer_counter = counter_of(checked, tokenizer), make_counter(tokenizer)
    cutter = None if checked.buffer is None else TokenCutter(tokenizer, checked.length_unit)
    return [
        _sample(checked, repeat, counter, answer_counter, cutter)
        for repeat in range(checked.repeats)
    ]


def niah_multi_dataset(**metadata: Any) -> dict[str, Any]:
    """Make the data set of a task file with several needles a sample.

    Args:
        **metadata: As in ``niah_dataset``, which says what it raises as well.

    Returns:
        The ``datasets.Dataset`` of the samples under the key ``test``.
    """
    return niah_dataset(build=build_niah_multi, **metadata)


def _sample(
    options: NiahOptions,
    repeat: int,
    counter: TokenCounter,
    answer_counter: TokenCounter,
    cutter: TokenCutter | None,
) -> dict[str, Any]:
    needles, asked = _needles_of(options, repeat), _question_order(options, repeat)
    target = " ".join(needles[index].reference for index in asked)
    stem = needles[asked[0]].stem if has_stem(multi_template(options)) else ""
    require_room(target.removeprefix(stem), options.gen_length, answer_counter)
    if cutter is None:
        prompt, placed = _filled(options, repeat, needles, asked, counter)
    else:
        prompt, placed = _with_buffer(options, repeat, needles, asked, cutter)
    return {
        "prompt": prompt,
        "answers": [needle.answer for needle in needles],
        "depths": [float(depth) for depth in options.depths],
        "placed_depths": [100 * share for share in placed],
        "asked": asked,
        "target": target,
        "length": options.length,
        "gen_length": options.gen_length,
        "num_tokens": counter.count(prompt),
        "repeat": repeat,
    }


def _needles_of(options: NiahOptions, repeat: int) -> list[Needle]:
    """Draw the needles of a sample, in the order of their depths."""
    count = len(options.depths) - 1
    if options.buffer is None:
        return draw_needles(options, repeat, count)
    needles = draw_needles(options, 0, count)
    random.Random(f"{options.seed}/{repeat}/places").shuffle(needles)
    return needles


def _question_order(options: NiahOptions, repeat: int) -> list[int]:
    order = list(range(len(options.depths)))
    if options.buffer is None:
        random.Random(f"{options.seed}/{repeat}/questions").shuffle(order)
    return order


def _prompt(options: NiahOptions, context: str, needles: list[Needle], asked: list[int]) -> str:
    return multi_template(options).format(
        context=context,
        questions=" ".join(needles[index].question for index in asked),
        stem=needles[asked[0]].stem,
    )


def _statements(options: NiahOptions, needles: list[Needle]) -> list[tuple[float, str]]:
    return [
        (depth / 100, needle.statement)
        for depth, needle in zip(options.depths, needles, strict=True)
    ]


def _filled(
    options: NiahOptions,
    repeat: int,
    needles: list[Needle],
    asked: list[int],
    counter: TokenCounter,
) -> tuple[str, list[float]]:
    """Fill a prompt to the length; return it with the share of the haystack before each needle."""
    budget = options.length - options.gen_length
    pieces = haystack_pieces(
        options.haystack,
        budget,
        f"{options.seed}/{repeat}/haystack",
        options.data_dir,
        options.hub_revision,
    )
    haystack = Haystack.of(pieces, counter.count_pieces(pieces))
    statements = _statements(options, needles)

    def render(part: Haystack) -> str:
        return _prompt(options, insert(part, statements), needles, asked)

    used, prompt, _ = fill(haystack, budget, render, counter.count)
    return prompt, [used.depth_of(used.place(depth)) for depth, _ in statements]


def _with_buffer(
    options: NiahOptions,
    repeat: int,
    needles: list[Needle],
    asked: list[int],
    cutter: TokenCutter,
) -> tuple[str, list[float]]:
    documents = raw_documents(options.haystack, options.data_dir, options.hub_revision)
    context, placed = fixed_context(
        shuffled_for(repeat, documents),
        options.length - (options.buffer or 0),
        _statements(options, needles),
        cutter,
    )
    return _prompt(options, context, needles, asked), placed
