"""Needle in a haystack: samples of an exact length with a needle at a given depth."""

from __future__ import annotations

import difflib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from lm_eval_llada.data.counting import LENGTH_UNITS, TokenCounter, load_tokenizer, make_counter
from lm_eval_llada.data.documents import HAYSTACKS, HUB_REVISION, corpus, haystack_pieces
from lm_eval_llada.data.needles import PROMPT, Needle, needlebench_needles, number_needles
from lm_eval_llada.data.placing import Haystack, fill, insert
from lm_eval_llada.errors import unknown_choice

DEPTHS: tuple[int, ...] = tuple(range(0, 101, 10))
"""Depths in percent that the tasks report, each under its own name."""

NEEDLES: tuple[str, ...] = ("auto", "numbers", "needlebench")
"""Generated numbers, NeedleBench's facts, or (auto) those that belong to the haystack."""


@dataclass(frozen=True)
class NiahOptions:
    """What a set of samples is made of.

    Attributes:
        length: Tokens of prompt and output together, in ``length_unit``.
        gen_length: Tokens of the output.
        depths: Places of the needle in percent of the haystack: 0 is its start, 100 its end.
        repeats: Samples at each depth, each with another needle and another haystack.
        haystack: One of ``HAYSTACKS``.
        needles: One of ``NEEDLES``.
        num_distractors: Needles of other keys, at random depths, beside the one asked for.
        seed: Seed of everything random.
        length_unit: One of ``LENGTH_UNITS``.
        add_bos_token: Whether the model puts a beginning-of-sequence token before each prompt.
        data_dir: Folder with ``needlebench/``; None reads the hub where files are needed.
        hub_revision: Revision of the hub repository.
    """

    length: int
    gen_length: int
    depths: tuple[float, ...] = DEPTHS
    repeats: int = 10
    haystack: str = "noise"
    needles: str = "auto"
    num_distractors: int = 0
    seed: int = 2025
    length_unit: str = "model"
    add_bos_token: bool = False
    data_dir: str | Path | None = None
    hub_revision: str = HUB_REVISION

    def __post_init__(self) -> None:
        """Refuse values of a wrong kind or out of range.

        Raises:
            ValueError: Naming the option, what it may be, and what it was.
        """
        for name, least in (
            ("length", 1), ("gen_length", 1), ("repeats", 1), ("num_distractors", 0), ("seed", 0)
        ):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(
                    f"{name} must be a whole number of at least {least}; got {value!r}."
                )
        for name, choices in (
            ("haystack", HAYSTACKS), ("needles", NEEDLES), ("length_unit", LENGTH_UNITS)
        ):  # fmt: skip
            if getattr(self, name) not in choices:
                raise unknown_choice(name, getattr(self, name), choices)
        if self.gen_length >= self.length:
            raise ValueError(
                f"length={self.length} must be more than gen_length={self.gen_length}, "
                "which is a part of it."
            )
        object.__setattr__(self, "depths", _checked_depths(self.depths))

    @property
    def needle_kind(self) -> str:
        """Return ``numbers`` or ``needlebench``."""
        if self.needles != "auto":
            return self.needles
        return "numbers" if self.haystack == "noise" else "needlebench"


def build_niah(
    tokenizer: Any, *, length: int, gen_length: int, **options: Any
) -> list[dict[str, Any]]:
    """Make the samples of one length.

    A sample is a function of the options, the length, the repeat and the depth alone: neither the
    order of making nor any global random state matters. A repeat keeps its needle at every length
    and depth and its haystack at every depth (a greater length reads on in the same text), so that
    depths are compared on equal terms. Intervals therefore are to be clustered by ``needle_id``.

    Differs from LongLLaDA, where a haystack is filled in the tokens of GPT-4 to the length less 600
    for the question: here the whole sample is measured, by default in the model's own tokens.

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
    counter = make_counter(tokenizer, checked.length_unit, add_bos_token=checked.add_bos_token)
    # The output is the model's own, whatever the length is counted in.
    answer_counter = counter if checked.length_unit == "model" else make_counter(tokenizer)
    samples: list[dict[str, Any]] = []
    for repeat in range(checked.repeats):
        needles = _draw_needles(checked, repeat)
        _require_room(needles[0], checked.gen_length, answer_counter)
        samples += _samples_of_repeat(checked, repeat, needles, counter)
    return samples


def niah_dataset(
    *,
    length: int | None = None,
    generation_kwargs: Mapping[str, Any] | None = None,
    gen_kwargs: Mapping[str, Any] | None = None,
    data_seed: int = NiahOptions.seed,
    tokenizer: Any = None,
    pretrained: Any = None,
    revision: str | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Make the data set of a task file; lm-eval calls it with ``metadata`` and the model arguments.

    The output's length is read from the task's own ``generation_kwargs``, which a task file hands
    over by a YAML alias, so that the samples leave exactly the room that generation will use.

    Args:
        length: Tokens of prompt and output together.
        generation_kwargs: The task's, with ``gen_length``.
        gen_kwargs: Settings given on the command line, which win over the task's.
        data_seed: Seed of the samples. Not called seed, since that model argument reaches this
            function too and must not change the samples.
        tokenizer: As in the model arguments.
        pretrained: As in the model arguments; the shipped ``tiny-llada`` where both are missing.
        revision: As in the model arguments.
        **settings: The other fields of ``NiahOptions``. Other names belong to the model and are
            ignored, unless they look like a misspelt field.

    Returns:
        The ``datasets.Dataset`` of the samples under the key ``test``.

    Raises:
        ValueError: If a setting is missing, misspelt or wrong, or a depth has no metric.
        FileNotFoundError: If a file of NeedleBench is neither there nor to be had from the hub.
    """
    from datasets import Dataset

    if length is None:
        raise ValueError("metadata of a NIAH task must give length, in tokens; it has none.")
    options = _known_settings(settings)
    depths = _checked_depths(options.get("depths", DEPTHS))
    without_metric = [depth for depth in depths if depth not in DEPTHS]
    if without_metric:
        raise ValueError(
            f"depths of a task must be among {', '.join(map(str, DEPTHS))}, which have metrics; "
            f"got {', '.join(f'{depth:g}' for depth in without_metric)}. "
            "Use build_niah for samples at other depths."
        )
    samples = build_niah(
        load_tokenizer(tokenizer, pretrained, revision),
        length=length,
        gen_length=_output_length({**(generation_kwargs or {}), **(gen_kwargs or {})}),
        seed=data_seed,
        **options,
    )
    return {"test": Dataset.from_list(samples)}


def _draw_needles(options: NiahOptions, repeat: int) -> list[Needle]:
    """Draw the needle of a repeat, then its distractors."""
    seed, count = options.seed, options.num_distractors
    if options.needle_kind == "needlebench":
        return needlebench_needles(seed, repeat, count, options.data_dir, options.hub_revision)
    text = _corpus_text(options.haystack, options.data_dir, options.hub_revision)
    return number_needles(seed, repeat, count, avoid=text)


def _samples_of_repeat(
    options: NiahOptions, repeat: int, needles: list[Needle], counter: TokenCounter
) -> list[dict[str, Any]]:
    """Make the samples of one repeat: the same needles in the same haystack, at every depth."""
    budget = options.length - options.gen_length
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
            return PROMPT.format(
                context=insert(part, statements), question=needle.question, stem=needle.stem
            )

        used, prompt, num_tokens = fill(haystack, budget, render, counter.count)
        samples.append(
            {
                "prompt": prompt,
                "answer": needle.answer,
                "reference": needle.reference,
                "depth": float(depth),
                "placed_depth": 100 * used.depth_of(used.place(depth / 100)),
                "length": options.length,
                "gen_length": options.gen_length,
                "num_tokens": num_tokens,
                "repeat": repeat,
                "needle_id": f"{needle.key}: {needle.answer}",
            }
        )
    return samples


def _require_room(needle: Needle, gen_length: int, counter: TokenCounter) -> None:
    needed = counter.count_plain([f" {needle.answer}"])[0]
    if needed > gen_length:
        raise ValueError(
            f"gen_length={gen_length} leaves no room for the answer {needle.answer!r}, which takes "
            f"{needed} of the model's tokens; use at least {needed}."
        )


@lru_cache(maxsize=4)
def _corpus_text(haystack: str, data_dir: str | Path | None, revision: str) -> str:
    return "\n".join(corpus(haystack, data_dir, revision))


def _checked_depths(depths: Any) -> tuple[float, ...]:
    """Return depths as a tuple, or raise a ``ValueError`` for an empty, unsorted or wrong one."""
    listed = isinstance(depths, Sequence) and not isinstance(depths, str) and len(depths) > 0
    if not listed or not all(
        isinstance(depth, int | float) and not isinstance(depth, bool) and 0 <= depth <= 100
        for depth in depths
    ):
        raise ValueError(f"depths must be a list of percentages from 0 to 100; got {depths!r}.")
    if any(one >= other for one, other in zip(depths, depths[1:], strict=False)):
        raise ValueError(f"depths must ascend, each one once; got {list(depths)!r}.")
    return tuple(depths)


def _known_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that are fields of ``NiahOptions``; refuse names close to one of them."""
    names = {option.name for option in fields(NiahOptions)} - {"length", "gen_length", "seed"}
    for name in settings:
        # Strict, as names of model arguments such as max_length pass through here.
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.85)
        if name not in names and close:
            raise ValueError(f"Unknown setting {name!r} of a NIAH task. Did you mean {close[0]!r}?")
    return {name: value for name, value in settings.items() if name in names and value is not None}


def _output_length(generation: Mapping[str, Any]) -> int:
    for name in ("gen_length", "max_gen_toks"):
        if name in generation:
            return generation[name]
    raise ValueError(
        "metadata of a NIAH task must repeat its generation_kwargs with gen_length, as in "
        "'generation_kwargs: &generation {gen_length: 16, ...}' and, under metadata, "
        "'generation_kwargs: *generation'."
    )
