"""Needle in a haystack: samples of an exact length with a needle at a given depth."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from lm_eval_llada.tasks.dataset import make_dataset
from lm_eval_llada.tasks.niah.needlebench import (
    TokenCutter,
    fixed_context,
    raw_documents,
    shuffled_for,
)
from lm_eval_llada.tasks.niah.needles import (
    Needle,
    needlebench_drawn,
    needlebench_needles,
    number_needles,
)
from lm_eval_llada.tasks.niah.options import NiahOptions, checked_depths
from lm_eval_llada.tasks.niah.own_needles import own_needles
from lm_eval_llada.tasks.niah.placing import (
    Haystack,
    fill,
    insert,
)
from lm_eval_llada.tasks.niah.scores import DEPTHS
from lm_eval_llada.tasks.niah.wording import single_template
from lm_eval_llada.tasks.text.haystacks import corpus, haystack_pieces
from lm_eval_llada.tasks.token_counts import TokenCounter, make_counter

__all__ = ["DEPTHS", "NiahOptions", "build_niah", "niah_dataset"]


def build_niah(
    tokenizer: Any, *, length: int, gen_length: int, **options: Any
) -> list[dict[str, Any]]:
    """Make the samples of one length.

    A sample is a function of the options, the length, the repeat and the depth alone: neither the
    order of making nor any global random state matters. A repeat keeps its needle at every length
    and depth and its haystack at every depth (a greater length reads on in the same text), so that
    depths are compared on equal terms. Intervals therefore are to be clustered by ``needle_id``.

    Differs from LongLLaDA, where a haystack is filled in the tokens of GPT-4 to the length less 600
    for the question: here the whole sample is measured, by default in the model's own tokens. With
    ``buffer=600``, ``length_unit='cl100k'`` and ``wording='needlebench'`` it is as there.

    Args:
        tokenizer: A transformers tokenizer: the model's.
        length: Tokens of prompt and output together.
        gen_length: Tokens of the output.
        **options: The other fields of ``NiahOptions``.

    Returns:
        The samples, all depths of the first repeat before the second one, so that any first few are
        spread over the depths. Each has the keys prompt, answer (the keyword), reference (the whole
        answer sentence), depth (percent), placed_depth (percent, where the needle really is),
        length, gen_length, num_tokens (of the prompt, in ``length_unit``), repeat and needle_id.

    Raises:
        ValueError: If an option is wrong, or the needle, its question and the output do not fit.
        FileNotFoundError: If a file of NeedleBench is neither there nor to be had from the hub.
        ImportError: If ``length_unit`` is ``cl100k`` and tiktoken is missing.
    """
    checked = NiahOptions(length=length, gen_length=gen_length, **options)
    counter = counter_of(checked, tokenizer)
    # The output is the model's own, whatever the length is counted in.
    answer_counter = make_counter(tokenizer)
    cutter = None if checked.buffer is None else TokenCutter(tokenizer, checked.length_unit)
    samples: list[dict[str, Any]] = []
    for repeat in range(checked.repeats):
        needles = _draw_needles(checked, repeat)
        require_room(f" {needles[0].answer}", checked.gen_length, answer_counter)
        if cutter is None:
            samples += _samples_of_repeat(checked, repeat, needles, counter)
        else:
            samples += _samples_with_buffer(checked, repeat, needles[0], counter, cutter)
    return samples


def niah_dataset(
    *, build: Callable[..., list[dict[str, Any]]] = build_niah, **given: Any
) -> dict[str, Any]:
    """Make the data set of a task file; see ``make_dataset``, whose ``given`` lm-eval hands over.

    Args:
        build: What makes the samples; takes a tokenizer and the fields of ``NiahOptions``.
        **given: Fields of ``NiahOptions`` among others; ``length`` is required.

    Raises:
        ValueError: If a setting is missing, misspelt or wrong, or a depth has no metric.
        FileNotFoundError: If a file of NeedleBench is neither there nor to be had from the hub.
    """
    depths = given.get("depths")
    without_metric = [d for d in checked_depths(depths) if d not in DEPTHS] if depths else []
    if without_metric:
        raise ValueError(
            f"depths of a task must be among {', '.join(map(str, DEPTHS))}, which have metrics; "
            f"got {', '.join(f'{depth:g}' for depth in without_metric)}. "
            "Use build_niah for samples at other depths."
        )
    return make_dataset("a NIAH task", build, NiahOptions, given, required=("length",))


def counter_of(options: NiahOptions, tokenizer: Any) -> TokenCounter:
    """Return the counter of prompts that a set of samples is measured by."""
    return make_counter(
        tokenizer,
        options.length_unit,
        add_bos_token=options.add_bos_token,
        apply_chat_template=options.apply_chat_template,
    )


def require_room(answer: str, gen_length: int, counter: TokenCounter) -> None:
    """Raise a ``ValueError`` unless an answer has room in the output.

    Args:
        answer: All that the output must hold, white space in front included.
        gen_length: Tokens of the output.
        counter: Of the model's tokens, whatever lengths are counted in.
    """
    needed = counter.count_plain([answer])[0]
    if needed > gen_length:
        raise ValueError(
            f"gen_length={gen_length} leaves no room for the answer {answer.strip()!r}, which "
            f"takes {needed} of the model's tokens; use at least {needed}."
        )


def draw_needles(options: NiahOptions, repeat: int, count: int) -> list[Needle]:
    """Draw the needle of a repeat, then ``count`` others of other keys."""
    if options.needle_kind == "needlebench":
        return needlebench_needles(
            options.seed, repeat, count, options.data_dir, options.hub_revision
        )
    text = _corpus_text(options.haystack, options.data_dir, options.hub_revision)
    if options.needle_kind == "own":
        return own_needles(options.needles, options.seed, repeat, count, avoid=text)
    return number_needles(options.seed, repeat, count, avoid=text)


def _draw_needles(options: NiahOptions, repeat: int) -> list[Needle]:
    """Draw the needle of a repeat, then its distractors."""
    if options.buffer is not None and options.needle_kind == "needlebench":
        return [needlebench_drawn(repeat, options.data_dir, options.hub_revision)]
    return draw_needles(options, repeat, options.num_distractors)


def _samples_of_repeat(
    options: NiahOptions, repeat: int, needles: list[Needle], counter: TokenCounter
) -> list[dict[str, Any]]:
    """Make the samples of one repeat: the same needles in the same haystack, at every depth."""
    budget, template = options.length - options.gen_length, single_template(options)
    name = f"{options.seed}/{repeat}"
    # No tokenizer known joins words, so as many words as tokens are enough.
    pieces = haystack_pieces(
        options.haystack, budget, f"{name}/haystack", options.data_dir, options.hub_revision
    )
    haystack = Haystack.of(pieces, counter.count_pieces(pieces))
    rng = random.Random(f"{name}/distractors")
    distractors = [(rng.random(), needle.statement) for needle in needles[1:]]
    needle = needles[0]
    samples = []
    for depth in options.depths:
        statements = [(depth / 100, needle.statement), *distractors]

        def render(part: Haystack, statements: list[tuple[float, str]] = statements) -> str:
            return template.format(
                context=insert(part, statements), question=needle.question, stem=needle.stem
            )

        used, prompt, num_tokens = fill(haystack, budget, render, counter.count)
        placed = used.depth_of(used.place(depth / 100))
        samples.append(_sample(options, repeat, needle, depth, placed, prompt, num_tokens))
    return samples


def _samples_with_buffer(
    options: NiahOptions, repeat: int, needle: Needle, counter: TokenCounter, cutter: TokenCutter
) -> list[dict[str, Any]]:
    """Make the samples of one repeat as NeedleBench does."""
    # NeedleBench compares an output without the keyword to the needle, not to the answer sentence.
    needle = replace(needle, reference=needle.statement)
    documents = raw_documents(options.haystack, options.data_dir, options.hub_revision)
    documents = shuffled_for(repeat, documents)
    num_tokens, template = options.length - (options.buffer or 0), single_template(options)
    samples = []
    for depth in options.depths:
        statement = (depth / 100, needle.statement)
        context, (placed,) = fixed_context(documents, num_tokens, [statement], cutter)
        prompt = template.format(context=context, question=needle.question, stem=needle.stem)
        count = counter.count(prompt)
        samples.append(_sample(options, repeat, needle, depth, placed, prompt, count))
    return samples


def _sample(
    options: NiahOptions,
    repeat: int,
    needle: Needle,
    depth: float,
    placed: float,
    prompt: str,
    num_tokens: int,
) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "answer": needle.answer,
        "reference": needle.reference,
        "depth": float(depth),
        "placed_depth": 100 * placed,
        "length": options.length,
        "gen_length": options.gen_length,
        "num_tokens": num_tokens,
        "repeat": repeat,
        "needle_id": f"{needle.key}: {needle.answer}",
    }


@lru_cache(maxsize=4)
def _corpus_text(haystack: str, data_dir: str | Path | None, revision: str) -> str:
    return "\n".join(corpus(haystack, data_dir, revision))
