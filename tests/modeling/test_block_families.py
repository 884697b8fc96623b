"""Families that are causal between blocks, against transformers' own classes under their masks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.diffusion.denoiser import Part
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.modeling import (
    LLaDAForMaskedLM,
    as_denoiser,
    find_config,
    load_model,
)
from lm_eval_llada.modeling.block_cache import BlockCache
from lm_eval_llada.modeling.rotary import LLaDARotaryEmbedding
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
