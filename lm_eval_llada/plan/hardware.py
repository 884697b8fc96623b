"""The machine that a plan is for."""

from __future__ import annotations

from dataclasses import dataclass

from lm_eval_llada.errors import require_number, require_whole

DEFAULT_TFLOPS = 400.0
DEFAULT_MEMORY_GB = 80.0


@dataclass(frozen=True)
class Hardware:
    """What the run will run on.

    Attributes:
        tflops: Operations a GPU does in a second, in units of 1e12.
        memory_gb: Memory of a GPU, in units of 1e9 bytes.
        num_processes: Processes that share the requests, each with a whole model.

    Raises:
        ValueError: If a value is not positive.
    """

    tflops: float = DEFAULT_TFLOPS
    memory_gb: float = DEFAULT_MEMORY_GB
    num_processes: int = 1

    def __post_init__(self) -> None:  # noqa: D105
        require_number("tflops", self.tflops, 0)
        require_number("memory_gb", self.memory_gb, 0)
        require_whole("num_processes", self.num_processes, 1)
