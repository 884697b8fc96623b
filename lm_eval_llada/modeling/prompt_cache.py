"""Keys and values of prompts, read once and kept for every block of a text.

Unlike in `KeyValueCache`, what is generated is never kept: each pass reads all of it, so that
generated tokens see each other as they are. What is out of date is the prompt, which has not seen
the text that follows it; and with pages, what is left out of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lm_eval_llada.diffusion.denoiser import PromptReading
from lm_eval_llada.modeling.prompt_attention import PAGE, best_pages, num_kept_pages


class KeptLayer:
    """What one layer keeps of one sequence: its prompt, with room behind it for a window.

    Attributes:
        num_kept: positions of the prompt that are kept.
    """

    def __init__(self, key: Tensor, num_kept: int, length: int, dtype: torch.dtype) -> None:
        """Takes the memory.

        Args:
            key: of the layer, (..., kv_heads, head_dim), read for its shape, type and device.
            num_kept: positions of the prompt that are kept.
            length: of the sequence; a window reaches to its end at most.
            dtype: to keep in.
        """
        self.num_kept = num_kept
        num_heads, head_dim = key.shape[-2:]
        self._room = length - num_kept
        # In the type of the model a window is written behind the prompt, so that they need no
        # joining. In another one both are copied into a common one, at every pass.
        num_keys = length if dtype == key.dtype else num_kept
        shape = (2, num_heads, num_keys, head_dim)
        self._whole = torch.empty(shape, dtype=dtype, device=key.device)
        self._pages: Tensor | None = None

    def buffers(self, like: Tensor, length: int) -> Tensor:
        """Where the first pass writes keys and values, (2, kv_heads, length, head_dim)."""
        if self._whole.dtype == like.dtype:
            return self._whole[:, :, :length]
        shape = (2, self._whole.shape[1], length, self._whole.shape[3])
        return torch.empty(shape, dtype=like.dtype, device=like.device)

    def store(self, buffers: Tensor) -> None:
        """Keeps what `buffers` were filled with."""
        if buffers.dtype != self._whole.dtype:
            self._whole.copy_(buffers[:, :, : self.num_kept])

    def with_window(self, key: Tensor, value: Tensor, *, whole: bool) -> Tensor:
        """Kept keys and values with those of a window behind, (2, kv_heads, keys, head_dim).

        Args:
            key: (window, kv_heads, head_dim), rotated.
            value: like `key`.
            whole: whether to take all of the prompt, and not the pages that were selected.
        """
        kept = self._whole
        if self._pages is not None and not whole:
            kept = self._pages
        num_kept = self.num_kept if kept is self._whole else kept.shape[2] - self._room
        num_keys = num_kept + len(key)
        if kept.dtype == key.dtype:
            joined = kept[:, :, :num_keys]
        else:
            shape = (*kept.shape[:2], num_keys, kept.shape[3])
            joined = torch.empty(shape, dtype=key.dtype, device=key.device)
            joined[:, :, :num_kept] = kept[:, :, :num_kept]
        joined[0, :, num_kept:] = key.transpose(0, 1)
        joined[1, :, num_kept:] = value.transpose(0, 1)
        return joined

    @property
    def num_pages(self) -> int:
        """Whole pages of the prompt. What follows them, up to its end, is always read."""
        return self.num_kept // PAGE

    def is_choosing(self, keep: float | None) -> bool:
        """Whether a share of the pages is less than all of them."""
        return keep is not None and num_kept_pages(self.num_pages, keep) < self.num_pages

    def select(self, shares: Tensor, keep: float, both: Tensor) -> None:
        """Has the windows from here on read the best pages only.

        Args:
            shares: of each page, (kv_heads, num_pages).
            keep: share of the pages to keep.
            both: keys and values of the whole prompt at least, (2, kv_heads, keys, head_dim).
        """
        chosen = best_pages(shares, keep)
        num_chosen = chosen.shape[1]
        size, end = num_chosen * PAGE, self.num_pages * PAGE
        rest = self.num_kept - end
        if self._pages is None:
            # Taken once: later blocks choose other pages, but as many.
            shape = (*both.shape[:2], size + rest + self._room, both.shape[3])
            self._pages = torch.empty(shape, dtype=both.dtype, device=both.device)
        for target, source in zip(self._pages, both, strict=True):
            for head, pages in enumerate(chosen):
                paged = source[head, :end].view(self.num_pages, PAGE, -1)
                target[head, :size].view(num_chosen, PAGE, -1).copy_(paged[pages])
        self._pages[:, :, size : size + rest] = both[:, :, end : self.num_kept]


class KeptText:
    """What all layers keep of one sequence.

    Attributes:
        num_kept: positions of its prompt that are kept.
        length: positions of the whole sequence.
        layers: by number.
    """

    def __init__(self, num_kept: int, length: int) -> None:
        """Nothing yet, of a sequence of this length."""
        self.num_kept = num_kept
        self.length = length
        self.layers: dict[int, KeptLayer] = {}


class PromptCache:
    """The prompts of a batch: filled by one pass over whole sequences, then read beside windows.

    A window begins where the prompt that is kept ends.

    Attributes:
        reading: how prompts are read and what is kept.
        kept_lengths: positions to keep of each sequence, from its start.
        texts: what is kept of each.
        chosen: which of them the next pass reads, for each of its sequences.
        block: the tokens that are being decided, counted from the end of what is kept.
        is_looking: whether the next pass reads all of the prompts, to choose pages by it.
    """

    def __init__(self, kept_lengths: Sequence[int], reading: PromptReading) -> None:
        """An empty cache for sequences of which so many positions are kept."""
        self.reading = reading
        self.kept_lengths = list(kept_lengths)
        self.texts: list[KeptText] = []
        self.chosen = list(range(len(self.kept_lengths)))
        self.block = range(0)
        self.is_looking = False

    @property
    def is_filled(self) -> bool:
        """Whether a pass over whole sequences has run."""
        return bool(self.texts)

    @property
    def key_length(self) -> int:
        """Positions of the longest sequence."""
        return max((text.length for text in self.texts), default=0)

    def start_block(self, start: int, end: int) -> None:
        """Has the next pass look at all of a prompt for the tokens start..end that follow it."""
        self.block = range(start, end)
        self.is_looking = self.reading.keep is not None

    def choose(self, sequences: Tensor) -> None:
        """Names the sequences of the next passes, int64 (num_chosen,), of those it was filled from.

        One that is named several times is read under several continuations.
        """
        self.chosen = sequences.tolist()

    def keep(self, sequences: Tensor) -> None:
        """Drops all sequences but these, int64 (num_kept,)."""
        self.texts = [self.texts[index] for index in sequences.tolist()]
        self.chosen = list(range(len(self.texts)))

    def dtype_beside(self, dtype: torch.dtype) -> torch.dtype:
        """What a model of this type keeps keys and values in."""
        return dtype if self.reading.dtype == "auto" else getattr(torch, self.reading.dtype)
