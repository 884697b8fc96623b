"""What one request of the harness asks for: its seed, sampling options, stops, and room."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_type_hints

from lm_eval.models.utils import truncate_tokens

from lm_eval_llada.diffusion.sampler import SamplingOptions
from lm_eval_llada.engine.arguments import (
    SAMPLING_NAMES,
    convert,
    unknown_name,
)
from lm_eval_llada.errors import require_whole

# Other names for gen_length, in the harness' order of precedence.
LENGTH_ALIASES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
# Samplers that our decoding does not have: allowed where they change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "top_p": (None, 1),
    "top_k": (None, 0, -1),
    "min_p": (None, 0),
    "num_beams": (None, 1),
    "repetition_penalty": (None, 1),
}
_WITHOUT_EFFECT_AT_ZERO = ("top_p", "top_k", "min_p")
_OTHER_NAMES = ("until", "do_sample", "ignore_eos")
_GEN_KWARGS = (*SAMPLING_NAMES, *LENGTH_ALIASES, *_OTHER_NAMES, *_NEUTRAL)


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
    gen_kwargs: Mapping[str, Any], defaults: SamplingOptions
) -> GenerationSettings:
    """A request's generation_kwargs over the options of model_args; the request wins.

    `do_sample: false` means temperature 0, as everywhere in the harness. Where both `gen_length`
    and one of its other names (`max_gen_toks`, ...) are given, `gen_length` counts.

    Differs from the harness' `normalize_gen_kwargs`, which cuts a length of 12.5 down to 12.

    Args:
        gen_kwargs: From the task and `--gen_kwargs`; not modified.
        defaults: From model_args.

    Raises:
        ValueError: If a name is unknown, a value is not valid, or one asks for a sampler that
            masked diffusion does not have, such as top_p under a temperature.
    """
    for name in gen_kwargs:
        if name not in _GEN_KWARGS:
            raise unknown_name("generation_kwargs", name, _GEN_KWARGS)
    changes = {name: gen_kwargs[name] for name in SAMPLING_NAMES if name in gen_kwargs}
    aliases = [name for name in LENGTH_ALIASES if gen_kwargs.get(name) is not None]
    if aliases and "gen_length" not in changes:
        # Checked here, so that a message names what was written.
        changes["gen_length"] = length = convert(aliases[0], gen_kwargs[aliases[0]], int)
        require_whole(aliases[0], length, 1)
    do_sample = gen_kwargs.get("do_sample")
    if do_sample is not None and not convert("do_sample", do_sample, bool):
        changes["temperature"] = 0.0
    hints = get_type_hints(SamplingOptions)
    changes = {name: convert(name, value, hints[name]) for name, value in changes.items()}
    options = replace(defaults, **changes)
    _check_neutral(gen_kwargs, options)
    ignore_eos = convert("ignore_eos", gen_kwargs.get("ignore_eos", False), bool)
    return GenerationSettings(options, stops_of(gen_kwargs.get("until")), ignore_eos)


def stops_of(until: Any) -> tuple[str, ...]:
    """What ends a text; empty ones, which would end every text at once, are left out."""
    listed = [] if until is None else [until] if isinstance(until, str) else until
    if not isinstance(listed, list | tuple) or not all(isinstance(stop, str) for stop in listed):
        raise ValueError(f"until must be a text or a list of texts; got {until!r}.")
    return tuple(filter(None, listed))


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
    lengths = ("gen_length", *LENGTH_ALIASES)
    given = next((gen_kwargs[name] for name in lengths if name in gen_kwargs), default_length)
    dropped = {*SAMPLING_NAMES, *lengths, "ignore_eos"} - {"temperature"}
    kept = {name: value for name, value in gen_kwargs.items() if name not in dropped}
    return {**kept, "max_gen_toks": convert("gen_length", given, int)}


def _check_neutral(gen_kwargs: Mapping[str, Any], options: SamplingOptions) -> None:
    for name, neutral in _NEUTRAL.items():
        value = gen_kwargs.get(name)
        harmless = name in _WITHOUT_EFFECT_AT_ZERO and options.temperature == 0
        if value not in neutral and not harmless:
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

    def next(self, sample: tuple[Any, ...], *content: str, repeats: int) -> int:
        """The seed of the next request with this content for this sample.

        Args:
            sample: Task, sample and position of the request within the sample.
            *content: Kind of request, context and, for likelihoods, continuation.
            repeats: How often the task has a request asked. The harness repeats the last one of a
                rank beyond that, to make ranks equally long, and throws the answers away: seeds
                begin again then, so that nothing new is computed.

        Returns:
            An integer in [0, 2**63).
        """
        key = (*sample, *content)
        repetition = self._seen[key] % repeats
        self._seen[key] += 1
        return content_seed(self.run_seed, *content, repetition=repetition)


def content_seed(run_seed: int, *content: str, repetition: int = 0) -> int:
    """An integer in [0, 2**63) from the run's seed and a request's content."""
    text = json.dumps([run_seed, repetition, *content])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


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
