"""Which cache each pass of a decoding gets, and which part of each text it reads.

Three policies, by `SamplingOptions.cache`: none; `prefix` and `dual`, which begin anew in each
block (Fast-dLLM, arXiv 2505.22618) and let a token enter with it or one step after its reveal
(dKV-Cache, arXiv 2505.15781); and `prompt`, which reads the prompts once for all blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from lm_eval_llada.diffusion.denoiser import (
    Denoiser,
    DenoiserCache,
    PromptCache,
    PromptReading,
)
from lm_eval_llada.diffusion.sampling_options import SamplingOptions


class Windowed(Protocol):
    """What this has to know of a text that is being decoded."""

    prompt_length: int

    def window(self, start: int, end: int) -> range:
        """Positions of the generated tokens start..end, counted from the start of the prompt."""
        ...

    def masked_positions(self, start: int, end: int) -> Tensor:
        """Those of these positions that are masked, ascending."""
        ...


@dataclass
class Caching:
    """The caches of one decoding. Blocks are announced in order, then each of their passes.

    Attributes:
        denoiser: the model, guided or not.
        options: how to decode.
    """

    denoiser: Denoiser
    options: SamplingOptions
    _cache: DenoiserCache | None = field(default=None, init=False)
    _prompts: PromptCache | None = field(default=None, init=False)
    _held: Sequence[Windowed] = field(default=(), init=False)
    _masked: Sequence[list[int]] = field(default=(), init=False)
    _block: tuple[int, int] = field(default=(0, 0), init=False)
    _num_blocks: int = field(default=0, init=False)

    def start_block(self, start: int, end: int) -> None:
        """Begins block [start, end), counted from the first generated token."""
        self._block, self._cache = (start, end), None
        refresh = self.options.prompt_refresh
        if refresh is not None and self._num_blocks % refresh == 0:
            self._prompts = None
        self._num_blocks += 1
        if self._prompts is not None:
            self._prompts.start_block(start, end)

    def for_pass(
        self, texts: Sequence[Windowed], step: int
    ) -> tuple[DenoiserCache | None, Sequence[Sequence[int]] | None]:
        """The cache of a step of the block, and what to read of each text; None to read all of it.

        Args:
            texts: the ones that this pass reads, some of those that the passes before it read.
            step: of the block, from 0.
        """
        if self.options.cache == "none":
            return None, None
        if self.options.cache == "prompt":
            return self._prompt_pass(texts)
        if self._cache is None or step % (self.options.refresh_every or self._block[1]) == 0:
            assert self.denoiser.new_cache is not None
            self._cache, self._held = self.denoiser.new_cache(), texts
            self._masked = self._masked_now(texts)
            return self._cache, None
        if len(texts) < len(self._held):
            places = _places(texts, self._held)
            self.denoiser.keep(self._cache, places, len(self._held))
            self._held, self._masked = texts, [self._masked[place] for place in places]
        if self.options.entry == "block":
            return self._cache, [text.window(self._block[0], self._end) for text in texts]
        # What the step before found masked is masked still or what it revealed.
        windows, self._masked = self._masked, self._masked_now(texts)
        return self._cache, windows

    @property
    def _end(self) -> int:
        """Behind the last token that the passes of a block read anew."""
        return self._block[1] if self.options.cache == "dual" else self.options.gen_length

    def _masked_now(self, texts: Sequence[Windowed]) -> list[list[int]]:
        return [text.masked_positions(self._block[0], self._end).tolist() for text in texts]

    def _prompt_pass(self, texts: Sequence[Windowed]) -> tuple[DenoiserCache, list[range] | None]:
        if self._prompts is None:
            options = self.options
            reading = PromptReading(options.prompt_chunk, options.keep, options.cache_dtype)
            lengths = [text.prompt_length for text in texts]
            self._prompts, self._held = self.denoiser.prompt_cache(lengths, reading), texts
            self._prompts.start_block(*self._block)
            return self._prompts, None
        # A text that is through with a block comes back in the next one, so nothing is dropped.
        self.denoiser.choose(self._prompts, _places(texts, self._held), len(self._held))
        return self._prompts, [text.window(0, self.options.gen_length) for text in texts]


def _places(texts: Sequence[Windowed], held: Sequence[Windowed]) -> list[int]:
    """Where each text is among those held."""
    place_of = {id(text): place for place, text in enumerate(held)}
    return [place_of[id(text)] for text in texts]
