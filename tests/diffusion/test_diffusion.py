"""Masks, weights and the batched call of a denoiser against laws, golden values and loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.diffusion.denoiser import DenoiserStats
from lm_eval_llada.diffusion.masks import (
    Predictor,
    choose_tokens,
    elbo_weights,
    enumerate_masks,
    forward_process,
    mask_probabilities,
    most_confident,
    num_transfer_tokens,
    pad_right,
    random_mask,
)
from tests.helpers.toys import FixedLogits, KnownJoint, RandomNetwork, Recorder

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


# --- choosing tokens ------------------------------------------------------------------------------


def test_ties_go_to_the_lower_position():
    confidence = torch.tensor([0.5, 0.9, 0.5, 0.9, 0.9])
    assert most_confident(confidence, 4).tolist() == [1, 3, 4, 0]
    assert most_confident(torch.ones(1000), 5).tolist() == [0, 1, 2, 3, 4]


def test_bf16_logits_are_compared_in_fp32():
    # softmax([8, 0, 0]) and softmax([9, 0, 0]) are both 1.0 in bf16; position 1 is the surer one.
    logits = torch.tensor([[8.0, 0, 0, 0], [9.0, 0, 0, 0]], dtype=torch.bfloat16)
    assert logits[:, :3].softmax(dim=-1)[:, 0].tolist() == [1.0, 1.0]
    predicted = Predictor(FixedLogits(logits), mask_token_id=3).logits(
        [torch.tensor([3, 3])], [torch.tensor([0, 1])], [0]
    )
    assert predicted.dtype == torch.float32
    _, confidence = choose_tokens(predicted, [3])
    assert most_confident(confidence, 1).tolist() == [1]


def test_choosing_takes_the_argmax_of_the_allowed_tokens_and_renormalises():
    logits = torch.tensor([[1.0, 2.0, 9.0], [3.0, 0.0, 9.0]])
    tokens, confidence = choose_tokens(logits, [2])
    assert tokens.tolist() == [1, 0]
    assert confidence.tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-3))])
    assert logits[0, 2] == 9.0, "the denoiser's tensor is not written to"


def test_equal_logits_choose_the_lower_token():
    tokens, _ = choose_tokens(torch.zeros(2, 50), [0])
    assert tokens.tolist() == [1, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_an_error(bad):
    with pytest.raises(ValueError, match="NaN or infinite"):
        choose_tokens(torch.tensor([[0.0, bad, 1.0]]), [2])


# --- calling the denoiser -------------------------------------------------------------------------


def test_padding_is_on_the_right_and_masked():
    input_ids, attention_mask = pad_right([torch.tensor([1, 2, 3]), torch.tensor([4])], 9)
    assert input_ids.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_equal_lengths_need_no_padding_mask():
    assert pad_right([torch.tensor([1, 2]), torch.tensor([3, 4])], 9)[1] is None


@pytest.mark.parametrize("cfg_scale", [0.0, 1.5])
def test_rows_of_a_padded_batch_equal_full_passes_one_by_one(cfg_scale):
    network = RandomNetwork()
    sequences = [
        torch.tensor([1, MASK, 3, MASK, 5]),
        torch.tensor([MASK]),
        torch.tensor([2, 2, MASK]),
    ]
    positions = [torch.tensor([1, 3]), torch.tensor([0]), torch.tensor([2])]
    prompt_lengths = [1, 0, 2]
    got = Predictor(network, MASK, cfg_scale=cfg_scale).logits(sequences, positions, prompt_lengths)
    expected = []
    for sequence, wanted, prompt_length in zip(sequences, positions, prompt_lengths, strict=True):
        logits = network(sequence[None], attention_mask=None)
        blind = sequence.clone()
        blind[:prompt_length] = MASK
        unconditional = network(blind[None], attention_mask=None)
        expected.append((unconditional + (cfg_scale + 1) * (logits - unconditional))[wanted])
    torch.testing.assert_close(got, torch.cat(expected), atol=1e-5, rtol=0)


def test_guidance_shares_one_pass_and_masks_only_the_prompt():
    recorder, stats = Recorder(RandomNetwork()), DenoiserStats()
    Predictor(recorder, MASK, cfg_scale=1.0, stats=stats).logits(
        [torch.tensor([1, 2, MASK, 4]), torch.tensor([5, MASK])],
        [torch.tensor([2]), torch.tensor([1])],
        [2, 1],
    )
    (call,) = recorder.calls
    assert call["input_ids"][2].tolist() == [MASK, MASK, MASK, 4]
    assert call["input_ids"][3, :2].tolist() == [MASK, MASK]
    assert call["rows"].tolist() == [[0, 2], [1, 1], [2, 2], [3, 1]]
    assert (stats.num_passes, stats.num_sequences, stats.num_tokens) == (1, 4, 12)


def test_stats_count_real_tokens_and_report_each_pass():
    seen: list[int] = []
    stats = DenoiserStats(on_forward=seen.append)
    predictor = Predictor(RandomNetwork(), MASK, stats=stats)
    for _ in range(2):
        predictor.logits(
            [torch.tensor([1, 2, MASK]), torch.tensor([MASK])],
            [torch.tensor([2]), torch.tensor([0])],
            [2, 0],
        )
    assert seen == [4, 4]
    assert (stats.num_passes, stats.num_tokens, stats.num_rows) == (2, 8, 4)


def test_a_denoiser_that_ignores_rows_is_an_error():
    def ignores_rows(input_ids, *, attention_mask, rows=None):
        return RandomNetwork()(input_ids, attention_mask=attention_mask)

    with pytest.raises(ValueError, match="asked for 1 rows and returned logits of shape"):
        Predictor(ignores_rows, MASK).logits([torch.tensor([1, MASK])], [torch.tensor([1])], [1])


def test_the_known_joint_is_a_distribution_with_consistent_conditionals():
    joint = KnownJoint()
    total = sum(math.exp(joint.log_prob(state)) for state in joint.states)
    assert total == pytest.approx(1, abs=1e-12)
    logits = joint(torch.tensor([[0, 3, 3, 3]]), attention_mask=None, rows=torch.tensor([[0, 1]]))
    for symbol in range(3):
        expected = joint.log_prob(torch.tensor([symbol]), prefix=torch.tensor([0]))
        assert float(logits.log_softmax(dim=-1)[0, symbol]) == pytest.approx(expected, abs=1e-9)
