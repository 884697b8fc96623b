"""The reverse process of a masked diffusion model: from a prompt to a text.

Generation starts from masks and reveals some of them at each step, block after block from left to
right (semi-autoregressive). Results are those of the plain loop of LLaDA's generate.py, one full
forward pass a step, except where a comment says `Differs from`. What saves work by default is
exact: logits are computed for the positions a step can reveal, and finished texts leave the batch.
Caches and parallel decoding (arXiv 2505.22618) change texts and have to be asked for. With `alg` a
block is decoded by the rules of Dream's release instead; what they are is in `dream`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lm_eval_llada.diffusion.blocks import check_blocks, decode_blocks
from lm_eval_llada.diffusion.caching import Caching
from lm_eval_llada.diffusion.choices import choose_tokens, forbid, most_confident
from lm_eval_llada.diffusion.denoiser import Denoiser, DenoiserCache, check_seeds, token_ids
from lm_eval_llada.diffusion.dream import choose_ranked, draw_ranked, reveal_chances, shaped
from lm_eval_llada.diffusion.sampling_options import (
    CACHES,
    REMASKING,
    SamplingOptions,
    block_schedule,
    block_steps,
)

__all__ = ["CACHES", "REMASKING", "SamplingOptions", "block_schedule", "generate"]


def generate(
    denoiser: Denoiser,
    prompts: Sequence[Tensor],
    options: SamplingOptions,
    *,
    eos_token_id: int | None = None,
    seeds: Sequence[int] | None = None,
    ends: Sequence[Callable[[Tensor], bool]] | None = None,
) -> list[Tensor]:
    """Generated tokens for each prompt, int64 (gen_length,) on the CPU, prompts not included.

    All prompts run as one batch, padded on the right. Each has its own random generator, so its
    text does not depend on what shares the batch, nor on the order. A text leaves the batch once
    nothing that would follow can change it.

    Random numbers of a request, in this order at each step: under `random` remasking or
    `alg=origin` one float64 uniform for each masked position of the block, the largest values
    being revealed, or those below the step's chance; then, with a temperature, one for each
    (position whose logits are computed, token); then, with `alg_temp`, one for each such position.

    Args:
        denoiser: the model; `cache` needs its `new_cache` or, for prompts, `new_prompt_cache`. One
            with `blocks` is read block by block, see `blocks`.
        prompts: int64 (length,) each, of any length, 0 included. Prompt tokens never change.
        options: how to decode; never modified.
        eos_token_id: needed by stop_at_eos and suppress_eos.
        seeds: one for each prompt; needed with a temperature and under `random` remasking.
        ends: for each prompt, whether these first tokens of its text, int64 (num_decided,), hold
            all of it that will be used. Where that is so decoding stops, and the mask token stays
            in the places that were not decided. None decodes every token.

    Raises:
        ValueError: if seeds, eos_token_id or a cache are needed and missing, or a prompt is not
            1-D.

    Source: LLaDA (arXiv 2502.09992) section 2.4 and appendix B.4.
    """
    _check_request(denoiser, options, prompts, seeds, eos_token_id)
    forbidden = [denoiser.mask_token_id]
    if options.suppress_eos and eos_token_id is not None:
        forbidden.append(eos_token_id)
    guided = denoiser.guided(options.cfg_scale)
    decoder = Decoder(guided, options, forbidden, Caching(guided, options))
    stop_token_id = eos_token_id if options.stop_at_eos else None
    texts = [
        Text.start(
            prompt,
            denoiser,
            options,
            stop_token_id,
            seed=None if seeds is None else seeds[i],
            ends=None if ends is None else ends[i],
        )
        for i, prompt in enumerate(prompts)
    ]
    if denoiser.blocks is not None:
        decode_blocks(decoder, texts, denoiser.blocks)
        return [text.result() for text in texts]
    for start, end, shares in _plan(options):
        decoder.decode_block(texts, start, end, shares)
    return [text.result() for text in texts]


def _plan(options: SamplingOptions) -> Sequence[tuple[int, int, Sequence[float]]]:
    """Blocks, and for each step the tokens to reveal or, under `origin`, the chance of each."""
    if options.alg != "origin":
        return block_schedule(options)
    return [(start, end, reveal_chances(steps)) for start, end, steps in block_steps(options)]


@dataclass
class Text:
    """One sequence being decoded: the prompt, then the tokens to generate."""

    tokens: Tensor
    prompt_length: int
    mask_token_id: int
    stop_token_id: int | None
    generator: torch.Generator | None
    ends: Callable[[Tensor], bool] | None
    has_ended: bool = False
    _num_decided: int = field(default=0, init=False)

    @classmethod
    def start(
        cls,
        prompt: Tensor,
        denoiser: Denoiser,
        options: SamplingOptions,
        stop_token_id: int | None,
        *,
        seed: int | None,
        ends: Callable[[Tensor], bool] | None,
    ) -> Text:
        ids, mask_token_id = token_ids("Each prompt", prompt), denoiser.mask_token_id
        tokens = torch.cat([ids, torch.full((options.gen_length,), mask_token_id)])
        generator = None
        if options.is_random and seed is not None:
            generator = torch.Generator(_noise_device(torch.device(denoiser.device)))
            generator.manual_seed(seed)
        return cls(tokens, len(ids), mask_token_id, stop_token_id, generator, ends)

    @property
    def generated(self) -> Tensor:
        """A view of the generated part, (gen_length,)."""
        return self.tokens[self.prompt_length :]

    def masked_positions(self, start: int, end: int) -> Tensor:
        """Positions still masked in a block, counted from the start of the prompt, ascending."""
        masked = (self.generated[start:end] == self.mask_token_id).nonzero().squeeze(1)
        return masked + self.prompt_length + start

    def window(self, start: int, end: int) -> range:
        """Positions of the generated tokens start..end, counted from the start of the prompt."""
        return range(self.prompt_length + start, self.prompt_length + end)

    def reveal(self, positions: Tensor, tokens: Tensor) -> None:
        """Decides tokens, and finds out whether the text has ended.

        Decided tokens never change. So once every token before an end is decided, the text up to
        it is final, wherever in its block that is.
        """
        self.tokens[positions] = tokens
        num_decided = int((self.generated != self.mask_token_id).cumprod(0).sum())
        if num_decided == self._num_decided:
            return
        self._num_decided = num_decided
        decided = self.generated[:num_decided]
        has_stopped = self.stop_token_id in decided.tolist()
        self.has_ended = has_stopped or (self.ends is not None and self.ends(decided))

    def result(self) -> Tensor:
        generated = self.generated.clone()
        if self.stop_token_id is not None:
            generated[(generated == self.stop_token_id).cumsum(0) > 0] = self.stop_token_id
        return generated


@dataclass(frozen=True)
class Decoder:
    """Reveals tokens of a batch of texts, block by block."""

    denoiser: Denoiser
    options: SamplingOptions
    forbidden: list[int]
    caching: Caching

    def decode_block(
        self, texts: Sequence[Text], start: int, end: int, shares: Sequence[float]
    ) -> None:
        """Decides block [start, end) of each text that has not ended, one pass a step.

        Args:
            texts: all of them; those that have ended stay as they are.
            start: first token of the block, counted from the first generated one.
            end: behind its last token.
            shares: tokens to reveal at each step, unless probabilities decide that; under
                `alg=origin` the chance of each to be revealed.
        """
        active = [text for text in texts if not text.has_ended]
        num_steps = end - start if self.options.is_parallel else len(shares)
        self.caching.start_block(start, end)
        for step in range(num_steps):
            masked = [text.masked_positions(start, end) for text in active]
            unfinished = [
                i for i, text in enumerate(active) if not text.has_ended and len(masked[i])
            ]
            if not unfinished:
                return
            active = [active[i] for i in unfinished]
            masked = [masked[i] for i in unfinished]
            share = None if self.options.is_parallel else shares[step]
            cache, windows = self.caching.for_pass(active, step)
            self._step(active, masked, share, cache, windows)

    def _step(
        self,
        texts: Sequence[Text],
        positions: list[Tensor],
        share: float | None,
        cache: DenoiserCache | None,
        windows: Sequence[Sequence[int]] | None,
    ) -> None:
        """Reveals tokens at some of these positions by one pass; without a share, all sure ones."""
        positions = self.candidates(texts, positions, share)
        # A cache is filled whether this step reveals anything or not, whatever shares the batch.
        if cache is None and not any(map(len, positions)):
            return
        logits = self.denoiser.logits(
            [text.tokens for text in texts],
            positions,
            [text.prompt_length for text in texts],
            cache=cache,
            windows=windows,
        )
        sizes = [len(masked) for masked in positions]
        tokens, confidence = self.choose(texts, logits, sizes)
        choices = zip(texts, positions, tokens.split(sizes), confidence.split(sizes), strict=True)
        for text, masked, chosen, sure in choices:
            revealed = self.revealed(text, sure, share)
            text.reveal(masked[revealed], chosen[revealed])

    def candidates(
        self, texts: Sequence[Text], positions: list[Tensor], share: float | None
    ) -> list[Tensor]:
        """The positions that a step can reveal, of those still masked.

        A draw that does not look at the logits comes before the pass, so that only those of the
        drawn positions are computed. Differs from generate.py, which draws after it: same
        distribution.
        """
        if share is None or not self.options.draws_evenly:
            return positions
        draw = _draw_each if self.options.alg == "origin" else _draw
        return [draw(masked, share, text) for text, masked in zip(texts, positions, strict=True)]

    def choose(
        self, texts: Sequence[Text], logits: Tensor, sizes: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """The token of each row and how sure it is, int64 and float32 (num_rows,), on the CPU."""
        options, temperature = self.options, self.options.temperature
        if options.alg == "none":
            noised = self._noised_tokens(texts, logits.split(sizes), temperature)
            return choose_tokens(logits, self.forbidden, noised)
        allowed = forbid(logits, self.forbidden)
        allowed = shaped(allowed, temperature, options.top_p, options.top_k)
        # Divided by the temperature already.
        noised = self._noised_tokens(texts, allowed.split(sizes), 1.0)
        return choose_ranked(allowed, options.alg, noised)

    def revealed(self, text: Text, sure: Tensor, share: float | None) -> Tensor:
        """Which of the candidates to reveal, by how sure they are, int64 (num_revealed,)."""
        if share is None:
            return most_confident(sure, _num_sure(sure, self.options))
        if self.options.draws_evenly:
            return torch.arange(len(sure))
        if self.options.alg_temp > 0:
            uniform = _uniform(len(sure), text.generator)
            return draw_ranked(sure, self.options.alg_temp, int(share), uniform)
        return most_confident(sure, int(share))

    def _noised_tokens(
        self, texts: Sequence[Text], logits: Sequence[Tensor], scale: float
    ) -> Tensor | None:
        """Tokens drawn from softmax(logits / scale), (num_rows,); None at temperature 0."""
        if self.options.temperature == 0:
            return None
        return torch.cat(
            [
                _gumbel_argmax(forbid(part, self.forbidden), scale, text)
                for text, part in zip(texts, logits, strict=True)
            ]
        )


def _num_sure(confidence: Tensor, options: SamplingOptions) -> int:
    """Tokens that `threshold` or `factor` reveal at once, at least 1.

    Args:
        confidence: probability of each masked position's token, (num_masked,).
        options: one of the two is set.

    Source: Fast-dLLM (arXiv 2505.22618) section 3.3.
    """
    if options.threshold is not None:
        return max(1, int((confidence >= options.threshold).sum()))
    assert options.factor is not None
    ordered = confidence.double().sort(descending=True).values
    counts = torch.arange(1, len(ordered) + 1)
    sure = ((counts + 1) * (1 - ordered) < options.factor).nonzero()
    return int(sure[-1]) + 1 if len(sure) else 1


def _gumbel_argmax(logits: Tensor, temperature: float, text: Text) -> Tensor:
    """Argmax over tokens of exp(logits) / (-log u)^T, in float64, u uniform: int64 (num_rows,).

    Written as the argmax of its logarithm, logits - T * log(-log u), which chooses the same token
    and does not overflow. Differs from generate.py in that form only. float64 because low-precision
    Gumbel noise is biased towards likely tokens (arXiv 2409.02908).
    """
    device = _noise_device(logits.device)
    uniform = torch.rand(logits.shape, generator=text.generator, dtype=torch.float64, device=device)
    noise = uniform.log_().neg_().log_()
    return (logits.to(device, torch.float64) - temperature * noise).argmax(dim=-1)


def _noise_device(device: torch.device) -> torch.device:
    """Where float64 noise is drawn: beside the logits, except on MPS, which has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def _draw(masked: Tensor, count: float, text: Text) -> Tensor:
    """`count` of the masked positions, uniformly drawn without replacement, in ascending order."""
    scores = _uniform(len(masked), text.generator)
    return masked[most_confident(scores, int(count)).sort().values]


def _draw_each(masked: Tensor, chance: float, text: Text) -> Tensor:
    """The masked positions that come up, each with this chance, in ascending order."""
    return masked[_uniform(len(masked), text.generator) < chance]


def _uniform(count: int, generator: torch.Generator | None) -> Tensor:
    """Uniform numbers in [0, 1), float64 (count,), on the CPU."""
    where = "cpu" if generator is None else generator.device
    return torch.rand(count, generator=generator, dtype=torch.float64, device=where).cpu()


def _check_request(
    denoiser: Denoiser,
    options: SamplingOptions,
    prompts: Sequence[Tensor],
    seeds: Sequence[int] | None,
    eos_token_id: int | None,
) -> None:
    check_seeds(seeds, len(prompts))
    options.require_used()
    check_blocks(options, denoiser.blocks)
    needed = "new_prompt_cache" if options.cache == "prompt" else "new_cache"
    if options.cache != "none" and getattr(denoiser, needed) is None:
        raise ValueError(
            f"cache={options.cache} needs a denoiser with a cache; give it {needed}, or use "
            "cache=none."
        )
    if options.is_random and seeds is None:
        raise ValueError(
            f"temperature={options.temperature} with remasking={options.remasking!r} and "
            f"alg={options.alg!r} draws random numbers; pass one seed for each prompt."
        )
    if (options.stop_at_eos or options.suppress_eos) and eos_token_id is None:
        raise ValueError("stop_at_eos and suppress_eos need eos_token_id; got None.")
