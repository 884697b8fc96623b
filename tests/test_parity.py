"""Texts and likelihoods of real models equal plain loops: full forwards, one sequence at a time.

The loops below share nothing with the package but the model's forward pass, which test_modeling.py
holds against a reference of its own.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from llada_models import make_model
from torch import Tensor

from lm_eval_llada.checkpoints import TINY_MODELS
from lm_eval_llada.likelihood import LikelihoodOptions, greedy_matches, log_likelihoods
from lm_eval_llada.mask_plans import MaskPlan
from lm_eval_llada.modeling import LLaDAForMaskedLM, load_model, make_denoiser
from lm_eval_llada.sampler import SamplingOptions, generate

MODELS = {
    "gqa": {"n_kv_heads": 2},
    "tied": {"weight_tying": True},
    "odd": {"d_model": 42, "n_heads": 3, "n_kv_heads": 1, "mlp_hidden_size": 37, "vocab_size": 53},
    **{name: None for name in TINY_MODELS},
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


@torch.no_grad()
def plain_logits(model: LLaDAForMaskedLM, sequence: Tensor) -> Tensor:
    return model(sequence[None]).logits[0].float()


def plain_generate(
    model: LLaDAForMaskedLM, prompt: Tensor, gen_length: int, block_length: int, steps: int
) -> list[int]:
    """LLaDA's generation at temperature 0 with low-confidence remasking."""
    mask_id = model.config.mask_token_id
    x = torch.cat([prompt, torch.full((gen_length,), mask_id)])
    num_blocks = gen_length // block_length
    for block in range(num_blocks):
        start = len(prompt) + block * block_length
        end = start + block_length
        each, more = divmod(block_length, steps // num_blocks)
        for step in range(steps // num_blocks):
            logits = plain_logits(model, x)
            logits[:, mask_id] = -torch.inf
            probabilities = logits.softmax(dim=-1)
            candidates = []
            for position in range(start, end):
                if x[position] == mask_id:
                    token = int(logits[position].argmax())
                    candidates.append((-float(probabilities[position, token]), position, token))
            for _, position, token in sorted(candidates)[: each + (step < more)]:
                x[position] = token
    return x[len(prompt) :].tolist()


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize(("gen_length", "block_length", "steps"), [(8, 8, 8), (12, 4, 6)])
def test_generated_tokens_equal_the_plain_loop(model, batch_size, gen_length, block_length, steps):
    prompts = [some_tokens(model, n, seed=n) for n in PROMPT_LENGTHS]
    options = SamplingOptions(steps=steps, gen_length=gen_length, block_length=block_length)
    texts: list[list[int]] = []
    for first in range(0, len(prompts), batch_size):
        batch = prompts[first : first + batch_size]
        outputs = generate(
            make_denoiser(model), batch, options, mask_token_id=model.config.mask_token_id
        )
        texts += [output.tolist() for output in outputs]
    expected = [plain_generate(model, p, gen_length, block_length, steps) for p in prompts]
    assert texts == expected


def plain_score(model: LLaDAForMaskedLM, prefix: Tensor, target: Tensor, mask: Tensor) -> float:
    """(L / l) times the summed log p of the masked tokens."""
    x = torch.cat([prefix, target.masked_fill(mask, model.config.mask_token_id)])
    log_probs = plain_logits(model, x).double().log_softmax(dim=-1)
    hidden = mask.nonzero()[:, 0].tolist()
    total = sum(float(log_probs[len(prefix) + i, target[i]]) for i in hidden)
    return len(target) / len(hidden) * total


def plain_log_likelihood(
    model: LLaDAForMaskedLM, prefix: Tensor, target: Tensor, mc_num: int, seed: int
) -> float:
    """All masks of targets that mc_num would cover, weighed as the sampler draws them; else draws.

    The draws are the package's own for that seed: what is compared is everything done with them.
    """
    length = len(target)
    if 2**length - 1 > mc_num:
        plan = MaskPlan.sampled(length, mc_num, seed)
        assert plan.draws is not None
        scores = [plain_score(model, prefix, target, plan.masks[k]) for k in plan.draws.tolist()]
        return sum(scores) / mc_num
    value = 0.0
    for count in range(1, length + 1):
        for chosen in itertools.combinations(range(length), count):
            mask = torch.zeros(length, dtype=torch.bool)
            mask[list(chosen)] = True
            share = 1 / length / math.comb(length, count)
            value += share * plain_score(model, prefix, target, mask)
    return value


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_log_likelihoods_equal_the_plain_loop(model, batch_size):
    target_lengths = (1, 4, 9, 2, 6, 3, 12, 1)
    pairs = [
        (some_tokens(model, n, seed=n), some_tokens(model, m, seed=100 + m))
        for n, m in zip(PROMPT_LENGTHS, target_lengths, strict=True)
    ]
    seeds = list(range(len(pairs)))
    found = log_likelihoods(
        make_denoiser(model),
        pairs,
        LikelihoodOptions(mc_num=20, batch_size=batch_size),
        mask_token_id=model.config.mask_token_id,
        seeds=seeds,
    )
    for estimate, (prefix, target), seed in zip(found, pairs, seeds, strict=True):
        expected = plain_log_likelihood(model, prefix, target, 20, seed)
        assert estimate.value == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_greedy_check_equals_greedy_generation(model, batch_size):
    prompts = [some_tokens(model, n, seed=n) for n in PROMPT_LENGTHS]
    greedy = [torch.tensor(plain_generate(model, prompt, 5, 5, 5)) for prompt in prompts]
    wrong = [text.clone() for text in greedy]
    for i, text in enumerate(wrong):
        text[i % 5] = 6 if text[i % 5] != 6 else 7
    pairs = list(zip(prompts, greedy, strict=True)) + list(zip(prompts, wrong, strict=True))
    found = greedy_matches(
        make_denoiser(model), pairs, mask_token_id=model.config.mask_token_id, batch_size=batch_size
    )
    assert found == [True] * len(prompts) + [False] * len(prompts)
