"""Runs that keep prompts and contexts: the same in every batch, and named in the results."""

from __future__ import annotations

import pytest

from tests.helpers.toy_requests import PAIRS, PROMPTS, choices, generations

LONG = [f"{prompt} {PROMPTS[1] * (4 + number)}" for number, prompt in enumerate(PROMPTS)]
KNOBS = {"cache": "prompt", "prompt_chunk": 32, "keep": 0.3, "cache_dtype": "bfloat16"}


def test_texts_do_not_depend_on_the_batch(make):
    requests = generations(LONG, block_length=4, ignore_eos=True)
    alone = make(batch_size=1, **KNOBS)
    texts = alone.generate_until(requests)
    assert make(batch_size=3, **KNOBS).generate_until(requests) == texts
    assert make(batch_size=4, **KNOBS).generate_until(requests[::-1]) == texts[::-1]
    assert make(batch_size=1).generate_until(requests) != texts
    assert alone.get_model_info()["llada"]["approximations"] == {
        "toy": ["cache=prompt", "cache_dtype=bfloat16", "keep=0.3", "prompt_chunk=32"]
    }


def test_a_task_may_ask_for_kept_prompts_by_itself(make):
    lm, requests = make(), generations(LONG[:2], ignore_eos=True)
    for request in requests:
        request.args[1].update(KNOBS)
    expected = make(**KNOBS).generate_until(generations(LONG[:2], ignore_eos=True))
    assert lm.generate_until(requests) == expected


def test_scores_beside_kept_contexts_do_not_depend_on_the_batch(make):
    pairs = [*PAIRS, ("The key for", " roof"), (LONG[0], " spoke of it"), (LONG[0], " rain")]
    kept = {"likelihood_cache": "context", "is_check_greedy": True}
    alone = make(batch_size=1, **kept)
    scores = alone.loglikelihood(choices(pairs))
    others = make(batch_size=4, **kept).loglikelihood(choices(pairs[::-1]))[::-1]
    for one, other in zip(scores, others, strict=True):
        assert one[0] == pytest.approx(other[0], abs=1e-4)
        assert one[1] == other[1]
    (last,) = make(batch_size=4, **kept).loglikelihood(choices(pairs[-1:]))
    assert last[0] == pytest.approx(scores[-1][0], abs=1e-4)
    exact = make().loglikelihood(choices(pairs))
    assert exact[-1][0] != pytest.approx(scores[-1][0], abs=1e-4)
    assert alone.get_model_info()["llada"]["approximations"] == {
        "toy": ["likelihood_cache=context"]
    }
