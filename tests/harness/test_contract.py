"""The harness' contract: counted truncation, caches, lazy weights, results that tell all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lm_eval.api.model import CachingLM
from lm_eval.api.registry import get_model

from lm_eval_llada.harness.llada import LLaDALM
from lm_eval_llada.modeling import load_model
from tests.helpers.toy_requests import PAIRS, PROMPTS, choices, generations, instance


@pytest.fixture(scope="module")
def lm(make) -> LLaDALM:
    return make(batch_size=3)


@pytest.mark.parametrize("how", ["left", "middle"])
def test_truncation_is_counted_once_for_each_sample_and_reported(make, how: str, caplog) -> None:
    lm = make(max_length=14, truncation=how)
    requests = generations(PROMPTS)
    lengths = [len(lm.tok_encode(prompt)) for prompt in PROMPTS]
    assert min(lengths) <= 6 < max(lengths)
    lm.generate_until([*requests, requests[1]])
    counts = lm.get_model_info()["llada"]["truncation"]["toy"]
    dropped = [max(0, length - 6) for length in lengths]
    assert counts == {
        "requests": len(PROMPTS),
        "truncated": sum(number > 0 for number in dropped),
        "tokens_dropped": sum(dropped),
        "most_dropped": max(dropped),
    }
    assert f"toy: {counts['truncated']} of 4 prompts lost tokens (truncation={how})" in caplog.text


def test_truncation_keeps_the_ends_it_promises(make) -> None:
    request = generations(PROMPTS)[1]
    whole = make().tok_encode(PROMPTS[1])
    kept = {
        how: make(max_length=14, truncation=how)._fitted(request, whole, 8)
        for how in ("left", "middle")
    }
    assert kept == {"left": whole[-6:], "middle": whole[:3] + whole[-3:]}


def test_truncation_error_names_the_sample_and_the_length_needed(make) -> None:
    lm = make(max_length=14, truncation="error")
    needed = len(lm.tok_encode(PROMPTS[1])) + 8
    with pytest.raises(ValueError, match=f"toy sample 1: .*max_length={needed} or more"):
        lm.generate_until(generations(PROMPTS))
    assert "runner" not in lm.__dict__, "weights were loaded before prompts were checked"


def test_targets_are_never_cut(make) -> None:
    with pytest.raises(ValueError, match="leave no room for a prompt in max_length=2"):
        make(max_length=2).loglikelihood(choices(PAIRS[1:2]))


def test_nothing_is_cut_where_no_max_length_is_given(make) -> None:
    lm = make()
    long = "The rain fell on the old roof. " * 30
    assert len(lm.tok_encode(long)) > lm.max_length
    lm.generate_until(generations([long], gen_length=1))
    assert lm.get_model_info()["llada"]["truncation"]["toy"]["truncated"] == 0


def test_weights_are_read_when_they_are_needed(make, monkeypatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("lm_eval_llada.engine.loading.load_model", refuse)
    lm = make()
    assert lm.get_model_info()["rope"]["train_length"] == 128
    with pytest.raises(AssertionError, match="weights were loaded"):
        lm.generate_until(generations(PROMPTS))


def test_model_args_win_over_what_the_command_line_passes_beside_them(random_checkpoint) -> None:
    beside = {"batch_size": 1, "max_batch_size": None, "device": "cuda:0"}
    given = {"pretrained": str(random_checkpoint), "device": "cpu", "batch_size": 8}
    lm = LLaDALM.create_from_arg_obj(given, beside)
    assert (lm.batch_size, str(lm.device)) == (8, "cpu")
    text = ",".join(f"{name}={value}" for name, value in given.items())
    assert LLaDALM.create_from_arg_string(text, beside).arguments == lm.arguments


def test_a_gpu_that_nobody_asked_for_means_auto(random_checkpoint) -> None:
    arguments = {"pretrained": str(random_checkpoint)}
    lm = LLaDALM.create_from_arg_obj(arguments, {"device": "cuda:0", "batch_size": 1})
    assert lm.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_other_models_still_resolve_beside_ours() -> None:
    assert get_model("llada") is get_model("mdlm") is LLaDALM
    assert get_model("hf").__name__ == "HFLM"


@pytest.fixture
def cached(tmp_path: Path) -> Iterator[object]:
    opened = []

    def open_cache(lm: LLaDALM) -> CachingLM:
        opened.append(CachingLM(lm, str(tmp_path / "cache.db")))
        return opened[-1]

    yield open_cache
    for cache in opened:
        cache.dbdict.close()


def test_a_second_run_answers_from_the_cache(make, cached) -> None:
    first = make(batch_size=1)
    texts = cached(first).generate_until(generations(PROMPTS))
    scores = cached(first).loglikelihood(choices(PAIRS))
    second = make(batch_size=8)
    assert cached(second).generate_until(generations(PROMPTS)) == texts
    assert cached(second).loglikelihood(choices(PAIRS)) == scores
    assert "runner" not in second.__dict__, "weights were loaded although all answers were there"


@pytest.mark.parametrize("change", [{"rope_scale": 4.0}, {"seed": 1}, {"steps": 2}])
def test_a_cache_never_answers_for_other_settings(make, cached, change) -> None:
    cached(make()).generate_until(generations(PROMPTS))
    other = make(**change)
    assert cached(other).generate_until(generations(PROMPTS)) == make(**change).generate_until(
        generations(PROMPTS)
    )
    assert "runner" in other.__dict__


def test_each_answer_reaches_the_cache_as_it_comes(make, cached, monkeypatch) -> None:
    lm = make(batch_size=1)
    cache = cached(lm)

    def fail_on_third(ids, until, *, ignore_eos, seen=[]):  # noqa: B006
        seen.append(ids)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return "text"

    monkeypatch.setattr(lm._text, "text_of", fail_on_third)
    with pytest.raises(KeyboardInterrupt):
        cache.generate_until(generations(PROMPTS))
    assert len(cache.dbdict) == 2


def test_requests_are_left_as_they_were(lm: LLaDALM) -> None:
    requests = generations(PROMPTS, until="\n", max_gen_toks=4)
    before = json.dumps([request.args for request in requests])
    lm.generate_until(requests)
    assert json.dumps([request.args for request in requests]) == before


def test_results_say_how_they_came_about(make) -> None:
    lm = make(rope_method="ntk", target_length=2048, gen_length=4)
    lm.generate_until([instance("generate_until", "One.", {"until": [], "steps": 2})])
    lm.loglikelihood(choices(PAIRS))
    info = json.loads(json.dumps(lm.get_model_info()))
    assert info["rope"]["method"] == "ntk"
    assert info["rope"]["rope_scale"] > 1
    assert info["llada"]["generation"]["toy"][0]["options"]["steps"] == 2
    assert info["llada"]["generation"]["toy"][0]["options"]["gen_length"] == 4
    assert info["llada"]["mean_likelihood_stderr"]["toy"] > 0
    assert info["llada"]["work"]["forward_passes"] == lm.runner.stats.num_passes > 2


def test_an_extended_checkpoint_is_not_scaled_again(make, random_checkpoint, tmp_path) -> None:
    extended = load_model(random_checkpoint, rope=make(rope_scale=4.0).arguments.rope, device="cpu")
    extended.save_pretrained(tmp_path)
    names = {"pretrained": str(tmp_path), "tokenizer": str(random_checkpoint)}
    assert make(**names).rope.rope_theta == pytest.approx(4e4)
    with pytest.raises(ValueError, match="force_rope"):
        make(**names, rope_scale=2.0)
    assert make(**names, rope_scale=2.0, force_rope=True).rope.rope_theta == pytest.approx(8e4)
