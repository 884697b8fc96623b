"""The seam between models and mathematics: one object that samplers and likelihoods ask for logits.

It knows tensors and a callable, no model class: a toy of five lines tests all of the mathematics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lm_eval_llada.diffusion.block_rules import BlockRules


class Forward(Protocol):
    """Predicts tokens at chosen positions of partly masked sequences."""

    def __call__(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None,
        rows: Tensor | None = None,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: object | None = None,
    ) -> Tensor:
        """Logits of the rows asked for, shape (num_rows, vocab).

        Args:
            input_ids: int64 (batch, seq).
            attention_mask: int64 (batch, seq), 1 = real and 0 = padding; None when nothing is
                padded, which lets a model take its fastest kernel.
            rows: int64 (num_rows, 2) of (batch, position). None means all, in row-major order.
            position_ids: int64 (batch, seq). None means 0, 1, 2, ... in every sequence.
            document_ids: int64 (batch, seq); attention stays inside equal ids. None: one document.
            cache: state of an approximate cache. None means an exact forward pass. An empty cache
                is filled by an exact pass. With a filled one, input_ids are windows of the
                sequences, placed by position_ids (batch, window), ascending, of which the last may
                repeat; attention_mask is (batch, cache.key_length), and rows name positions in the
                sequences, all of them in the window.
        """
        ...


class DenoiserCache(Protocol):
    """What a sampler has to know of a denoiser's cache, see `modeling.KeyValueCache`."""

    @property
    def is_filled(self) -> bool:
        """Whether a pass over whole sequences has run."""
        ...

    @property
    def key_length(self) -> int:
        """Positions that are kept for each sequence, padding included."""
        ...

    def keep(self, sequences: Tensor) -> None:
        """Drops all sequences of the batch but these, int64 (num_kept,)."""
        ...


class Part(NamedTuple):
    """Tokens of a text to read beside those that are kept of it.

    Attributes:
        text: which of the texts that a cache was made for.
        ids: int64 (length,), at least one.
        start: position of the first one.
        seen: slots of kept tokens that all of these see.
        numbers: int64 (length,); these see those among them whose number is not greater.
        rows: int64 (num_rows,), which of them to give logits of.
        keep: whether to keep them, in the next slots of the text. All parts of one text in a pass
            are kept, or none.
    """

    text: int
    ids: Tensor
    start: int
    seen: tuple[range, ...]
    numbers: Tensor
    rows: Tensor
    keep: bool


class BlockCache(Protocol):
    """Keys and values of finished tokens, see `modeling.BlockCache`."""

    def num_kept(self, text: int) -> int:
        """Slots of a text that are in use."""
        ...

    def read(self, parts: Sequence[Part]) -> Tensor:
        """One pass: logits of the rows of all parts in order, (num_rows, vocab).

        Parts of one text follow each other. They do not see each other.
        """
        ...


class PromptCache(DenoiserCache, Protocol):
    """A cache of prompts alone, see `modeling.PromptCache`: every window reaches to the end."""

    def start_block(self, start: int, end: int) -> None:
        """Has the next pass look at all of a prompt for the tokens start..end that follow it."""
        ...

    def choose(self, sequences: Tensor) -> None:
        """Names what the next passes read, of the sequences the cache was filled from.

        int64 (num_chosen,), in any order; a repeated one is read under several continuations.
        """
        ...


@dataclass(frozen=True)
class PromptReading:
    """How a `PromptCache` reads prompts and what it keeps of them, see `SamplingOptions`.

    Attributes:
        chunk: `prompt_chunk` there.
        keep: the same there.
        dtype: `cache_dtype` there.
    """

    chunk: int | None = None
    keep: float | None = None
    dtype: str = "auto"


@dataclass
class DenoiserStats:
    """Work done by calls of a denoiser, added up over everything it is passed to.

    Attributes:
        num_passes: calls of the denoiser.
        num_sequences: sequences over those calls; guidance reads each sequence twice.
        num_tokens: real tokens read, padding not counted.
        num_rows: positions whose logits were computed.
        on_forward: called after each pass with the number of real tokens it read; a progress bar
            turns that into tokens per second.
    """

    num_passes: int = 0
    num_sequences: int = 0
    num_tokens: int = 0
    num_rows: int = 0
    on_forward: Callable[[int], None] | None = None

    def record(self, num_sequences: int, num_tokens: int, num_rows: int) -> None:
        """Adds one pass and reports it to `on_forward`."""
        self.num_passes += 1
        self.num_sequences += num_sequences
        self.num_tokens += num_tokens
        self.num_rows += num_rows
        if self.on_forward is not None:
            self.on_forward(num_tokens)


@dataclass
class Denoiser:
    """A model as samplers and likelihoods take it: logits at positions of unequal sequences.

    Attributes:
        forward: the model, or a toy.
        mask_token_id: id that stands for an unknown token. It is never generated.
        pad_token_id: id written into padding; None writes mask_token_id. Padding is hidden by the
            attention mask, so the value never matters to a correct model.
        device: where `forward` expects its input.
        shift: whether the token at position p is predicted by row p - 1 of `forward`, as in models
            trained on from causal ones; position 0 is then read from row 0, as their authors do.
        cfg_scale: weight of classifier-free guidance, 0 = off; see `guided`.
        new_cache: makes an empty cache; None where the model has none.
        blocks: how a model that is causal between blocks lays them out; None for any other.
        new_block_cache: makes an empty one for so many texts of at most so many tokens each.
        new_prompt_cache: the same for a cache of prompts, from how many rows of each sequence to
            keep and how.
        stats: filled as passes run.
    """

    forward: Forward
    mask_token_id: int
    pad_token_id: int | None = None
    device: torch.device | str = "cpu"
    shift: bool = False
    cfg_scale: float = 0.0
    new_cache: Callable[[], DenoiserCache] | None = None
    blocks: BlockRules | None = None
    new_block_cache: Callable[[int, int], BlockCache] | None = None
    new_prompt_cache: Callable[[Sequence[int], PromptReading], PromptCache] | None = None
    stats: DenoiserStats = field(default_factory=DenoiserStats)

    def guided(self, cfg_scale: float) -> Denoiser:
        """The same under classifier-free guidance of this weight, counting into the same stats."""
        return replace(self, cfg_scale=cfg_scale)

    @torch.inference_mode()
    def logits(
        self,
        sequences: Sequence[Tensor],
        positions: Sequence[Tensor],
        prompt_lengths: Sequence[int],
        *,
        cache: DenoiserCache | None = None,
        windows: Sequence[Sequence[int]] | None = None,
    ) -> Tensor:
        """Logits of the tokens at `positions[b]` of `sequences[b]`, b in order, (num_rows, vocab).

        At least fp32, whatever the model returns: in bf16, probabilities above 0.99 tie.

        With guidance, conditional and unconditional sequences share one pass and the result is
        u + (cfg_scale + 1) * (c - u), where u sees the prompt masked, as in LLaDA's generate.py.

        Args:
            sequences: int64 (length_b,) each, on the CPU; prompt first.
            positions: int64 (num_rows_b,) each, on the CPU.
            prompt_lengths: tokens at the start of each sequence that guidance masks.
            cache: an empty one to fill, or a filled one to read; None for an exact pass.
            windows: with a filled cache, the positions of each sequence to read anew, ascending.

        Raises:
            ValueError: if the model returns logits for another number of rows, or is causal between
                blocks.
        """
        if self.blocks is not None:
            raise ValueError(
                "This model is causal between blocks, and a pass over whole sequences is not; its "
                "logits come from block_reader.BlockReader."
            )
        rows = self._rows(positions)
        if self.cfg_scale == 0:
            return self._read(sequences, rows, cache, windows)
        blind = [sequence.clone() for sequence in sequences]
        for sequence, prompt_length in zip(blind, prompt_lengths, strict=True):
            sequence[:prompt_length] = self.mask_token_id
        both = torch.cat([rows, rows + torch.tensor([len(sequences), 0])])
        spans = None if windows is None else [*windows, *windows]
        conditional, unconditional = self._read([*sequences, *blind], both, cache, spans).chunk(2)
        return unconditional + (self.cfg_scale + 1) * (conditional - unconditional)

    def prompt_cache(self, prompt_lengths: Sequence[int], reading: PromptReading) -> PromptCache:
        """An empty cache for texts with prompts of these lengths.

        Raises:
            ValueError: if the model has none.
        """
        if self.new_prompt_cache is None:
            raise ValueError(
                "Keeping prompts needs a denoiser with a cache for them; give it new_prompt_cache."
            )
        # The last token of a prompt predicts the first after it where rows are shifted.
        kept = [max(length - self.shift, 0) for length in prompt_lengths]
        return self.new_prompt_cache(kept * (2 if self.cfg_scale else 1), reading)

    def keep(self, cache: DenoiserCache, kept: Sequence[int], num_texts: int) -> None:
        """Drops all texts of a cached batch of num_texts but these."""
        cache.keep(self._sequences_of(kept, num_texts))

    def choose(self, cache: PromptCache, chosen: Sequence[int], num_texts: int) -> None:
        """Has the next passes read these texts, of num_texts that a cache was filled from."""
        cache.choose(self._sequences_of(chosen, num_texts))

    def _sequences_of(self, texts: Sequence[int], num_texts: int) -> Tensor:
        # With guidance, the unconditional sequences follow all of the conditional ones.
        starts = (0, num_texts) if self.cfg_scale else (0,)
        return torch.tensor([start + i for start in starts for i in texts])

    def _rows(self, positions: Sequence[Tensor]) -> Tensor:
        """Where the tokens at these positions are read, int64 (num_rows, 2) of (batch, row)."""
        counts = torch.tensor([len(position) for position in positions])
        batch = torch.repeat_interleave(torch.arange(len(positions)), counts)
        row = torch.cat(list(positions))
        return torch.stack([batch, (row - 1).clamp_min(0) if self.shift else row], dim=1)

    def _with_rows(self, window: Sequence[int], key_length: int) -> Sequence[int]:
        """A window with the rows that its tokens are predicted at."""
        if not self.shift:
            return window
        if not isinstance(window, range):
            return sorted({row for place in window for row in (max(place - 1, 0), place)})
        # One that starts its sequence needs no row before it. To be as wide as the others of a
        # batch it takes one behind it, where the others leave room at least for padding.
        if window.start:
            return range(window.start - 1, window.stop)
        return range(min(window.stop + 1, key_length))

    def _read(
        self,
        sequences: Sequence[Tensor],
        rows: Tensor,
        cache: DenoiserCache | None,
        windows: Sequence[Sequence[int]] | None,
    ) -> Tensor:
        """One pass: logits of rows as `forward` numbers them, (num_rows, vocab)."""
        pad_token_id = self.mask_token_id if self.pad_token_id is None else self.pad_token_id
        key_length = None if cache is None or windows is None else cache.key_length
        input_ids, attention_mask = pad_right(sequences, pad_token_id, key_length)
        num_tokens = sum(map(len, sequences))
        position_ids = None
        if windows is not None:
            windows = [self._with_rows(window, input_ids.shape[1]) for window in windows]
            num_tokens = sum(map(len, windows))
            position_ids = _rectangle(windows)
            input_ids = input_ids.gather(1, position_ids)
            position_ids = position_ids.to(self.device)
        if attention_mask is not None:
            attention_mask = attention_mask.to(self.device)
        input_ids, at = input_ids.to(self.device), rows.to(self.device)
        if cache is None:
            logits = self.forward(input_ids, attention_mask=attention_mask, rows=at)
        else:
            logits = self.forward(
                input_ids,
                attention_mask=attention_mask,
                rows=at,
                position_ids=position_ids,
                cache=cache,
            )
        if logits.shape[0] != len(rows):
            raise ValueError(
                f"The denoiser was asked for {len(rows)} rows and returned logits of shape "
                f"{tuple(logits.shape)}; expected ({len(rows)}, vocab)."
            )
        self.stats.record(len(sequences), num_tokens, len(rows))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _rectangle(windows: Sequence[Sequence[int]]) -> Tensor:
    """Windows as int64 (batch, width); shorter ones repeat their last position.

    It is read more than once then, with the same keys and values, of which a cache keeps one.
    """
    width = max(map(len, windows))
    return torch.tensor([[*window, *[window[-1]] * (width - len(window))] for window in windows])


def pad_right(
    sequences: Sequence[Tensor], pad_token_id: int, length: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """Stacks sequences into int64 (batch, length) and a key-padding mask, None if none is needed.

    Padding follows the tokens, so that every sequence keeps positions 0, 1, 2, ... whatever shares
    its batch.

    Differs from scripts that pad left without a mask: there, answers change with the batch.

    Args:
        sequences: int64 (length_b,) each.
        pad_token_id: written behind the shorter ones.
        length: at least that of the longest, which None means.
    """
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    input_ids = torch.nn.utils.rnn.pad_sequence(
        list(sequences), batch_first=True, padding_value=pad_token_id
    )
    if length is not None and length > input_ids.shape[1]:
        extra = (0, length - input_ids.shape[1])
        input_ids = torch.nn.functional.pad(input_ids, extra, value=pad_token_id)
    if bool((lengths == input_ids.shape[1]).all()):
        return input_ids, None
    return input_ids, (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()


def token_ids(name: str, tokens: Tensor) -> Tensor:
    """The tokens as int64 on the CPU.

    Raises:
        ValueError: if they are not a 1-D tensor of integers.
    """
    if tokens.dim() != 1 or tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise ValueError(
            f"{name} must be a 1-D tensor of token ids; got {tokens.dtype} of shape "
            f"{tuple(tokens.shape)}."
        )
    return tokens.to("cpu", torch.int64)


def check_seeds(seeds: Sequence[int] | None, num_requests: int) -> None:
    """Raises ValueError unless there is one seed for each request, or none at all."""
    if seeds is not None and len(seeds) != num_requests:
        raise ValueError(
            f"Expected one seed for each of {num_requests} requests; got {len(seeds)}."
        )
