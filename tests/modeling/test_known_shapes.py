"""Shapes of models that block-causal families publish, against the numbers of their cards."""

from __future__ import annotations

import pytest

from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.modeling import find_config
from lm_eval_llada.modeling.cost import key_value_bytes, num_parameters

# Parameters in all and for a token, KiB of keys and values of a token in bfloat16, block, context.
# Of SDAR and Fast-dLLM v2 they are those of the Qwen models that they were made from, except that
# an untied head of SDAR comes on top.
PUBLISHED = {
    "JetLM/SDAR-1.7B-Chat": (2_031_739_904, 2_031_739_904, 112, 4, 32_768),
    "JetLM/SDAR-4B-Chat": (4_411_424_256, 4_411_424_256, 144, 4, 32_768),
    "JetLM/SDAR-8B-Chat": (8_190_735_360, 8_190_735_360, 144, 4, 32_768),
    "JetLM/SDAR-30B-A3B-Chat": (30_532_122_624, 3_353_032_704, 96, 4, 32_768),
    "Gen-Verse/TraDo-8B-Instruct": (8_190_735_360, 8_190_735_360, 144, 4, 32_768),
    "someone/Fast_dLLM_v2_7B": (7_615_616_512, 7_615_616_512, 56, 32, 32_768),
    "someone/Fast_dLLM_v2_1.5B": (1_543_714_304, 1_543_714_304, 28, 32, 32_768),
    "nvidia/Nemotron-Labs-Diffusion-8B": (8_489_553_920, 8_489_553_920, 136, 32, 262_144),
    "nvidia/Nemotron-Labs-Diffusion-3B": (3_831_659_520, 3_831_659_520, 104, 32, 262_144),
    "inclusionAI/LLaDA2.0-mini": (16_255_643_392, 1_432_973_056, 40, 32, 32_768),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_that_cannot_be_read_is_as_large_as_its_card_says(name):
    total, active, kibibytes, block_length, context = PUBLISHED[name]
    config, note = find_config(name)
    assert num_parameters(config) == total
    assert num_parameters(config, active=True) == active
    assert key_value_bytes(config, 2) == kibibytes * 1024
    assert config.blocks is not None and config.blocks.block_length == block_length
    assert config.train_length == context
    assert note is not None and f"Blocks of {block_length} are its release's default." in note


def test_llada2_mini_has_the_active_parameters_of_its_report():
    # 789 million without embeddings.
    config, _ = find_config("inclusionAI/LLaDA2.0-mini")
    embeddings = 2 * config.vocab_size * config.d_model
    assert num_parameters(config, active=True) - embeddings == pytest.approx(789e6, rel=1e-3)


def test_names_of_a2d_say_which_attention_they_were_trained_with():
    blocks, _ = find_config("someone/Qwen3-0.6B-diffusion-bd3lm-v0.1")
    whole, _ = find_config("someone/Qwen3-0.6B-diffusion-mdlm-v0.1")
    assert blocks.blocks == BlockRules(32, grid="prompt")
    assert whole.blocks is None
