"""The reverse process of a masked diffusion model: from a prompt to a text.

Generation starts from masks and reveals some of them at each step, block after block from left to
right (semi-autoregressive). Results are those of the plain loop of LLaDA's generate.py, one full
forward pass a step, except where a comment says `Differs from`. What saves work is exact: logits
are computed for the positions a step can reveal, and finished texts leave the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .diffusion import (
    Denoiser,
    DenoiserStats,
    Predictor,
    check_seeds,
    choose_tokens,
    forbid,
    most_confident,
    num_transfer_tokens,
    token_ids,
)
from .errors import require_number, require_whole, unknown_choice

REMASKING = ("low_confidence", "random")


@dataclass(frozen=True)
class SamplingOptions:
    """How to decode.

    Attributes:
        steps: forward passes in all, shared by the blocks (see `block_schedule`); None reveals one
            token a pass. Steps beyond one a token would reveal nothing and are not run.
        gen_length: tokens to generate.
        block_length: tokens of a block; None makes one block of gen_length. A larger value than
            gen_length means one block as well.
        remasking: which positions a step reveals: those of highest probability
            (`low_confidence`), or uniformly drawn ones (`random`).
        temperature: scale of the Gumbel noise on the logits, 0 = argmax.
        cfg_scale: weight of classifier-free guidance, 0 = off.
        stop_at_eos: end a text at its first EOS. The rest of the text is filled with EOS, and
            steps that could only change that rest are not run.
        suppress_eos: never choose EOS (its logit is -inf, `logits_eos_inf` in LLaDA).

    Raises:
        ValueError: if a value is out of range, or stop_at_eos and suppress_eos are both set.
    """

    steps: int | None = None
    gen_length: int = 128
    block_length: int | None = None
    remasking: str = "low_confidence"
    temperature: float = 0.0
    cfg_scale: float = 0.0
    stop_at_eos: bool = False
    suppress_eos: bool = False

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

    @property
    def is_random(self) -> bool:
        """Whether the result depends on a seed."""
        return self.temperature > 0 or self.remasking == "random"


def block_schedule(options: SamplingOptions) -> list[tuple[int, int, list[int]]]:
    """The blocks of a generation: (start, end, tokens revealed at each step).

    Blocks have block_length tokens; the last one takes the remainder of gen_length. A block that
    ends at token e has run floor(steps * e / gen_length) steps in all, so steps are shared in
    proportion to tokens, and where LLaDA's rule applies (both divisions even) it is
    steps // num_blocks for each block. steps counts as gen_length where it is larger, hence no
    block has more steps than tokens. Every block has at least one step: with fewer steps than
    blocks, one for each block is run, the only case in which more than `steps` are.

    Differs from LLaDA's generate.py, which refuses lengths and steps that do not divide evenly.

    Returns:
        Blocks in order; start and end count from the first generated token.
    """
    length = options.gen_length
    block_length = options.block_length or length
    steps = min(options.steps or length, length)
    blocks = []
    for start in range(0, length, block_length):
        end = min(start + block_length, length)
        share = steps * end // length - steps * start // length
        blocks.append((start, end, num_transfer_tokens(end - start, max(share, 1))))
    return blocks


def generate(
    denoise: Denoiser,
    prompts: Sequence[Tensor],
    options: SamplingOptions,
    *,
    mask_token_id: int,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
    seeds: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    stats: DenoiserStats | None = None,
) -> list[Tensor]:
    """Generated tokens for each prompt, int64 (gen_length,) on the CPU, prompts not included.

    All prompts run as one batch, padded on the right. Each has its own random generator, so its
    text does not depend on what shares the batch, nor on the order.

    Random numbers of a request, in this order at each step: under `random` remasking one float64
    uniform for each masked position of the block, the largest values being revealed; then, with a
    temperature, one for each (position whose logits are computed, token).

    Args:
        denoise: the seam.
        prompts: int64 (length,) each, of any length, 0 included. Prompt tokens never change.
        options: how to decode; never modified.
        mask_token_id: id of the mask token. It is never generated.
        eos_token_id: needed by stop_at_eos and suppress_eos.
        pad_token_id: id written into padding; None writes mask_token_id.
        seeds: one for each prompt; needed with a temperature and under `random` remasking.
        device: where the denoiser expects its input.
        stats: filled as passes run, if given.

    Raises:
        ValueError: if seeds or eos_token_id are needed and missing, or a prompt is not 1-D.

    Source: LLaDA (arXiv 2502.09992) section 2.4 and appendix B.4.
    """
    _check_request(options, prompts, seeds, eos_token_id)
    predictor = Predictor(
        denoise, mask_token_id, pad_token_id, options.cfg_scale, device=device, stats=stats
    )
    forbidden = [mask_token_id]
    if options.suppress_eos and eos_token_id is not None:
        forbidden.append(eos_token_id)
    decoder = _Decoder(predictor, options, forbidden)
    texts = [
        _Text.start(prompt, options, mask_token_id, None if seeds is None else seeds[i], device)
        for i, prompt in enumerate(prompts)
    ]
    stop_token_id = eos_token_id if options.stop_at_eos else None
    active = texts
    for start, end, counts in block_schedule(options):
        for count in counts:
            if active:
                decoder.step(active, start, end, count)
            if stop_token_id is not None:
                active = [text for text in active if not text.ends_at(stop_token_id, mask_token_id)]
    return [text.result(stop_token_id) for text in texts]


@dataclass
class _Text:
    """One sequence being decoded: the prompt, then the tokens to generate."""

    tokens: Tensor
    prompt_length: int
    generator: torch.Generator | None

    @classmethod
    def start(
        cls,
        prompt: Tensor,
        options: SamplingOptions,
        mask_token_id: int,
        seed: int | None,
        device: torch.device | str,
    ) -> _Text:
        ids = token_ids("Each prompt", prompt)
        tokens = torch.cat([ids, torch.full((options.gen_length,), mask_token_id)])
        generator = None
        if options.is_random and seed is not None:
            generator = torch.Generator(_noise_device(torch.device(device))).manual_seed(seed)
        return cls(tokens, len(ids), generator)

    @property
    def generated(self) -> Tensor:
        """A view of the generated part, (gen_length,)."""
        return self.tokens[self.prompt_length :]

    def masked_positions(self, start: int, end: int, mask_token_id: int) -> Tensor:
        """Positions still masked in a block, counted from the start of the prompt, ascending."""
        masked = (self.generated[start:end] == mask_token_id).nonzero().squeeze(1)
        return masked + self.prompt_length + start

    def ends_at(self, eos_token_id: int, mask_token_id: int) -> bool:
        """Whether there is an EOS with every token before it decided.

        Decided tokens never change, so from then on the text up to that EOS is final, wherever
        in its block the EOS is.
        """
        num_decided_first = int((self.generated != mask_token_id).cumprod(0).sum())
        return bool((self.generated[:num_decided_first] == eos_token_id).any())

    def result(self, stop_token_id: int | None) -> Tensor:
        generated = self.generated.clone()
        if stop_token_id is not None:
            generated[(generated == stop_token_id).cumsum(0) > 0] = stop_token_id
        return generated


@dataclass(frozen=True)
class _Decoder:
    """Reveals tokens of a batch of texts, one step at a time."""

    predictor: Predictor
    options: SamplingOptions
    forbidden: list[int]

    def step(self, texts: Sequence[_Text], start: int, end: int, count: int) -> None:
        """Reveals `count` tokens of block [start, end) in each text, by one forward pass."""
        mask_token_id = self.predictor.mask_token_id
        positions = [text.masked_positions(start, end, mask_token_id) for text in texts]
        if self.options.remasking == "random":
            # The draw does not look at the logits, so only those of the drawn positions are
            # needed. Differs from generate.py, which draws after the pass: same distribution.
            positions = [
                _draw(masked, count, text) for text, masked in zip(texts, positions, strict=True)
            ]
        logits = self.predictor.logits(
            [text.tokens for text in texts], positions, [text.prompt_length for text in texts]
        )
        sizes = [len(masked) for masked in positions]
        noised = self._noised_tokens(texts, logits.split(sizes))
        tokens, confidence = choose_tokens(logits, self.forbidden, noised)
        choices = zip(texts, positions, tokens.split(sizes), confidence.split(sizes), strict=True)
        for text, masked, chosen, sure in choices:
            revealed = most_confident(sure, count)
            text.tokens[masked[revealed]] = chosen[revealed]

    def _noised_tokens(self, texts: Sequence[_Text], logits: Sequence[Tensor]) -> Tensor | None:
        """Tokens drawn from softmax(logits / temperature), (num_rows,); None at temperature 0."""
        if self.options.temperature == 0:
            return None
        return torch.cat(
            [
                _gumbel_argmax(forbid(part, self.forbidden), self.options.temperature, text)
                for text, part in zip(texts, logits, strict=True)
            ]
        )


def _gumbel_argmax(logits: Tensor, temperature: float, text: _Text) -> Tensor:
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


def _draw(masked: Tensor, count: int, text: _Text) -> Tensor:
    """`count` of the masked positions, uniformly drawn without replacement, in ascending order."""
    generator = text.generator
    where = "cpu" if generator is None else generator.device
    scores = torch.rand(len(masked), generator=generator, dtype=torch.float64, device=where).cpu()
    return masked[most_confident(scores, count).sort().values]


def _check_request(
    options: SamplingOptions,
    prompts: Sequence[Tensor],
    seeds: Sequence[int] | None,
    eos_token_id: int | None,
) -> None:
    check_seeds(seeds, len(prompts))
    if options.is_random and seeds is None:
        raise ValueError(
            f"temperature={options.temperature} with remasking={options.remasking!r} draws random "
            "numbers; pass one seed for each prompt."
        )
    if (options.stop_at_eos or options.suppress_eos) and eos_token_id is None:
        raise ValueError("stop_at_eos and suppress_eos need eos_token_id; got None.")
