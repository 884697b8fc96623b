"""Measures the peak memory of a training step by sequence length, for each way to attend.

    python -m benchmarks.training_memory

The model is random, with LLaDA-8B's proportions at width 256: heads of 128, an MLP three times as
wide, and a vocabulary 31 times. A step is the forward pass with half of the tokens masked, the sum
of their cross-entropies, and the backward pass, in float32 on CPU. What is reported is what the
step adds to the resident set at its peak: weights and gradients, which do not depend on the length,
are there before, and every measurement has a process of its own. It needs Linux, which tells the
peak and lets it be reset.

- `full`: one document, sdpa without a mask, as `concat` and `eod` train.
- `documents`: `adaptive` by one forward pass for each document, one backward pass for all.
- `one by one`: the same with a backward pass after each document.
- `dense mask`: `adaptive` in one forward pass under sdpa's mask, of length x length elements.

A sequence holds four documents of 1/2, 1/4, 1/8 and 1/8 of its length, so that documents grow with
it. The exponent is the slope of log(peak) over log(length), by least squares over all lengths and
between the last two; growth is called linear if the last is under 1.1. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed_measure import peak_growth
from lm_eval_llada import __version__
from lm_eval_llada.modeling import LLaDAConfig, LLaDAForMaskedLM
from lm_eval_llada.posttrain.document_attention import logits_by_document, rows_by_document

LENGTHS = (512, 1024, 2048, 4096, 8192)
WAYS = ("full", "documents", "one by one", "dense mask")
SHARES = (2, 4, 8, 8)
"""A sequence's length over that of each of its documents."""

LLADA_8B = LLaDAConfig()
LINEAR_UNTIL = 1.1
"""Exponent under which growth is called linear: quadratic growth would show as 2."""


def build_model(width: int, layers: int) -> LLaDAForMaskedLM:
    """A random model with LLaDA-8B's proportions."""
    shrink = LLADA_8B.d_model // width
    vocab_size = LLADA_8B.embedding_size // shrink
    config = LLaDAConfig(
        d_model=width,
        n_layers=layers,
        n_heads=width // LLADA_8B.head_dim,
        n_kv_heads=width // LLADA_8B.head_dim,
        mlp_hidden_size=LLADA_8B.mlp_hidden_size // shrink,
        vocab_size=vocab_size,
        embedding_size=vocab_size,
        mask_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        bos_token_id=1,
    )
    torch.manual_seed(0)
    return LLaDAForMaskedLM(config)


def train_step(model: LLaDAForMaskedLM, way: str, length: int) -> None:
    """Loss and gradients of one sequence."""
    generator = torch.Generator().manual_seed(length)
    x0 = torch.randint(2, model.config.vocab_size, (1, length), generator=generator)
    rows = (torch.rand(1, length, generator=generator) < 0.5).nonzero()
    targets = x0[rows[:, 0], rows[:, 1]]
    xt = x0.index_put((rows[:, 0], rows[:, 1]), torch.tensor(model.config.mask_token_id))
    lengths = torch.tensor([length // share for share in SHARES])
    document_ids = torch.repeat_interleave(lengths)[None]
    if way == "one by one":
        for part in rows_by_document(xt, document_ids, rows):
            logits = model(part.input_ids, rows=part.rows).logits
            summed_loss(logits, targets[part.index]).backward()
        return
    if way == "documents":
        logits = logits_by_document(model, xt, document_ids, rows)
    else:
        documents = document_ids if way == "dense mask" else None
        logits = model(xt, rows=rows, document_ids=documents).logits
    summed_loss(logits, targets).backward()


def summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies, nats."""
    return F.cross_entropy(logits, targets, reduction="sum")


def measure(way: str, length: int, width: int, layers: int) -> int:
    """Bytes that a step adds to the resident set at its peak; run in a process of its own."""
    model = build_model(width, layers)
    # Makes gradients and loads the kernels of the way.
    train_step(model, way, 64)
    return peak_growth(lambda: train_step(model, way, length))


def measure_apart(way: str, length: int, arguments: argparse.Namespace) -> int:
    """Runs `measure` in a fresh process, whose allocator has nothing to give out again."""
    options = ("--width", arguments.width, "--layers", arguments.layers)
    command = [sys.executable, __file__, "--measure", way, "--lengths", length, *options]
    result = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True
    )
    return int(result.stdout)


def exponents(lengths: Sequence[int], peaks: Sequence[int]) -> tuple[float, float]:
    """Slope of log(peak) over log(length): over all, and between the last two."""
    x, y = np.log(lengths), np.log(peaks)
    last = (y[-1] - y[-2]) / (x[-1] - x[-2])
    return float(np.polyfit(x, y, 1)[0]), float(last)


def measure_way(way: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row of the table, printed as it fills."""
    print(f"{way:<12}", end="", flush=True)
    peaks = []
    for length in arguments.lengths:
        peaks.append(measure_apart(way, length, arguments))
        print(f"{peaks[-1] / 2**20:>10.0f}", end="", flush=True)
    slope, last = exponents(arguments.lengths, peaks)
    is_linear = last < LINEAR_UNTIL
    print(f"{slope:>10.2f}{last:>8.2f}  {'linear' if is_linear else 'more than linear'}")
    return {
        "way": way,
        "peak_bytes": peaks,
        "exponent": round(slope, 3),
        "last_exponent": round(last, 3),
        "is_linear": is_linear,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--measure", choices=WAYS, help="one measurement, printed in bytes")
    arguments = parser.parse_args()
    if arguments.measure:
        (length,) = arguments.lengths
        print(measure(arguments.measure, length, arguments.width, arguments.layers))
        return
    heads = "".join(f"{length:>10}" for length in arguments.lengths)
    print(f"{'peak (MiB)':<12}{heads}{'exponent':>10}{'last':>8}")
    record = {
        "lengths": arguments.lengths,
        "width": arguments.width,
        "layers": arguments.layers,
        "rows": [measure_way(way, arguments) for way in WAYS],
        "machine": platform.machine(),
        "num_threads": torch.get_num_threads(),
        "versions": {"lm_eval_llada": __version__, "torch": torch.__version__},
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
