"""truncation=skip: samples that are too long are counted, listed, and in no mean."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.model import CachingLM
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from transformers import LlamaConfig, LlamaForCausalLM

from lm_eval_llada.harness.hf_rope import RopeLM
from tests.helpers.toy_requests import choices, generations
from tests.helpers.toy_tokenizer import toy_tokenizer

SHORT, LONG = "The key is", " ".join(["One word and another"] * 30)
DOCS = [{"text": SHORT * n, "n": n} for n in (1, 2, 3, 4)] + [{"text": LONG, "n": 90}]
MAX_LENGTH = 64


class TextTask(ConfigurableTask):
    """A task of others: it knows nothing of this package."""

    def download(self, *args: Any, **kwargs: Any) -> None:
        from datasets import Dataset

        self.dataset = {"test": Dataset.from_list(DOCS)}


def score(doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
    return {"size": float(doc["n"])}


def text_task(docs: str = "texts", **changes: Any) -> TextTask:
    return TextTask(
        config={
            "task": docs,
            "output_type": "generate_until",
            "dataset_path": "none",
            "test_split": "test",
            "doc_to_text": "{{text}}",
            "doc_to_target": "",
            "generation_kwargs": {"until": [], "gen_length": 8, "do_sample": False},
            "process_results": score,
            "metric_list": [{"metric": "size", "aggregation": "mean", "higher_is_better": True}],
            **changes,
        }
    )


def evaluated(lm: Any, task: Any) -> dict[str, Any]:
    # Without the harness' own tasks, thousands of files.
    manager = TaskManager(include_defaults=False)
    return simple_evaluate(
        lm, tasks=[task], task_manager=manager, bootstrap_iters=100, log_samples=True
    )


def test_the_mean_and_its_error_are_those_of_the_rest(make) -> None:
    lm = make(truncation="skip", max_length=MAX_LENGTH, steps=2)
    found = evaluated(lm, text_task())
    result = found["results"]["texts"]
    assert result["size,none"] == 2.5
    assert result["size_stderr,none"] == pytest.approx(statistics.stdev([1, 2, 3, 4]) / 2)
    assert found["n-samples"]["texts"] == {"original": 5, "effective": 4}
    by_id = {sample["doc_id"]: sample["size"] for sample in found["samples"]["texts"]}
    assert by_id == {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0, 4: None}
    left_out = lm.get_model_info()["llada"]["left_out"]["texts"]
    assert left_out["samples"] == [4] and left_out["most_tokens"] > MAX_LENGTH


def test_a_sentence_lists_them(make, caplog) -> None:
    lm = make(truncation="skip", max_length=MAX_LENGTH, steps=2)
    evaluated(lm, text_task())
    caplog.clear()
    lm.get_model_info()
    (line,) = [record.message for record in caplog.records if "left out" in record.message]
    assert line.startswith("texts: 1 samples have more than max_length=64 tokens (up to ")
    assert line.endswith("(truncation=skip): 4.")


def test_choices_of_which_one_is_too_long_leave_out_their_sample(make) -> None:
    task = text_task(
        "choices",
        output_type="multiple_choice",
        doc_to_choice=[" One", " word and another"],
        doc_to_target=0,
        generation_kwargs=None,
        process_results=None,
        metric_list=[{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    )
    lm = make(truncation="skip", max_length=MAX_LENGTH, mc_num=2)
    found = evaluated(lm, task)
    assert found["n-samples"]["choices"]["effective"] == 4
    kept = [s["acc"] for s in found["samples"]["choices"] if s["acc"] is not None]
    assert found["results"]["choices"]["acc,none"] == pytest.approx(sum(kept) / 4)


def test_a_task_without_a_sample_left_has_no_score(make) -> None:
    lm = make(truncation="skip", max_length=9, steps=2)
    result = evaluated(lm, text_task())["results"]["texts"]
    assert not any(name.startswith("size") for name in result)
    assert lm.get_model_info()["llada"]["left_out"]["texts"]["samples"] == [0, 1, 2, 3, 4]


def test_other_truncations_score_all(make) -> None:
    lm = make(truncation="middle", max_length=MAX_LENGTH, steps=2)
    assert evaluated(lm, text_task())["results"]["texts"]["size,none"] == 20.0
    assert "left_out" not in lm.get_model_info()["llada"]


def test_the_causal_baseline_leaves_out_the_same(tmp_path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 48}
    heads = {"num_attention_heads": 2, "pad_token_id": 0, "eos_token_id": 0}
    LlamaForCausalLM(LlamaConfig(vocab_size=600, **sizes, **heads)).save_pretrained(tmp_path)
    toy_tokenizer().save_pretrained(tmp_path)
    given = {"truncation": "skip", "max_length": MAX_LENGTH, "device": "cpu"}
    lm = RopeLM(pretrained=str(tmp_path), **given)
    found = evaluated(lm, text_task())
    assert found["results"]["texts"]["size,none"] == 2.5
    assert lm.get_model_info()["hf_rope"]["left_out"]["texts"]["samples"] == [4]


@pytest.mark.parametrize("kind", ["generate_until", "loglikelihood"])
def test_elsewhere_than_in_an_evaluation_it_is_refused(make, kind) -> None:
    lm = make(truncation="skip", max_length=MAX_LENGTH)
    requests = generations([LONG]) if kind == "generate_until" else choices([(LONG, " One")])
    with pytest.raises(ValueError, match="taken from lm_eval"):
        getattr(lm, kind)(requests)


def test_the_harness_cache_is_refused(make, tmp_path) -> None:
    with pytest.raises(ValueError, match="--use_cache would keep an empty answer"):
        CachingLM(make(truncation="skip", max_length=9), str(tmp_path / "cache.db"))
