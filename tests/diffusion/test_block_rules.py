"""Grids of blocks, and what finished tokens see of each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.diffusion.block_rules import GRIDS, BlockRules


def test_a_grid_from_the_start_lets_a_prompt_share_its_last_block():
    rules = BlockRules(4)
    assert rules.block_ids(10, 6).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]


def test_a_grid_from_the_prompt_begins_with_a_short_block():
    rules = BlockRules(4, grid="prompt")
    assert rules.block_ids(10, 6).tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2]


def test_a_causal_prefix_sees_token_by_token():
    assert BlockRules(4, prefix="causal").clean_ids(3).tolist() == [0, 1, 2]
    assert BlockRules(2).clean_ids(3).tolist() == [0, 0, 1]


@given(st.integers(1, 9), st.integers(0, 40), st.integers(1, 40), st.sampled_from(GRIDS))
def test_blocks_are_whole_but_for_the_first_and_the_last(size, prompt, more, grid):
    rules = BlockRules(size, grid=grid)
    ids = rules.block_ids(prompt + more, prompt).tolist()
    assert ids[0] == 0
    lengths = [ids.count(block) for block in range(ids[-1] + 1)]
    assert all(length == size for length in lengths[1:-1])
    assert max(lengths) <= size
    if grid == "prompt" and prompt:
        assert ids[prompt] == ids[prompt - 1] + 1


def test_unknown_rules_are_refused():
    with pytest.raises(ValueError, match="grid must be one of start, prompt; got 'middle'"):
        BlockRules(4, grid="middle")
    with pytest.raises(ValueError, match="block_length must be a whole number >= 1"):
        BlockRules(0)


def test_parts_of_a_block_need_a_length():
    with pytest.raises(ValueError, match="reveal='sub_blocks' needs sub_block_length; got None"):
        BlockRules(4, reveal="sub_blocks")


@given(st.integers(1, 9), st.integers(0, 40), st.sampled_from(GRIDS))
def test_the_first_block_to_decide_holds_the_token_behind_the_prompt(size, prompt, grid):
    rules = BlockRules(size, grid=grid)
    ids = rules.block_ids(prompt + 1, prompt).tolist()
    assert rules.first_block(prompt) == ids.index(ids[-1])
    assert grid == "start" or rules.first_block(prompt) == prompt
