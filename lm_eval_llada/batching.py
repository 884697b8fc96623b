"""How many sequences go into a forward pass, what happens when they do not fit, and progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from .modeling import LLaDAConfig

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_SEQUENCES = 64
# CPUs are busy from a few thousand tokens on; more only costs memory.
_CPU_TOKENS = 8192
# Share of a GPU's free memory that a batch may be estimated to need: the estimate is rough.
_MEMORY_SHARE = 0.6


class Batcher:
    """Cuts requests, longest first, into batches that fit.

    A batch size that was asked for is kept; auto starts from an estimate and halves whenever memory
    runs out. Scores do not depend on either.

    Attributes:
        last_size: The batch size of the last batch that ran.
    """

    def __init__(
        self,
        fixed: int | None,
        maximum: int | None,
        device: torch.device,
        bytes_of: Callable[[int, int], int],
    ) -> None:
        """Set up for one model.

        Args:
            fixed: Sequences in a pass, None for auto.
            maximum: The most that auto may choose, None for a default.
            device: Where passes run.
            bytes_of: Estimated memory of one sequence, from its length and its number of rows.
        """
        self.last_size = 0
        self._fixed = fixed
        self._maximum = maximum or _MOST_SEQUENCES
        self._device = device
        self._bytes_of = bytes_of
        self._most_tokens: int | None = None

    def size(self, length: int, num_rows: int) -> int:
        """How many items go into one pass, at least 1.

        Args:
            length: Tokens that the longest item adds to a pass.
            num_rows: Positions of it whose logits are computed at once.
        """
        if self._fixed is not None:
            return self._fixed
        if self._device.type == "cuda":
            free = _free_memory(self._device) * _MEMORY_SHARE
            size = int(free // self._bytes_of(length, num_rows))
        else:
            size = _CPU_TOKENS // max(length, 1)
        if self._most_tokens is not None:
            size = min(size, self._most_tokens // max(length, 1))
        return max(1, min(size, self._maximum))

    def process(
        self,
        items: Sequence[Item],
        measure: Callable[[Item], tuple[int, int]],
        run: Callable[[Sequence[Item], int], Sequence[Result]],
        at_once: Callable[[Item, int], int],
    ) -> Iterator[tuple[Item, Result]]:
        """Run all items and yield each with its result, batch by batch.

        Args:
            items: In the order to run them, the longest first.
            measure: Tokens and rows that an item adds to a pass.
            run: From some items and the batch size to their results.
            at_once: How many items `run` gets at once, from the first of them and the batch size.

        Raises:
            MemoryError: If a batch does not fit and cannot be made smaller.
        """
        start = 0
        while start < len(items):
            length, num_rows = measure(items[start])
            size = self.size(length, num_rows)
            batch = items[start : start + at_once(items[start], size)]
            try:
                results = run(batch, size)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                self._shrink(size, length, error)
                continue
            self.last_size = size
            yield from zip(batch, results, strict=True)
            start += len(batch)

    def _shrink(self, size: int, length: int, error: Exception) -> None:
        if self._fixed is not None or size == 1:
            smaller = "use a smaller batch_size or batch_size=auto"
            spread = "use dtype=bfloat16, device_map=auto or fewer tokens"
            advice = smaller if size > 1 else spread
            raise MemoryError(
                f"{size} sequences of {length} tokens do not fit into the memory of "
                f"{self._device}; {advice}."
            ) from error
        self._most_tokens = size // 2 * length
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


class Progress:
    """A progress bar over requests that shows tokens read per second."""

    def __init__(self, total: int, what: str, *, shown: bool) -> None:
        """Open the bar.

        Args:
            total: Number of requests.
            what: Kind of request.
            shown: False draws nothing.
        """
        self._bar = tqdm(total=total, desc=what, disable=not shown, unit="req")
        self._start = time.monotonic()
        self.num_tokens = 0

    def read(self, num_tokens: int) -> None:
        """Count the tokens of one forward pass."""
        self.num_tokens += num_tokens
        self._bar.set_postfix_str(f"{self.num_tokens / self.seconds:,.0f} tok/s", refresh=False)
        self._bar.update(0)

    def done(self, num_requests: int = 1) -> None:
        """Count finished requests."""
        self._bar.update(num_requests)

    @property
    def seconds(self) -> float:
        """Time since the bar was opened."""
        return max(time.monotonic() - self._start, 1e-9)

    def __enter__(self) -> Progress:  # noqa: D105
        return self

    def __exit__(self, *error: object) -> None:  # noqa: D105
        self._bar.close()


def sequence_bytes(config: LLaDAConfig, itemsize: int) -> Callable[[int, int], int]:
    """An estimate of the memory that one sequence takes in a forward pass, in bytes.

    Counts a layer's activations, since those of earlier layers are freed, and the logits in the
    model's dtype and three times in fp32 (logits, their softmax, work space).

    Args:
        config: For the widths of the layers and the size of the vocabulary.
        itemsize: Bytes of a number of the model.

    Returns:
        A function of the sequence's length and the number of rows whose logits are computed.
    """
    per_token = itemsize * (8 * config.d_model + 3 * config.mlp_hidden_size)
    per_row = config.embedding_size * (itemsize + 3 * 4)
    return lambda length, num_rows: length * per_token + num_rows * per_row


def _free_memory(device: torch.device) -> int:
    """Bytes a GPU can still give us: what the driver has, and what our allocator holds unused."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return True
    message = str(error)
    return "not enough memory" in message or "can't allocate memory" in message


def longest_first(items: Sequence[Item], length: Callable[[Item], Any]) -> list[Item]:
    """The items by descending length, so that memory runs out at once if it ever does."""
    return sorted(items, key=length, reverse=True)
