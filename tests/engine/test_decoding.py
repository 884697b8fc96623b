"""How a family's release decodes, and which requests decode so."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from lm_eval_llada.diffusion.sampler import SamplingOptions
from lm_eval_llada.engine import arguments as engine_arguments
from lm_eval_llada.engine.answers import answer_key
from lm_eval_llada.engine.arguments import answer_fingerprint, parse_model_args
from lm_eval_llada.engine.decoding import with_release_decoding
from lm_eval_llada.engine.requests import GenerationSettings, generation_settings
from lm_eval_llada.harness.llada import LLaDALM
from lm_eval_llada.modeling.families import family_named
from tests.helpers.family_checkpoints import make_family_checkpoint
from tests.helpers.family_tokenizers import write_toy_tokenizer

DREAM = {"alg": "entropy", "temperature": 0.2, "top_p": 0.95}


def test_keys_of_answers_kept_before_dream_are_as_they_were(monkeypatch) -> None:
    options = SamplingOptions(steps=4, gen_length=8)
    content = ["prompt", GenerationSettings(options, ("x",)), None]
    golden = "1be38e52689a6c4f5d54318aac3bdc5b98bd217201ee429bfbfb23c638417b25"
    assert answer_key("owner", "generate_until", content) == golden

    def digest(values: Any, *args: Any, **keywords: Any) -> str:
        return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()

    monkeypatch.setattr(engine_arguments, "fingerprint", digest)
    given = {"rope_method": "ntk", "target_length": "2048", "steps": "4"}
    golden = "e39730dad3c348e0a5037384174d3e030ce5b5dd5a99489f07f2c6b19fcccea0"
    assert answer_fingerprint(parse_model_args(given), "x") == golden
    assert answer_fingerprint(parse_model_args({**given, "alg": "entropy"}), "x") != golden


def test_a_release_fills_in_what_the_user_did_not_say() -> None:
    filled, lines = with_release_decoding({"steps": 8}, "Dream")
    assert filled == {"steps": 8, **DREAM}
    assert lines == (
        "Dream: alg=entropy, temperature=0.2, top_p=0.95 is filled in as its release decodes, "
        "where a task or --gen_kwargs says nothing else; alg=none decodes as LLaDA does.",
    )
    filled, (line,) = with_release_decoding({"temperature": 0, "alg": "origin"}, "Dream")
    assert filled == {"temperature": 0, "alg": "origin", "top_p": 0.95}
    assert line.startswith("Dream: top_p=0.95 is filled in")


@pytest.mark.parametrize("none", ["none", None, "None"])
def test_without_alg_nothing_of_dreams_is_filled_in(none) -> None:
    assert with_release_decoding({"alg": none}, "Dream") == ({"alg": none}, ())


def test_a_threshold_of_the_release_is_nothing_to_decoding_token_by_token() -> None:
    nemotron = "Nemotron-Labs-Diffusion"
    assert with_release_decoding({}, nemotron)[0] == {"threshold": 0.9}
    given = {"generation": "ar"}
    assert with_release_decoding(given, nemotron) == (given, ())
    rules = family_named(nemotron).blocks
    filled = SamplingOptions(threshold=0.9)
    options = generation_settings(given, filled, rules).options
    assert (options.generation, options.threshold) == ("ar", None)
    assert generation_settings({}, filled, rules).options.threshold == 0.9
    with pytest.raises(ValueError, match="drop threshold"):
        generation_settings({**given, "threshold": 0.5}, filled, rules)


def test_llada_decodes_as_before() -> None:
    assert with_release_decoding({}, "LLaDA") == ({}, ())


DEFAULTS = SamplingOptions(**DREAM)


@pytest.mark.parametrize(
    ("gen_kwargs", "options"),
    [
        ({}, DEFAULTS),
        ({"do_sample": False}, SamplingOptions(alg="entropy", top_p=0.95)),
        ({"top_p": 1, "top_k": -1}, SamplingOptions(alg="entropy", temperature=0.2)),
        ({"top_k": "20"}, SamplingOptions(**DREAM, top_k=20)),
        ({"alg": "origin"}, SamplingOptions(**{**DREAM, "alg": "origin"})),
        ({"alg_temp": 0.5}, SamplingOptions(**DREAM, alg_temp=0.5)),
        ({"alg": "none"}, SamplingOptions(temperature=0.2)),
        ({"alg": None, "temperature": 0, "top_p": 0.9}, SamplingOptions()),
        # What tasks say for LLaDA, which ranks positions otherwise.
        ({"remasking": "low_confidence", "steps": 4}, SamplingOptions(**DREAM, steps=4)),
    ],
)
def test_a_request_overrides_the_release(gen_kwargs, options) -> None:
    assert generation_settings(gen_kwargs, DEFAULTS).options == options


@pytest.mark.parametrize(
    ("gen_kwargs", "message"),
    [
        ({"alg": "none", "top_p": 0.9}, "top_p=0.9 is not available in LLaDA's decoding"),
        ({"alg": "none", "alg_temp": 0.9}, "use it with alg=entropy, maskgit_plus, topk_margin"),
        ({"min_p": 0.1}, "min_p=0.1 is not available for masked diffusion"),
        ({"remasking": "random"}, "use alg=none"),
        ({"top_p": 2}, "top_p must be at most 1"),
    ],
)
def test_a_request_that_no_decoding_meets_is_refused(gen_kwargs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generation_settings(gen_kwargs, DEFAULTS)


@pytest.fixture(scope="module")
def dream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dream")
    tokenizer = write_toy_tokenizer(folder, "<|mask|>")
    mask, eos = tokenizer.convert_tokens_to_ids("<|mask|>"), tokenizer.eos_token_id
    ids = {"mask_token_id": mask, "eos_token_id": eos, "pad_token_id": eos}
    make_family_checkpoint("Dream", folder, vocab_size=len(tokenizer), **ids)
    return folder


def opened(folder: Path, **model_args: Any) -> LLaDALM:
    return LLaDALM(pretrained=str(folder), device="cpu", gen_length=6, **model_args)


def texts_of(lm: LLaDALM, order: list[int], **gen_kwargs: Any) -> dict[int, str]:
    contexts = ["The key is", "Rain", "A longer text that says nothing.", "Sand and coal"]
    gen_kwargs = {"until": [], "ignore_eos": True, **gen_kwargs}
    requests = [Instance("generate_until", {}, (contexts[i], gen_kwargs), i) for i in order]
    return dict(zip(order, lm.generate_until(requests, disable_tqdm=True), strict=True))


@pytest.mark.parametrize(
    "gen_kwargs",
    [{}, {"alg": "origin", "temperature": 1.0}, {"alg_temp": 0.5, "temperature": 1.0}],
)
def test_drawn_texts_depend_on_neither_batch_nor_order(dream, gen_kwargs) -> None:
    expected = texts_of(opened(dream, batch_size=1), [0, 1, 2, 3], **gen_kwargs)
    assert texts_of(opened(dream, batch_size=4), [3, 1, 0, 2], **gen_kwargs) == expected
    assert texts_of(opened(dream, batch_size=2), [2], **gen_kwargs) == {2: expected[2]}


def test_a_run_says_what_of_the_release_it_takes(dream, caplog) -> None:
    with caplog.at_level(logging.WARNING, logger="lm_eval_llada"):
        lm = opened(dream, temperature=0)
    assert "Dream: alg=entropy, top_p=0.95 is filled in" in caplog.text
    given = SamplingOptions(gen_length=6, alg="entropy", top_p=0.95)
    assert lm.arguments.sampling == given
    assert lm.get_model_info()["llada"]["arguments"]["sampling"]["alg"] == "entropy"
    with pytest.raises(ValueError, match="top_k=3 is not available in LLaDA's decoding"):
        opened(dream, alg="none", top_k=3)


def test_scores_by_dreams_convention_reach_the_harness(dream) -> None:
    pair = Instance("loglikelihood", {}, ("The key", " is rain and sand"), 0)
    (ours,) = opened(dream, mc_num=8).loglikelihood([pair], disable_tqdm=True)
    lm = opened(dream, mc_num=8, likelihood="dream")
    (theirs,) = lm.loglikelihood([pair], disable_tqdm=True)
    assert theirs[0] < 0 and theirs[0] != ours[0] and theirs[1] is False
    rolling = Instance("loglikelihood_rolling", {}, ("The key",), 0)
    with pytest.raises(ValueError, match="use likelihood=mc or auto"):
        lm.loglikelihood_rolling([rolling])
