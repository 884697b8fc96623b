"""The cost of a run by blocks: passes as they are run, and memory that is linear in a text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.diffusion.estimates import LikelihoodOptions
from lm_eval_llada.diffusion.likelihood import scored_pairs
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.modeling import LLaDAConfig, as_denoiser
from lm_eval_llada.modeling.block_cost import run_bytes, score_work, sequence_bytes, text_work
from lm_eval_llada.modeling.cost import key_value_bytes, num_parameters
from tests.helpers.llada_models import SIZES, make_model, tokens


@pytest.mark.parametrize("options", [{}, {"steps": 6}, {"threshold": 1.0}])
@pytest.mark.parametrize("prompt_length", [0, 5, 8, 600])
def test_passes_of_a_text_are_those_that_run(prompt_length, options):
    model, chosen = make_model(block_length=4), SamplingOptions(gen_length=10, **options)
    denoiser = as_denoiser(model, mask_token_id=50)
    # Logits as they are reach no probability of 1, so that each step reveals one token.
    generate(denoiser, [tokens(prompt_length)], chosen)
    assert denoiser.stats.num_passes == text_work(model.config, prompt_length, chosen).num_passes


def test_reads_of_a_likelihood_are_those_that_run():
    model = make_model(block_length=4)
    denoiser, options = as_denoiser(model, mask_token_id=50), LikelihoodOptions()
    scored_pairs(denoiser, [(tokens(9), tokens(6, seed=2))], options)
    # Blocks from 8 and 12 hold three tokens each: 7 masks of either, four rows a mask.
    assert denoiser.stats.num_tokens == 12 + 2 * 7 * 4
    assert score_work(model.config, 9, 6, options).num_passes == 1 + 2 * 7


def test_operations_do_not_grow_with_the_square_of_a_context():
    config = LLaDAConfig(**SIZES, block_length=4)
    chosen = SamplingOptions(gen_length=32)
    short, long = (text_work(config, length, chosen) for length in (4096, 8192))
    assert long.linear == pytest.approx(2 * short.linear, rel=0.1)
    whole = text_work(replace_blocks(config), 8192, chosen)
    assert whole.flops > 20 * long.flops


def replace_blocks(config: LLaDAConfig) -> LLaDAConfig:
    values = {**SIZES, "block_length": None}
    return LLaDAConfig(**values)


def test_a_nemotron_of_8b_takes_136_kib_a_token_and_128k_fits():
    config = LLaDAConfig(
        d_model=4096,
        n_layers=34,
        n_heads=32,
        n_kv_heads=8,
        mlp_hidden_size=14336,
        vocab_size=131_072,
        rope_theta=1e6,
        block_length=32,
    )
    assert key_value_bytes(config, 2) == 136 * 1024
    taken = run_bytes(config, 131_072, 32, 2)
    kept = 131_072 * 136 * 1024
    assert num_parameters(config) * 2 + kept < taken < 40e9
    # Linear in a text, whatever a pass holds.
    lengths = [sequence_bytes(config, length, 32, 2) for length in (32_768, 65_536, 98_304)]
    assert lengths[2] - lengths[1] == lengths[1] - lengths[0]


def test_the_causal_mode_takes_a_pass_a_token():
    rules = BlockRules(4, grid="prompt", prefix="causal", first_token="causal")
    model = make_model()
    denoiser = replace(as_denoiser(model, mask_token_id=50), blocks=rules)
    generate(denoiser, [tokens(7)], SamplingOptions(gen_length=5, generation="ar"))
    assert denoiser.stats.num_passes == 1 + 4
    assert denoiser.stats.num_tokens == 7 + 4
