"""Masks, their weights and the schedule of a block against laws and golden values."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.diffusion.choices import num_transfer_tokens
from lm_eval_llada.diffusion.masks import (
    elbo_weights,
    enumerate_masks,
    forward_process,
    mask_probabilities,
    random_mask,
)

MASK = 12


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- schedule -------------------------------------------------------------------------------------


@given(num_masked=st.integers(0, 300), steps=st.integers(1, 100))
def test_schedule_sums_to_the_number_of_masks_and_differs_by_at_most_one(num_masked, steps):
    schedule = num_transfer_tokens(num_masked, steps)
    assert len(schedule) == steps
    assert sum(schedule) == num_masked
    assert max(schedule) - min(schedule) <= 1
    assert schedule == sorted(schedule, reverse=True), "the remainder goes to the first steps"


@pytest.mark.parametrize(
    ("num_masked", "steps", "expected"),
    [(10, 4, [3, 3, 2, 2]), (8, 4, [2, 2, 2, 2]), (3, 5, [1, 1, 1, 0, 0]), (0, 2, [0, 0])],
)
def test_schedule_equals_llada_get_num_transfer_tokens(num_masked, steps, expected):
    assert num_transfer_tokens(num_masked, steps) == expected


def test_schedule_refuses_zero_steps():
    with pytest.raises(ValueError, match="steps must be a whole number >= 1; got 0"):
        num_transfer_tokens(4, 0)


# --- masks and weights ----------------------------------------------------------------------------


@given(
    st.integers(0, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), st.integers()
)
def test_random_mask_masks_exactly_the_number_asked_for(sizes, seed):
    length, num_masked = sizes
    mask = random_mask(length, num_masked, generator(seed % 2**63))
    assert mask.shape == (length,)
    assert mask.dtype == torch.bool
    assert int(mask.sum()) == num_masked


def test_random_mask_is_uniform_over_positions():
    source = generator(1)
    counts = sum(random_mask(5, 2, source).long() for _ in range(4000))
    # Each position is hit 1600 times, standard deviation 31.
    assert (counts - 1600).abs().max() < 5 * 31


def test_random_mask_refuses_more_masks_than_tokens():
    with pytest.raises(ValueError, match=r"num_masked must lie in 0\.\.3"):
        random_mask(3, 4, generator())


@pytest.mark.parametrize("length", range(1, 8))
def test_enumeration_holds_every_mask_but_the_empty_one_once(length):
    masks = {tuple(row) for row in enumerate_masks(length).tolist()}
    expected = set(itertools.product([False, True], repeat=length)) - {(False,) * length}
    assert masks == expected
    assert len(enumerate_masks(length)) == len(expected)


def test_enumeration_refuses_eight_tokens():
    with pytest.raises(ValueError, match="8, so 2\\*\\*8 - 1 masks. Use method='mc'"):
        enumerate_masks(8)


@pytest.mark.parametrize("length", range(1, 8))
def test_mask_probabilities_sum_to_one_overall_and_to_one_over_length_per_size(length):
    masks = enumerate_masks(length)
    probabilities = mask_probabilities(masks)
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-12)
    for num_masked in range(1, length + 1):
        of_size = probabilities[masks.sum(dim=1) == num_masked]
        assert float(of_size.sum()) == pytest.approx(1 / length, abs=1e-12)


def test_weighted_masks_cover_each_position_once_in_the_mean():
    # With a constant -log p of 1 per token the bound must count each of the L tokens once.
    masks = enumerate_masks(5)
    per_position = ((mask_probabilities(masks) * elbo_weights(masks))[:, None] * masks).sum(dim=0)
    assert per_position.tolist() == pytest.approx([1.0] * 5, abs=1e-12)


def test_elbo_weight_is_length_over_masked_count():
    masks = torch.tensor([[True, False, False, False], [True, True, False, True]])
    assert elbo_weights(masks).tolist() == pytest.approx([4, 4 / 3])


# --- training -------------------------------------------------------------------------------------


def test_forward_process_masks_where_it_says_and_nowhere_else():
    x0 = torch.randint(0, 12, (6, 50), generator=generator())
    xt, is_masked, weight = forward_process(x0, mask_token_id=MASK, generator=generator(1))
    assert (xt[is_masked] == MASK).all()
    assert torch.equal(xt[~is_masked], x0[~is_masked])
    assert weight.shape == (6, 1)


@pytest.mark.parametrize("t_range", [(1e-3, 1.0), (0.3, 0.6), (0.5, 0.5), (1.0, 1.0)])
def test_forward_process_weighs_each_token_once_in_the_mean(t_range):
    x0 = torch.zeros(40_000, 4, dtype=torch.long)
    _, is_masked, weight = forward_process(
        x0, mask_token_id=1, t_range=t_range, generator=generator()
    )
    draws = weight * is_masked
    stderr = float(draws.std()) / math.sqrt(draws.numel())
    assert float(draws.mean()) == pytest.approx(1, abs=5 * stderr + 1e-6)


def test_forward_process_leaves_unmaskable_tokens():
    x0 = torch.zeros(50, 8, dtype=torch.long)
    maskable = torch.zeros(50, 8, dtype=torch.bool)
    maskable[:, 5:] = True
    xt, is_masked, _ = forward_process(
        x0, mask_token_id=1, t_range=(1.0, 1.0), maskable=maskable, generator=generator()
    )
    assert torch.equal(is_masked, maskable)
    assert torch.equal(xt == 1, maskable)


@pytest.mark.parametrize("t_range", [(0.0, 1.0), (0.5, 0.4), (0.5, 1.1)])
def test_forward_process_refuses_a_range_outside_zero_to_one(t_range):
    with pytest.raises(ValueError, match="0 < low <= high <= 1"):
        forward_process(torch.zeros(1, 2, dtype=torch.long), mask_token_id=1, t_range=t_range)
