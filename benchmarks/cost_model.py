"""Measured time of exact generation, by context length, against the operations `cost` counts.

    OMP_NUM_THREADS=1 python -m benchmarks.cost_model

A random model with LLaDA-8B's proportions (8 layers, width 512, MLP 1536, heads of 64, vocabulary
4,608, so that the head is about as small a part of the work) generates a few tokens after prompts
of different lengths, in float32 and at one sequence a pass. Time is CPU time of this process on one
thread, so that other work on the machine counts little: one warm-up, then the median of repeats.

One rate, operations a second, is fitted to all contexts by least squares of the logarithms. Where
it misses a measurement by more than 25 %, a second fit gives layers with weights and attention
rates of their own, by least squares of relative errors. It has two parameters for five
measurements, and its output says so. What limits both: norms, rotation and the overhead of a call
are not counted, which shows at short contexts of small models, and caches hold less of a longer
context. The table comes first, the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median

import numpy as np
import torch

from lm_eval_llada.checkpoints.provenance import machine, package_commit
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.modeling import LLaDAConfig, LLaDAForMaskedLM, as_denoiser
from lm_eval_llada.modeling.cost import Work, generation_work

CONTEXTS = (512, 1024, 2048, 4096, 8192)
TARGET = 0.25
MODEL = LLaDAConfig(
    d_model=512, n_layers=8, n_heads=8, mlp_hidden_size=1536, vocab_size=4608, mask_token_id=4607
)
_GIGA = 1e9


@dataclass(frozen=True)
class Row:
    """What was measured at one context.

    Attributes:
        context: Tokens of prompt and text.
        seconds: Median CPU time of a generation.
        spread: Slowest less fastest repeat, as a share of the median.
        linear: Operations of layers with weights, in units of 1e9.
        attention: Those of attention.
    """

    context: int
    seconds: float
    spread: float
    linear: float
    attention: float


@dataclass(frozen=True)
class Fit:
    """Rates that turn operations into seconds.

    Attributes:
        name: How many rates.
        linear: Of layers with weights, in 1e9 operations a second.
        attention: Of attention; equal to `linear` where there is one rate.
        deviations: Measured over modelled time less one, for each context.
    """

    name: str
    linear: float
    attention: float
    deviations: tuple[float, ...]

    @property
    def worst(self) -> float:
        """The largest deviation, whatever its sign."""
        return max(map(abs, self.deviations))


def measure(model: LLaDAForMaskedLM, context: int, options: SamplingOptions, repeats: int) -> Row:
    """Time the generation of a text that ends a context."""
    prompt_length = context - options.gen_length
    prompt = torch.randint(0, 4607, (prompt_length,), generator=torch.Generator().manual_seed(0))
    denoiser, seconds = as_denoiser(model), []
    for _ in range(1 + repeats):
        start = time.process_time()
        generate(denoiser, [prompt], options)
        seconds.append(time.process_time() - start)
    timed = seconds[1:]
    work: Work = generation_work(MODEL, prompt_length, options)
    middle = median(timed)
    return Row(
        context=context,
        seconds=middle,
        spread=(max(timed) - min(timed)) / middle,
        linear=work.linear / _GIGA,
        attention=work.attention / _GIGA,
    )


def one_rate(rows: Sequence[Row]) -> Fit:
    """The rate whose logarithm is the mean over all rows, which least squares gives."""
    rate = math.exp(fmean(math.log((row.linear + row.attention) / row.seconds) for row in rows))
    return _fit("one rate", rows, rate, rate)


def two_rates(rows: Sequence[Row]) -> Fit:
    """Rates of linear layers and of attention that least squares of relative errors gives.

    Raises:
        ValueError: If the best rates are not positive, so that the model does not hold at all.
    """
    shares = np.array([[row.linear, row.attention] for row in rows])
    shares /= np.array([row.seconds for row in rows])[:, None]
    seconds_each, *_ = np.linalg.lstsq(shares, np.ones(len(rows)), rcond=None)
    if (seconds_each <= 0).any():
        raise ValueError(f"The best rates are not positive: 1 / {seconds_each}; measure again.")
    return _fit("two rates", rows, *(float(1 / each) for each in seconds_each))


def _fit(name: str, rows: Sequence[Row], linear: float, attention: float) -> Fit:
    modelled = [row.linear / linear + row.attention / attention for row in rows]
    deviations = (row.seconds / model - 1 for row, model in zip(rows, modelled, strict=True))
    return Fit(name, linear, attention, tuple(deviations))


def print_table(rows: Sequence[Row], fits: Sequence[Fit]) -> None:
    """Print measured time, and by how much each fit misses it."""
    cells = ["context", "seconds", "spread", "GFLOP", "attention", *(fit.name for fit in fits)]
    print("".join(f"{cell:>12}" for cell in cells))
    for index, row in enumerate(rows):
        flops = row.linear + row.attention
        cells = [
            f"{row.context:,}",
            f"{row.seconds:.2f}",
            f"{row.spread:.1%}",
            f"{flops:,.1f}",
            f"{row.attention / flops:.0%}",
            *(f"{fit.deviations[index]:+.1%}" for fit in fits),
        ]
        print("".join(f"{cell:>12}" for cell in cells))
    for fit in fits:
        rates = f"{fit.linear:.1f} GFLOP/s"
        if fit.attention != fit.linear:
            rates = f"{rates} in layers with weights, {fit.attention:.1f} in attention"
        verdict = "within" if fit.worst <= TARGET else "NOT within"
        print(f"{fit.name}: {rates}; worst deviation {fit.worst:.1%}, {verdict} {TARGET:.0%}")
    if len(fits) > 1:
        print(
            f"One rate misses {TARGET:.0%}: this machine does matrix products and attention at "
            f"different rates. Two of them are fitted to {len(rows)} measurements."
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contexts", type=int, nargs="+", default=list(CONTEXTS))
    parser.add_argument("--steps", type=int, default=2, help="passes of a generation")
    parser.add_argument("--gen-length", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = LLaDAForMaskedLM(MODEL).eval()
    options = SamplingOptions(steps=arguments.steps, gen_length=arguments.gen_length)
    rows = []
    for context in arguments.contexts:
        rows.append(measure(model, context, options, arguments.repeats))
        print(f"{context}: {rows[-1].seconds:.2f} s", file=sys.stderr, flush=True)
    fits = [one_rate(rows)]
    if fits[0].worst > TARGET:
        fits.append(two_rates(rows))
    print_table(rows, fits)
    result = {
        **vars(arguments),
        "model": "P: 8 layers, width 512, MLP 1536, heads of 64, vocabulary 4608, float32",
        "rows": [asdict(row) for row in rows],
        "fits": [{**asdict(fit), "worst": fit.worst} for fit in fits],
        "commit": package_commit(),
        "machine": machine(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
