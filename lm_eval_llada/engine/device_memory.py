"""Memory of the device a model runs on: how much is free, and how much a batch takes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

_MOST_KERNELS = "64"


@dataclass
class Taken:
    """What a stretch of work took at its peak, in bytes; None where that is not known."""

    num_bytes: int | None = None


class DeviceMemory:
    """Counts the memory of one device. What is free can be told of CUDA devices only.

    Attributes:
        device: Where passes run.
    """

    def __init__(self, device: torch.device, *, is_even: bool = False) -> None:
        """Watches a device.

        Args:
            device: Where passes run.
            is_even: Whether several ranks have to run the same batches, so that none may go by
                what is free on its own device.
        """
        self.device = device
        self._is_even = is_even
        self._peak_bytes = 0

    def free(self) -> int | None:
        """Bytes a GPU can still give: what the driver has, and what our allocator holds unused."""
        if self.device.type != "cuda" or self._is_even:
            return None
        free, _ = torch.cuda.mem_get_info(self.device)
        reserved = torch.cuda.memory_reserved(self.device)
        return free + reserved - torch.cuda.memory_allocated(self.device)

    @contextmanager
    def watched(self) -> Iterator[Taken]:
        """A stretch of work; what it took is known once it is over."""
        taken = Taken()
        if self.device.type != "cuda":
            yield taken
            return
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        yield taken
        peak = torch.cuda.max_memory_allocated(self.device)
        self._peak_bytes = max(self._peak_bytes, peak)
        taken.num_bytes = peak - before

    def peak_bytes(self) -> int | None:
        """The most that was in use: by tensors on a GPU, else by the process; None if not told."""
        # A watched stretch starts the device's own count anew.
        return max(peak_memory_bytes(self.device) or 0, self._peak_bytes) or None

    def release(self) -> None:
        """Gives what the allocator holds unused back to the driver."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def peak_memory_bytes(device: torch.device) -> int | None:
    """The most memory used so far, in bytes.

    Args:
        device: For a GPU, the most that tensors took on it; for others, the most that this process
            had resident.

    Returns:
        None where the system does not tell (Windows, without a GPU).
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts in KiB


def bound_kernel_caches() -> None:
    """Keeps few of the kernels that a CPU's products in 16 bits are built as; before the first one.

    oneDNN and PyTorch's interface to it keep 1,024 each, one for every shape, and a pass of each
    length has shapes of its own: memory grew by 800 MB over 600 lengths. The layers of a pass share
    their shapes, so that kernels of a few passes serve as well. What a user has set stays.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, _MOST_KERNELS)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    message = str(error)
    return "not enough memory" in message or "can't allocate memory" in message
