"""Measures what decoding and scoring cost under a model that is causal between blocks.

    python -m benchmarks.block_costs

The model is random, with the proportions of `tiny-llada` and large weights: 4 layers of width 256,
blocks of 4, float32, on the CPU with one thread; four query heads share a key head, as in the
families that it stands for. Each length has a process of its own, for memory.

- *prefill*: CPU seconds of the passes over the prompt.
- *a token*: CPU seconds of a token: one pass over the block, and a quarter of the one that keeps
  it, the median of these passes each.
- *peak*: what the resident set grows by, over weights.
- *plain*: the loop of `LLaDA` under the model's mask of pairs, one pass over prompt and block a
  step, logits of the block alone. Its tokens have to be the same. It runs up to `--plain` tokens.

Then the likelihood of options of 20 and 40 tokens behind 2,000, every mask of each block, beside a
loop that reads context and block for each mask; values have to be equal to 1e-5 relative.

CPU seconds are of the process, so that a busy machine does not change ratios much. What limits the
numbers: attention of one query block to all keys, and at these sizes Python. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed_measure import peak_growth
from lm_eval_llada import __version__
from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.diffusion.choices import choose_tokens, most_confident
from lm_eval_llada.diffusion.estimates import LikelihoodOptions
from lm_eval_llada.diffusion.likelihood import scored_pairs
from lm_eval_llada.diffusion.masks import elbo_weights, enumerate_masks, mask_probabilities
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.modeling import LLaDAConfig, LLaDAForMaskedLM, as_denoiser
from lm_eval_llada.modeling.pairwise import block_causal

LENGTHS = (2048, 8192, 32768)
GEN_LENGTH = 32
BLOCK = 4
VOCAB, MASK = 1024, 1


def build_model() -> LLaDAForMaskedLM:
    """A random model of tiny-llada's proportions."""
    torch.manual_seed(0)
    config = LLaDAConfig(
        vocab_size=VOCAB,
        d_model=256,
        n_layers=4,
        n_heads=4,
        n_kv_heads=1,
        mlp_hidden_size=512,
        max_sequence_length=65536,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        weight_tying=True,
        mask_token_id=MASK,
        block_length=BLOCK,
        init_std=0.08,
    )
    return LLaDAForMaskedLM(config).eval()


def random_tokens(length: int, seed: int) -> Tensor:
    """Tokens without a mask among them."""
    return torch.randint(2, VOCAB, (length,), generator=torch.Generator().manual_seed(seed))


def cpu_seconds(run: Any) -> tuple[float, Any]:
    """CPU seconds of a call, and what it returns."""
    started = time.process_time()
    result = run()
    return time.process_time() - started, result


@torch.inference_mode()
def read_whole(model: LLaDAForMaskedLM, x: Tensor, start: int) -> Tensor:
    """Logits of the last block by a pass over the whole text, (block, vocab)."""
    blocks = torch.arange(len(x))[None] // BLOCK
    mask = block_causal(blocks, blocks)
    rows = torch.tensor([[0, row] for row in range(start, len(x))])
    return model(x[None], attention_mask=mask, rows=rows).logits


def plain_generate(model: LLaDAForMaskedLM, prompt: Tensor) -> list[int]:
    """One token a step, the whole text at every step."""
    x = torch.cat([prompt, torch.full((GEN_LENGTH,), MASK)])
    for start in range(len(prompt), len(x), BLOCK):
        block = x[start : start + BLOCK]
        while bool((masked := (block == MASK).nonzero()[:, 0]).numel()):
            logits = read_whole(model, x[: start + BLOCK], start)[masked]
            tokens, confidence = choose_tokens(logits, [MASK])
            best = most_confident(confidence, 1)
            block[masked[best]] = tokens[best]
    return x[len(prompt) :].tolist()


def decoded(length: int, is_plain: bool) -> dict[str, Any]:
    """What decoding behind so many tokens costs; `length` is a multiple of the block."""
    model, prompt = build_model(), random_tokens(length, length)
    denoiser = as_denoiser(model)
    generate(denoiser, [prompt[:256]], SamplingOptions(gen_length=BLOCK))  # warms up
    found: list[Any] = []
    passes: list[tuple[int, float]] = []

    def on_forward(num_tokens: int) -> None:
        passes.append((num_tokens, time.process_time()))

    def run() -> None:
        denoiser.stats.on_forward = on_forward
        options = SamplingOptions(gen_length=GEN_LENGTH)
        started = time.process_time()
        seconds, texts = cpu_seconds(lambda: generate(denoiser, [prompt], options))
        found.extend((started, seconds, texts[0].tolist()))

    growth = peak_growth(run)
    started, seconds, tokens = found
    chunks = [at for num_tokens, at in passes if num_tokens > BLOCK]
    steps = [at for num_tokens, at in passes if num_tokens == BLOCK]
    one_pass = median(later - at for at, later in pairwise(steps))
    a_token = one_pass * (BLOCK + 1) / BLOCK
    record = {
        "length": length,
        "seconds": round(seconds, 3),
        "prefill": round(chunks[-1] - started, 3),
        "a_token": round(a_token, 5),
        "peak_mib": round(growth / 2**20, 1),
    }
    if is_plain:
        plain, expected = cpu_seconds(lambda: plain_generate(model, prompt))
        record |= {"plain": round(plain, 2), "equal": tokens == expected}
        record["faster"] = round(plain / seconds, 1)
    return record


def plain_log_likelihood(model: LLaDAForMaskedLM, prefix: Tensor, target: Tensor) -> float:
    """Every mask of each block, context and block read anew for each."""
    x, total, first = torch.cat([prefix, target]), 0.0, len(prefix)
    for start in range(first // BLOCK * BLOCK, len(x), BLOCK):
        begin, end = max(start, first), min(start + BLOCK, len(x))
        masks = enumerate_masks(end - begin)
        scores = []
        for mask in masks:
            noisy = torch.cat([x[:end], torch.full((start + BLOCK - end,), MASK)])
            noisy[begin:end][mask] = MASK
            log_probs = read_whole(model, noisy, start).log_softmax(-1)
            at = mask.nonzero()[:, 0]
            scores.append(log_probs[at + begin - start, x[begin:end][mask]].double().sum())
        weights = mask_probabilities(masks) * elbo_weights(masks)
        total += float((weights * torch.stack(scores)).sum())
    return total


def scored(length: int) -> dict[str, Any]:
    """What the likelihood of two options behind so many tokens costs."""
    model, prefix = build_model(), random_tokens(length, length)
    pairs = [(prefix, random_tokens(size, size)) for size in (20, 40)]
    denoiser, options = as_denoiser(model), LikelihoodOptions()
    scored_pairs(denoiser, [(prefix[:64], pairs[0][1])], options)  # warms up
    seconds, found = cpu_seconds(lambda: scored_pairs(denoiser, pairs, options, check_greedy=False))
    plain, expected = cpu_seconds(lambda: [plain_log_likelihood(model, *pair) for pair in pairs])
    apart = max(abs(one.value / e - 1) for (one, _), e in zip(found, expected, strict=True))
    return {
        "length": length,
        "options": [len(target) for _, target in pairs],
        "seconds": round(seconds, 3),
        "plain": round(plain, 2),
        "faster": round(plain / seconds, 1),
        "apart": apart,
    }


def run_apart(*arguments: str) -> dict[str, Any]:
    """A case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.block_costs", *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def main() -> None:
    """Runs the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--plain", type=int, default=8192, help="longest prompt of the plain loop")
    parser.add_argument("--context", type=int, default=2000, help="before the options; 0: none")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.case == "decode":
        (length,) = arguments.lengths
        print(json.dumps(decoded(length, length <= arguments.plain)))
        return
    if arguments.case == "score":
        print(json.dumps(scored(arguments.context)))
        return
    records = []
    print(" context  prefill s  a token s  peak MiB  plain s      x")
    for length in arguments.lengths:
        plain = ["--plain", str(arguments.plain)]
        one = run_apart("--case", "decode", "--lengths", str(length), *plain)
        records.append(one)
        line = f"{length:8,} {one['prefill']:10.2f} {one['a_token']:10.4f} {one['peak_mib']:9.0f}"
        if "plain" in one:
            line += f" {one['plain']:8.1f} {one['faster']:6.1f}"
            line += "" if one["equal"] else "  TOKENS DIFFER"
        print(line, flush=True)
    result = {"decoding": records}
    if arguments.context:
        one = run_apart("--case", "score", "--context", str(arguments.context))
        print(
            f"options of {one['options']} tokens behind {arguments.context:,}: "
            f"{one['seconds']:.2f} s, plain {one['plain']:.1f} s, {one['faster']:.1f} x, "
            f"apart by {one['apart']:.1e}"
        )
        result["scoring"] = [one]
    rules = BlockRules(BLOCK)
    print(
        json.dumps(
            {
                **result,
                "block_length": rules.block_length,
                "gen_length": GEN_LENGTH,
                "version": __version__,
                "torch": torch.__version__,
                "machine": platform.processor() or platform.machine(),
            }
        )
    )


if __name__ == "__main__":
    main()
