"""λ, reach, coverage and frontier against published numbers, laws and properties."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada import rope
from lm_eval_llada.rope import RopeChoice
from tests.helpers.strategies import rope_heads

LLADA = {"rope_theta": 500000, "head_dim": 128, "train_length": 4096}
K = 1024

# b, d, T_train, T, bidirectional, d_crit, λ: evaluated from LongLLaDA Eq. 3-6 (arXiv 2506.14429v3)
# and its diffusion-aware reading (arXiv 2510.10481), six decimals kept.
GOLDEN = [
    (5e5, 128, 4096, 8192, False, 64, 3.399775),
    (5e5, 128, 4096, 16384, False, 64, 13.599099),
    (5e5, 128, 4096, 24576, False, 64, 30.597973),
    (5e5, 128, 4096, 32768, False, 64, 54.396396),
    (5e5, 128, 4096, 131072, False, 64, 870.342340),
    (5e5, 128, 8192, 16384, False, 70, 3.530766),
    (5e5, 128, 8192, 32768, False, 70, 12.540759),
    (1e6, 128, 2048, 4096, False, 54, 4.684347),
    (5e5, 128, 4096, 8192, True, 70, 3.530766),
    (5e5, 128, 4096, 16384, True, 70, 12.540759),
    (5e5, 128, 4096, 32768, True, 70, 44.542920),
    (5e5, 128, 4096, 65536, True, 70, 158.209854),
    (5e5, 128, 4096, 131072, True, 70, 561.937971),
    (1e6, 128, 2048, 32768, True, 62, 197.626550),
    (1e4, 128, 4096, 16384, False, 92, 5.662780),
    (1e4, 64, 2048, 8192, False, 42, 5.584532),
]


@pytest.mark.parametrize(("theta", "dim", "train", "target", "both", "d_crit", "scale"), GOLDEN)
def test_scale_and_critical_dimension_equal_the_golden_values(
    theta, dim, train, target, both, d_crit, scale
):
    assert rope.critical_dimension(theta, dim, train, bidirectional=both) == d_crit
    # Half a unit of the last decimal that the table keeps.
    computed = rope.ntk_scale(theta, dim, train, target, bidirectional=both)
    assert computed == pytest.approx(scale, abs=5.1e-7)


@pytest.mark.parametrize(("theta", "dim", "train", "target", "both", "d_crit", "scale"), GOLDEN)
def test_resolved_choice_equals_the_golden_values(theta, dim, train, target, both, d_crit, scale):
    choice = RopeChoice(method="diffusion_ntk" if both else "ntk", target_length=target)
    resolved = rope.resolve(choice, rope_theta=theta, head_dim=dim, train_length=train)
    assert resolved.d_crit == d_crit
    assert resolved.rope_scale == pytest.approx(scale, abs=5.1e-7)
    assert resolved.rope_theta == pytest.approx(scale * theta, rel=1e-6)
    assert resolved.reach == pytest.approx(target, rel=1e-12)
    assert resolved.factor == target / train


@pytest.mark.parametrize(
    ("theta", "train", "target", "rounded"),
    [
        (5e5, 4096, 8 * K, 4),
        (5e5, 4096, 16 * K, 14),
        (5e5, 4096, 24 * K, 31),
        (5e5, 4096, 32 * K, 55),
        (5e5, 8192, 16 * K, 4),
        (5e5, 8192, 32 * K, 13),
        (1e6, 2048, 4 * K, 5),
    ],
)
def test_rounding_up_gives_the_factors_of_the_longllada_paper(theta, train, target, rounded):
    assert rope.ntk_scale(theta, 128, train, target, round_up=True) == rounded
    choice = RopeChoice(target_length=target, round_scale=True)
    resolved = rope.resolve(choice, rope_theta=theta, head_dim=128, train_length=train)
    assert resolved.rope_scale == rounded
    assert "rounded up" in resolved.notes[0]


@pytest.mark.parametrize(
    ("scale", "tokens"), [(1, 4442.9), (4, 8885.8), (14, 16623.7), (31, 24736.9), (55, 32949.3)]
)
def test_reach_of_llada_equals_the_golden_values(scale, tokens):
    assert rope.reach(**LLADA, rope_scale=scale) == pytest.approx(tokens, abs=0.05)


def test_diffusion_aware_reach_of_the_published_scale_is_128k():
    # λ is known to five digits, which is 0.01 of the 561.94 and 1 token in 131072.
    tokens = rope.reach(**LLADA, rope_scale=561.94, bidirectional=True)
    assert tokens == pytest.approx(128 * K, abs=1)


def test_diffusion_aware_scale_is_larger_only_below_10_2k():
    def difference(target: int) -> float:
        ntk = rope.ntk_scale(**LLADA, target_length=target)
        return rope.ntk_scale(**LLADA, target_length=target, bidirectional=True) - ntk

    signs = [difference(target) > 0 for target in range(5000, 20000, 10)]
    crossing = 5000 + 10 * signs.index(False)
    assert 10200 <= crossing <= 10220
    assert all(signs[: signs.index(False)])
    assert not any(signs[signs.index(False) :])


@given(rope_heads(), st.integers(7, 10**7))
def test_bidirectional_scale_is_the_unidirectional_one_of_doubled_lengths(head, target):
    doubled = head | {"train_length": 2 * head["train_length"]}
    d_crit = rope.critical_dimension(**head, bidirectional=True)
    assert d_crit == rope.critical_dimension(**doubled)
    scale = rope.ntk_scale(**head, target_length=target, bidirectional=True)
    assert scale == rope.ntk_scale(**doubled, target_length=2 * target)


@given(rope_heads(), st.integers(7, 10**7), st.booleans())
def test_reach_undoes_scale(head, target, both):
    scale = rope.ntk_scale(**head, target_length=target, bidirectional=both)
    tokens = rope.reach(**head, rope_scale=scale, bidirectional=both)
    if scale > 1:
        assert tokens == pytest.approx(target, rel=1e-9)
    else:
        assert tokens >= target * (1 - 1e-9)


@given(rope_heads(), st.integers(7, 10**7), st.floats(0.25, 1))
def test_reach_undoes_scale_for_any_critical_dimension(head, target, share):
    d_crit = share * head["head_dim"]
    scale = rope.ntk_scale(**head, target_length=target, d_crit=d_crit)
    if scale > 1:
        tokens = rope.reach(**head, rope_scale=scale, d_crit=d_crit)
        assert tokens == pytest.approx(target, rel=1e-9)


@given(rope_heads(), st.booleans())
def test_the_unscaled_model_reaches_at_least_its_trained_context(head, both):
    tokens = rope.reach(**head, rope_scale=1, bidirectional=both)
    assert tokens >= head["train_length"] * (1 - 1e-9)


@given(rope_heads(), st.integers(7, 10**6), st.integers(7, 10**6), st.booleans())
def test_scale_never_falls_as_the_target_grows_and_is_never_below_one(head, first, second, both):
    low, high = sorted((first, second))
    small = rope.ntk_scale(**head, target_length=low, bidirectional=both)
    assert 1 <= small <= rope.ntk_scale(**head, target_length=high, bidirectional=both)


@given(rope_heads(), st.integers(7, 10**6))
def test_rounding_up_adds_less_than_one_and_gives_a_whole_number(head, target):
    raw = rope.ntk_scale(**head, target_length=target)
    rounded = rope.ntk_scale(**head, target_length=target, round_up=True)
    assert rounded == int(rounded)
    # From 2^53 on, neighbouring floats are more than one apart.
    if raw < 2**50:
        assert raw <= rounded < raw + 1


@pytest.mark.parametrize("d_crit", [None, 40, 73.5])
@pytest.mark.parametrize("target", [1, 2048, 4096])
def test_inside_the_trained_context_nothing_is_scaled_and_a_note_says_so(target, d_crit):
    assert rope.ntk_scale(**LLADA, target_length=target, d_crit=d_crit) == 1
    choice = RopeChoice("ntk", target_length=target, d_crit=d_crit)
    resolved = rope.resolve(choice, **LLADA)
    assert resolved.rope_theta == 500000
    assert any("within the trained context" in note for note in resolved.notes)


@given(rope_heads(), st.booleans())
def test_scaled_base_gives_the_critical_dimension_one_period_in_the_target(head, both):
    target = 50 * head["train_length"]
    d_crit = rope.critical_dimension(**head, bidirectional=both)
    scale = rope.ntk_scale(**head, target_length=target, bidirectional=both)
    period = 2 * math.pi * (scale * head["rope_theta"]) ** (d_crit / head["head_dim"])
    span = target * (2 if both else 1)
    if scale > 1:
        assert period == pytest.approx(span, rel=1e-9)
    else:
        assert period >= span * (1 - 1e-9)


def test_critical_dimension_separates_trained_from_untrained_periods():
    # The definition, counted: dimensions whose period fits into the trained context.
    for theta, dim, train in [(5e5, 128, 4096), (1e4, 64, 512), (1e6, 128, 2048), (1e4, 32, 100)]:
        periods = [2 * math.pi * theta ** (2 * n / dim) for n in range(dim // 2)]
        seen = 2 * sum(period <= train for period in periods)
        assert rope.critical_dimension(theta, dim, train) == seen


@pytest.mark.parametrize("d_crit", [73, 73.0, 69.5, 1.5 * 46])
def test_a_given_critical_dimension_need_be_neither_even_nor_whole(d_crit):
    expected = (2 * 131072 / (2 * math.pi)) ** (128 / d_crit) / 500000
    choice = RopeChoice("diffusion_ntk", target_length=131072, d_crit=d_crit)
    resolved = rope.resolve(choice, **LLADA)
    assert resolved.rope_scale == pytest.approx(expected, rel=1e-12)
    assert resolved.d_crit == d_crit
    assert any("the formula gives 70" in note for note in resolved.notes)


def test_a_given_critical_dimension_equal_to_the_formula_changes_nothing():
    given_64 = rope.ntk_scale(**LLADA, target_length=16384, d_crit=64)
    assert given_64 == rope.ntk_scale(**LLADA, target_length=16384)


@given(st.sampled_from([8, 32, 64, 128]), st.floats(1, 64), st.floats(100, 1e7))
def test_ntk_fixed_divides_the_slowest_frequency_by_exactly_the_factor(head_dim, factor, theta):
    scaled_theta = rope.ntk_fixed_scale(head_dim, factor) * theta
    slowest = theta ** (-(head_dim - 2) / head_dim)
    scaled_slowest = scaled_theta ** (-(head_dim - 2) / head_dim)
    assert slowest / scaled_slowest == pytest.approx(factor, rel=1e-10)


def test_ntk_fixed_takes_its_factor_from_target_over_trained():
    resolved = rope.resolve(RopeChoice("ntk_fixed", target_length=16384), **LLADA)
    assert resolved.rope_scale == pytest.approx(4 ** (128 / 126), rel=1e-12)
    assert resolved.factor == 4


@given(rope_heads(), st.booleans())
def test_coverage_falls_from_a_whole_turn_and_is_the_plain_ratio(head, both):
    shares = rope.coverage(**head, bidirectional=both)
    span = (head["train_length"] - 1) * (2 if both else 1)
    assert len(shares) == head["head_dim"] // 2
    assert all(
        0 < later <= earlier <= 1 for earlier, later in zip(shares, shares[1:], strict=False)
    )
    for n, share in enumerate(shares):
        frequency = head["rope_theta"] ** (-2 * n / head["head_dim"])
        assert share == pytest.approx(min(1, span * frequency / (2 * math.pi)), rel=1e-9)


def test_coverage_of_llada_ends_with_the_critical_dimension():
    shares = rope.coverage(**LLADA)
    assert shares.count(1.0) == 64 // 2
    # The slowest pair of LLaDA has a period of 2.56 million tokens, of which it saw 4095.
    assert shares[-1] == pytest.approx(4095 / (2 * math.pi * 5e5 ** (126 / 128)), rel=1e-12)
    assert rope.coverage(**LLADA, bidirectional=True)[-1] == pytest.approx(2 * shares[-1])


# LongLLaDA's score of a miss is 0.2 of an edit similarity, not 0. Its LLaMA3-8B-Base, which finds
# nothing beyond its context, scores 3.48, 3.71 and 3.06 at 16K, 24K and 32K.
MISS = (3.48 + 3.71 + 3.06) / 3


def _predicted_score(length: int, scale: float) -> float:
    frontier = rope.predicted_frontier(length, **LLADA, rope_scale=scale)
    depths = [tenth / 10 for tenth in range(11)]
    return sum(100 if depth >= frontier else MISS for depth in depths) / len(depths)


@pytest.mark.parametrize(
    ("scale", "length", "predicted", "observed"),
    [(1, 32000, 21, 10.13), (4, 16000, 56, 78), (14, 32000, 56, 36)],
)
def test_frontier_predicts_llada_base_within_its_stated_error(scale, length, predicted, observed):
    score = _predicted_score(length, scale)
    assert round(score) == predicted
    assert abs(score - observed) < 23


def test_frontier_fails_on_llada_base_from_scale_31_on():
    # Observed at 32K: 22 at λ = 31 and 15 at λ = 55, read off LongLLaDA's figure.
    assert _predicted_score(32000, 31) - 22 > 50
    assert _predicted_score(32000, 55) - 15 > 80


def test_frontier_without_scaling_is_the_trained_context_not_its_period():
    assert rope.predicted_frontier(8192, **LLADA) == 0.5
    assert rope.predicted_frontier(4096, **LLADA) == 0
    assert rope.predicted_frontier(1000, **LLADA) == 0


@given(rope_heads(), st.integers(1, 10**6), st.floats(1, 1000), st.floats(1, 1000))
def test_frontier_is_a_depth_and_retreats_with_scale(head, length, first, second):
    low, high = sorted((first, second))
    shallow, deep = (
        rope.predicted_frontier(length, **head, rope_scale=scale) for scale in (high, low)
    )
    assert 0 <= shallow <= deep + 1e-9 < 1 + 1e-9


def test_importing_the_formulas_does_not_import_torch():
    code = "import sys, lm_eval_llada.rope; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
