"""What config.json and the user say of families that are causal between blocks."""

from __future__ import annotations

import json

import pytest
import torch

from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.modeling import LLaDAConfig, apply_rope, load_config, load_model
from lm_eval_llada.modeling.attention_choice import with_attention
from lm_eval_llada.modeling.families import FAMILIES
from lm_eval_llada.rope import RopeChoice
from tests.helpers.family_checkpoints import CONFIGS, family_of, make_family_checkpoint

NEMOTRON = "Nemotron-Labs-Diffusion"
IDS = torch.arange(38).mul(7).remainder(50).view(2, 19)


@torch.inference_mode()
def logits(model) -> torch.Tensor:
    return model(IDS).logits


PUBLISHED = {
    "SDAR": BlockRules(4, reveal="quota"),
    "SDAR-MoE": BlockRules(4, reveal="quota"),
    "DreamReasoner": BlockRules(32),
    "Fast-dLLM v2": BlockRules(32, first_token="previous", reveal="sub_blocks", sub_block_length=8),
    "Nemotron-Labs-Diffusion": BlockRules(32, grid="prompt", prefix="causal", first_token="causal"),
    "LLaDA2": BlockRules(32, reveal="quota"),
}


def test_a_length_is_the_files_then_the_releases(tmp_path):
    for family, rules in PUBLISHED.items():
        key = family_of(family).own_key("block_length")
        values = {k: v for k, v in CONFIGS[family].items() if k != key}
        assert LLaDAConfig.from_dict(dict(values)).blocks == rules, family
        config = LLaDAConfig.from_dict({**values, key: 8})
        assert config.blocks is not None and config.blocks.block_length == 8
        config.save_pretrained(tmp_path / family)
        assert load_config(tmp_path / family).blocks == config.blocks
        with pytest.raises(ValueError, match=f"{key} must be .*; got 0"):
            LLaDAConfig.from_dict({**values, key: 0})


def test_a2d_sees_all_positions_unless_its_config_has_blocks(tmp_path):
    for family in ("A2D-Qwen3", "A2D-Qwen2", "A2D-LLaMA"):
        assert LLaDAConfig.from_dict(dict(CONFIGS[family])).blocks is None
        config = LLaDAConfig.from_dict({**CONFIGS[family], "block_length": 32})
        assert config.blocks == BlockRules(32, grid="prompt")
        config.save_pretrained(tmp_path / family)
        written = json.loads((tmp_path / family / "config.json").read_text())
        assert written["block_length"] == 32
        assert load_config(tmp_path / family).blocks == config.blocks


def test_the_user_says_which_attention_files_do_not_name():
    a2d = LLaDAConfig.from_dict(dict(CONFIGS["A2D-Qwen3"]))
    assert with_attention(a2d, None, 8) is a2d
    assert with_attention(a2d, "bidirectional").blocks is None
    assert with_attention(a2d, "block").blocks == BlockRules(32, grid="prompt")
    assert with_attention(a2d, "block", 8).blocks == BlockRules(8, grid="prompt")
    assert a2d.blocks is None
    sdar = LLaDAConfig.from_dict({**CONFIGS["SDAR"], "block_size": 16})
    assert with_attention(sdar, "block").block_length == 16
    assert with_attention(sdar, "block", 8).block_length == 8
    with pytest.raises(ValueError, match="SDAR was trained to see earlier blocks only"):
        with_attention(sdar, "bidirectional")
    with pytest.raises(ValueError, match="Dream was trained to see all positions"):
        with_attention(LLaDAConfig.from_dict(dict(CONFIGS["Dream"])), "block", 8)
    with pytest.raises(ValueError, match="attention must be one of bidirectional, block"):
        with_attention(a2d, "causal")


def test_a_release_that_shifts_reads_each_first_token_from_the_block_before():
    for row in FAMILIES:
        if row.is_block_causal:
            assert row.shift == (row.blocks.first_token == "previous"), row.name


def test_a_context_is_the_one_that_nemotron_was_trained_on(tmp_path):
    make_family_checkpoint(NEMOTRON, tmp_path / "a")
    config = load_config(tmp_path / "a")
    assert (config.train_length, config.max_sequence_length) == (64, 64)
    config.save_pretrained(tmp_path / "b")
    assert load_config(tmp_path / "b").train_length == 64


def test_ntk_counts_the_dimensions_that_are_rotated():
    config = LLaDAConfig.from_dict(dict(CONFIGS["LLaDA2"]))
    assert (config.head_dim, config.rope_dim) == (12, 6)
    scaled, resolved = apply_rope(config, RopeChoice(method="ntk_fixed", target_length=16_384))
    # 4 to the power of d / (d - 2).
    assert resolved.rope_scale == pytest.approx(8.0)
    assert scaled.rope_theta == pytest.approx(8 * 6e5)


def test_a_choice_of_rotation_leaves_what_is_no_rotation(tmp_path):
    make_family_checkpoint(NEMOTRON, tmp_path / "a")
    choice = RopeChoice(method="ntk", scale=4.0, force=True)
    model = load_model(tmp_path / "a", device="cpu", rope=choice)
    parameters = model.config.rope_parameters
    assert parameters["rope_type"] == "default" and parameters["rope_theta"] == 4e6
    assert parameters["llama_4_scaling_beta"] == 0.5
    assert parameters["original_max_position_embeddings"] == 8
    model.save_pretrained(tmp_path / "b")
    assert torch.equal(logits(load_model(tmp_path / "b", device="cpu")), logits(model))
    with pytest.raises(ValueError, match="rope_method=yarn counts from 64 .* grow every 8"):
        load_model(tmp_path / "a", rope=RopeChoice(method="yarn", target_length=256, force=True))
    make_family_checkpoint("LLaDA2", tmp_path / "c")
    turned = load_model(tmp_path / "c", device="cpu", rope=RopeChoice(scale=4.0))
    assert turned.config.rope_parameters["partial_rotary_factor"] == 0.5
    turned.save_pretrained(tmp_path / "d")
    assert json.loads((tmp_path / "d" / "config.json").read_text())["partial_rotary_factor"] == 0.5
    assert torch.equal(logits(load_model(tmp_path / "d", device="cpu")), logits(turned))


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("SDAR", {"use_regular_causal": True}, "use_regular_causal=True is not supported for SDAR"),
        ("SDAR", {"use_sliding_window": True}, "use_sliding_window=True"),
        ("SDAR-MoE", {"decoder_sparse_step": 2}, "decoder_sparse_step=2"),
        ("SDAR-MoE", {"mlp_only_layers": [0]}, "mlp_only_layers"),
        ("DreamReasoner", {"attention_bias": True}, "attention_bias=True is not supported for Dr"),
        (NEMOTRON, {"dlm_paradigm": "autoregressive"}, "dlm_paradigm='autoregressive'"),
        (NEMOTRON, {"sliding_window": 4096}, "sliding_window=4096"),
        (NEMOTRON, {"mask_token_id": -1}, "mask_token_id=-1"),
        (NEMOTRON, {"rope_parameters": {"rope_theta": 1e6, "llama_4_scaling_beta": 0.1}},
         "needs original_max_position_embeddings"),
        ("SDAR", {"rope_parameters": {"rope_theta": 1e6, "llama_4_scaling_beta": 0.1}},
         "llama_4_scaling_beta, which the native"),
        ("SDAR", {"partial_rotary_factor": 0.5}, "partial_rotary_factor, which the native"),
        ("LLaDA2", {"partial_rotary_factor": 0.1}, "partial_rotary_factor=0.1 rotates 1 of"),
        ("LLaDA2", {"partial_rotary_factor": 2.0}, "partial_rotary_factor=2.0 rotates 24 of"),
        ("LLaDA2", {"score_function": "softmax"}, "score_function='softmax'"),
        ("LLaDA2", {"moe_router_enable_expert_bias": False}, "moe_router_enable_expert_bias"),
        ("LLaDA2", {"n_group": 3}, "n_group=3 and topk_group=2 do not divide num_experts=8"),
        ("LLaDA2", {"topk_group": 5}, "topk_group=5 do not divide"),
        ("LLaDA2", {"num_experts_per_tok": 5}, "5 experts do not fit into topk_group=2 groups"),
        ("LLaDA2", {"num_shared_experts": -1}, "num_shared_experts"),
        ("LLaDA2", {"moe_intermediate_size": None}, "moe_intermediate_size is missing"),
    ],
)  # fmt: skip
def test_a_key_that_would_change_the_computation_is_refused_by_name(family, changes, message):
    with pytest.raises(ValueError, match=message):
        LLaDAConfig.from_dict({**CONFIGS[family], **changes})


def test_dropout_of_training_is_nothing_to_reading_and_stays_in_the_file(tmp_path):
    config = LLaDAConfig.from_dict({**CONFIGS["LLaDA2"], "attention_dropout": 0.1})
    assert config.attention_dropout == 0
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["attention_dropout"] == 0.1
