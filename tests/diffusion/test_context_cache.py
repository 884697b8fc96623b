"""Likelihoods beside a kept context against plain loops that keep what each layer has read."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lm_eval_llada.curves.scores import Chunk, DiffusionScorer
from lm_eval_llada.diffusion import context_reading
from lm_eval_llada.diffusion.context_reading import ContextReader, read_masks_by
from lm_eval_llada.diffusion.denoiser import DenoiserStats
from lm_eval_llada.diffusion.duel import duel_log_likelihoods
from lm_eval_llada.diffusion.estimates import LikelihoodOptions
from lm_eval_llada.diffusion.likelihood import rolling_log_likelihoods, scored_pairs
from lm_eval_llada.engine.arguments import answer_fingerprint, parse_model_args
from lm_eval_llada.engine.batching import Batcher
from lm_eval_llada.engine.device_memory import DeviceMemory
from lm_eval_llada.engine.keys import plain_settings
from lm_eval_llada.modeling import LLaDAForMaskedLM, as_denoiser, cost
from lm_eval_llada.modeling.cost import likelihood_work
from tests.helpers.llada_models import ROWS, make_model, plain_forward, tokens

MASK, ROOM = 96, 4
CONTEXT, OTHER = tokens(15, seed=1), tokens(9, seed=2)
PAIRS = [
    (CONTEXT, tokens(5, seed=3)),
    (OTHER, tokens(3, seed=4)),
    (CONTEXT, tokens(5, seed=5)),
    (CONTEXT, tokens(4, seed=6)),
    (tokens(3), tokens(6, seed=7)),
    (tokens(0), tokens(2, seed=8)),
]
OPTIONS = LikelihoodOptions(mc_num=6, method="mc", cache="context")


@pytest.fixture(autouse=True)
def _short_room(monkeypatch):
    monkeypatch.setattr(context_reading, "ROOM", ROOM)
    with torch.no_grad():
        yield


def masks_of(length: int, seed: int) -> Tensor:
    """Four masks, none of them empty."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(4, length, generator=generator) < 0.5
    masks[:, 0] |= ~masks.any(dim=1)
    masks[0] = True
    return masks


class PlainContext:
    """One sequence at a time: the context is read with masks behind it, then targets alone."""

    def __init__(self, model: LLaDAForMaskedLM, context: Tensor, length: int) -> None:
        self.model, self.context, self.kept = model, context, {}
        room = -(-length // ROOM) * ROOM
        plain_forward(model, torch.cat([context, torch.full((room,), MASK)]), self.kept)

    def logits(self, target: Tensor) -> Tensor:
        end = len(self.context) + len(target)
        kept = {layer: states[:end].clone() for layer, states in self.kept.items()}
        window = range(len(self.context), end)
        return plain_forward(self.model, torch.cat([self.context, target]), kept, window)


def plain_scores(
    model: LLaDAForMaskedLM, pair: tuple[Tensor, Tensor], masks: Tensor, cfg_scale: float = 0.0
) -> list[float]:
    context, target = pair
    is_kept = len(context) > len(target)
    unseen = torch.full_like(context, MASK)
    scores = []
    for mask in masks:
        shown = target.masked_fill(mask, MASK)
        both = []
        for given in (context, unseen):
            if is_kept:
                logits = PlainContext(model, given, len(target)).logits(shown)
            else:
                logits = plain_forward(model, torch.cat([given, shown]))
            both.append(logits[len(context) :])
        logits = both[1] + (cfg_scale + 1) * (both[0] - both[1])
        log_probs = logits.double().log_softmax(-1)[torch.arange(len(target)), target]
        scores.append(float(log_probs[mask].sum()))
    return scores


def read(model, pairs: Sequence[tuple[Tensor, Tensor]], batch_size: int = 8, **keywords):
    masks = [masks_of(len(target), seed=len(target)) for _, target in pairs]
    denoiser = as_denoiser(model, mask_token_id=MASK).guided(keywords.pop("cfg_scale", 0.0))
    scores, _ = read_masks_by(
        denoiser, pairs, masks, batch_size, check_greedy=False, cache="context"
    )
    return [score.tolist() for score in scores]


@pytest.mark.parametrize("cfg_scale", [0.0, 0.5])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_scores_equal_a_plain_loop(cfg_scale, batch_size):
    model = make_model(n_layers=2, n_kv_heads=2)
    expected = [
        plain_scores(model, pair, masks_of(len(pair[1]), len(pair[1])), cfg_scale) for pair in PAIRS
    ]
    found = read(model, PAIRS, batch_size, cfg_scale=cfg_scale)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=2e-4)


def test_scores_depend_on_no_company():
    model = make_model(n_layers=2)
    together = read(model, PAIRS)
    backwards = read(model, PAIRS[::-1], batch_size=3)[::-1]
    for number, pair in enumerate(PAIRS):
        (alone,) = read(model, [pair])
        assert together[number] == pytest.approx(alone, abs=1e-5)
        assert backwards[number] == pytest.approx(alone, abs=1e-5)


@pytest.mark.parametrize("shape", ROWS)
def test_a_target_that_fills_its_room_is_exact_where_all_of_it_is_masked(shape):
    model = make_model(**ROWS[shape])
    pair = (CONTEXT, tokens(2 * ROOM, seed=9))
    masks = [torch.ones(1, 2 * ROOM, dtype=torch.bool)]
    denoiser = as_denoiser(model, mask_token_id=MASK)
    kept, exact = (
        read_masks_by(denoiser, [pair], masks, 4, check_greedy=False, cache=cache)[0][0]
        for cache in ("context", "none")
    )
    torch.testing.assert_close(kept, exact, atol=1e-4, rtol=1e-5)


def test_estimates_keep_their_masks_and_standard_errors():
    model = make_model(n_layers=2)
    denoiser, seeds = as_denoiser(model, mask_token_id=MASK), list(range(len(PAIRS)))
    exact = LikelihoodOptions(mc_num=6, method="mc")
    kept, plain = (
        [estimate for estimate, _ in scored_pairs(denoiser, PAIRS, options, seeds=seeds)]
        for options in (OPTIONS, exact)
    )
    assert [one.num_passes for one in kept] == [one.num_passes for one in plain]
    for one, other, (prefix, target) in zip(kept, plain, PAIRS, strict=True):
        is_kept = len(prefix) > len(target)
        assert (one.value != pytest.approx(other.value, abs=1e-4)) == is_kept
        assert one.stderr > 0


def test_the_greedy_check_decodes_beside_the_context():
    model = make_model(n_layers=2)
    plain = PlainContext(model, CONTEXT, 4)
    target = torch.full((4,), MASK)
    for _ in range(4):
        logits = plain.logits(target)[len(CONTEXT) :]
        logits[:, MASK] = -torch.inf
        sure = logits.softmax(-1).max(-1)
        hidden = [p for p in range(4) if target[p] == MASK]
        best = max(hidden, key=lambda p: float(sure.values[p]))
        target[best] = sure.indices[best]
    wrong = target.clone()
    wrong[2] = (wrong[2] + 1) % 50
    denoiser = as_denoiser(model, mask_token_id=MASK)
    pairs = [(CONTEXT, target), (CONTEXT, wrong)]
    scored = scored_pairs(denoiser, pairs, OPTIONS, seeds=[1, 2])
    assert [matches for _, matches in scored] == [True, False]


def test_a_context_is_read_once_for_all_masks_of_its_targets():
    model, stats = make_model(n_layers=2), DenoiserStats()
    denoiser = as_denoiser(model, mask_token_id=MASK, stats=stats)
    options = LikelihoodOptions(method="enumerate", cache="context")
    pairs = [(CONTEXT, tokens(3, seed=seed)) for seed in range(3)]
    scored_pairs(denoiser, pairs, options, check_greedy=False)
    # The wholly masked target is the same for all three.
    num_windows = stats.num_sequences - 1
    assert 15 < num_windows <= 3 * 7 - 2
    assert stats.num_tokens == 15 + ROOM + num_windows * 3


def test_curves_and_duel_keep_contexts_too():
    model, text = make_model(n_layers=2), tokens(24, seed=11)
    denoiser = as_denoiser(model, mask_token_id=MASK)
    chunks = [Chunk("d", text, start, start + 4, 4, seed=start) for start in (8, 12, 20)]
    batcher = Batcher(2, None, DeviceMemory(model.device), lambda *_: 0)
    found = {
        cache: {
            (chunk.end, name): estimate.value
            for chunk, name, estimate in DiffusionScorer(
                denoiser, batcher, mc_num=4, likelihood_cache=cache
            ).score(chunks, ["elbo", "duel"])
        }
        for cache in ("none", "context")
    }
    assert found["none"].keys() == found["context"].keys()
    for key, value in found["context"].items():
        assert value != found["none"][key]
    for chunk in chunks:
        reader = ContextReader(denoiser, chunk.pair[0])
        (whole,) = duel_log_likelihoods(reader, [chunk.pair])
        assert found["context"][chunk.end, "duel"] == pytest.approx(-whole.value / 4)


def test_the_last_window_of_a_rolling_likelihood_keeps_what_comes_before_it():
    model = make_model(n_layers=2)
    denoiser = as_denoiser(model, mask_token_id=MASK)
    exact = LikelihoodOptions(mc_num=4, method="mc")
    found = {}
    for length in (16, 19):
        for options in (exact, LikelihoodOptions(mc_num=4, method="mc", cache="context")):
            (estimate,) = rolling_log_likelihoods(
                denoiser, [tokens(length, seed=2)], options, max_length=8, seeds=[1]
            )
            found[length, options.cache] = estimate.value
    assert found[16, "none"] == found[16, "context"]
    assert found[19, "none"] != found[19, "context"]


def test_the_cost_is_foreseen(monkeypatch):
    monkeypatch.setattr(cost, "ROOM", ROOM)
    model = make_model(n_layers=2, n_kv_heads=2)
    options = LikelihoodOptions(method="enumerate", batch_size=1, cache="context")

    def run() -> None:
        with sdpa_kernel(SDPBackend.MATH):
            denoiser = as_denoiser(model, mask_token_id=MASK)
            scored_pairs(denoiser, [(CONTEXT, tokens(3))], options, check_greedy=False)

    with FlopCounterMode(display=False) as counter:
        run()
    foreseen = likelihood_work(model.config, 15, 3, options)
    assert foreseen.num_passes == 8
    assert foreseen.flops == pytest.approx(counter.get_total_flops(), rel=1e-9)


def test_it_is_asked_for_by_name_and_kept_apart():
    assert "cache" not in plain_settings(LikelihoodOptions())
    arguments = parse_model_args({"likelihood_cache": "context"})
    assert arguments.likelihood.approximations == ["likelihood_cache=context"]
    assert arguments.sampling.cache == "none"
    digests = {
        answer_fingerprint(parse_model_args(given), "tiny-llada")
        for given in ({}, {"likelihood_cache": "context"}, {"likelihood_cache": "none"})
    }
    assert len(digests) == 2
    with pytest.raises(ValueError, match="likelihood_cache must be one of none, context; got 'no'"):
        parse_model_args({"likelihood_cache": "no"})
