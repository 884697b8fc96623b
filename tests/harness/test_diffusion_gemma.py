"""DiffusionGemma's adapter: `generate`'s own texts, whatever else is asked for in the same run."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager
from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion

from lm_eval_llada.engine.requests import content_seed
from lm_eval_llada.harness.diffusion_gemma import DiffusionGemmaLM
from tests.helpers.toy_tokenizer import toy_tokenizer

CANVAS = 16
TEXT = {
    "vocab_size": 640,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 0,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 8,
    "num_hidden_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"],
    "per_layer_config": {1: {"head_dim": 16, "num_key_value_heads": 2}},
    "use_bidirectional_attention": "vision",
}
VISION = {
    "image_size": 20,
    "patch_size": 5,
    "num_channels": 3,
    "hidden_size": 16,
    "num_key_value_heads": 1,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 16,
}
PROMPTS = ["One", "The grass is green. The sky is blue.", "Two words"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two random layers with everything the class has, and a few passes a canvas."""
    path = tmp_path_factory.mktemp("gemma")
    torch.manual_seed(0)
    config = DiffusionGemmaConfig(
        text_config=TEXT,
        vision_config=VISION,
        image_token_id=630,
        boi_token_id=631,
        eoi_token_id=632,
        canvas_length=CANVAS,
    )
    DiffusionGemmaForBlockDiffusion(config).save_pretrained(path)
    toy_tokenizer().save_pretrained(path)
    values = json.loads((path / "generation_config.json").read_text())
    values |= {"max_denoising_steps": 3, "eos_token_id": [0, 77], "max_length": 300}
    (path / "generation_config.json").write_text(json.dumps(values))
    return path


@pytest.fixture(scope="module")
def lm(folder) -> DiffusionGemmaLM:
    return DiffusionGemmaLM(pretrained=str(folder), device="cpu", gen_length=24)


def asked(*prompts: str, **gen_kwargs) -> list[Instance]:
    return [
        Instance("generate_until", {}, (prompt, gen_kwargs), index, metadata=("toy", index, 1))
        for index, prompt in enumerate(prompts)
    ]


def plainly(lm: DiffusionGemmaLM, prompt: str, length: int) -> list[int]:
    """What transformers' `generate` gives this prompt alone under the request's seed."""
    torch.manual_seed(content_seed(2025, "generate_until", prompt))
    ids = torch.tensor([lm.tok_encode(prompt)])
    output = lm.model.generate(ids, max_new_tokens=length)
    return output.sequences[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("length", [CANVAS, 40])
def test_texts_are_those_of_generate_cut_to_their_length_and_end(lm, length):
    texts = lm.generate_until(asked(*PROMPTS, max_gen_toks=length))
    for prompt, text in zip(PROMPTS, texts, strict=True):
        tokens = plainly(lm, prompt, length)
        assert len(tokens) % CANVAS == 0 and len(tokens) >= min(length, CANVAS)
        kept = tokens[:length]
        ends = [place for place, token in enumerate(kept) if token in (0, 77)]
        kept = kept[: min(ends, default=length)]
        assert text == lm.tokenizer.decode(kept, skip_special_tokens=True)
    assert any(texts)


def test_a_text_depends_on_its_request_alone(lm):
    together = dict(zip(PROMPTS, lm.generate_until(asked(*PROMPTS)), strict=True))
    backwards = lm.generate_until(asked(*PROMPTS[::-1]))
    assert dict(zip(PROMPTS[::-1], backwards, strict=True)) == together
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert lm.generate_until(asked(PROMPTS[1])) == [together[PROMPTS[1]]]
    # Whoever else draws random numbers is not disturbed.
    assert torch.equal(torch.get_rng_state(), before)
    other = DiffusionGemmaLM(**{**dataclasses.asdict(lm.options), "seed": 7})
    assert other.generate_until(asked(PROMPTS[1])) != [together[PROMPTS[1]]]


def test_a_limit_of_256_tokens_counts_although_generate_takes_it_for_none(lm, monkeypatch):
    given = {}

    def generate(ids, **arguments):
        given.update(arguments)
        raise InterruptedError

    monkeypatch.setattr(lm.model, "generate", generate)
    for length in (256, 40):
        with pytest.raises(InterruptedError):
            lm.tokens([5, 6, 7], length, 1)
        assert (given["max_new_tokens"], given["max_length"]) == (length, 3 + length)
    monkeypatch.undo()
    assert len(lm.tokens([5, 6, 7], 20, 1)[0]) <= 20


def test_a_text_ends_at_the_first_end_token_and_before_a_stop(lm):
    assert lm.end_token_ids == {0, 77}
    assert lm._until_end([5, 77, 6, 0]) == [5]
    assert lm._until_end([5, 6]) == [5, 6]
    (whole,) = lm.generate_until(asked("One"))
    stop = whole[2:4]
    (text,) = lm.generate_until(asked("One", until=[stop]))
    assert text == whole[: whole.index(stop)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("do_sample", True),
        ("temperature", 0.7),
        ("top_k", 50),
        ("top_p", 0.9),
        ("num_beams", 2),
        ("num_return_sequences", 2),
        ("stop_strings", ["a"]),
        ("min_new_tokens", 5),
        ("ignore_eos", True),
    ],
)
def test_what_generate_passes_over_is_refused(lm, folder, name, value):
    with pytest.raises(ValueError, match=f"{name}=.* has no effect on DiffusionGemma"):
        lm.generate_until(asked("One", **{name: value}))
    with pytest.raises(ValueError, match=f"{name}=.* has no effect|has no '{name}'"):
        DiffusionGemmaLM(pretrained=str(folder), **{name: value})


def test_what_tasks_say_of_other_decodings_is_named_once(lm, caplog):
    with caplog.at_level(logging.WARNING, "lm_eval_llada"):
        lm.generate_until(asked("One", "Two", do_sample=False, temperature=0.0, steps=4))
    assert [record.getMessage() for record in caplog.records] == [
        "DiffusionGemma samples its canvases under a schedule of its own: do_sample, temperature "
        "of the tasks says nothing to it."
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs pretrained="),
        ({"pretrained": "x", "steps": 3}, "model_args has no 'steps'"),
        ({"pretrained": "x", "gen_length": 0}, "gen_length"),
        ({"pretrained": "x", "truncation": "midle"}, "Did you mean 'middle'"),
    ],
)
def test_wrong_arguments_stop_before_anything_is_read(arguments, message):
    with pytest.raises(ValueError, match=message):
        DiffusionGemmaLM(**arguments)


def test_unknown_generation_kwargs_are_an_error(lm):
    with pytest.raises(ValueError, match="Did you mean 'max_gen_toks'"):
        lm.generate_until(asked("One", max_gen_tok=3))


def test_likelihoods_are_refused_in_a_sentence(lm):
    for scored in (lm.loglikelihood, lm.loglikelihood_rolling):
        with pytest.raises(ValueError, match="uniform noise and has no mask"):
            scored([])


def test_several_processes_are_refused(folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match="runs in one process"):
        DiffusionGemmaLM(pretrained=str(folder))


def test_a_bos_is_not_put_before_one(lm):
    bos = lm.tokenizer.bos_token
    assert lm.tok_encode(f"{bos}One") == [lm.tokenizer.bos_token_id, *lm.tokenizer.encode("One")]


def test_a_run_of_the_harness_reports_tokens_per_forward(folder, tmp_path):
    (tmp_path / "toy.jsonl").write_text(json.dumps({"q": "One", "a": "two"}) + "\n")
    (tmp_path / "toy.yaml").write_text(
        "task: toy_gemma\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'toy.jsonl'}}}}}\n"
        "output_type: generate_until\n"
        "test_split: test\n"
        "doc_to_text: q\n"
        "doc_to_target: a\n"
        "generation_kwargs: {do_sample: false, max_gen_toks: 20, until: []}\n"
        "metric_list: [{metric: exact_match}]\n"
    )
    assert get_model("diffusion_gemma") is DiffusionGemmaLM
    results = simple_evaluate(
        model="diffusion_gemma",
        model_args=f"pretrained={folder},device=cpu,max_length=30",
        tasks=["toy_gemma"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )
    info = results["config"]["diffusion_gemma"]
    # Two canvases of at most three passes each.
    assert 32 / 6 <= info["tokens_per_forward"]["toy_gemma"] <= 32 / 2
    assert info["arguments"]["max_length"] == 30 and info["seconds"] > 0
    assert info["truncation"]["toy_gemma"]["truncated"] == 0
