"""Decoding block by block beside a cache, against a loop that reads everything anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.modeling import as_denoiser
from tests.helpers.block_loops import plain_block_generate
from tests.helpers.llada_models import make_model, tokens

MASK = 50
RULES = {
    "start": BlockRules(4),
    "prompt": BlockRules(4, grid="prompt"),
    "causal_prefix": BlockRules(4, grid="prompt", prefix="causal"),
    "previous": BlockRules(4, first_token="previous", reveal="sub_blocks", sub_block_length=2),
    "causal_first": BlockRules(4, grid="prompt", prefix="causal", first_token="causal"),
    "quota": BlockRules(6, reveal="quota"),
    "of_one": BlockRules(1),
    "longer_than_the_text": BlockRules(32),
}
LENGTHS = (0, 1, 3, 4, 9, 17, 22, 8)
OPTIONS = {
    "one_a_step": {},
    "few_steps": {"steps": 5},
    "threshold": {"threshold": 0.2},
    "threshold_and_steps": {"threshold": 0.3, "steps": 4},
    "temperature": {"temperature": 0.8},
}


def prompts() -> list[torch.Tensor]:
    return [tokens(1, length, seed=length)[0] % MASK for length in LENGTHS]


def model_and_denoiser(rules: BlockRules):
    model = make_model(n_kv_heads=2)
    return model, replace(as_denoiser(model, mask_token_id=MASK), blocks=rules)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("rules", RULES)
def test_texts_are_those_of_the_loop_without_a_cache_in_any_company(rules, options):
    chosen = SamplingOptions(gen_length=10, **OPTIONS[options])
    model, denoiser = model_and_denoiser(RULES[rules])
    seeds = list(range(len(LENGTHS)))
    expected = [
        plain_block_generate(model, RULES[rules], prompt, chosen, MASK, seed)
        for prompt, seed in zip(prompts(), seeds, strict=True)
    ]
    for size in (1, 3, 8):
        texts = []
        for first in range(0, len(LENGTHS), size):
            some = slice(first, first + size)
            texts += generate(denoiser, prompts()[some], chosen, seeds=seeds[some])
        assert [text.tolist() for text in texts] == expected
