"""Memory of long runs stays bounded on a CPU, and what was used at most is told."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from lm_eval_llada.engine import device_memory
from lm_eval_llada.engine.device_memory import peak_memory_bytes

MOST_GROWTH_MB = 120  # 53 with the bound, 199 without
PASSES_OF_MANY_LENGTHS = """
import psutil, torch
from lm_eval_llada.engine.device_memory import bound_kernel_caches
torch.set_num_threads(1)
bound_kernel_caches()
weight = torch.randn(1024, 256, dtype=torch.bfloat16)
def run(lengths):
    for length in lengths:
        torch.nn.functional.linear(torch.randn(length, 256, dtype=torch.bfloat16), weight)
    return psutil.Process().memory_info().rss
before = run(range(300, 364))
print((run(range(364, 664)) - before) / 2**20)
"""


def test_kernels_of_many_lengths_are_not_all_kept() -> None:
    # One kernel a length was kept: 2,000 requests grew a run's memory by an eighth.
    printed = subprocess.run(
        [sys.executable, "-c", PASSES_OF_MANY_LENGTHS],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert float(printed) < MOST_GROWTH_MB


def test_what_a_user_has_set_stays(monkeypatch) -> None:
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    device_memory.bound_kernel_caches()
    assert os.environ["LRU_CACHE_CAPACITY"] == "7"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "64"


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="other systems do not tell")
def test_peak_memory_of_a_process_is_in_bytes() -> None:
    peak = peak_memory_bytes(torch.device("cpu"))
    # torch alone takes hundreds of MB; a wrong unit would be off by 1024.
    assert 50e6 < peak < 50e9
    assert peak_memory_bytes(torch.device("cpu")) >= peak


def test_peak_memory_of_a_gpu_is_that_of_its_tensors(monkeypatch) -> None:
    peaks = {0: 10, 1: 20}
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peaks[device.index])
    assert [peak_memory_bytes(torch.device("cuda", i)) for i in range(2)] == [10, 20]
