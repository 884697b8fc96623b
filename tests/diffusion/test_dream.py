"""Dream's decoding and likelihood convention: its schedule, ranks, filters and draws."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.diffusion.dream import (
    choose_ranked,
    draw_ranked,
    dream_schedule,
    reveal_chances,
    shaped,
)
from lm_eval_llada.diffusion.estimates import LikelihoodOptions, TargetMasks
from lm_eval_llada.diffusion.likelihood import rolling_log_likelihoods, scored_pairs
from lm_eval_llada.diffusion.sampler import SamplingOptions, block_schedule, generate
from lm_eval_llada.modeling import as_denoiser
from lm_eval_llada.modeling.cost import generation_work
from tests.helpers import plain_loops
from tests.helpers.likelihood_loops import PAIRS
from tests.helpers.likelihood_loops import SEEDS as PAIR_SEEDS
from tests.helpers.llada_models import FULL_ROWS, make_model, tokens
from tests.helpers.plain_loops import dream_row, plain_dream, whole_forward
from tests.helpers.sampling import EOS, MASK, NETWORK, PROMPTS, SEEDS, VOCAB, run
from tests.helpers.toys import FixedLogits, Recorder, denoiser

RANKED = ("entropy", "maskgit_plus", "topk_margin")
CASES = {
    **{alg: SamplingOptions(gen_length=12, alg=alg) for alg in RANKED},
    **{f"{alg}_few_steps": SamplingOptions(gen_length=12, steps=5, alg=alg) for alg in RANKED},
    "many_steps": SamplingOptions(gen_length=8, steps=100, alg="entropy"),
    "blocks": SamplingOptions(gen_length=11, block_length=4, steps=7, alg="topk_margin"),
    "top_p": SamplingOptions(gen_length=10, steps=6, alg="entropy", top_p=0.7),
    "top_k": SamplingOptions(gen_length=10, steps=6, alg="maskgit_plus", top_k=3),
    "both": SamplingOptions(gen_length=10, steps=6, alg="entropy", top_p=0.9, top_k=4),
    "guidance": SamplingOptions(gen_length=8, alg="entropy", cfg_scale=1.5),
    "temperature": SamplingOptions(
        gen_length=10, steps=6, alg="entropy", temperature=0.7, top_p=0.9, top_k=6
    ),
    "margin_temperature": SamplingOptions(gen_length=8, alg="topk_margin", temperature=1.5),
    "alg_temp": SamplingOptions(gen_length=10, steps=4, alg="maskgit_plus", alg_temp=0.3),
    "both_temperatures": SamplingOptions(
        gen_length=10, block_length=5, steps=6, alg="entropy", alg_temp=1.0, temperature=0.6
    ),
    "origin": SamplingOptions(gen_length=12, steps=5, alg="origin"),
    "origin_temperature": SamplingOptions(
        gen_length=12, block_length=7, steps=9, alg="origin", temperature=1.0, top_p=0.8
    ),
}


@given(st.integers(0, 300), st.integers(1, 400))
def test_the_schedule_sums_to_the_number_of_masks(num_masked: int, steps: int) -> None:
    counts = dream_schedule(num_masked, steps)
    assert len(counts) == steps and sum(counts) == num_masked and min(counts) >= 0


def test_the_schedule_takes_floors_of_what_is_left() -> None:
    # By hand: times 1, .8002, .6004, .4006, .2008, so shares .1998, .2497, .3328, .4988 and all.
    assert dream_schedule(10, 5) == [1, 2, 2, 2, 3]
    assert dream_schedule(7, 1) == [7]
    # One step a token reveals nothing first and two tokens last, unlike LLaDA's even shares.
    assert dream_schedule(8, 8) == [0, 1, 1, 1, 1, 1, 1, 2]


def test_chances_leave_what_is_expected_of_the_schedule() -> None:
    left = 1.0
    for step, chance in enumerate(reveal_chances(40)[:-1]):
        left *= 1 - chance
        assert left == pytest.approx(1 - 0.999 * (step + 1) / 40, abs=1e-6)
    assert reveal_chances(40)[-1] == 1


@pytest.mark.parametrize("name", CASES)
def test_texts_equal_the_plain_loop_whatever_shares_their_batch(name: str) -> None:
    options = CASES[name]
    model = plain_loops_forward()
    expected = [
        plain_dream(model, prompt, options, seed, mask_token_id=MASK)
        for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
    ]
    assert run(PROMPTS, options, SEEDS) == expected
    assert run(PROMPTS[::-1], options, SEEDS[::-1]) == expected[::-1]
    assert [run([p], options, [s])[0] for p, s in zip(PROMPTS, SEEDS, strict=True)] == expected
    assert all(MASK not in text for text in expected)
    # Random numbers are what it says they are.
    others = run(PROMPTS, options, [seed + 1 for seed in SEEDS])
    assert (others != expected) == options.is_random or options.alg == "origin"


def plain_loops_forward() -> plain_loops.Denoise:
    def denoise(input_ids: torch.Tensor, *, attention_mask: torch.Tensor | None) -> torch.Tensor:
        return NETWORK(input_ids, attention_mask=attention_mask)

    return denoise


@pytest.mark.parametrize("row", FULL_ROWS)
@pytest.mark.parametrize("alg", RANKED)
def test_texts_of_every_family_equal_the_plain_loop(row: str, alg: str) -> None:
    model = make_model(**FULL_ROWS[row], mask_token_id=1, eos_token_id=0)
    prompts = [tokens(length, seed=length) for length in (7, 1, 19)]
    options = SamplingOptions(gen_length=9, steps=6, alg=alg, top_p=0.95)
    found = generate(as_denoiser(model), prompts, options)
    plain = partial(plain_dream, whole_forward(model), mask_token_id=1)
    assert [text.tolist() for text in found] == [plain(prompt, options) for prompt in prompts]


@given(
    st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=12, unique=True),
    st.floats(0, 1),
    st.integers(0, 13),
    st.sampled_from([0.0, 0.3, 1.0, 2.0]),
)
def test_filters_keep_the_likeliest_tokens(row, top_p, top_k, temperature) -> None:
    logits = torch.tensor([row])
    options = SamplingOptions(alg="entropy", top_p=top_p, top_k=top_k, temperature=temperature)
    found = shaped(logits, temperature, top_p, top_k)[0]
    assert found.argmax() == logits[0].argmax()
    kept = int(found.isfinite().sum())
    assert kept <= (top_k or len(row))
    expected = dream_row(logits[0], options)
    # A sum that comes within rounding of top_p may fall to either side.
    sums = expected.new_tensor(sorted(row, reverse=True))
    sums = (sums / temperature if temperature else sums).softmax(-1).cumsum(0)
    if float((sums - top_p).abs().min()) > 1e-5:
        assert torch.equal(found, expected)


def test_ranks_are_entropy_margin_and_probability() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.9, 0.1, 0.0]]).log()
    entropy = [math.log(0.5) / 2 + math.log(0.25) / 2, 0.9 * math.log(0.9) + 0.1 * math.log(0.1)]
    for alg, expected in (
        ("entropy", entropy),
        ("topk_margin", [0.25, 0.8]),
        ("maskgit_plus", [0.5, 0.9]),
    ):
        chosen, sure = choose_ranked(logits, alg, None)
        assert chosen.tolist() == [0, 0]
        assert sure.tolist() == pytest.approx(expected, abs=1e-6)
    # A drawn token is ranked by its own probability, its row by all of them.
    assert choose_ranked(logits, "maskgit_plus", torch.tensor([1, 1]))[1].tolist() == (
        pytest.approx([0.25, 0.1])
    )


def test_positions_are_drawn_by_the_softmax_of_their_ranks() -> None:
    sure, generator = torch.tensor([0.1, 0.5, 0.9]), torch.Generator().manual_seed(0)
    num = 4000
    firsts = torch.zeros(3)
    for _ in range(num):
        uniform = torch.rand(3, generator=generator, dtype=torch.float64)
        drawn = draw_ranked(sure, 0.4, 2, uniform)
        assert len(set(drawn.tolist())) == 2
        firsts[drawn[0]] += 1
    chances = (sure / 0.4).softmax(-1)
    errors = (chances * (1 - chances) / num).sqrt()
    assert bool(((firsts / num - chances).abs() < 4 * errors).all())


def test_origin_reveals_the_best_tokens_in_any_order() -> None:
    logits = torch.randn(10, VOCAB, generator=torch.Generator().manual_seed(3))
    logits[:, MASK] = 50.0  # never chosen all the same
    options = SamplingOptions(gen_length=10, steps=4, alg="origin")
    best = logits[:, :MASK].argmax(-1).tolist()
    for seed in range(5):
        assert run([PROMPTS[4]], options, [seed], FixedLogits(logits)) == [best]


def test_steps_that_reveal_nothing_are_not_run() -> None:
    options = SamplingOptions(gen_length=8, steps=200, alg="entropy")
    recorder = Recorder(NETWORK)
    run([PROMPTS[0]], options, denoise=recorder)
    ((_, _, counts),) = block_schedule(options)
    assert len(recorder.calls) == len(counts) <= 8 and sum(counts) == 8
    work = generation_work(make_model().config, 5, options)
    assert work.num_passes == len(counts)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alg": "entropi"}, "Did you mean 'entropy'"),
        ({"alg": "entropy", "top_p": 1.5}, "top_p must be at most 1"),
        ({"alg": "entropy", "top_k": -2}, "top_k must be a whole number >= 0"),
        ({"alg": "entropy", "remasking": "random"}, "drop one of them, or use alg=none"),
        ({"alg": "entropy", "threshold": 0.9}, "threshold=0.9 belongs to LLaDA's decoding"),
        ({"alg": "origin", "alg_temp": 0.5}, "set only one of them"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingOptions(**settings)


@pytest.mark.parametrize("settings", [{"top_p": 0.9}, {"top_k": 5}, {"alg_temp": 0.1}])
def test_what_only_dream_has_is_refused_without_alg(settings) -> None:
    with pytest.raises(ValueError, match="use it with alg=entropy, maskgit_plus, topk_margin or"):
        run([PROMPTS[0]], SamplingOptions(**settings), [1])


@pytest.mark.parametrize("settings", [{"alg": "origin"}, {"alg": "entropy", "alg_temp": 0.5}])
def test_draws_need_a_seed(settings) -> None:
    with pytest.raises(ValueError, match="pass one seed for each prompt"):
        run([PROMPTS[0]], SamplingOptions(**settings))


# --- likelihood -----------------------------------------------------------------------------------

OPTIONS = LikelihoodOptions(mc_num=9, method="dream", batch_size=4)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_scores_by_dreams_convention_equal_the_plain_loop(batch_size: int) -> None:
    options = LikelihoodOptions(mc_num=9, method="dream", batch_size=batch_size)
    model = denoiser(NETWORK, MASK)
    found = scored_pairs(model, PAIRS, options, seeds=PAIR_SEEDS, eos_token_id=EOS)
    plain = partial(
        plain_loops.plain_dream_log_likelihood,
        plain_loops_forward(),
        mc_num=9,
        mask_token_id=MASK,
        eos_token_id=EOS,
    )
    for (estimate, is_greedy), pair, seed in zip(found, PAIRS, PAIR_SEEDS, strict=True):
        assert estimate.value == pytest.approx(plain(*pair, seed=seed), rel=1e-5, abs=1e-5)
        assert not is_greedy


def test_the_mean_of_dreams_draws_is_the_log_likelihood_of_independent_tokens() -> None:
    logits = torch.randn(6, VOCAB, generator=torch.Generator().manual_seed(5))
    target = torch.tensor([1, 2, 3])
    options = LikelihoodOptions(mc_num=60_000, method="dream", batch_size=64)
    model = denoiser(FixedLogits(logits), MASK)
    pair = (torch.tensor([4, 5]), target)
    ((estimate, _),) = scored_pairs(model, [pair], options, seeds=[0], eos_token_id=EOS)
    expected = float(logits.log_softmax(-1)[2 + torch.arange(3), target].sum())
    assert abs(estimate.value - expected) < 4 * estimate.stderr < 0.4
    # Three tokens have seven masks that hide any.
    assert estimate.num_passes == 7


def test_masked_shares_of_dreams_draws_are_even() -> None:
    drawn = TargetMasks.independent(torch.ones(4, dtype=torch.bool), 1000, 1)
    assert drawn.weights is not None and drawn.draws is not None
    chances = (1 / drawn.weights).sort().values
    assert float((chances.diff() - 0.999 / 1000).abs().max()) < 1e-12
    assert float(chances[0]) >= 0.001 and float(chances[-1]) <= 1
    assert bool(drawn.masks.any(dim=1).all())


def test_a_lone_first_token_costs_nothing_and_an_eos_is_needed() -> None:
    empty = torch.empty(0, dtype=torch.long)
    model = denoiser(NETWORK, MASK)
    pairs = [(empty, torch.tensor([3])), (torch.tensor([3]), empty)]
    found = scored_pairs(model, pairs, OPTIONS, seeds=[1, 2], eos_token_id=EOS)
    assert [estimate.value for estimate, _ in found] == [0, 0]
    with pytest.raises(ValueError, match="needs seeds and EOS"):
        scored_pairs(model, pairs, OPTIONS, seeds=[1, 2])
    with pytest.raises(ValueError, match="use likelihood=mc or auto"):
        rolling_log_likelihoods(model, [torch.tensor([3])], OPTIONS, max_length=8, seeds=[1])
