"""DUEL: an exact probability of texts under the deterministic unmasking order."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.diffusion.denoiser import DenoiserStats
from lm_eval_llada.diffusion.duel import duel_log_likelihoods
from lm_eval_llada.modeling import as_denoiser
from tests.helpers.likelihood_loops import EMPTY, JOINT, MASK, NETWORK, PAIRS
from tests.helpers.llada_models import FULL_ROWS, make_model, tokens
from tests.helpers.plain_loops import whole_forward
from tests.helpers.toys import (
    JOINT_LENGTH,
    JOINT_MASK_ID,
    NUM_SYMBOLS,
    FixedLogits,
    RandomNetwork,
    Recorder,
    denoiser,
)


def duel(pairs, denoise=NETWORK, mask_token_id=MASK, stats=None, **kwargs):
    return duel_log_likelihoods(denoiser(denoise, mask_token_id, stats=stats), pairs, **kwargs)


def plain_duel(denoise, prefix, target, steps, mask_token_id=MASK):
    """One sequence, full forwards, sorting by hand."""
    length, total = len(target), 0.0
    known = torch.full((length,), mask_token_id)
    base, rest = divmod(length, steps)
    for count in [base + 1] * rest + [base] * (steps - rest):
        logits = denoise(torch.cat([prefix, known])[None], attention_mask=None)[len(prefix) :]
        logits = logits.clone()
        logits[:, mask_token_id] = -math.inf
        probs = logits.float().softmax(dim=-1)
        hidden = [i for i in range(length) if known[i] == mask_token_id]
        order = sorted(hidden, key=lambda i: (-float(probs[i].max()), i))
        log_probs = logits.double().log_softmax(dim=-1)
        for i in order[:count]:
            total += float(log_probs[i, target[i]])
            known[i] = target[i]
    return total


@pytest.mark.parametrize("steps", [None, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_values_equal_a_plain_loop(steps, batch_size):
    estimates = duel(PAIRS, steps=steps, batch_size=batch_size)
    for (prefix, target), estimate in zip(PAIRS, estimates, strict=True):
        expected = plain_duel(NETWORK, prefix, target, steps or len(target))
        assert estimate.value == pytest.approx(expected, abs=1e-5)
        assert estimate.stderr == 0
        assert estimate.num_passes == min(steps or len(target), len(target))


@pytest.mark.parametrize("row", FULL_ROWS)
@pytest.mark.parametrize("steps", [None, 3])
def test_values_of_every_family_equal_the_plain_loop(row, steps):
    model = make_model(**FULL_ROWS[row], mask_token_id=96)
    lengths = ((7, 5), (0, 4), (1, 9), (12, 1))
    pairs = [(tokens(n, seed=n), tokens(m, seed=50 + m)) for n, m in lengths]
    found = duel_log_likelihoods(as_denoiser(model), pairs, steps=steps, batch_size=3)
    for (prefix, target), estimate in zip(pairs, found, strict=True):
        num_steps = min(steps or len(target), len(target))
        expected = plain_duel(whole_forward(model), prefix, target, num_steps, mask_token_id=96)
        assert estimate.value == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("steps", [None, 1, 2, 3])
def test_probabilities_of_all_texts_sum_to_one(steps):
    network = RandomNetwork(vocab=4, seed=2)
    texts = [torch.tensor(t) for t in itertools.product(range(3), repeat=4)]
    prefix = torch.tensor([1, 0])
    pairs = [(prefix, text) for text in texts]
    estimates = duel(pairs, network, mask_token_id=3, steps=steps, batch_size=16)
    assert math.fsum(math.exp(one.value) for one in estimates) == pytest.approx(1, abs=1e-6)


def test_with_exact_conditionals_it_is_the_true_probability():
    symbols = itertools.product(range(NUM_SYMBOLS), repeat=JOINT_LENGTH)
    texts = [torch.tensor(text) for text in symbols]
    pairs = [(EMPTY, text) for text in texts] + [(text[:1], text[1:]) for text in texts]
    for (prefix, text), one in zip(pairs, duel(pairs, JOINT, JOINT_MASK_ID), strict=True):
        assert one.value == pytest.approx(JOINT.log_prob(text, prefix), abs=1e-6)


def test_with_exact_conditionals_several_tokens_a_step_lose_their_dependence():
    text = torch.tensor([0, 1, 2, 1])
    one_step = duel([(EMPTY, text)], JOINT, JOINT_MASK_ID, steps=1)[0].value
    marginals = 0.0
    for i, symbol in enumerate(text):
        share = JOINT.probs[JOINT.states[:, i] == symbol].sum()
        marginals += float(share.log())
    assert one_step == pytest.approx(marginals, abs=1e-6)


def test_surest_positions_come_first_and_true_tokens_are_revealed():
    logits = torch.zeros(4, 5)
    logits[torch.arange(4), torch.tensor([0, 1, 2, 3])] = torch.tensor([1.0, 3.0, 2.0, 3.0])
    recorder = Recorder(FixedLogits(logits))
    target = torch.tensor([3, 2, 1, 0])
    duel([(EMPTY, target)], recorder, mask_token_id=4)
    seen = [call["input_ids"][0].tolist() for call in recorder.calls]
    # Positions 1 and 3 are equally sure: the lower one is first.
    assert seen == [[4, 4, 4, 4], [4, 2, 4, 4], [4, 2, 4, 0], [4, 2, 1, 0]]


def test_the_mask_token_has_no_share():
    logits = torch.zeros(1, 3)
    logits[0, 2] = 50.0
    (one,) = duel([(EMPTY, torch.tensor([0]))], FixedLogits(logits), mask_token_id=2)
    assert one.value == pytest.approx(math.log(0.5))


@given(order=st.permutations(range(len(PAIRS))), batch_size=st.integers(1, 9))
def test_order_and_batches_do_not_matter(order, batch_size):
    shuffled = duel([PAIRS[i] for i in order], batch_size=batch_size)
    plain = duel(PAIRS)
    for i, one in zip(order, shuffled, strict=True):
        assert one.value == pytest.approx(plain[i].value, abs=1e-5)


def test_an_empty_target_is_certain_and_needs_no_pass():
    stats = DenoiserStats()
    (one,) = duel([(torch.tensor([1, 2]), EMPTY)], stats=stats)
    assert (one.value, one.num_passes, stats.num_passes) == (0.0, 0, 0)


@pytest.mark.parametrize("kwargs", [{"steps": 0}, {"batch_size": 0}], ids=str)
def test_numbers_out_of_range_are_errors(kwargs):
    with pytest.raises(ValueError, match=f"{next(iter(kwargs))} must be a whole number >= 1"):
        duel(PAIRS, **kwargs)


def test_logits_that_are_not_finite_are_an_error():
    broken = FixedLogits(torch.full((2, 3), math.nan))
    with pytest.raises(ValueError, match="NaN or infinite"):
        duel([(EMPTY, torch.tensor([0, 1]))], broken, mask_token_id=2)
