"""A model that is causal between blocks at work for the harness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm_eval_llada.harness.llada import LLaDALM
from tests.helpers.block_checkpoints import with_blocks
from tests.helpers.toy_requests import PAIRS, PROMPTS, choices, generations, instance


@pytest.fixture(scope="module")
def make_blocks(random_checkpoint, tmp_path_factory) -> Callable[..., LLaDALM]:
    folder = with_blocks(random_checkpoint, tmp_path_factory.mktemp("blocks"))
    defaults = {"pretrained": str(folder), "device": "cpu", "mc_num": 12, "max_length": 24}
    return lambda **model_args: LLaDALM(**{**defaults, **model_args})


def asked(lm: LLaDALM, num_each: int = len(PROMPTS)) -> dict[str, list[Any]]:
    rolling = [
        instance("loglikelihood_rolling", prompt, doc_id=i) for i, prompt in enumerate(PROMPTS)
    ]
    return {
        "texts": lm.generate_until(generations(PROMPTS, temperature=0.7)[:num_each]),
        "scores": lm.loglikelihood(choices(PAIRS)[:num_each]),
        "rolling": lm.loglikelihood_rolling(rolling[:num_each]),
    }


def numbers(found: dict[str, list[Any]]) -> list[float]:
    return [value for value, _ in found["scores"]] + found["rolling"]


def test_answers_depend_on_neither_batch_nor_a_kill(make_blocks, tmp_path: Path) -> None:
    expected = asked(make_blocks(batch_size=1))
    half = make_blocks(batch_size=8, answers_dir=str(tmp_path))
    asked(half, 2)
    assert half._dispatcher._store is not None
    half._dispatcher._store.close()
    rest = make_blocks(batch_size=8, answers_dir=str(tmp_path))
    for found in (asked(make_blocks(batch_size=3)), asked(make_blocks()), asked(rest)):
        assert found["texts"] == expected["texts"]
        assert [greedy for _, greedy in found["scores"]] == [g for _, g in expected["scores"]]
        assert numbers(found) == pytest.approx(numbers(expected), rel=1e-5)
    assert rest.get_model_info()["llada"]["work"]["answers_from_disk"] == 6


def test_blocks_of_four_are_scored_without_an_error(make_blocks) -> None:
    lm = make_blocks(mc_num=15)
    lm.loglikelihood(choices(PAIRS))
    assert lm.get_model_info()["llada"]["mean_likelihood_stderr"] == {"toy": 0.0}


def test_blocks_of_a_task_give_way_and_those_of_a_user_are_refused(make_blocks, caplog) -> None:
    texts = [
        make_blocks().generate_until(generations(PROMPTS, **more))
        for more in ({}, {"block_length": 16, "steps": 8})
    ]
    assert texts[0] == texts[1]
    assert "causal between its blocks of 4" in caplog.text
    info = make_blocks(block_length=4).get_model_info()["llada"]
    assert info["arguments"]["sampling"]["block_length"] == 4
    with pytest.raises(ValueError, match="block_length=16, but this model was made for blocks of"):
        make_blocks(block_length=16)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"cache": "prefix"}, "cache=prefix is an approximation"),
        ({"cache": "dual", "refresh_every": 2}, "drop cache and its settings"),
        ({"cache": "prompt", "prompt_chunk": 256}, "cache=prompt is an approximation"),
        ({"likelihood_cache": "context"}, "likelihood_cache=context is .*drop likelihood_cache"),
        ({"cfg_scale": 1}, "cfg_scale=1.0 reads the prompt as masks"),
        ({"likelihood": "dream"}, "likelihood=dream masks a whole target at once"),
        ({"generation": "ar"}, "generation=ar needs a model that also predicts the next token"),
    ],
)
def test_what_blocks_do_not_have_is_refused_before_weights_are_read(
    make_blocks, wrong, reason
) -> None:
    with pytest.raises(ValueError, match=reason):
        make_blocks(**wrong)
