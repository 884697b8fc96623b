"""A random network, prompts and options that tests of decoding share, and two ways to run them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lm_eval_llada.diffusion.denoiser import Forward
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from tests.helpers import plain_loops
from tests.helpers.toys import RandomNetwork, denoiser

VOCAB, MASK, EOS = 9, 8, 0
NETWORK = RandomNetwork(vocab=VOCAB)
PROMPTS = [
    torch.randint(1, MASK, (length,), generator=torch.Generator().manual_seed(length))
    for length in (5, 1, 9, 4, 0, 12, 3, 7)
]
SEEDS = [101, 7, 33, 2**40, 5, 6, 0, 8]

CASES = {
    "one_token_a_step": SamplingOptions(gen_length=12),
    "several_tokens_a_step": SamplingOptions(gen_length=12, steps=5),
    "one_step": SamplingOptions(gen_length=6, steps=1),
    "blocks": SamplingOptions(gen_length=12, block_length=4, steps=6),
    "blocks_with_remainder": SamplingOptions(gen_length=11, block_length=4, steps=7),
    "more_steps_than_tokens": SamplingOptions(gen_length=6, block_length=3, steps=50),
    "fewer_steps_than_blocks": SamplingOptions(gen_length=8, block_length=2, steps=2),
    "random": SamplingOptions(gen_length=12, steps=5, remasking="random"),
    "temperature": SamplingOptions(gen_length=9, temperature=0.7),
    "random_temperature_blocks": SamplingOptions(
        gen_length=10, block_length=4, steps=5, remasking="random", temperature=1.3
    ),
    "guidance": SamplingOptions(gen_length=8, cfg_scale=1.5),
    "guidance_temperature": SamplingOptions(
        gen_length=8, block_length=3, cfg_scale=0.5, temperature=0.5
    ),
    "suppress_eos": SamplingOptions(gen_length=12, suppress_eos=True),
    "suppress_eos_temperature": SamplingOptions(
        gen_length=12, suppress_eos=True, temperature=1.0, steps=6
    ),
    "stop_at_eos": SamplingOptions(gen_length=14, block_length=5, stop_at_eos=True),
    "stop_at_eos_one_block": SamplingOptions(gen_length=14, steps=7, stop_at_eos=True),
    "stop_at_eos_random_temperature_guidance": SamplingOptions(
        gen_length=14, stop_at_eos=True, remasking="random", temperature=1.0, cfg_scale=1.0
    ),
}


plain_generate = partial(plain_loops.plain_generate, mask_token_id=MASK, eos_token_id=EOS)
plain_logits = partial(plain_loops.plain_logits, mask_token_id=MASK, eos_token_id=EOS)


def run(
    prompts: Sequence[Tensor],
    options: SamplingOptions,
    seeds: Sequence[int] | None = None,
    denoise: Forward = NETWORK,
    *,
    ends: Sequence[Callable[[Tensor], bool]] | None = None,
    **settings: Any,
) -> list[list[int]]:
    texts = generate(
        denoiser(denoise, MASK, **settings),
        prompts,
        options,
        eos_token_id=EOS,
        seeds=seeds,
        ends=ends,
    )
    return [text.tolist() for text in texts]
