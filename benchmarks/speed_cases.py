"""The cases of speed.py: what is compared with what, and the speed-up that is expected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from benchmarks.speed_likelihood import likelihood_case
from benchmarks.speed_measure import Case, Outcome, Side, equal_outputs, scores, shared_tokens
from benchmarks.speed_models import (
    Scale,
    batched_side,
    generate_side,
    harness_side,
    plain_side,
    plain_texts,
    random_model,
    random_prompts,
    tiny,
)
from lm_eval_llada.diffusion.sampler import SamplingOptions
from lm_eval_llada.tasks.niah.scores import niah_score
from lm_eval_llada.tasks.niah.single import build_niah

MOST_LOST = 2.0
"""Points of a needle score that a cache may cost."""

_DEPTHS = tuple(range(0, 101, 10))
_STOPS = ("\n",)
_ANSWER_TOKENS = 16
"""Output of a needle task, in one block and as many steps, as in the task niah_512."""


def generation(
    name: str, scale: Scale, model: str, target: float, most_memory: float | None
) -> Case:
    """One text of a random model by the plain loop and by ours, both exact."""
    loaded, length = random_model(model), scale.length(1024)
    prompts, options = random_prompts(loaded, [length]), SamplingOptions(gen_length=64)
    return Case(
        name,
        f"{model}, prompt {length}, 64 tokens, 64 steps",
        loaded,
        plain_side(loaded, prompts, options),
        generate_side("exact", loaded, prompts, options),
        equal_outputs,
        target,
        most_memory,
    )


def generation_short(name: str, scale: Scale) -> Case:
    """Texts so short that there is little to save."""
    model = tiny().runner.model
    prompts, options = random_prompts(model, [16] * 8), SamplingOptions(gen_length=16)
    return Case(
        name,
        "tiny, 8 prompts of 16, 16 tokens, 16 steps",
        model,
        plain_side(model, prompts, options),
        generate_side("exact", model, prompts, options),
        equal_outputs,
    )


def early_end(name: str, scale: Scale) -> Case:
    """Answers of a few tokens in a budget of 256: LongBench's shape. Texts are compared."""
    lm, length = tiny(), scale.length(256)
    samples = needle_samples(length + _ANSWER_TOKENS, 1, (0, 40, 80, 100))
    prompts = [sample["prompt"] for sample in samples]
    options = SamplingOptions(gen_length=256, block_length=32)
    text = lm.runner.text

    def plain(prompts: Sequence[str], steps: int | None) -> Outcome:
        ids = [torch.tensor(lm.tok_encode(prompt)) for prompt in prompts]
        changed = SamplingOptions(gen_length=256, block_length=32, steps=steps)
        outcome = plain_texts(lm.runner.model, ids, changed)
        texts = [text.text_of(tokens, _STOPS, ignore_eos=False) for tokens in outcome.outputs]
        num_tokens = sum(len(lm.tok_encode(one)) for one in texts)
        return Outcome(texts, num_tokens, outcome.stats)

    budget = {"gen_length": options.gen_length, "block_length": options.block_length}
    return Case(
        name,
        f"tiny, {len(prompts)} prompts of {length}, budget 256 in blocks of 32, ends in the first",
        lm.runner.model,
        Side("plain loop", lambda: plain(prompts, None), lambda: plain(prompts[:1], 8)),
        harness_side("harness", lm, prompts, until=list(_STOPS), **budget),
        equal_outputs,
        6.0,
    )


def cached(name: str, scale: Scale, cache: str, gen_length: int, target: float) -> Case:
    """A cache against our own exact mode, on a long prompt of a random model."""
    model, length = random_model("P"), scale.length(4096)
    prompts = random_prompts(model, [length])
    exact = SamplingOptions(gen_length=gen_length, block_length=32)
    ours = SamplingOptions(gen_length=gen_length, block_length=32, cache=cache)
    return Case(
        name,
        f"P, prompt {length}, {gen_length} tokens in blocks of 32, a step each",
        model,
        generate_side("exact", model, prompts, exact),
        generate_side(f"cache={cache}", model, prompts, ours),
        shared_tokens,
        target,
    )


def cached_short(name: str, scale: Scale) -> Case:
    """A cache where there is hardly anything to keep."""
    model = tiny().runner.model
    prompts = random_prompts(model, [16] * 8)
    exact, ours = (SamplingOptions(gen_length=32, cache=cache) for cache in ("none", "prefix"))
    return Case(
        name,
        "tiny, 8 prompts of 16, 32 tokens, 32 steps",
        model,
        generate_side("exact", model, prompts, exact),
        generate_side("cache=prefix", model, prompts, ours),
        shared_tokens,
    )


def batched(name: str, scale: Scale, lengths: Sequence[int], target: float | None) -> Case:
    """Prompts of unequal lengths, up to eight in a pass against one, both exact.

    Either side is the harness' model, which sorts the prompts, and cuts a batch where its padding
    would cost more than another pass.
    """
    model = tiny(batch_size=8).runner.model
    scaled = [scale.length(length) for length in lengths]
    prompts, shortest, longest = random_prompts(model, scaled), min(scaled), max(scaled)
    options = SamplingOptions(gen_length=32)
    return Case(
        name,
        f"tiny, {len(prompts)} prompts of {shortest} to {longest}, 32 tokens, 32 steps",
        model,
        batched_side(1, prompts, options),
        batched_side(8, prompts, options),
        equal_outputs,
        target,
    )


# --- needles --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Approximation:
    """A way to decode that changes texts.

    Attributes:
        gen_kwargs: What switches it on.
        most_lost: Points of score that it may cost; None for any.
    """

    gen_kwargs: dict[str, Any]
    most_lost: float | None = None


APPROXIMATIONS = {
    "prefix": Approximation({"cache": "prefix"}, MOST_LOST),
    "dual": Approximation({"cache": "dual"}, MOST_LOST),
    "threshold": Approximation({"threshold": 0.9}),
    "factor": Approximation({"factor": 1.0}),
}


def needle_samples(length: int, repeats: int, depths: Sequence[int]) -> list[dict[str, Any]]:
    """Samples of a context length, answer included."""
    return build_niah(
        tiny().tokenizer,
        length=length,
        gen_length=_ANSWER_TOKENS,
        depths=depths,
        repeats=repeats,
    )


@cache
def needle_side(length: int, repeats: int, approximation: str | None) -> Side:
    """Answers to needle questions; past the trained context under NTK. The same side each time."""
    lm = tiny(length if length > tiny().rope.train_length else None)
    prompts = [sample["prompt"] for sample in needle_samples(length, repeats, _DEPTHS)]
    budget = {"gen_length": _ANSWER_TOKENS, "until": list(_STOPS)}
    if approximation is None:
        return harness_side("exact", lm, prompts, **budget)
    changes = APPROXIMATIONS[approximation].gen_kwargs
    ((setting, value),) = changes.items()
    return harness_side(f"{setting}={value}", lm, prompts, **budget, **changes)


def needles(name: str, scale: Scale, length: int, approximation: str) -> Case:
    """An approximation against our exact mode, with the scores of both."""
    samples = needle_samples(length, scale.num_needles, _DEPTHS)

    def score(texts: Sequence[str]) -> float:
        points = [
            niah_score(text, sample["answer"], sample["reference"])
            for text, sample in zip(texts, samples, strict=True)
        ]
        return sum(points) / len(points)

    exact = needle_side(length, scale.num_needles, None)
    most_lost = APPROXIMATIONS[approximation].most_lost
    return Case(
        name,
        f"tiny, {len(samples)} needles in {length} tokens, answers of up to {_ANSWER_TOKENS}",
        tiny().runner.model,
        exact,
        needle_side(length, scale.num_needles, approximation),
        scores(score, most_lost),
    )


CASES: dict[str, Callable[..., Case]] = {
    "generation_p": partial(generation, model="P", target=1.15, most_memory=None),
    "generation_v": partial(generation, model="V", target=3.0, most_memory=0.25),
    "generation_short": generation_short,
    "early_end": early_end,
    "likelihood_1": partial(likelihood_case, lengths=(1, 1), target=3.0, mc_num=1),
    "likelihood_3": partial(likelihood_case, lengths=(3, 3), target=8.0, mc_num=128),
    "likelihood_20_40": partial(likelihood_case, lengths=(20, 40), target=1.5, mc_num=32),
    "likelihood_20_40_greedy": partial(
        likelihood_case, lengths=(20, 40), target=1.5, mc_num=32, check_greedy=True
    ),
    "batch_8": partial(batched, lengths=range(128, 0, -4), target=1.1),
    "batch_8_mixed": partial(batched, lengths=(128, 96, 80, 64, 48, 32, 24, 16), target=None),
    "cache_prefix": partial(cached, cache="prefix", gen_length=32, target=15.0),
    "cache_dual": partial(cached, cache="dual", gen_length=128, target=12.0),
    "cache_short": cached_short,
    **{
        f"niah_{length}_{name}": partial(needles, length=length, approximation=name)
        for length in (512, 1024)
        for name in APPROXIMATIONS
    },
}
"""Makes a case from its name and a `Scale`."""
