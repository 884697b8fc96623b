"""Likelihoods block by block: laws, and a loop that reads everything anew."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from lm_eval_llada.diffusion.block_likelihood import Span, span_estimates
from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.diffusion.estimates import LikelihoodOptions
from lm_eval_llada.diffusion.likelihood import (
    log_likelihoods,
    rolling_log_likelihoods,
    scored_pairs,
)
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.modeling import as_denoiser
from tests.helpers.block_loops import (
    every_mask,
    plain_block_log_likelihood,
    whole_logits,
)
from tests.helpers.llada_models import make_model, tokens

MASK = 50
RULES = {
    "start": BlockRules(4),
    "prompt": BlockRules(4, grid="prompt"),
    "causal_prefix": BlockRules(4, prefix="causal"),
    "previous": BlockRules(4, first_token="previous"),
    "causal_first": BlockRules(4, grid="prompt", prefix="causal", first_token="causal"),
    "of_one": BlockRules(1),
    "of_seven": BlockRules(7),
}
BOUND = LikelihoodOptions(method="enumerate", batch_size=3)


def a_model(rules: BlockRules):
    model = make_model(n_kv_heads=2)
    return model, replace(as_denoiser(model, mask_token_id=MASK), blocks=rules)


def some_pairs() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Contexts of several lengths, some with several targets, and targets in one block or more."""
    sizes = [(0, 3), (5, 1), (5, 2), (5, 9), (8, 6), (13, 5), (8, 6), (5, 1)]
    return [
        (tokens(1, size, seed=size)[0], tokens(1, length, seed=100 + i)[0])
        for i, (size, length) in enumerate(sizes)
    ]


@pytest.mark.parametrize("rules", RULES)
def test_likelihoods_are_those_of_the_loop_without_a_cache(rules):
    model, denoiser = a_model(RULES[rules])
    greedy = [
        (prefix, generate(denoiser, [prefix], SamplingOptions(gen_length=6))[0])
        for prefix, _ in some_pairs()[3::3]
    ]
    pairs = some_pairs() + greedy
    found = scored_pairs(denoiser, pairs, BOUND)
    for (prefix, target), (estimate, is_greedy) in zip(pairs, found, strict=True):
        expected, _, matches = plain_block_log_likelihood(
            model, RULES[rules], prefix, target, MASK, every_mask
        )
        assert estimate.value == pytest.approx(expected, abs=1e-4)
        assert estimate.stderr == 0
        # Rows of masks alone are equally sure, so that last bits decide.
        assert is_greedy == matches or not len(prefix)
    assert all(match for _, match in found[-len(greedy) :])


def test_blocks_of_one_are_the_chain_rule():
    model, denoiser = a_model(BlockRules(1))
    prefix, target = tokens(1, 6)[0], tokens(1, 5, seed=2)[0]
    expected = 0.0
    for k in range(5):
        known = torch.cat([prefix, target[:k], torch.tensor([MASK])])
        row = whole_logits(model, BlockRules(1), known, 6, None)[-1]
        expected += float(row.log_softmax(-1)[target[k]])
    (estimate,) = log_likelihoods(denoiser, [(prefix, target)], LikelihoodOptions())
    assert estimate.value == pytest.approx(expected, abs=1e-5)


def test_the_causal_mode_scores_by_one_pass_and_the_bound_is_asked_for():
    rules = RULES["causal_first"]
    model, denoiser = a_model(rules)
    prefix, target = tokens(1, 6)[0], tokens(1, 9, seed=2)[0]
    rows = whole_logits(model, rules, torch.cat([prefix, target]), 6, None)
    exact = float(rows[5:-1].log_softmax(-1).gather(1, target[:, None]).sum())
    (estimate,) = log_likelihoods(denoiser, [(prefix, target)], LikelihoodOptions())
    assert estimate.value == pytest.approx(exact, abs=1e-5)
    assert denoiser.stats.num_tokens == 14
    (bound,) = log_likelihoods(denoiser, [(prefix, target)], BOUND)
    assert abs(bound.value - exact) > 1e-2


@pytest.mark.parametrize("rules", [BlockRules(1), RULES["causal_first"]])
def test_the_probabilities_of_all_targets_of_two_tokens_sum_to_one(rules):
    model = make_model(vocab_size=12)
    denoiser = replace(as_denoiser(model, mask_token_id=11), blocks=rules)
    prefix = tokens(1, 5)[0] % 11
    pairs = [(prefix, torch.tensor(pair)) for pair in itertools.product(range(12), repeat=2)]
    found = log_likelihoods(denoiser, pairs, LikelihoodOptions())
    assert sum(math.exp(one.value) for one in found) == pytest.approx(1, abs=1e-5)


def test_every_mask_gives_the_mean_of_many_draws():
    _, denoiser = a_model(BlockRules(4))
    pair = (tokens(1, 6)[0], tokens(1, 7, seed=2)[0])
    (exact,) = log_likelihoods(denoiser, [pair], BOUND)
    options = LikelihoodOptions(method="mc", mc_num=3000)
    (drawn,) = log_likelihoods(denoiser, [pair], options, seeds=[0])
    assert 0 < drawn.stderr < 0.2
    assert drawn.value == pytest.approx(exact.value, abs=4 * drawn.stderr)


def test_draws_depend_on_neither_batch_nor_company():
    _, denoiser = a_model(BlockRules(4))
    pairs, options = some_pairs(), LikelihoodOptions(method="mc", mc_num=5, batch_size=8)
    seeds = list(range(len(pairs)))
    together = log_likelihoods(denoiser, pairs, options, seeds=seeds)
    for pair, seed, expected in zip(pairs, seeds, together, strict=True):
        alone = replace(options, batch_size=1)
        (estimate,) = log_likelihoods(denoiser, [pair], alone, seeds=[seed])
        assert estimate.value == pytest.approx(expected.value, abs=1e-5)
        assert estimate.stderr == pytest.approx(expected.stderr, abs=1e-5)


@pytest.mark.parametrize("rules", RULES)
def test_spans_of_a_text_are_pairs_of_what_is_before_them(rules):
    _, denoiser = a_model(RULES[rules])
    text = tokens(1, 30)[0]
    spans = [Span(4, 9, 0), Span(13, 14, 1), Span(24, 30, 2)]
    pairs = [(text[: span.start], text[span.start : span.end]) for span in spans]
    for options in (BOUND, LikelihoodOptions(method="mc", mc_num=4), LikelihoodOptions()):
        expected = log_likelihoods(denoiser, pairs, options, seeds=[0, 1, 2])
        found = span_estimates(denoiser, text, spans, options)
        for one, other in zip(found, expected, strict=True):
            assert one.value == pytest.approx(other.value, abs=1e-5)


def test_a_long_text_is_read_once_and_its_windows_sum():
    _, denoiser = a_model(BlockRules(4))
    text = tokens(1, 22)[0]
    (rolled,) = rolling_log_likelihoods(denoiser, [text], BOUND, max_length=12)
    pairs = [(text[:0], text[:12]), (text[10:12], text[12:])]
    parts = log_likelihoods(denoiser, pairs, BOUND)
    assert rolled.value == pytest.approx(sum(part.value for part in parts), abs=1e-5)


def test_options_of_a_prefix_share_its_pass_and_their_masked_form():
    _, denoiser = a_model(BlockRules(4))
    prefix = tokens(1, 40)[0]
    pairs = [(prefix, torch.tensor([token])) for token in range(4)]
    scored_pairs(denoiser, pairs, LikelihoodOptions())
    assert denoiser.stats.num_tokens == 40 + 4


def test_what_means_nothing_to_blocks_is_refused():
    _, denoiser = a_model(BlockRules(4))
    pair = [(tokens(1, 5)[0], tokens(1, 2)[0])]
    with pytest.raises(ValueError, match="cfg_scale=1 reads the prompt as masks"):
        log_likelihoods(denoiser, pair, LikelihoodOptions(cfg_scale=1), seeds=[0])
    with pytest.raises(ValueError, match="likelihood=dream masks a whole target at once"):
        log_likelihoods(denoiser, pair, LikelihoodOptions(method="dream"), seeds=[0])
    with pytest.raises(ValueError, match="likelihood_cache=context is .* reads a context once"):
        log_likelihoods(denoiser, pair, LikelihoodOptions(cache="context"), seeds=[0])
    with pytest.raises(ValueError, match="causal between blocks, and a pass over whole sequences"):
        denoiser.logits([pair[0][0]], [torch.tensor([0])], [0])
