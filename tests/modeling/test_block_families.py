"""Families that are causal between blocks, against transformers' own classes under their masks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.diffusion.denoiser import Part
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.modeling import (
    LLaDAConfig,
    LLaDAForMaskedLM,
    as_denoiser,
    find_config,
    load_config,
    load_model,
)
from lm_eval_llada.modeling.attention_choice import with_attention
from lm_eval_llada.modeling.block_cache import BlockCache
from lm_eval_llada.modeling.rotary import LLaDARotaryEmbedding
from lm_eval_llada.rope import RopeChoice
from tests.helpers.block_loops import plain_block_generate
from tests.helpers.family_checkpoints import (
    CONFIGS,
    FAMILY_IDS,
    family_of,
    make_family_checkpoint,
    reference_logits,
)

# A2D has both kinds of attention; a length of blocks says which.
BLOCK_IDS = [name for name in FAMILY_IDS if family_of(name).is_block_causal] + ["A2D-Qwen3"]
DENSE_IDS = [name for name in BLOCK_IDS if "num_experts" not in CONFIGS[name]]
LENGTH, BLOCK, PROMPT = 19, 4, 6
IDS = torch.arange(2 * LENGTH).mul(7).remainder(50).view(2, LENGTH)
MASK_ID = 51


@pytest.fixture(params=BLOCK_IDS)
def family(request) -> str:
    return request.param


def checkpoint(family: str, folder: Path, **changes):
    """A checkpoint with blocks of 4, and its reference."""
    key = family_of(family).own_key("block_length")
    return make_family_checkpoint(family, folder, **{key: BLOCK, **changes})


def load(folder: Path, dtype: torch.dtype = torch.float32) -> LLaDAForMaskedLM:
    return load_model(folder, device="cpu").to(dtype)


@torch.inference_mode()
def logits(model, ids: torch.Tensor = IDS, **arguments) -> torch.Tensor:
    return model(ids, **arguments).logits


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, but in bfloat16 the mean one: there a token may change experts."""
    if found.dtype == torch.bfloat16:
        return float((found - expected).abs().mean() / expected.abs().mean())
    return difference(found, expected)


def bound(model: LLaDAForMaskedLM) -> float:
    return {torch.float64: 1e-9, torch.float32: 1e-6, torch.bfloat16: 0.02}[model.dtype]


def number(rules: BlockRules, position: int) -> int:
    """The block of a position, counted by hand."""
    first = 0 if rules.grid == "start" else PROMPT % rules.block_length
    if first == 0:
        return position // rules.block_length
    return 0 if position < first else 1 + (position - first) // rules.block_length


def clean_mask(rules: BlockRules) -> torch.Tensor:
    """What finished tokens see, pair by pair."""
    allowed = torch.zeros(1, 1, LENGTH, LENGTH, dtype=torch.bool)
    for query in range(LENGTH):
        for key in range(LENGTH):
            if rules.prefix == "causal":
                allowed[0, 0, query, key] = key <= query
            else:
                allowed[0, 0, query, key] = number(rules, key) <= number(rules, query)
    return allowed


def doubled_mask(rules: BlockRules) -> torch.Tensor:
    """What a noisy copy and the clean text behind it see of each other, pair by pair."""
    allowed = torch.zeros(1, 1, 2 * LENGTH, 2 * LENGTH, dtype=torch.bool)
    allowed[..., LENGTH:, LENGTH:] = clean_mask(rules)
    for query in range(LENGTH):
        for key in range(LENGTH):
            own, other = number(rules, query), number(rules, key)
            allowed[0, 0, query, key] = own == other
            allowed[0, 0, query, LENGTH + key] = other < own
    return allowed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_finished_tokens_are_those_of_the_class_under_the_same_mask(tmp_path, family, dtype):
    reference = checkpoint(family, tmp_path).to(dtype)
    model = load(tmp_path, dtype)
    allowed = clean_mask(model.config.blocks)
    found = logits(model, attention_mask=allowed)
    expected = reference_logits(reference, IDS, allowed)
    assert distance(found, expected) <= bound(model)
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()[None, None]
    is_causal = model.config.blocks.prefix == "causal"
    assert torch.equal(allowed, causal) == is_causal
    for other in (torch.ones_like(allowed), *([] if is_causal else [causal])):
        assert distance(reference_logits(reference, IDS, other), expected) > 2 * bound(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_noisy_and_a_clean_copy_are_those_of_the_class(tmp_path, family, dtype):
    reference = checkpoint(family, tmp_path).to(dtype)
    model = load(tmp_path, dtype)
    noisy = IDS.clone()
    noisy[:, 1::2] = MASK_ID
    ids = torch.cat([noisy, IDS], dim=1)
    positions = torch.arange(LENGTH).repeat(2)[None]
    allowed = doubled_mask(model.config.blocks)
    found = logits(model, ids, attention_mask=allowed, position_ids=positions)
    expected = reference_logits(reference, ids, allowed, positions)
    assert difference(found, expected) <= bound(model)
    # The clean copy is what it is without the noisy one.
    alone = logits(model, attention_mask=clean_mask(model.config.blocks))
    assert difference(found[:, LENGTH:], alone) <= bound(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_beside_an_exact_cache_are_rows_of_both_copies(tmp_path, family, dtype):
    reference = checkpoint(family, tmp_path).to(dtype)
    model = load(tmp_path, dtype)
    rules = model.config.blocks
    clean, noisy = IDS[0], IDS[0].clone()
    noisy[1::2] = MASK_ID
    both = torch.cat([noisy, clean])[None]
    positions = torch.arange(LENGTH).repeat(2)[None]
    expected = reference_logits(reference, both, doubled_mask(rules), positions)[0, :LENGTH]
    cache = BlockCache(model, 1, LENGTH)
    for block in rules.block_ids(LENGTH, PROMPT).unique():
        place = (rules.block_ids(LENGTH, PROMPT) == block).nonzero()[:, 0]
        start, every = int(place[0]), torch.arange(len(place))
        part = Part(0, noisy[place], start, (range(start),), 0 * every, every, False)
        found = cache.read([part])
        # What a cache gives is in float32; in float64 that rounding is all that differs.
        far = (found - expected[place]).abs().max() / expected.abs().max()
        assert far <= (2e-6 if dtype == torch.float32 else 1e-7)
        numbers = every if rules.prefix == "causal" else 0 * every
        cache.read([part._replace(ids=clean[place], numbers=numbers, keep=True)])


@pytest.mark.parametrize("options", [{}, {"threshold": 0.3}])
def test_texts_are_those_of_the_loop_by_the_rules_of_the_family(tmp_path, family, options):
    checkpoint(family, tmp_path)
    model = load(tmp_path)
    rules = model.config.blocks
    chosen = SamplingOptions(gen_length=10, **options)
    prompts = [IDS[0, :length] for length in (PROMPT, 8, 1)]
    expected = [plain_block_generate(model, rules, ids, chosen, MASK_ID) for ids in prompts]
    found = generate(as_denoiser(model, mask_token_id=MASK_ID), prompts, chosen)
    assert [text.tolist() for text in found] == expected


@pytest.mark.parametrize("family", DENSE_IDS)
def test_a_block_knows_nothing_of_what_is_behind_it(tmp_path, family):
    checkpoint(family, tmp_path)
    model = load(tmp_path)
    rules = model.config.blocks
    allowed = clean_mask(rules)
    before = logits(model, attention_mask=allowed)
    changed = IDS.clone()
    changed[:, 10] += 1
    after = logits(model, changed, attention_mask=allowed)
    first = 10 if rules.prefix == "causal" else 8
    if rules.grid == "prompt" and rules.prefix == "block":
        first = 10
    assert torch.equal(after[:, :first], before[:, :first])
    assert (after[:, first:] != before[:, first:]).any(dim=-1).all()


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


def test_a_row_is_read_before_it_where_the_release_shifts():
    shifted = {row.name for row in map(family_of, BLOCK_IDS) if row.shift}
    assert shifted == {row.name for row in map(family_of, BLOCK_IDS) if _reads_previous(row)}


def _reads_previous(row) -> bool:
    return row.blocks.first_token == "previous"


NEMOTRON = "Nemotron-Labs-Diffusion"
FORTY = torch.arange(40).mul(11).remainder(50)[None]


def nemotron(folder: Path, **changes):
    """A checkpoint whose rotation was stretched from 8 tokens, as changed, and its reference."""
    parameters = {**CONFIGS[NEMOTRON]["rope_parameters"], **changes}
    return checkpoint(NEMOTRON, folder, rope_parameters=parameters)


@pytest.mark.parametrize("factor", [1.0, 8.0, 0.25])
@pytest.mark.parametrize("beta", [0.5, 0.0])
def test_queries_grow_and_turn_as_those_of_ministral(tmp_path, factor, beta):
    reference = nemotron(tmp_path / "a", factor=factor, llama_4_scaling_beta=beta).double()
    model = load(tmp_path / "a", torch.float64)
    allowed = torch.ones(40, 40, dtype=torch.bool).tril()[None, None]
    expected = reference_logits(reference, FORTY, allowed)
    found = logits(model, FORTY, attention_mask=allowed)
    assert difference(found, expected) <= 1e-9
    for name, change in (("factor", 3.0), ("llama_4_scaling_beta", 0.7)):
        other = nemotron(tmp_path / name, **{"factor": factor, "llama_4_scaling_beta": beta})
        other.config.rope_parameters[name] = change
        if name == "factor":
            other.model.rotary_emb = type(other.model.rotary_emb)(other.config)
        far = reference_logits(other.double(), FORTY, allowed)
        assert difference(far[:, 8:], expected[:, 8:]) > 1e-4, name


def test_queries_grow_by_their_position_whatever_is_asked_for(tmp_path):
    nemotron(tmp_path)
    model = load(tmp_path)
    whole = logits(model, FORTY)
    rows = torch.tensor([[0, 3], [0, 39], [0, 8]])
    torch.testing.assert_close(logits(model, FORTY, rows=rows), whole[0, rows[:, 1]])
    at = torch.arange(40)[None]
    assert torch.equal(logits(model, FORTY, position_ids=at), whole)
    shifted = logits(model, FORTY, position_ids=at + 3)
    assert difference(shifted, whole) > 1e-3
    factors = model.rotary.query_scale(40, torch.device("cpu"))
    expected = [1 + 0.5 * torch.tensor(1.0 + position // 8).log() for position in range(40)]
    torch.testing.assert_close(factors, torch.stack(expected)[None])
    block = model.model.transformer["blocks"][0]
    cos, sin = model.rotary(40, torch.device("cpu"))
    with pytest.raises(ValueError, match="pass query_scale"):
        block.queries(torch.zeros(1, 40, 32), cos, sin)


def test_queries_of_the_release_grow_every_16384_tokens():
    config, _ = find_config("nvidia/Nemotron-Labs-Diffusion-8B")
    positions = torch.tensor([[0, 16_383, 16_384, 32_768, 131_071, 262_143]])
    found = LLaDARotaryEmbedding(config).query_scale(6, torch.device("cpu"), positions)
    expected = [[1.0, 1.0, 1.0693147, 1.1098612, 1.2079442, 1.2772589]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_a_prefix_of_nemotron_is_a_causal_models(tmp_path):
    reference = checkpoint(NEMOTRON, tmp_path)
    model = load(tmp_path)
    rules = model.config.blocks
    assert rules is not None
    found = logits(model, attention_mask=clean_mask(rules))
    reference.config.is_causal = True
    assert difference(found, reference_logits(reference, IDS)) <= 1e-6


def test_a_context_is_the_one_that_nemotron_was_trained_on(tmp_path):
    checkpoint(NEMOTRON, tmp_path / "a")
    config = load_config(tmp_path / "a")
    assert (config.train_length, config.max_sequence_length) == (64, 64)
    config.save_pretrained(tmp_path / "b")
    assert load_config(tmp_path / "b").train_length == 64


def test_a_choice_of_rotation_leaves_what_is_no_rotation(tmp_path):
    checkpoint(NEMOTRON, tmp_path / "a")
    choice = RopeChoice(method="ntk", scale=4.0, force=True)
    model = load_model(tmp_path / "a", device="cpu", rope=choice)
    parameters = model.config.rope_parameters
    assert parameters["rope_type"] == "default" and parameters["rope_theta"] == 4e6
    assert parameters["llama_4_scaling_beta"] == 0.5
    assert parameters["original_max_position_embeddings"] == 8
    model.save_pretrained(tmp_path / "b")
    assert torch.equal(logits(load(tmp_path / "b")), logits(model))
    with pytest.raises(ValueError, match="rope_method=yarn counts from 64 .* grow every 8"):
        load_model(tmp_path / "a", rope=RopeChoice(method="yarn", target_length=256, force=True))
    checkpoint("LLaDA2", tmp_path / "c")
    turned = load_model(tmp_path / "c", device="cpu", rope=RopeChoice(scale=4.0))
    assert turned.config.rope_parameters["partial_rotary_factor"] == 0.5
    turned.save_pretrained(tmp_path / "d")
    assert json.loads((tmp_path / "d" / "config.json").read_text())["partial_rotary_factor"] == 0.5
    assert torch.equal(logits(load(tmp_path / "d")), logits(turned))


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


def test_the_bias_that_experts_are_chosen_by_stays_as_fine_as_it_is_stored(tmp_path):
    reference = checkpoint("LLaDA2", tmp_path / "a")
    model = load_model(tmp_path / "a", device="cpu", dtype="bfloat16")
    router = model.model.transformer["blocks"][1].router
    assert router.weight.dtype == torch.bfloat16
    expected = reference.model.layers[1].mlp.gate.e_score_correction_bias
    assert torch.equal(router.expert_bias, expected) and not expected.bfloat16().equal(expected)
    model.save_pretrained(tmp_path / "b")
    again = load(tmp_path / "b").model.transformer["blocks"][1].router.expert_bias
    assert torch.equal(again, expected)


def test_dropout_of_training_is_nothing_to_reading_and_stays_in_the_file(tmp_path):
    config = LLaDAConfig.from_dict({**CONFIGS["LLaDA2"], "attention_dropout": 0.1})
    assert config.attention_dropout == 0
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["attention_dropout"] == 0.1
