"""Likelihoods and perplexities against a known distribution, plain loops and stated rules."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import JOINT_LENGTH, JOINT_MASK_ID, FixedLogits, KnownJoint, RandomNetwork, Recorder

from lm_eval_llada.diffusion import DenoiserStats, random_mask
from lm_eval_llada.likelihood import (
    Estimate,
    LikelihoodOptions,
    chunk_cross_entropy,
    elbo_perplexity,
    greedy_matches,
    log_likelihoods,
    perplexity,
    rolling_log_likelihoods,
    rolling_windows,
)
from lm_eval_llada.sampler import SamplingOptions, generate

JOINT = KnownJoint()
EMPTY = torch.empty(0, dtype=torch.long)

MASK = 8
NETWORK = RandomNetwork(vocab=9)


def random_tokens(length: int, seed: int) -> torch.Tensor:
    return torch.randint(0, MASK, (length,), generator=torch.Generator().manual_seed(seed))


# Prefixes and targets of many lengths: enumerated, sampled and a one-token target among them.
PAIRS = [
    (random_tokens(prefix, 10 + prefix), random_tokens(target, 20 + target))
    for prefix, target in ((5, 9), (1, 1), (12, 3), (0, 6), (7, 12), (3, 2), (4, 8), (9, 4))
]
SEEDS = [3, 1, 4, 15, 9, 2, 65, 35]


def score(pairs, options, seeds=None, denoise=NETWORK, mask_token_id=MASK, **kwargs):
    return log_likelihoods(
        denoise, pairs, options, mask_token_id=mask_token_id, seeds=seeds, **kwargs
    )


def plain_log_probs(denoise, prefix, target, mask, cfg_scale, mask_token_id):
    """-log p of the masked tokens by one full forward of one sequence."""
    x = torch.cat([prefix, torch.where(mask, mask_token_id, target)])
    logits = denoise(x[None], attention_mask=None)
    if cfg_scale > 0:
        blind = x.clone()
        blind[: len(prefix)] = mask_token_id
        unconditional = denoise(blind[None], attention_mask=None)
        logits = unconditional + (cfg_scale + 1) * (logits - unconditional)
    log_probs = logits.double().log_softmax(dim=-1)[len(prefix) :]
    return [float(log_probs[i, target[i]]) for i in range(len(target)) if mask[i]]


def plain_enumeration(denoise, prefix, target, cfg_scale=0.0, mask_token_id=MASK):
    """Eq. 14 averaged over all masks: l uniform, then each of the C(L, l) subsets alike."""
    length, total = len(target), 0.0
    for num_masked in range(1, length + 1):
        subsets = list(itertools.combinations(range(length), num_masked))
        for subset in subsets:
            mask = torch.zeros(length, dtype=torch.bool)
            mask[list(subset)] = True
            log_probs = plain_log_probs(denoise, prefix, target, mask, cfg_scale, mask_token_id)
            total += length / num_masked * sum(log_probs) / len(subsets) / length
    return total


def plain_draws(denoise, prefix, target, mc_num, seed, cfg_scale=0.0):
    """(L/l, log probabilities) of each draw, masks drawn in the documented order."""
    source = torch.Generator().manual_seed(seed)
    draws = []
    for _ in range(mc_num):
        num_masked = int(torch.randint(1, len(target) + 1, (), generator=source))
        mask = random_mask(len(target), num_masked, source)
        log_probs = plain_log_probs(denoise, prefix, target, mask, cfg_scale, MASK)
        draws.append((len(target) / num_masked, log_probs))
    return draws


def plain_estimate(denoise, prefix, target, options, seed):
    if options.enumerates(len(target)):
        return plain_enumeration(denoise, prefix, target, options.cfg_scale), 0.0
    draws = plain_draws(denoise, prefix, target, options.mc_num, seed, options.cfg_scale)
    values = torch.tensor([weight * sum(parts) for weight, parts in draws], dtype=torch.float64)
    return float(values.mean()), float(values.std()) / len(values) ** 0.5


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
        ({"method": "montecarlo"}, "must be one of auto, mc, enumerate; got 'montecarlo'"),
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


# --- greedy check ---------------------------------------------------------------------------------


def plain_greedy_match(prefix, target, cfg_scale=0.0):
    """Decode the whole region one most confident token a pass, then compare."""
    x = torch.cat([prefix, torch.full((len(target),), MASK)])
    for _ in target:
        logits = NETWORK(x[None], attention_mask=None)
        if cfg_scale > 0:
            blind = x.clone()
            blind[: len(prefix)] = MASK
            unconditional = NETWORK(blind[None], attention_mask=None)
            logits = unconditional + (cfg_scale + 1) * (logits - unconditional)
        logits[:, MASK] = -torch.inf
        sure, choice = logits.softmax(dim=-1).max(dim=-1)
        masked = [p for p in range(len(x)) if x[p] == MASK]
        best = max(masked, key=lambda p: (float(sure[p]), -p))
        x[best] = choice[best]
    return torch.equal(x[len(prefix) :], target)


def greedy_pairs(cfg_scale):
    """Half the targets are what the sampler writes, half differ from that in one token."""
    pairs = []
    for k, (prefix, target) in enumerate(PAIRS):
        options = SamplingOptions(gen_length=len(target), cfg_scale=cfg_scale)
        (text,) = generate(NETWORK, [prefix], options, mask_token_id=MASK)
        if k % 2:
            text[k % len(text)] = (text[k % len(text)] + 1) % MASK
        pairs.append((prefix, text))
    return pairs


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("cfg_scale", [0.0, 1.5])
def test_greedy_check_equals_a_plain_loop_and_the_sampler(cfg_scale, batch_size):
    pairs = greedy_pairs(cfg_scale)
    got = greedy_matches(
        NETWORK, pairs, mask_token_id=MASK, batch_size=batch_size, cfg_scale=cfg_scale
    )
    assert got == [plain_greedy_match(*pair, cfg_scale) for pair in pairs]
    assert got == [k % 2 == 0 for k in range(len(pairs))]


def test_greedy_check_stops_at_the_first_wrong_token():
    logits = torch.zeros(5, 9)
    for position, (token, logit) in enumerate([(1, 3.0), (2, 9.0), (3, 8.0), (4, 2.0), (5, 1.0)]):
        logits[position, token] = logit
    # Revealed in the order of positions 1, 2, 0, 3, 4; the target is wrong at position 0.
    stats = DenoiserStats()
    target = torch.tensor([7, 2, 3, 4, 5])
    assert greedy_matches(
        FixedLogits(logits), [(EMPTY, target)], mask_token_id=MASK, stats=stats
    ) == [False]
    assert stats.num_passes == 3


def test_greedy_check_hands_a_freed_place_to_the_next_pair():
    logits = torch.zeros(4, 9)
    logits[:, 1] = 1.0
    right, wrong = torch.tensor([1, 1, 1, 1]), torch.tensor([2, 2, 2, 2])
    stats = DenoiserStats()
    pairs = [(EMPTY, t) for t in (wrong, right, wrong, right)]
    got = greedy_matches(FixedLogits(logits), pairs, mask_token_id=MASK, batch_size=2, stats=stats)
    assert got == [False, True, False, True]
    # Two wrong ones take 1 pass each, two right ones 4: ten sequence reads in five full passes.
    assert (stats.num_passes, stats.num_sequences) == (6, 10)


def test_an_empty_target_matches():
    assert greedy_matches(NETWORK, [(random_tokens(3, 0), EMPTY)], mask_token_id=MASK) == [True]


# --- rolling --------------------------------------------------------------------------------------


def test_rolling_windows_are_those_of_the_diagram():
    assert rolling_windows(20, 8, context_length=3) == [
        (0, 0, 8),
        (5, 8, 13),
        (10, 13, 18),
        (12, 18, 20),
    ]


def test_rolling_windows_without_context_are_disjoint_up_to_the_last():
    assert rolling_windows(10, 4) == [(0, 0, 4), (4, 4, 8), (6, 8, 10)]
    assert rolling_windows(4, 4) == [(0, 0, 4)]
    assert rolling_windows(0, 4) == []


def test_rolling_windows_count_given_tokens_but_do_not_score_them():
    assert rolling_windows(10, 4, context_length=1, num_given=1) == [
        (0, 1, 4),
        (3, 4, 7),
        (6, 7, 10),
    ]
    assert rolling_windows(1, 4, num_given=1) == []


@given(num_tokens=st.integers(0, 200), max_length=st.integers(1, 40), data=st.data())
def test_rolling_windows_score_every_token_exactly_once(num_tokens, max_length, data):
    context = data.draw(st.integers(0, max_length - 1))
    given_tokens = data.draw(st.integers(0, min(num_tokens, max_length - 1)))
    windows = rolling_windows(
        num_tokens, max_length, context_length=context, num_given=given_tokens
    )
    scored = [token for _, begin, end in windows for token in range(begin, end)]
    assert scored == list(range(given_tokens, num_tokens))
    for start, begin, end in windows:
        assert end - start <= max_length
        assert begin - start >= min(context, begin)
    for start, _, end in windows[1:]:
        assert end - start == max_length, "later windows are full"


@pytest.mark.parametrize("name", ["context_length", "num_given"])
def test_rolling_windows_refuse_to_leave_no_room_for_a_target(name):
    with pytest.raises(ValueError, match=f"{name}=4 leaves no token .* use at most 3"):
        rolling_windows(10, 4, **{name: 4})


def roll(documents, options, **kwargs):
    return rolling_log_likelihoods(NETWORK, documents, options, mask_token_id=MASK, **kwargs)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_rolling_likelihood_is_the_sum_over_its_windows(batch_size):
    documents = [random_tokens(length, length) for length in (13, 4, 0, 9)]
    bos = torch.tensor([7])
    got = roll(
        documents,
        LikelihoodOptions(batch_size=batch_size),
        max_length=6,
        context_length=2,
        prefix=bos,
    )
    for document, estimate in zip(documents, got, strict=True):
        text, expected, passes = torch.cat([bos, document]), 0.0, 0
        starts = rolling_windows(len(text), 6, context_length=2, num_given=1)
        for start, begin, end in starts:
            expected += plain_enumeration(NETWORK, text[start:begin], text[begin:end])
            passes += 2 ** (end - begin) - 1
        assert estimate.value == pytest.approx(expected, abs=1e-5)
        assert estimate.stderr == 0
        assert estimate.num_passes == passes


def test_rolling_likelihood_in_one_window_is_the_true_log_probability():
    (estimate,) = rolling_log_likelihoods(
        JOINT,
        [JOINT.states[20]],
        LikelihoodOptions(),
        max_length=4,
        mask_token_id=JOINT_MASK_ID,
    )
    assert estimate.value == pytest.approx(JOINT.log_prob(JOINT.states[20]), abs=1e-6)


def test_rolling_errors_add_in_squares_and_windows_draw_different_masks():
    # Two windows of the same eight tokens, which equal seeds would score alike.
    half = random_tokens(8, 5)
    options = LikelihoodOptions(mc_num=6, method="mc")
    (both,) = roll([torch.cat([half, half])], options, max_length=8, seeds=[3])
    source = torch.Generator().manual_seed(3)
    window_seeds = torch.randint(2**63 - 1, (2,), generator=source).tolist()
    one, two = score([(EMPTY, half)] * 2, options, window_seeds)
    assert one.value != pytest.approx(two.value, abs=1e-4)
    assert both.value == pytest.approx(one.value + two.value, abs=1e-5)
    assert both.stderr == pytest.approx(math.hypot(one.stderr, two.stderr), abs=1e-5)


def test_rolling_scores_do_not_depend_on_batch_size_or_order():
    documents = [random_tokens(length, length) for length in (40, 9, 23)]
    kwargs = {"max_length": 12, "context_length": 4}
    one = roll(documents, LikelihoodOptions(mc_num=5, batch_size=3), seeds=[1, 2, 3], **kwargs)
    other = roll(
        documents[::-1], LikelihoodOptions(mc_num=5, batch_size=8), seeds=[3, 2, 1], **kwargs
    )
    for a, b in zip(one, other[::-1], strict=True):
        assert a.value == pytest.approx(b.value, abs=1e-5)
        assert a.stderr == pytest.approx(b.stderr, abs=1e-5)


# --- perplexities ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3])
def test_chunk_cross_entropy_equals_a_plain_loop(batch_size):
    text = random_tokens(24, 3)
    got = chunk_cross_entropy(
        NETWORK, text, mask_token_id=MASK, seed=9, chunk_length=6, mc_num=4, batch_size=batch_size
    )
    source = torch.Generator().manual_seed(9)
    seeds = torch.randint(2**63 - 1, (3,), generator=source).tolist()
    assert len(got) == 3, "the first of four chunks is context only"
    for start, seed, estimate in zip((6, 12, 18), seeds, got, strict=True):
        draws = plain_draws(NETWORK, text[:start], text[start : start + 6], 4, seed)
        expected = sum(-sum(parts) / len(parts) for _, parts in draws) / 4
        assert estimate.value == pytest.approx(expected, abs=1e-5)


def test_chunk_cross_entropy_of_a_uniform_model_is_log_vocab():
    text = random_tokens(16, 1)
    uniform = FixedLogits(torch.zeros(16, 9))
    estimates = chunk_cross_entropy(uniform, text, mask_token_id=MASK, seed=0, chunk_length=4)
    assert [e.value for e in estimates] == pytest.approx([math.log(9)] * 3, abs=1e-6)
    assert [e.stderr for e in estimates] == pytest.approx([0] * 3, abs=1e-6)
    assert perplexity([e.value for e in estimates]) == pytest.approx([9] * 3, rel=1e-6)


def test_a_chunk_sees_no_later_text():
    recorder = Recorder(NETWORK)
    chunk_cross_entropy(recorder, random_tokens(12, 1), mask_token_id=MASK, seed=0, chunk_length=4)
    lengths = {call["input_ids"].shape[1] for call in recorder.calls}
    assert lengths == {8, 12}


@pytest.mark.parametrize(("length", "advice"), [(100, "Use 96"), (32, "Use 64"), (70, "Use 64")])
def test_part_of_a_chunk_is_refused(length, advice):
    with pytest.raises(
        ValueError, match=f"whole chunks of 32 tokens; got {length} tokens. {advice}"
    ):
        chunk_cross_entropy(
            NETWORK, random_tokens(length, 0), mask_token_id=MASK, seed=0, chunk_length=32
        )


def test_perplexity_is_the_cumulative_geometric_mean():
    assert perplexity([math.log(2), math.log(8), math.log(4)]) == pytest.approx([2, 4, 4])
    assert perplexity([]) == []


def test_elbo_perplexity_is_per_token_over_all_documents():
    estimates = [Estimate(-3 * math.log(2), 0.1, 1), Estimate(-5 * math.log(2), 0.1, 1)]
    assert elbo_perplexity(estimates, 8) == pytest.approx(2)
    with pytest.raises(ValueError, match="num_tokens must be a whole number >= 1; got 0"):
        elbo_perplexity(estimates, 0)


def test_chunk_cross_entropy_is_the_bound_of_eq_14_per_token():
    # Mean over l masked tokens = (L / l) * sum / L: the released script computes the same bound.
    text = JOINT.states[61]
    (chunk,) = chunk_cross_entropy(
        JOINT, text, mask_token_id=JOINT_MASK_ID, seed=0, chunk_length=2, mc_num=4000
    )
    truth = JOINT.log_prob(text[2:], prefix=text[:2])
    assert chunk.stderr < 0.02
    assert chunk.value == pytest.approx(-truth / 2, abs=4 * chunk.stderr)
