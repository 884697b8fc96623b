"""Passes hold what is cheapest to read together, and no text or score depends on it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lm_eval_llada.diffusion.sampler import SamplingOptions
from lm_eval_llada.engine.batching import (
    Batcher,
    Progress,
    num_alike,
)
from lm_eval_llada.engine.device_memory import DeviceMemory
from lm_eval_llada.engine.jobs import Generation, Target
from lm_eval_llada.engine.requests import GenerationSettings
from lm_eval_llada.harness.llada import LLaDALM
from tests.helpers.plain_loops import plain_generate, plain_log_likelihood, whole_forward

MEMORY = DeviceMemory(torch.device("cpu"))
PROMPT_LENGTHS = (90, 3, 40, 5, 96, 4, 44)


def passes(lengths: list[int], fixed: int | None = 8, **settings: bool) -> list[list[int]]:
    """What runs together, each item being its own length."""
    batcher = Batcher(fixed, None, MEMORY, lambda length, rows: 1)
    batches = batcher.process(
        lengths, lambda item: (item, 1), lambda batch, size: batch, **settings
    )
    return [[item for item, _ in batch] for batch in batches]


def least_cost(lengths: list[int], pass_tokens: int) -> int:
    """By trying every way to cut."""
    if not lengths:
        return 0
    return min(
        size * max(lengths[:size]) + pass_tokens + least_cost(lengths[size:], pass_tokens)
        for size in range(1, len(lengths) + 1)
    )


@given(st.lists(st.integers(1, 60), min_size=1, max_size=7), st.integers(0, 50))
def test_the_first_pass_is_one_of_the_cheapest_cut(lengths, pass_tokens):
    size = num_alike(lengths, pass_tokens)
    first = size * max(lengths[:size]) + pass_tokens
    rest = least_cost(lengths[size:], pass_tokens)
    assert first + rest == least_cost(lengths, pass_tokens)


def test_padding_that_costs_more_than_a_pass_is_not_read():
    lengths = [48, 56, 64, 80, 96, 112, 128, 160]
    assert passes(lengths) == [lengths]
    assert passes(lengths, is_padded=True) == [[48, 56, 64], [80, 96], [112, 128], [160]]


@pytest.mark.parametrize("lengths", [[100] * 8, [98, 99, 100, 101, 102, 103, 104, 105], [1, 2]])
def test_lengths_that_are_near_share_a_pass(lengths):
    assert passes(lengths, is_padded=True) == [lengths]


def test_a_gpu_takes_more_padding_for_a_pass():
    memory = DeviceMemory(torch.device("cuda"), is_even=True)
    batcher = Batcher(8, None, memory, lambda length, rows: 1)
    assert batcher._pass_tokens > Batcher(8, None, MEMORY, lambda length, rows: 1)._pass_tokens


def test_one_sequence_that_does_not_fit_is_not_tried_again():
    tried = []

    def run(batch: list[int], size: int) -> list[int]:
        tried.append(batch)
        raise torch.OutOfMemoryError("CUDA out of memory")

    batcher = Batcher(8, None, MEMORY, lambda length, rows: 1)
    with pytest.raises(MemoryError, match="1 sequences of 5 tokens do not fit"):
        list(batcher.process([5, 900], lambda item: (item, 1), run, is_padded=True))
    assert tried == [[5]]


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


def generated(lm: LLaDALM, options: SamplingOptions) -> list[list[int]]:
    settings = GenerationSettings(options, ignore_eos=True)
    jobs = [Generation(tokens(n, n), settings, 0) for n in PROMPT_LENGTHS]
    with Progress(len(jobs), "texts", shown=False) as progress:
        texts = dict(pair for batch in lm.runner.texts(jobs, progress) for pair in batch)
    return [texts[job].tolist() for job in jobs]


def test_prompts_that_run_apart_give_the_texts_of_the_plain_loop(make):
    lm, options = make(batch_size=8), SamplingOptions(gen_length=8)
    texts, stats = generated(lm, options), lm.runner.stats
    # Of 3, 4 and 5 tokens, of 40 and 44, of 90 and 96.
    assert (stats.num_passes, stats.num_sequences) == (3 * 8, len(PROMPT_LENGTHS) * 8)
    denoise, mask_token_id = whole_forward(lm.runner.model), lm.runner.text.mask_token_id
    for text, length in zip(texts, PROMPT_LENGTHS, strict=True):
        prompt = tokens(length, length)
        expected = plain_generate(denoise, prompt, options, mask_token_id=mask_token_id)
        assert text == expected


def test_a_cache_whose_windows_hold_no_prompt_keeps_unequal_prompts_together(make):
    lm = make(batch_size=8)
    generated(lm, SamplingOptions(gen_length=8, cache="prefix"))
    assert lm.runner.stats.num_passes == 8


@pytest.mark.parametrize("threads", [1, 4])
def test_scores_do_not_depend_on_how_full_the_passes_of_a_cpu_are(make, monkeypatch, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr("lm_eval_llada.engine.batching._CPU_TOKENS_OF_A_THREAD", 128)
    lm = make(mc_num=20, is_check_greedy=False)
    pairs = [(tokens(4 + 3 * i, i), tokens(9 + i, 100 + i)) for i in range(6)]
    jobs = [Target(prefix, target, i) for i, (prefix, target) in enumerate(pairs)]
    with Progress(len(jobs), "scores", shown=False) as progress:
        scores = dict(pair for batch in lm.runner.scores(jobs, progress) for pair in batch)
    # Sequences of 13 tokens at least.
    num_fitting = 128 * threads // 13
    assert lm.runner.stats.num_sequences <= num_fitting * lm.runner.stats.num_passes
    denoise, mask_token_id = whole_forward(lm.runner.model), lm.runner.text.mask_token_id
    for i, (job, pair) in enumerate(zip(jobs, pairs, strict=True)):
        value, _ = plain_log_likelihood(denoise, *pair, 20, i, mask_token_id=mask_token_id)
        assert scores[job].value == pytest.approx(value, rel=1e-5)
