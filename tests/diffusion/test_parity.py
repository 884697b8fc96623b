"""Texts and likelihoods of real models equal the plain loops: full forwards, one at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lm_eval_llada.diffusion.likelihood import (
    LikelihoodOptions,
    log_likelihoods,
)
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.modeling import (
    LLaDAForMaskedLM,
    as_denoiser,
    load_model,
)
from tests.helpers.likelihood_loops import greedy_matches, plain_enumeration
from tests.helpers.llada_models import FULL_ROWS, make_model
from tests.helpers.plain_loops import plain_generate, plain_log_likelihood, whole_forward

MODELS = {
    **{name: changes for name, changes in FULL_ROWS.items() if name != "llada"},
    "gqa": {"n_kv_heads": 2},
    "tied": {"weight_tying": True},
    "odd": {"d_model": 42, "n_heads": 3, "n_kv_heads": 1, "mlp_hidden_size": 37, "vocab_size": 53},
    "tiny-llada": None,
    "tiny-ultra": None,
}
PROMPT_LENGTHS = (7, 1, 23, 12, 3, 40, 5, 18)


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> LLaDAForMaskedLM:
    changes = MODELS[request.param]
    if changes is None:
        return load_model(request.param, dtype="float32")
    return make_model(**changes, mask_token_id=1, eos_token_id=0)


def some_tokens(model: LLaDAForMaskedLM, length: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(6, model.config.vocab_size, (length,), generator=generator)


def plain_text(model: LLaDAForMaskedLM, prompt: Tensor, options: SamplingOptions) -> list[int]:
    mask_id = model.config.mask_token_id
    return plain_generate(whole_forward(model), prompt, options, mask_token_id=mask_id)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize(("gen_length", "block_length", "steps"), [(8, 8, 8), (12, 4, 6)])
def test_generated_tokens_equal_the_plain_loop(model, batch_size, gen_length, block_length, steps):
    prompts = [some_tokens(model, n, seed=n) for n in PROMPT_LENGTHS]
    options = SamplingOptions(steps=steps, gen_length=gen_length, block_length=block_length)
    texts: list[list[int]] = []
    for first in range(0, len(prompts), batch_size):
        batch = prompts[first : first + batch_size]
        outputs = generate(as_denoiser(model), batch, options)
        texts += [output.tolist() for output in outputs]
    expected = [plain_text(model, prompt, options) for prompt in prompts]
    assert texts == expected


def plain_value(model: LLaDAForMaskedLM, pair: tuple[Tensor, Tensor], seed: int) -> float:
    """All masks of targets that 20 draws would cover, weighed as the sampler draws them."""
    denoise, mask_id = whole_forward(model), model.config.mask_token_id
    if 2 ** len(pair[1]) - 1 <= 20:
        return plain_enumeration(denoise, *pair, mask_token_id=mask_id)
    return plain_log_likelihood(denoise, *pair, 20, seed, mask_token_id=mask_id)[0]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_log_likelihoods_equal_the_plain_loop(model, batch_size):
    target_lengths = (1, 4, 9, 2, 6, 3, 12, 1)
    pairs = [
        (some_tokens(model, n, seed=n), some_tokens(model, m, seed=100 + m))
        for n, m in zip(PROMPT_LENGTHS, target_lengths, strict=True)
    ]
    seeds = list(range(len(pairs)))
    found = log_likelihoods(
        as_denoiser(model),
        pairs,
        LikelihoodOptions(mc_num=20, batch_size=batch_size),
        seeds=seeds,
    )
    for estimate, pair, seed in zip(found, pairs, seeds, strict=True):
        expected = plain_value(model, pair, seed)
        assert estimate.value == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_greedy_check_equals_greedy_generation(model, batch_size):
    prompts = [some_tokens(model, n, seed=n) for n in PROMPT_LENGTHS]
    options = SamplingOptions(gen_length=5)
    greedy = [torch.tensor(plain_text(model, prompt, options)) for prompt in prompts]
    wrong = [text.clone() for text in greedy]
    for i, text in enumerate(wrong):
        text[i % 5] = 6 if text[i % 5] != 6 else 7
    pairs = list(zip(prompts, greedy, strict=True)) + list(zip(prompts, wrong, strict=True))
    found = greedy_matches(as_denoiser(model), pairs, batch_size)
    assert found == [True] * len(prompts) + [False] * len(prompts)
