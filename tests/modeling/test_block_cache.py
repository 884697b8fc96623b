"""The exact cache of blocks: what it computes is one pass over everything under a mask of pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lm_eval_llada.diffusion import block_reader
from lm_eval_llada.diffusion.block_reader import BlockReader, Clean
from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.diffusion.denoiser import Part
from lm_eval_llada.modeling import as_denoiser
from lm_eval_llada.modeling.block_cache import BlockCache
from tests.helpers.llada_models import ROWS, SHAPES, make_model, tokens

LENGTH, MASK = 12, 50
NOTHING = torch.empty(0, dtype=torch.int64)
RULES = {"block": BlockRules(4), "causal": BlockRules(4, prefix="causal")}


def reader_of(model, rules: BlockRules = RULES["block"], num_texts: int = 1) -> BlockReader:
    denoiser = replace(as_denoiser(model, mask_token_id=MASK), blocks=rules)
    return BlockReader.of(denoiser, rules, num_texts, LENGTH)


def clean(ids: torch.Tensor, start: int = 0, seen=(), rows=NOTHING, text: int = 0) -> Clean:
    return Clean(text, ids, start, seen, 0, rows)


def at_work(ids: torch.Tensor, start: int, kept: range, text: int = 0) -> Part:
    zeros = torch.zeros(len(ids), dtype=torch.int64)
    return Part(text, ids, start, (kept,), zeros, torch.arange(len(ids)), keep=False)


def noisy_copy(ids: torch.Tensor) -> torch.Tensor:
    hidden = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 1, 1]).bool()
    return ids.masked_fill(hidden[: len(ids)], MASK)


def doubled_logits(model, rules: BlockRules, ids: torch.Tensor) -> torch.Tensor:
    """Every block at work in one pass over a noisy and a clean copy, as such models are trained."""
    block, order = rules.block_ids(LENGTH), rules.clean_ids(LENGTH)
    noisy = torch.cat([block[:, None] == block, block[:, None] > block], dim=1)
    finished = torch.cat([torch.zeros(LENGTH, LENGTH).bool(), order[:, None] >= order], dim=1)
    with torch.inference_mode():
        return model(
            torch.cat([noisy_copy(ids), ids])[None],
            position_ids=torch.arange(LENGTH).repeat(2)[None],
            attention_mask=torch.cat([noisy, finished])[None, None],
        ).logits[0, :LENGTH]


@pytest.mark.parametrize("prefix", RULES)
@pytest.mark.parametrize("shape", [*ROWS, "gqa", "mqa", "one_layer", "all_biases"])
def test_each_block_beside_the_cache_is_its_rows_of_the_doubled_pass(shape, prefix):
    model, ids, rules = make_model(**SHAPES[shape]), tokens(LENGTH), RULES[prefix]
    expected, reader = doubled_logits(model, rules, ids), reader_of(model, RULES[prefix])
    for start in range(0, LENGTH, 4):
        block = noisy_copy(ids)[start : start + 4]
        found = reader.logits([at_work(block, start, reader.kept(0))])
        torch.testing.assert_close(found, expected[start : start + 4], atol=5e-5, rtol=5e-5)
        seen = (reader.kept(0),)
        reader.keep([clean(ids[start : start + 4], start, seen)])


@pytest.mark.parametrize("position", [0, 5, 10])
def test_a_token_changes_its_block_and_those_behind_it_and_no_bit_before(position):
    model, ids = make_model(n_kv_heads=2), tokens(LENGTH)
    changed = ids.clone()
    changed[position] += 1
    rows = torch.arange(LENGTH)
    before, after = (
        reader_of(model).keep([clean(text, rows=rows)])[1][0] for text in (ids, changed)
    )
    first = position // 4 * 4
    assert torch.equal(before[:first], after[:first])
    assert (before[first:] != after[first:]).any(dim=1).all()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_texts_that_share_a_pass_are_read_as_each_alone(implementation):
    model = make_model(n_kv_heads=2)
    model.set_attn_implementation(implementation)
    texts = [tokens(length, seed=length) for length in (8, 8, 4, 12, 8)]
    block = torch.tensor([MASK, 3, MASK, MASK])
    together = reader_of(model, num_texts=len(texts))
    together.keep([clean(ids, text=i) for i, ids in enumerate(texts)])
    parts = [at_work(block, len(ids), together.kept(i), i) for i, ids in enumerate(texts)]
    # Unequally many rows, for texts that attention takes in one call.
    parts[1] = parts[1]._replace(rows=torch.tensor([2, 0]))
    found = together.logits(parts).split([len(part.rows) for part in parts])
    for ids, part, rows in zip(texts, parts, found, strict=True):
        alone = reader_of(model)
        alone.keep([clean(ids)])
        expected = alone.logits([at_work(block, len(ids), alone.kept(0))])[part.rows]
        torch.testing.assert_close(rows, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("prefix", RULES)
def test_a_prompt_in_chunks_is_a_prompt_at_once(monkeypatch, prefix):
    model, ids, rows = make_model(n_kv_heads=2), tokens(LENGTH), torch.tensor([3, 4, 11])
    _, (expected,) = reader_of(model, RULES[prefix]).keep([clean(ids, rows=rows)])
    monkeypatch.setattr(block_reader, "TOKENS_OF_A_TEXT", 5)
    reader = reader_of(model, RULES[prefix])
    sizes: list[int] = []
    reader.denoiser.stats.on_forward = sizes.append
    (slots,), (found,) = reader.keep([clean(ids, rows=rows)])
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
    # Whole blocks, or as many tokens as a chunk has where they are seen one by one.
    assert sizes == ([4, 4, 4] if prefix == "block" else [5, 5, 2])
    assert slots == (range(LENGTH),)


def test_a_pass_over_a_block_at_work_leaves_nothing_behind():
    model, ids = make_model(), tokens(LENGTH)
    reader, block = reader_of(model), torch.tensor([MASK] * 4)
    reader.keep([clean(ids[:8])])
    first = reader.logits([at_work(block, 8, reader.kept(0))])
    reader.logits([at_work(ids[8:], 8, reader.kept(0))])
    assert reader.kept(0) == range(8)
    assert torch.equal(reader.logits([at_work(block, 8, reader.kept(0))]), first)


def test_a_cache_grows_where_texts_are_longer_than_was_said():
    model, ids = make_model(), tokens(40)
    small, large = BlockCache(model, 1, 4), BlockCache(model, 1, 99)
    numbers = torch.arange(40) // 4
    for cache in (small, large):
        for start in range(0, 40, 8):
            part = Part(0, ids[start : start + 8], start, (range(start),),
                        numbers[start : start + 8], NOTHING, keep=True)  # fmt: skip
            cache.read([part])
    block = at_work(torch.tensor([MASK] * 4), 40, range(40))
    assert torch.equal(small.read([block]), large.read([block]))


def test_what_a_cache_cannot_read_by_is_refused():
    with pytest.raises(ValueError, match="rotates by the length of a sequence"):
        parameters = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
        BlockCache(make_model(rope_parameters=parameters, rope_theta=None), 1, 8)
    model = make_model()
    model.set_attn_implementation("flex_attention")
    with pytest.raises(ValueError, match="use sdpa or eager"):
        BlockCache(model, 1, 8)
