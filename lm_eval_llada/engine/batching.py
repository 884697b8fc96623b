"""How many sequences go into a forward pass, what happens when they do not fit, and progress."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from lm_eval_llada.engine.device_memory import DeviceMemory, is_out_of_memory

_logger = logging.getLogger("lm_eval_llada")

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_SEQUENCES = 64
_PASSES_AT_ONCE = 32
# CPUs are busy from a few thousand tokens on; more only costs memory.
_CPU_TOKENS = 8192
# Where every token of every pass is read anew, a thread is busy from a few hundred on. Tensors of
# more than this leave its caches, and glibc hands their memory back and fetches it at each layer.
_CPU_TOKENS_OF_A_THREAD = 1024
# What a pass costs beside its tokens, in tokens. Measured on a CPU: 20 to 45, for widths of 512 and
# 256. On a GPU an estimate, from the time that launches and reading the weights take.
_CPU_PASS_TOKENS, _GPU_PASS_TOKENS = 32, 256
# Shares of a GPU's free memory that a batch may take, by the estimate and once it is measured.
_ESTIMATED_SHARE, _MEASURED_SHARE = 0.6, 0.85


class Batcher:
    """Cuts jobs, in order of their length, into batches that fit.

    A batch size that was asked for is the most that a pass holds; auto starts from an estimate and
    goes on with what the batches before have really taken. Either halves when memory runs out.
    Scores do not depend on any of it, as far as the device's matrix products do not: see
    docs/reproduce.md.

    Attributes:
        last_size: The most that the last pass could hold.
    """

    def __init__(
        self,
        fixed: int | None,
        maximum: int | None,
        memory: DeviceMemory,
        bytes_of: Callable[[int, int], int],
    ) -> None:
        """Sets up for one model.

        Args:
            fixed: Sequences in a pass, None for auto.
            maximum: The most that auto may choose, None for a default.
            memory: Of the device where passes run.
            bytes_of: Estimated memory of one sequence, from its length and its number of rows.
        """
        self.last_size = 0
        self._fixed = fixed
        self._maximum = maximum or _MOST_SEQUENCES
        self._memory = memory
        self._bytes_of = bytes_of
        self._most_tokens: int | None = None
        # How many times its estimate a batch has taken at most.
        self._measured: float | None = None

    def size(self, length: int, num_rows: int, *, is_refilled: bool = False) -> int:
        """How many items go into one pass, at least 1.

        Args:
            length: Tokens that the longest item adds to a pass.
            num_rows: Positions of it whose logits are computed at once.
            is_refilled: Whether every pass is filled anew, so that small ones are as good.
        """
        free = self._memory.free()
        if self._fixed is not None:
            size = self._fixed
        elif free is None:
            of_threads = _CPU_TOKENS_OF_A_THREAD * torch.get_num_threads()
            most = min(_CPU_TOKENS, of_threads) if is_refilled else _CPU_TOKENS
            size = most // max(length, 1)
        else:
            share = _ESTIMATED_SHARE if self._measured is None else _MEASURED_SHARE
            needed = self._bytes_of(length, num_rows) * (self._measured or 1.0)
            size = int(free * share / needed)
        if self._most_tokens is not None:
            size = min(size, self._most_tokens // max(length, 1))
        return max(1, size if self._fixed is not None else min(size, self._maximum))

    def process(
        self,
        items: Sequence[Item],
        measure: Callable[[Item], tuple[int, int]],
        read: Callable[[Sequence[Item], int], Sequence[Result]],
        num_sequences: Callable[[Item], int] | None = None,
        *,
        is_padded: bool = False,
    ) -> Iterator[list[tuple[Item, Result]]]:
        """All items with their results, batch by batch, in their order.

        Args:
            items: In the order to run them, by length one way or the other.
            measure: Tokens and rows that an item adds to a pass.
            read: From some items and the batch size to their results.
            num_sequences: How many an item brings, where passes are filled from several items:
                `read` gets enough of them for about `_PASSES_AT_ONCE` passes, so that few are
                partly filled and results still come one after the other. None means one, and all
                that `read` gets fills one pass.
            is_padded: Whether passes read all that `read` gets, padded to the longest. Items whose
                padding costs more than a pass then run apart.

        Raises:
            MemoryError: If a batch does not fit and cannot be made smaller.
        """
        start, is_refilled = 0, num_sequences is not None
        while start < len(items):
            size = self.size(*measure(items[start]), is_refilled=is_refilled)
            batch = items[start : start + _num_items(items[start], size, num_sequences)]
            # The first is the shortest where they ascend, and it is the longest that has to fit.
            longest = max(batch, key=measure)
            most = self.size(*measure(longest), is_refilled=is_refilled)
            batch = batch[: _num_items(longest, most, num_sequences)]
            if is_padded:
                lengths = [measure(item)[0] for item in batch]
                batch = batch[: num_alike(lengths, self._pass_tokens)]
            size = len(batch) if num_sequences is None else most
            length, num_rows = max(map(measure, batch))
            try:
                with self._memory.watched() as taken:
                    results = read(batch, size)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._shrink(size, length, error)
                continue
            if taken.num_bytes is not None:
                count = len(batch) if num_sequences is None else sum(map(num_sequences, batch))
                estimate = min(size, count) * self._bytes_of(length, num_rows)
                self._measured = max(self._measured or 0.0, taken.num_bytes / estimate)
            self.last_size = most
            yield list(zip(batch, results, strict=True))
            start += len(batch)

    @property
    def _pass_tokens(self) -> int:
        return _CPU_PASS_TOKENS if self._memory.device.type == "cpu" else _GPU_PASS_TOKENS

    def _shrink(self, size: int, length: int, error: Exception) -> None:
        too_much = (
            f"{size} sequences of {length} tokens do not fit into the memory of "
            f"{self._memory.device}"
        )
        if size == 1:
            raise MemoryError(
                f"{too_much}; use dtype=bfloat16, device_map=auto or fewer tokens."
            ) from error
        _logger.warning("%s; going on with %s at a time.", too_much, size // 2)
        self._most_tokens = size // 2 * length
        self._memory.release()


def _num_items(item: Item, size: int, num_sequences: Callable[[Item], int] | None) -> int:
    """How many items like this one run at once."""
    if num_sequences is None:
        return size
    return max(1, _PASSES_AT_ONCE * size // max(num_sequences(item), 1))


def num_alike(lengths: Sequence[int], pass_tokens: int) -> int:
    """How many of the first sequences share a pass where all of them cost least, at least 1.

    Sequences are cut, in their order, into passes. A pass costs what it reads, each of its
    sequences padded to its longest, and pass_tokens more.

    Args:
        lengths: Tokens of each, at least one.
        pass_tokens: What a pass costs beside its tokens, in tokens.
    """
    # From the back: the least that all from each one on cost.
    costs, num_first = [0], 0
    for first in reversed(range(len(lengths))):
        padded = accumulate(lengths[first:], max)
        rests = zip(padded, reversed(costs), strict=True)
        choices = (
            (size * longest + pass_tokens + rest, -size)
            for size, (longest, rest) in enumerate(rests, start=1)
        )
        cost, negative = min(choices)  # of equal costs the larger pass
        costs.append(cost)
        num_first = -negative
    return num_first


class Progress:
    """A progress bar over requests that shows tokens read per second."""

    def __init__(self, total: int, what: str, *, shown: bool) -> None:
        """Opens the bar.

        Args:
            total: Number of requests.
            what: Kind of request.
            shown: False draws nothing.
        """
        self._bar = tqdm(total=total, desc=what, disable=not shown, unit="req")
        self._start = time.monotonic()
        self.num_tokens = 0

    def read(self, num_tokens: int) -> None:
        """Counts the tokens of one forward pass."""
        self.num_tokens += num_tokens
        self._bar.set_postfix_str(f"{self.num_tokens / self.seconds:,.0f} tok/s", refresh=False)
        self._bar.update(0)

    def done(self, num_requests: int = 1) -> None:
        """Counts finished requests."""
        self._bar.update(num_requests)

    @property
    def seconds(self) -> float:
        """Time since the bar was opened."""
        return max(time.monotonic() - self._start, 1e-9)

    def __enter__(self) -> Progress:  # noqa: D105
        return self

    def __exit__(self, *error: object) -> None:  # noqa: D105
        self._bar.close()


def shortest_first(items: Sequence[Item], length: Callable[[Item], Any]) -> list[Item]:
    """The items by ascending length, so that a wrong setting shows while it has cost little."""
    return sorted(items, key=length)
