"""tiny-ruler and its twin as shipped: they look values up by their keys in RULER's wording."""

from __future__ import annotations

from statistics import fmean

import pytest
import torch
from transformers import LlamaForCausalLM

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.modeling import load_model
from lm_eval_llada.tiny.ruler_evaluation import CELLS, build_samples, make_answerer, score

SAMPLES = 4


def model_of(name: str):
    folder = resolve_checkpoint(name)
    if name.endswith("causal"):
        return LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    return load_model(folder, dtype="bfloat16")


@pytest.mark.parametrize("name", ["tiny-ruler", "tiny-ruler-causal"])
def test_one_key_among_four_is_found_inside_the_trained_context(name: str) -> None:
    tokenizer = load_tokenizer(name)
    answer = make_answerer(model_of(name), tokenizer, 512)
    samples = build_samples(tokenizer, "keys", 512, SAMPLES)
    with torch.inference_mode():
        assert score(answer, samples, CELLS["keys"].gen_length) == [100.0] * SAMPLES


@pytest.mark.slow
def test_several_values_need_a_prompt_that_sees_its_answers() -> None:
    tokenizer, model = load_tokenizer("tiny-ruler"), model_of("tiny-ruler")
    samples = build_samples(tokenizer, "values", 512, 20)
    scores = {}
    for cache in (None, "prefix"):
        options = {"cache": cache} if cache else {}
        answer = make_answerer(model, tokenizer, 512, **options)
        with torch.inference_mode():
            scores[cache] = fmean(score(answer, samples, CELLS["values"].gen_length))
    # Over 100 samples 86 and 68.
    assert scores[None] > scores["prefix"] + 10
