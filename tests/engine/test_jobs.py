"""Keys and costs of jobs: an answer kept by an earlier release is found by its key."""

from __future__ import annotations

import math

import pytest
import torch

from lm_eval_llada.diffusion.likelihood import Estimate
from lm_eval_llada.engine.arguments import parse_model_args
from lm_eval_llada.engine.jobs import JobMaker, Score
from lm_eval_llada.engine.loading import open_checkpoint
from lm_eval_llada.engine.requests import generation_settings

PREFIX, TARGET = torch.arange(5), torch.arange(5, 9)


@pytest.fixture(scope="module")
def maker() -> JobMaker:
    return JobMaker("owner", open_checkpoint(parse_model_args({"pretrained": "tiny-llada"})))


# Made by release 0.1.0 as it was before jobs had this form; seeds count where something is drawn.
@pytest.mark.parametrize(
    ("gen_kwargs", "key"),
    [
        (
            {"gen_length": 8, "until": ["\n"]},
            "f15bcf1a4f9d23792a78c5c67e4a9207d5931873474486cf96d19d5ba55bac98",
        ),
        (
            {"gen_length": 8, "temperature": 0.5, "ignore_eos": True},
            "a9ac7345a423853915c2a9fc2c3e9845884d249f6c86183af11560970dc41659",
        ),
    ],
)
def test_keys_of_texts_are_those_of_kept_answers(maker, gen_kwargs, key) -> None:
    settings = generation_settings(gen_kwargs, maker.checkpoint.arguments.sampling)
    job = maker.generation(PREFIX, settings, 7, ("context", gen_kwargs))
    assert (job.key, job.group, job.cost) == (key, key, 497463296)


@pytest.mark.parametrize(
    ("kind", "key", "alone", "cost"),
    [
        (
            "loglikelihood",
            "ee1c1572864b05ba47adc29e4c0978c5843d4dbd34d9b3d338c9d11ed5cb96c6",
            "2f85e7f3368d896b52ca81c0470f1e14320729aeeb0647e7a800ade7d02d932a",
            14792916074496.0,
        ),
        (
            "loglikelihood_rolling",
            "7338445e126fd561627550ab089c1e61e3ccc4be081c4ab45fb04a772cfefa61",
            "78a6324976b0db4c92b6ced1a87e14d3cef9546a8fe5066f948636c0b61264cd",
            6702162247680.0,
        ),
    ],
)
def test_keys_of_scores_are_those_of_kept_answers(maker, kind, key, alone, cost) -> None:
    job = maker.target(kind, PREFIX, TARGET, 7, ("context", "target"))
    assert (job.key, job.cost) == (key, pytest.approx(620590080.0))
    assert job.group == maker.target(kind, PREFIX, TARGET[:1], 3, ()).group != key
    job = maker.target(kind, PREFIX[:0], TARGET.repeat(300), 7, ("context", "target"))
    assert (job.key, job.group, job.cost) == (alone, alone, cost)


def test_a_score_is_kept_as_plain_values_and_read_as_it_was() -> None:
    score = Score.of(Estimate(-2.5, math.nan, 3), True)
    assert tuple(score) == (-2.5, True, None)
    assert Score.kept((-2.5, True, None)) == score
    assert Score.of(Estimate(-2.5, 0.25, 3), False).stderr == 0.25
