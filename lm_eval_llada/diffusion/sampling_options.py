"""Options of the reverse process, and the blocks and steps that follow from them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from lm_eval_llada.diffusion.choices import num_transfer_tokens
from lm_eval_llada.diffusion.dream import ALGS, dream_schedule
from lm_eval_llada.errors import (
    require_number,
    require_whole,
    unknown_choice,
)

GENERATIONS = ("diffusion", "ar")
REMASKING = ("low_confidence", "random")
CACHES = ("none", "prefix", "dual", "prompt")
ENTRIES = ("block", "delayed")
CACHE_DTYPES = ("auto", "float32", "bfloat16", "float16", "float8_e4m3fn")
PROMPT_CACHE_ONLY = ("prompt_chunk", "keep", "prompt_refresh", "cache_dtype")
"""Options of `cache=prompt` alone."""
DREAM_ONLY = ("alg_temp", "top_p", "top_k")
"""Options that only Dream's decoding has."""

# Marks a field that came after answers were first kept: their keys do not have its default.
_LATER = {"later": True}


@dataclass(frozen=True)
class SamplingOptions:
    """How to decode.

    Attributes:
        steps: forward passes in all, shared by the blocks (see `block_schedule`); None reveals one
            token a pass. Steps beyond one a token would reveal nothing and are not run.
        gen_length: tokens to generate, and never more: where it is not a multiple of
            block_length the last block is the shorter rest, with its share of the steps. The
            papers' harness rounds up to whole blocks, and so do the groups that follow it.
        block_length: tokens of a block; None makes one block of gen_length. A larger value than
            gen_length means one block as well.
        remasking: which positions a step reveals: those of highest probability
            (`low_confidence`), or uniformly drawn ones (`random`).
        temperature: scale of the Gumbel noise on the logits, 0 = argmax.
        cfg_scale: weight of classifier-free guidance, 0 = off.
        stop_at_eos: end a text at its first EOS. The rest of the text is filled with EOS, and
            steps that could only change that rest are not run.
        suppress_eos: never choose EOS (its logit is -inf, `logits_eos_inf` in LLaDA).
        threshold: reveal every token of the block whose probability is at least this, and the
            likeliest in any case; `steps` plays no part then. None = off. An approximation.
        factor: reveal the n likeliest tokens of the block for the largest n with
            (n + 1) * (1 - probability of the n-th) < factor, and the likeliest in any case;
            `steps` plays no part then. None = off. An approximation.
        cache: `none` reads the whole sequence at every step. `prefix` does so at the first step of
            a block and then keeps the keys and values of all that comes before it; `dual` also
            those of all that follows. `prompt` reads the prompt once, at the first step of all,
            and every later step reads the generated tokens, all of them. Approximations.
        refresh_every: read the whole sequence again after this many steps within a block; None
            does so at the start of each block only.
        alg: `none` decodes as LLaDA does. The others decode each block as Dream does, by its
            schedule (`dream_schedule`) over the block's share of steps, which may be more than one
            a token: they reveal the positions of least `entropy`, of the likeliest token
            (`maskgit_plus`), of the largest lead over the next one (`topk_margin`), or each at
            random (`origin`). `remasking` plays no part then.
        alg_temp: draw the positions by softmax(rank / alg_temp) instead; 0 = take the best.
        top_p: tokens and ranks come from the likeliest tokens that reach this probability
            together; 1 = all.
        top_k: and from this many tokens at most; 0 = all.
        generation: `ar` has a model that can do both predict the next token, one after the other.
        editing_threshold: replace tokens of the block at work by others that have become likelier
            than this, until nothing changes, as LLaDA2.1 does; None = off. For models that are
            causal between blocks. A step then reveals the tokens above `threshold`, and the
            likeliest in any case; `steps` plays no part.
        prompt_chunk: where `cache=prompt` reads the prompt, its tokens attend to their own chunk of
            this many tokens, the chunks beside it and the first tokens of all; its last tokens and
            those to be generated attend to everything. That is linear in the prompt. None lets
            every token attend to everything.
        keep: the share of the prompt's keys and values that `cache=prompt` reads after the first
            step of a block: in each layer and head the pages that the block's queries looked at
            most in that step. None reads all.
        prompt_refresh: `cache=prompt` reads the prompt anew after this many blocks; None never.
        cache_dtype: what `cache=prompt` keeps keys and values in; auto is the type of the model.
        entry: when a token enters the cache of `prefix` or `dual`. `block` reads all tokens of a
            block anew at each of its steps, so that they enter with their block. `delayed` reads
            those anew that are masked or were revealed in the step before: a token enters one step
            after it is revealed (dKV-Cache, arXiv 2505.15781).

    Raises:
        ValueError: if a value is out of range, or two of them contradict each other.
    """

    steps: int | None = None
    gen_length: int = 128
    block_length: int | None = None
    remasking: str = "low_confidence"
    temperature: float = 0.0
    cfg_scale: float = 0.0
    stop_at_eos: bool = False
    suppress_eos: bool = False
    threshold: float | None = None
    factor: float | None = None
    cache: str = "none"
    refresh_every: int | None = None
    alg: str = field(default="none", metadata=_LATER)
    alg_temp: float = field(default=0.0, metadata=_LATER)
    top_p: float = field(default=1.0, metadata=_LATER)
    top_k: int = field(default=0, metadata=_LATER)
    generation: str = field(default="diffusion", metadata=_LATER)
    editing_threshold: float | None = field(default=None, metadata=_LATER)
    prompt_chunk: int | None = field(default=None, metadata=_LATER)
    keep: float | None = field(default=None, metadata=_LATER)
    prompt_refresh: int | None = field(default=None, metadata=_LATER)
    cache_dtype: str = field(default="auto", metadata=_LATER)
    entry: str = field(default="block", metadata=_LATER)

    def __post_init__(self) -> None:  # noqa: D105
        require_whole("gen_length", self.gen_length, 1)
        if self.steps is not None:
            require_whole("steps", self.steps, 1)
        if self.block_length is not None:
            require_whole("block_length", self.block_length, 1)
        if self.remasking not in REMASKING:
            raise unknown_choice("remasking", self.remasking, REMASKING)
        require_number("temperature", self.temperature, 0, inclusive=True)
        require_number("cfg_scale", self.cfg_scale, 0, inclusive=True)
        if self.stop_at_eos and self.suppress_eos:
            raise ValueError(
                "stop_at_eos=True can never fire with suppress_eos=True; set only one of them."
            )
        if self.generation not in GENERATIONS:
            raise unknown_choice("generation", self.generation, GENERATIONS)
        self._check_approximations()
        self._check_prompt_cache()
        self._check_editing()
        self._check_dream()

    def _check_editing(self) -> None:
        if self.editing_threshold is None:
            return
        require_number("editing_threshold", self.editing_threshold, 0)
        for name, neutral in (("temperature", 0.0), ("factor", None), ("remasking", REMASKING[0])):
            if (value := getattr(self, name)) != neutral:
                raise ValueError(
                    f"{name}={value} cannot be combined with "
                    f"editing_threshold={self.editing_threshold}, which asks for the likeliest "
                    "tokens; drop one of them."
                )

    def _check_dream(self) -> None:
        if self.alg not in ALGS:
            raise unknown_choice("alg", self.alg, ALGS)
        require_number("alg_temp", self.alg_temp, 0, inclusive=True)
        require_number("top_p", self.top_p, 0, inclusive=True)
        require_whole("top_k", self.top_k, 0)
        if self.top_p > 1:
            raise ValueError(f"top_p must be at most 1; got {self.top_p}.")
        if self.alg == "origin" and self.alg_temp > 0:
            raise ValueError(
                f"alg_temp={self.alg_temp} draws positions by how sure they are, and alg=origin "
                "draws them evenly; set only one of them."
            )
        for name, neutral in (("remasking", REMASKING[0]), ("threshold", None), ("factor", None)):
            value = getattr(self, name)
            if self.alg != "none" and value != neutral:
                raise ValueError(
                    f"{name}={value} belongs to LLaDA's decoding and alg={self.alg} to Dream's; "
                    "drop one of them, or use alg=none."
                )

    def require_used(self) -> None:
        """Raises ValueError if an option of Dream's is set that LLaDA's decoding does not have.

        Not on construction: what a family's release decodes by is filled in after that.
        """
        for name in DREAM_ONLY if self.alg == "none" else ():
            if (value := getattr(self, name)) != _DEFAULTS[name]:
                raise ValueError(not_without_alg(name, value))

    def _check_approximations(self) -> None:
        if self.cache not in CACHES:
            raise unknown_choice("cache", self.cache, CACHES)
        if self.entry not in ENTRIES:
            raise unknown_choice("entry", self.entry, ENTRIES)
        if self.entry != "block" and self.cache not in ("prefix", "dual"):
            raise ValueError(
                f"entry={self.entry} says when a token enters the cache of a block, which "
                f"cache={self.cache} does not have; use cache=dual or cache=prefix, or drop entry."
            )
        if self.refresh_every is not None:
            require_whole("refresh_every", self.refresh_every, 1)
            if self.cache == "none":
                raise ValueError(
                    f"refresh_every={self.refresh_every} needs cache=prefix or cache=dual: without "
                    "a cache the whole sequence is read at every step."
                )
            if self.cache == "prompt":
                raise ValueError(
                    f"refresh_every={self.refresh_every} counts steps within a block, and "
                    "cache=prompt keeps a prompt over blocks; use prompt_refresh."
                )
        if self.threshold is not None and self.factor is not None:
            raise ValueError("threshold and factor both say what to reveal; set only one of them.")
        for name in ("threshold", "factor"):
            value = getattr(self, name)
            if value is None:
                continue
            require_number(name, value, 0, inclusive=False)
            if self.remasking != "low_confidence":
                raise ValueError(
                    f"{name}={value} reveals tokens by their probability; use "
                    f"remasking=low_confidence instead of {self.remasking}."
                )

    def _check_prompt_cache(self) -> None:
        for name in ("prompt_chunk", "prompt_refresh"):
            if (value := getattr(self, name)) is not None:
                require_whole(name, value, 1)
        if self.keep is not None:
            require_number("keep", self.keep, 0, inclusive=False)
            if self.keep > 1:
                raise ValueError(f"keep is a share of the prompt, at most 1; got {self.keep}.")
        if self.cache_dtype not in CACHE_DTYPES:
            raise unknown_choice("cache_dtype", self.cache_dtype, CACHE_DTYPES)
        for name in PROMPT_CACHE_ONLY if self.cache != "prompt" else ():
            if (value := getattr(self, name)) != _DEFAULTS[name]:
                raise ValueError(
                    f"{name}={value} belongs to cache=prompt, not to cache={self.cache}; drop it, "
                    "or use cache=prompt."
                )

    @property
    def is_parallel(self) -> bool:
        """Whether probabilities decide how many tokens a step reveals."""
        return self.threshold is not None or self.factor is not None

    @property
    def draws_evenly(self) -> bool:
        """Whether positions are drawn without regard to the logits."""
        return self.remasking == "random" or self.alg == "origin"

    @property
    def is_random(self) -> bool:
        """Whether the result depends on a seed."""
        return self.temperature > 0 or self.draws_evenly or self.alg_temp > 0

    @property
    def approximations(self) -> list[str]:
        """Settings that make texts differ from those of the plain loop, as `name=value`."""
        settings = {
            "cache": None if self.cache == "none" else self.cache,
            "refresh_every": self.refresh_every,
            "entry": None if self.entry == "block" else self.entry,
            "threshold": self.threshold,
            "factor": self.factor,
            "editing_threshold": self.editing_threshold,
            "prompt_chunk": self.prompt_chunk,
            "keep": self.keep,
            "prompt_refresh": self.prompt_refresh,
            "cache_dtype": None if self.cache_dtype == "auto" else self.cache_dtype,
        }
        return [f"{name}={value}" for name, value in settings.items() if value is not None]


_DEFAULTS = {item.name: item.default for item in fields(SamplingOptions)}


def not_without_alg(name: str, value: object) -> str:
    """The sentence for an option of Dream's under LLaDA's decoding."""
    return (
        f"{name}={value} is not available in LLaDA's decoding (alg=none); use it with "
        f"alg={', '.join(ALGS[1:-1])} or {ALGS[-1]}, Dream's, or drop it."
    )


def block_steps(options: SamplingOptions) -> list[tuple[int, int, int]]:
    """The blocks of a generation: (start, end, steps).

    Blocks have block_length tokens; the last one takes the remainder of gen_length. A block that
    ends at token e has run floor(steps * e / gen_length) steps in all, so steps are shared in
    proportion to tokens, and where LLaDA's rule applies (both divisions even) it is
    steps // num_blocks for each block. Every block has at least one step: with fewer steps than
    blocks, one for each block is run, the only case in which more than `steps` are.

    Without `alg`, steps counts as gen_length where it is larger, hence no block has more steps than
    tokens. With it they count as they are: Dream's schedule depends on them.

    Returns:
        Blocks in order; start and end count from the first generated token.
    """
    length = options.gen_length
    block_length = options.block_length or length
    steps = options.steps or length
    if options.alg == "none":
        steps = min(steps, length)
    blocks = []
    for start in range(0, length, block_length):
        end = min(start + block_length, length)
        share = steps * end // length - steps * start // length
        blocks.append((start, end, max(share, 1)))
    return blocks


def block_schedule(options: SamplingOptions) -> list[tuple[int, int, list[int]]]:
    """The blocks of a generation: (start, end, tokens revealed at each step that reveals any).

    Blocks and their steps are those of `block_steps`. Under `alg=origin` chance decides how many
    tokens a step reveals, and this is about their mean.

    Differs from LLaDA's generate.py, which refuses lengths and steps that do not divide evenly.

    Returns:
        Blocks in order; start and end count from the first generated token.
    """
    return [
        (start, end, _counts(options.alg, end - start, steps))
        for start, end, steps in block_steps(options)
    ]


def _counts(alg: str, length: int, steps: int) -> list[int]:
    if alg in ("none", "origin"):
        return num_transfer_tokens(length, min(steps, length))
    return [count for count in dream_schedule(length, steps) if count]
