"""Texts of LLaDA's own `generate` beside ours, from the same model and prompts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import ModuleType

import torch

from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.modeling import as_denoiser, load_model

_MODEL = "tiny-llada"
_OPTIONS = (
    SamplingOptions(gen_length=16, block_length=16, steps=16),
    SamplingOptions(gen_length=16, block_length=8, steps=16),
    SamplingOptions(gen_length=24, block_length=8, steps=12),
)
_NAMES = ("gen_length", "block_length", "steps")


def compare(
    original: ModuleType, count: int, seed: int
) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """Name of each setting, how many different texts it gave, and those that ours are not."""
    model = load_model(_MODEL, dtype="float32")
    mask_id = model.config.mask_token_id
    for options in _OPTIONS:
        given = {name: getattr(options, name) for name in _NAMES}
        rng = random.Random(f"{seed}/{given}")
        found, different = set(), []
        for _ in range(count):
            # Any token but the special ones, which come first.
            prompt = [rng.randrange(6, model.config.vocab_size) for _ in range(rng.randint(1, 60))]
            whole = original.generate(model, torch.tensor([prompt]), **given, mask_id=mask_id)
            theirs = whole[0, len(prompt) :].tolist()
            found.add(tuple(theirs))
            (text,) = generate(as_denoiser(model), [torch.tensor(prompt)], options)
            if text.tolist() != theirs:
                different.append(f"theirs {theirs}, ours {text.tolist()}, for {prompt}")
        settings = ", ".join(f"{name} {value}" for name, value in given.items())
        yield f"texts of {_MODEL}, {settings}", len(found), tuple(different)
