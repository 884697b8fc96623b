"""What one request of the harness asks for: its seed, sampling options, stops, and room."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_type_hints

from lm_eval.models.utils import truncate_tokens

from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.diffusion.sampling_options import (
    DREAM_ONLY,
    SamplingOptions,
    not_without_alg,
)
from lm_eval_llada.engine.arguments import (
    SAMPLING_NAMES,
    convert,
    unknown_name,
)
from lm_eval_llada.engine.decoding import in_own_blocks
from lm_eval_llada.engine.stops import stops_of
from lm_eval_llada.tasks.output_length import LENGTH_NAMES, output_length

# What LLaDA's decoding does not have, and of it what none has: allowed where it changes nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "top_p": (None, 1),
    "top_k": (None, 0, -1),
    "alg_temp": (None, 0),
    "min_p": (None, 0),
    "num_beams": (None, 1),
    "repetition_penalty": (None, 1),
}
_WITHOUT_EFFECT_AT_ZERO = ("top_p", "top_k", "min_p")
_OTHER_NAMES = ("until", "do_sample", "ignore_eos")
_DEFAULTS: dict[str, Any] = {item.name: item.default for item in fields(SamplingOptions)}
_GEN_KWARGS = tuple(dict.fromkeys((*SAMPLING_NAMES, *LENGTH_NAMES, *_OTHER_NAMES, *_NEUTRAL)))


@dataclass(frozen=True)
class GenerationSettings:
    """How to generate and where to end the text.

    Attributes:
        options: How to decode.
        until: The text ends before the first of these.
        ignore_eos: Whether to keep the text after an end-of-text token; the token itself is
            dropped either way.
    """

    options: SamplingOptions
    until: tuple[str, ...] = ()
    ignore_eos: bool = False


def generation_settings(
    gen_kwargs: Mapping[str, Any], defaults: SamplingOptions, blocks: BlockRules | None = None
) -> GenerationSettings:
    """A request's generation_kwargs over the options of model_args; the request wins.

    `do_sample: false` means temperature 0, as everywhere in the harness. Of `gen_length` and its
    other names (`max_gen_toks`, ...) the last counts, which is the user's; see `output_length`.

    Differs from the harness' `normalize_gen_kwargs`, which cuts a length of 12.5 down to 12.

    Args:
        gen_kwargs: From the task and `--gen_kwargs`; not modified.
        defaults: From model_args.
        blocks: Of a model that has blocks of its own, see `decoding.in_own_blocks`.

    Raises:
        ValueError: If a name is unknown, a value is not valid, or one asks for a sampler that
            the decoding does not have, such as top_p under a temperature in LLaDA's.
    """
    for name in gen_kwargs:
        if name not in _GEN_KWARGS:
            raise unknown_name("generation_kwargs", name, _GEN_KWARGS)
    changes = {name: gen_kwargs[name] for name in SAMPLING_NAMES if name in gen_kwargs}
    changes.pop("gen_length", None)
    if (length := output_length(gen_kwargs)) is not None:
        changes["gen_length"] = length
    do_sample = gen_kwargs.get("do_sample")
    if do_sample is not None and not convert("do_sample", do_sample, bool):
        changes["temperature"] = 0.0
    for name in DREAM_ONLY:
        if name in changes and changes[name] in _NEUTRAL.get(name, (None,)):
            changes[name] = _DEFAULTS[name]
    hints = get_type_hints(SamplingOptions)
    changes = {name: convert(name, value, hints[name]) for name, value in changes.items()}
    if changes.get("generation") == "ar":
        changes.setdefault("threshold", None)
    options = replace(defaults, **changes)
    _check_neutral(gen_kwargs, options)
    if options.alg == "none":
        # Refused above where they were asked for here and would change something.
        options = replace(options, **{name: _DEFAULTS[name] for name in DREAM_ONLY})
    options = in_own_blocks(options, blocks)
    ignore_eos = convert("ignore_eos", gen_kwargs.get("ignore_eos", False), bool)
    return GenerationSettings(options, stops_of(gen_kwargs.get("until")), ignore_eos)


def causal_generation(gen_kwargs: Mapping[str, Any], default_length: int) -> dict[str, Any]:
    """A request's generation_kwargs as the harness' causal model takes them.

    Tasks are written for masked diffusion: what only its decoding has (steps, blocks, remasking)
    says nothing to a causal model and is left out, and `gen_length` goes by its name there. A
    causal text always ends at the end-of-text token, so `ignore_eos` is left out as well.

    Args:
        gen_kwargs: From the task and `--gen_kwargs`; not modified.
        default_length: Tokens to generate where they say nothing.

    Returns:
        What is left, with `max_gen_toks`.
    """
    length = output_length(gen_kwargs)
    dropped = {*SAMPLING_NAMES, *LENGTH_NAMES, "ignore_eos"} - {"temperature"}
    kept = {name: value for name, value in gen_kwargs.items() if name not in dropped}
    stops_of(kept.get("until"))  # for its checks
    return {**kept, "max_gen_toks": default_length if length is None else length}


def _check_neutral(gen_kwargs: Mapping[str, Any], options: SamplingOptions) -> None:
    for name, neutral in _NEUTRAL.items():
        value = gen_kwargs.get(name)
        harmless = name in _WITHOUT_EFFECT_AT_ZERO and options.temperature == 0
        if value in neutral or harmless or (name in DREAM_ONLY and options.alg != "none"):
            continue
        if name in DREAM_ONLY:
            raise ValueError(not_without_alg(name, value))
        raise ValueError(
            f"{name}={value} is not available for masked diffusion; drop it, or use "
            f"temperature and remasking."
        )


@dataclass
class RequestSeeds:
    """Seeds that depend on a request's content only, so not on batches, order or ranks.

    A task with `repeats` sends the same request several times in one call, and each time gets a
    seed of its own. Repetitions are counted for each sample apart: all of a sample's are on one
    rank, while equal requests of different samples may not be. One object serves one call.

    Attributes:
        run_seed: The seed of the run.
    """

    run_seed: int
    _seen: Counter[tuple[Any, ...]] = field(default_factory=Counter)

    def next(self, sample: tuple[Any, ...], *content: str, repeats: int | None) -> int:
        """The seed of the next request with this content for this sample.

        Args:
            sample: Task, sample and position of the request within the sample.
            *content: Kind of request, context and, for likelihoods, continuation.
            repeats: How often the task has a request asked; None means once. The harness repeats
                the last one of a rank beyond that, to make ranks equally long, and keeps the
                answers, so that the sample has 6 of them in place of 3: seeds begin again then, so
                that each of the 3 comes twice and nothing new is computed.

        Returns:
            An integer in [0, 2**63).
        """
        key = (*sample, *content)
        repetition = self._seen[key] % (repeats or 1)
        self._seen[key] += 1
        return content_seed(self.run_seed, *content, repetition=repetition)


def content_seed(run_seed: int, *content: str, repetition: int = 0) -> int:
    """An integer in [0, 2**63) from the run's seed and a request's content."""
    text = json.dumps([run_seed, repetition, *content])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def is_left_out(num_tokens: int, max_length: int | None, how: str) -> bool:
    """Whether a request of so many tokens, prompt and target, is not asked but left out."""
    return how == "skip" and max_length is not None and num_tokens > max_length


def fit_prompt(
    prompt: list[int], num_reserved: int, max_length: int | None, how: str, what: str
) -> list[int]:
    """The prompt, shortened if it would not fit beside the tokens it is for.

    Args:
        prompt: Token ids.
        num_reserved: Tokens of the target or the generation, which are never cut.
        max_length: Longest sequence; None means any.
        how: middle keeps both ends, left keeps the right end, error cuts nothing.
        what: The request, for the error message.

    Raises:
        ValueError: If nothing of the prompt would be left, or it does not fit and `how` is error.
    """
    if max_length is None or len(prompt) + num_reserved <= max_length:
        return prompt
    room = max_length - num_reserved
    if room < 1:
        raise ValueError(
            f"{what}: {num_reserved} tokens to score or generate leave no room for a prompt in "
            f"max_length={max_length}; use max_length={num_reserved + 1} or more."
        )
    if how == "error":
        raise ValueError(
            f"{what}: a prompt of {len(prompt)} tokens and {num_reserved} to score or generate "
            f"exceed max_length={max_length}; use max_length={len(prompt) + num_reserved} or more, "
            f"or truncation=middle or left."
        )
    return truncate_tokens(prompt, room, how)  # type: ignore[arg-type]
