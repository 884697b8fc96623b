"""How full passes are changes no text and no score."""

from __future__ import annotations

import pytest
import torch
from plain_loops import plain_log_likelihood, whole_forward
from torch import Tensor

from lm_eval_llada.batching import Batcher, Progress
from lm_eval_llada.device_memory import DeviceMemory
from lm_eval_llada.mask_plans import LikelihoodOptions
from lm_eval_llada.runner import Target

MEMORY = DeviceMemory(torch.device("cpu"))


@pytest.mark.parametrize(("threads", "tokens"), [(1, 1024), (2, 2048), (64, 8192)])
def test_passes_that_are_filled_anew_stay_in_the_caches_of_a_cpu(monkeypatch, threads, tokens):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    batcher = Batcher(None, 10**6, MEMORY, lambda length, rows: 1)
    assert batcher.size(10, 1, is_refilled=True) == tokens // 10
    assert batcher.size(10, 1) == 8192 // 10
    assert batcher.size(10**5, 1, is_refilled=True) == 1


# --- of a model -----------------------------------------------------------------------------------


def tokens(length: int, seed: int) -> Tensor:
    return torch.randint(6, 60, (length,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("threads", [1, 4])
def test_scores_do_not_depend_on_how_full_the_passes_of_a_cpu_are(make, monkeypatch, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr("lm_eval_llada.batching._CPU_TOKENS_OF_A_THREAD", 128)
    lm = make()
    pairs = [(tokens(4 + 3 * i, i), tokens(9 + i, 100 + i)) for i in range(6)]
    items = [Target(i, prefix, target, i) for i, (prefix, target) in enumerate(pairs)]
    options = LikelihoodOptions(mc_num=20)
    with Progress(len(items), "scores", shown=False) as progress:
        batches = lm.runner.scores(items, options, progress, check_greedy=False)
        scores = dict(pair for batch in batches for pair in batch)
    # Sequences of 13 tokens at least.
    num_fitting = 128 * threads // 13
    assert lm.runner.stats.num_sequences <= num_fitting * lm.runner.stats.num_passes
    denoise, mask_token_id = whole_forward(lm.runner.model), lm.runner.text.mask_token_id
    for i, pair in enumerate(pairs):
        value, _ = plain_log_likelihood(denoise, *pair, 20, i, mask_token_id=mask_token_id)
        assert scores[i][0].value == pytest.approx(value, rel=1e-5)
