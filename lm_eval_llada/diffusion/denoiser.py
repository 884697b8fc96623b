"""The seam between models and mathematics: what decoders and scorers call, and the work it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Denoiser(Protocol):
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
                sequences, placed by position_ids (batch, window); attention_mask is (batch,
                cache.key_length), and rows name positions in the sequences.
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
