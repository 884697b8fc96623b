"""Decoding by a model that is causal between blocks: one prefill, then only rows of one block.

A finished block is read once more and kept; a block at work is read beside what is kept, and
nothing of that pass is kept, since some of its tokens were masks in it. So texts are those of a
loop that reads prompt and block anew at every step, at the price of the block's rows.

Behind gen_length the last block stays masked: its length is what the model was trained on, and
nothing of it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from lm_eval_llada.diffusion.block_reader import BlockReader, Clean
from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.diffusion.choices import choose_tokens, most_confident, num_transfer_tokens
from lm_eval_llada.diffusion.denoiser import Denoiser, Part
from lm_eval_llada.diffusion.sampling_options import SamplingOptions


class Text(Protocol):
    """What is asked of a text here, see `sampler.Text`."""

    tokens: Tensor
    prompt_length: int
    mask_token_id: int
    has_ended: bool

    def reveal(self, positions: Tensor, tokens: Tensor) -> None:
        """Decides tokens."""
        ...


AnyText = TypeVar("AnyText", bound=Text)
_TextOf = TypeVar("_TextOf", bound=Text, contravariant=True)


class Decoder(Protocol[_TextOf]):
    """What is asked of one that chooses tokens, see `sampler.Decoder`."""

    @property
    def denoiser(self) -> Denoiser:
        """The model."""
        ...

    @property
    def options(self) -> SamplingOptions:
        """How to decode."""
        ...

    @property
    def forbidden(self) -> list[int]:
        """Tokens never to be chosen."""
        ...

    def candidates(
        self, texts: Sequence[_TextOf], positions: list[Tensor], share: float | None
    ) -> list[Tensor]:
        """The positions that a step can reveal, of those still masked."""
        ...

    def choose(
        self, texts: Sequence[_TextOf], logits: Tensor, sizes: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """The token of each row and how sure it is."""
        ...

    def revealed(self, text: _TextOf, sure: Tensor, share: float | None) -> Tensor:
        """Which of the candidates to reveal."""
        ...


def check_blocks(options: SamplingOptions, rules: BlockRules | None) -> None:
    """Refuses options that a model with such blocks, or without any, does not have.

    Raises:
        ValueError: naming the option and what there is in its place.
    """
    if options.generation == "ar" and (rules is None or not rules.has_causal_mode):
        raise ValueError(
            "generation=ar needs a model that also predicts the next token, such as "
            "Nemotron-Labs-Diffusion; use generation=diffusion."
        )
    if rules is None:
        return
    if options.cache != "none":
        raise ValueError(
            f"cache={options.cache} is an approximation for models in which every token sees all "
            "others. This one is causal between blocks: what it keeps of finished blocks is exact, "
            "costs one prefill and is always on; drop cache and its settings."
        )
    if options.block_length not in (None, rules.block_length):
        raise ValueError(
            f"block_length={options.block_length}, but this model was made for blocks of "
            f"{rules.block_length}, which its attention depends on; drop block_length."
        )
    if options.cfg_scale:
        raise ValueError(
            f"cfg_scale={options.cfg_scale} reads the prompt as masks, and a model that is causal "
            "between blocks has never seen a finished block of them; drop cfg_scale."
        )
    if options.alg != "none":
        raise ValueError(
            f"alg={options.alg} is Dream's decoding of whole texts; this model decodes block by "
            "block, so use alg=none."
        )
    if options.generation == "ar" and (
        options.is_parallel or options.remasking != "low_confidence"
    ):
        raise ValueError(
            "generation=ar takes the tokens one after the other; drop threshold, factor and "
            "remasking, or use generation=diffusion."
        )


def decode_blocks(decoder: Decoder[AnyText], texts: Sequence[AnyText], rules: BlockRules) -> None:
    """Decides all tokens of the texts, as far as they will be used.

    Every text goes at its own pace: in one pass some read a block at work and others a finished
    one, so that what a text becomes does not depend on its company.

    Args:
        decoder: chooses tokens from logits.
        texts: all of them undecided.
        rules: how blocks lie, and what a step reveals.
    """
    if decoder.options.generation == "ar":
        rules = rules.causal_mode
    if not texts:
        return
    longest = max(len(text.tokens) for text in texts)
    reader = BlockReader.of(decoder.denoiser, rules, len(texts), longest)
    working = [_Working(i, text, rules, decoder) for i, text in enumerate(texts)]
    clean = [one.prompt() for one in working]
    _, logits = reader.keep(clean)
    for one, last in zip(working, logits, strict=True):
        one.enter(last)
    while active := [one for one in working if not one.text.has_ended and not one.is_done]:
        parts = [one.part(reader) for one in active]
        found = reader.logits(parts).split([len(part.rows) for part in parts])
        for one, part, rows in zip(active, parts, found, strict=True):
            if part.keep:
                one.next_block(rows)
        steps = [
            (one, rows)
            for one, part, rows in zip(active, parts, found, strict=True)
            if not part.keep
        ]
        if steps:
            sizes = [len(one.candidates) for one, _ in steps]
            chosen = decoder.choose(
                [one.text for one, _ in steps], torch.cat([rows for _, rows in steps]), sizes
            )
            tokens, confidence = (values.split(sizes) for values in chosen)
            for (one, _), token, sure in zip(steps, tokens, confidence, strict=True):
                one.reveal(token, sure)


@dataclass
class _Working(Generic[AnyText]):
    """A text and the block of it that is at work.

    Attributes:
        index: of the text in the cache.
        text: what is known of it.
        rules: how its blocks lie.
        decoder: chooses tokens.
        start: position where the block begins.
        candidates: positions that the pass at work may decide, ascending.
    """

    index: int
    text: AnyText
    rules: BlockRules
    decoder: Decoder[AnyText]
    start: int = 0
    candidates: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    _step: int = 0
    _shares: Sequence[int] = ()

    @property
    def end(self) -> int:
        """Behind the last token of the block that is to be decided."""
        return min(self.start + self.rules.block_length, len(self.text.tokens))

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to decide."""
        return self.end == len(self.text.tokens) and not len(self._masked())

    def prompt(self) -> Clean:
        """The blocks of the prompt that are finished."""
        length = self.text.prompt_length
        self.start = self.rules.first_block(length)
        ids = self.text.tokens[: self.start]
        return Clean(self.index, ids, 0, (), length, self._last_row(len(ids)))

    def enter(self, last: Tensor) -> None:
        """Begins the block.

        Args:
            last: logits of the last finished row before it, (1, vocab); (0,) where there is none,
                or where the first token is read at its own row.
        """
        if len(last) and self.start >= self.text.prompt_length:
            token = self._first_token(last)
            self.text.reveal(torch.tensor([self.start]), token)
        self._step, self._shares = 0, self._plan()

    def _first_token(self, last: Tensor) -> Tensor:
        if self.rules.first_token == "causal":
            return self.decoder.choose([self.text], last, [1])[0]
        # As the release does, whatever the temperature.
        return choose_tokens(last, self.decoder.forbidden)[0]

    def part(self, reader: BlockReader) -> Part:
        """What the next pass has to read: the block at work, or the finished one to be kept."""
        masked, length = self._masked(), self.rules.block_length
        keep = not len(masked)
        ids = torch.full((length,), self.text.mask_token_id)
        ids[: self.end - self.start] = self.text.tokens[self.start : self.end]
        if keep:
            clean = self.rules.clean_ids(self.start + length, self.text.prompt_length)
            numbers, rows = clean[self.start :], self._last_row(length)
        else:
            share = None if self.decoder.options.is_parallel else self._share
            self.candidates = self._allowed(masked)
            (self.candidates,) = self.decoder.candidates([self.text], [self.candidates], share)
            numbers = torch.zeros(length, dtype=torch.int64)
            rows = read_at(self.candidates, self.rules) - self.start
        seen = (reader.kept(self.index),)
        return Part(self.index, ids, self.start, seen, numbers, rows.clamp_min(0), keep)

    def next_block(self, last: Tensor) -> None:
        """Goes on to the block behind the one that is finished and kept."""
        self.start += self.rules.block_length
        self.enter(last)

    def reveal(self, tokens: Tensor, sure: Tensor) -> None:
        """Decides some of the candidates.

        Args:
            tokens: of each of them.
            sure: how sure each of them is.
        """
        chosen = self._revealed(sure)
        self._step += 1
        self.text.reveal(self.candidates[chosen], tokens[chosen])

    def _revealed(self, sure: Tensor) -> Tensor:
        options = self.decoder.options
        threshold, is_quota = options.threshold, self.rules.reveal == "quota"
        if threshold is None or self.rules.reveal == "llada":
            share = None if options.is_parallel else self._share
            return self.decoder.revealed(self.text, sure, share)
        # Above it here, and at least it in LLaDA's: so the releases have it.
        num_above = int((sure > threshold).sum())
        least = self._share if is_quota else 1
        return most_confident(sure, max(num_above, min(least, len(sure))))

    @property
    def _share(self) -> int:
        return self._shares[min(self._step, len(self._shares) - 1)]

    def _plan(self) -> Sequence[int]:
        """Tokens to reveal at each step of the block."""
        options, first = self.decoder.options, self.text.prompt_length
        return step_counts(self.rules, options, self.start, first, len(self._masked()))

    def _masked(self) -> Tensor:
        """Positions of the block that are not decided, ascending."""
        begin = max(self.start, self.text.prompt_length)
        here = self.text.tokens[begin : self.end]
        return (here == self.text.mask_token_id).nonzero().squeeze(1) + begin

    def _allowed(self, masked: Tensor) -> Tensor:
        """Those of them that the step may decide."""
        if self.rules.reveal != "sub_blocks" or self.rules.sub_block_length is None:
            return masked
        part = (masked - self.start) // self.rules.sub_block_length
        return masked[part == part[0]]

    def _last_row(self, length: int) -> Tensor:
        """The last of some finished rows, where the first token of the next block is read there."""
        is_read = self.rules.first_token != "own" and length > 0
        return torch.tensor([length - 1] if is_read else [], dtype=torch.int64)


def step_counts(
    rules: BlockRules, options: SamplingOptions, start: int, prompt_length: int, num_masked: int
) -> list[int]:
    """Tokens to reveal at each step of a block; as many as there are where there are fewer left.

    Args:
        rules: how blocks lie.
        options: `steps` are shared by the tokens, see `sampling_options.block_steps`.
        start: position where the block begins.
        prompt_length: tokens before those that are generated.
        num_masked: tokens of the block to be decided.
    """
    length, size = options.gen_length, rules.block_length
    if not num_masked:
        return []
    steps = min(options.steps or length, length)
    if rules.reveal == "quota":
        return num_transfer_tokens(size, max(1, min(size, steps * size // length)))
    begin, end = max(start - prompt_length, 0), min(start + size - prompt_length, length)
    share = max(1, steps * end // length - steps * begin // length)
    return num_transfer_tokens(num_masked, min(share, num_masked))


def read_at(positions: Tensor, rules: BlockRules) -> Tensor:
    """The rows of a block at work that these tokens of it are read at, (num_positions,)."""
    return positions - 1 if rules.first_token == "previous" else positions
