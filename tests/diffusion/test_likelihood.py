"""Likelihoods and perplexities against a known distribution, plain loops and stated rules."""

from __future__ import annotations

import math

import pytest
import torch

from lm_eval_llada.diffusion.denoiser import DenoiserStats
from lm_eval_llada.diffusion.likelihood import Estimate, LikelihoodOptions
from tests.helpers.likelihood_loops import (
    EMPTY,
    JOINT,
    MASK,
    NETWORK,
    PAIRS,
    SEEDS,
    plain_draws,
    plain_enumeration,
    plain_estimate,
    random_tokens,
    score,
)
from tests.helpers.toys import JOINT_LENGTH, JOINT_MASK_ID, FixedLogits, Recorder

# --- laws on a known joint distribution -----------------------------------------------------------


def test_the_estimator_averaged_over_all_masks_is_the_true_log_probability():
    for target in JOINT.states:
        average = plain_enumeration(JOINT, EMPTY, target, mask_token_id=JOINT_MASK_ID)
        assert average == pytest.approx(JOINT.log_prob(target), abs=1e-6)


def test_enumeration_is_exact_for_every_sequence():
    targets = list(JOINT.states)
    estimates = score(
        [(EMPTY, target) for target in targets],
        LikelihoodOptions(batch_size=64),
        denoise=JOINT,
        mask_token_id=JOINT_MASK_ID,
    )
    for target, estimate in zip(targets, estimates, strict=True):
        assert estimate.value == pytest.approx(JOINT.log_prob(target), abs=1e-6)
        assert estimate.stderr == 0
        assert estimate.num_passes == 2**JOINT_LENGTH - 1
    total = math.fsum(math.exp(estimate.value) for estimate in estimates)
    assert total == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("prefix_length", [1, 2, 3])
def test_enumeration_is_exact_given_a_prefix(prefix_length):
    pairs = [(state[:prefix_length], state[prefix_length:]) for state in JOINT.states[::5]]
    estimates = score(pairs, LikelihoodOptions(), denoise=JOINT, mask_token_id=JOINT_MASK_ID)
    for (prefix, target), estimate in zip(pairs, estimates, strict=True):
        assert estimate.value == pytest.approx(JOINT.log_prob(target, prefix), abs=1e-6)


def test_sampling_is_unbiased_and_its_standard_error_is_honest():
    target, num_runs = JOINT.states[37], 600
    truth = JOINT.log_prob(target)
    options = LikelihoodOptions(mc_num=32, method="mc", batch_size=256)
    estimates = score(
        [(EMPTY, target)] * num_runs,
        options,
        range(num_runs),
        denoise=JOINT,
        mask_token_id=JOINT_MASK_ID,
    )
    values = torch.tensor([estimate.value for estimate in estimates], dtype=torch.float64)
    spread = float(values.std())
    assert float(values.mean()) == pytest.approx(truth, abs=4 * spread / num_runs**0.5)
    stderr = math.sqrt(math.fsum(e.stderr**2 for e in estimates) / num_runs)
    # 600 runs know a standard deviation to about 3 %.
    assert stderr == pytest.approx(spread, rel=0.12)
    assert spread > 0.01, "the draws must differ for this to test anything"


def test_one_run_lies_within_its_standard_error():
    target = JOINT.states[50]
    (estimate,) = score(
        [(EMPTY, target)],
        LikelihoodOptions(mc_num=2000, method="mc"),
        [11],
        denoise=JOINT,
        mask_token_id=JOINT_MASK_ID,
    )
    assert abs(estimate.value - JOINT.log_prob(target)) < 4 * estimate.stderr
    assert estimate.num_passes == 15, "equal masks are read once"


# --- parity with a plain loop ---------------------------------------------------------------------

OPTIONS = {
    "auto": LikelihoodOptions(mc_num=20),
    "mc": LikelihoodOptions(mc_num=20, method="mc"),
    "mc_remainder": LikelihoodOptions(mc_num=10, method="mc"),
    "guidance": LikelihoodOptions(mc_num=9, cfg_scale=1.5),
}


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("name", OPTIONS)
def test_log_likelihoods_equal_a_plain_loop(name, batch_size):
    fields = {**vars(OPTIONS[name]), "batch_size": batch_size}
    options = LikelihoodOptions(**fields)
    estimates = score(PAIRS, options, SEEDS)
    for (prefix, target), seed, estimate in zip(PAIRS, SEEDS, estimates, strict=True):
        value, stderr = plain_estimate(NETWORK, prefix, target, options, seed)
        assert estimate.value == pytest.approx(value, abs=1e-5)
        assert estimate.stderr == pytest.approx(stderr, abs=1e-5)


def test_scores_do_not_depend_on_order_or_batch_size():
    forward = score(PAIRS, LikelihoodOptions(mc_num=16, batch_size=7), SEEDS)
    backward = score(PAIRS[::-1], LikelihoodOptions(mc_num=16, batch_size=2), SEEDS[::-1])
    for one, other in zip(forward, backward[::-1], strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-5)


def test_no_draw_is_lost_when_batch_size_does_not_divide_mc_num():
    # mc_num // batch_size in public code would read 8 of these 10 sequences.
    prefix, target = random_tokens(2, 1), random_tokens(30, 2)
    stats = DenoiserStats()
    options = LikelihoodOptions(mc_num=10, method="mc", batch_size=4)
    (estimate,) = score([(prefix, target)], options, [5], stats=stats)
    assert (stats.num_sequences, stats.num_passes) == (10, 3)
    values = [w * sum(parts) for w, parts in plain_draws(NETWORK, prefix, target, 10, 5)]
    assert estimate.value == pytest.approx(sum(values) / 10, abs=1e-5)


def test_requests_share_forward_passes():
    stats = DenoiserStats()
    pairs = [(random_tokens(3, i), random_tokens(1, i)) for i in range(8)]
    score(pairs, LikelihoodOptions(batch_size=8), stats=stats)
    assert (stats.num_passes, stats.num_sequences) == (1, 8)


def test_only_masked_target_positions_are_asked_for():
    recorder = Recorder(NETWORK)
    score(PAIRS, LikelihoodOptions(mc_num=12), SEEDS, denoise=recorder)
    for call in recorder.calls:
        ids = call["input_ids"][call["rows"][:, 0], call["rows"][:, 1]]
        assert (ids == MASK).all()
    num_masks = sum(int((call["input_ids"] == MASK).sum()) for call in recorder.calls)
    num_padding = sum(
        int((call["attention_mask"] == 0).sum())
        for call in recorder.calls
        if call["attention_mask"] is not None
    )
    assert sum(len(call["rows"]) for call in recorder.calls) == num_masks - num_padding


# --- methods --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "mc_num", "expected"),
    [(1, 1, True), (2, 2, False), (2, 3, True), (7, 127, True), (7, 126, False), (8, 999, False)],
)
def test_auto_enumerates_where_that_is_no_dearer_than_the_draws(length, mc_num, expected):
    assert LikelihoodOptions(mc_num=mc_num).enumerates(length) is expected


@pytest.mark.parametrize("method", ["auto", "mc", "enumerate"])
def test_a_one_token_target_takes_one_pass(method):
    stats = DenoiserStats()
    (estimate,) = score(
        [(random_tokens(5, 0), torch.tensor([3]))],
        LikelihoodOptions(method=method),
        [1],
        stats=stats,
    )
    assert stats.num_sequences == estimate.num_passes == 1
    assert estimate.stderr == pytest.approx(0, abs=1e-12)


def test_an_empty_target_has_log_likelihood_zero_and_takes_no_pass():
    stats = DenoiserStats()
    for method in ("auto", "mc"):
        options = LikelihoodOptions(method=method)
        assert score([(random_tokens(3, 0), EMPTY)], options, [1], stats=stats) == [
            Estimate(0.0, 0.0, 0)
        ]
    assert stats.num_passes == 0


def test_a_single_draw_has_an_unknown_standard_error():
    (estimate,) = score(
        [(EMPTY, random_tokens(9, 0))], LikelihoodOptions(mc_num=1, method="mc"), [1]
    )
    assert math.isfinite(estimate.value)
    assert math.isnan(estimate.stderr)


def test_bf16_logits_are_normalised_in_fp32():
    logits = (torch.randn(6, 9, generator=torch.Generator().manual_seed(0)) * 4).bfloat16()
    target = random_tokens(6, 1)
    (estimate,) = score([(EMPTY, target)], LikelihoodOptions(), denoise=FixedLogits(logits))
    expected = logits.double().log_softmax(dim=-1)[range(6), target].sum()
    assert estimate.value == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mc_num": 0}, "mc_num must be a whole number >= 1; got 0"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"cfg_scale": -1.0}, "cfg_scale must be"),
        ({"method": "montecarlo"}, "must be one of auto, mc, enumerate, dream; got 'montecarlo'"),
    ],
)
def test_wrong_options_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LikelihoodOptions(**fields)


def test_enumerating_eight_tokens_is_refused_before_any_pass():
    stats = DenoiserStats()
    pairs = [(EMPTY, random_tokens(2, 0)), (EMPTY, random_tokens(8, 0))]
    with pytest.raises(ValueError, match="Only targets of 1 to 7 tokens"):
        score(pairs, LikelihoodOptions(method="enumerate"), stats=stats)
    assert stats.num_passes == 0


def test_sampling_without_seeds_is_refused():
    with pytest.raises(ValueError, match="target of 9 tokens needs seeds"):
        score([(EMPTY, random_tokens(9, 0))], LikelihoodOptions())


def test_nan_logits_are_an_error():
    with pytest.raises(ValueError, match="NaN or infinite"):
        score(
            [(EMPTY, random_tokens(2, 0))],
            LikelihoodOptions(),
            denoise=FixedLogits(torch.full((2, 9), math.nan)),
        )
