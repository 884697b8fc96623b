"""The perplexity tasks: samples that keep a document's tokens, and metrics by context length."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import pytest
import torch
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from transformers import LlamaConfig, LlamaForCausalLM

from lm_eval_llada.harness.hf_rope import RopeLM
from lm_eval_llada.tasks.grid import tasks_path
from lm_eval_llada.tasks.perplexity.samples import build_perplexity, perplexity_dataset
from lm_eval_llada.tasks.perplexity.scores import (
    bits_per_byte_of_pairs,
    length_key,
    perplexity_of_pairs,
    perplexity_results,
)
from lm_eval_llada.tasks.text.long_texts import read_documents, tokenize
from tests.helpers.toy_tokenizer import toy_tokenizer

FOLDER = tasks_path() / "ppl"
LEAVES = sorted(FOLDER.glob("ppl_*.yaml"))
LENGTHS = (128, 256, 512)


@pytest.fixture(scope="module")
def samples():
    return build_perplexity(toy_tokenizer(), lengths=LENGTHS, num_chunks=3)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    config = LlamaConfig(
        vocab_size=600,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        initializer_range=0.3,
        eos_token_id=0,
        pad_token_id=0,
        bos_token_id=2,
    )
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("random-llama")
    LlamaForCausalLM(config).save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return folder


# --- samples ------------------------------------------------------------------------------------


def test_chunks_end_at_their_length_and_do_not_overlap(samples):
    by_length = {length: [s for s in samples if s["length"] == length] for length in LENGTHS}
    assert [len(found) for found in by_length.values()] == [1, 2, 3]
    for length, found in by_length.items():
        for place, sample in enumerate(found):
            nominal = length - 64 * (len(found) - 1 - place)
            end = sample["num_context"] + sample["num_tokens"]
            assert nominal - 32 <= end <= nominal
            assert nominal - 96 <= sample["num_context"] <= nominal - 64
        for one, other in zip(found, found[1:], strict=False):
            assert one["num_context"] + one["num_tokens"] == other["num_context"]


@pytest.mark.parametrize(
    ("kind", "add_bos_token"), [("llada", None), ("llada", True), ("hf_rope", None), ("hf", None)]
)
def test_the_harness_scores_the_documents_own_tokens(kind, add_bos_token, make, llama):
    if kind == "llada":
        model = make(add_bos_token=add_bos_token)
    else:
        model = {"hf_rope": RopeLM, "hf": HFLM}[kind](pretrained=str(llama), device="cpu")
    (document,) = read_documents("heldout")
    ids = tokenize(document, toy_tokenizer(), add_bos_token).ids
    samples = build_perplexity(
        toy_tokenizer(), lengths=LENGTHS, num_chunks=3, add_bos_token=add_bos_token
    )
    for sample in samples:
        context, chunk = model._encode_pair(sample["context"], sample["continuation"])
        assert len(context) == sample["num_context"]
        assert len(chunk) == sample["num_tokens"]
        assert tuple(context + chunk) == ids[: len(context) + len(chunk)]


def test_text_without_spaces_is_parted_between_whole_characters(tmp_path):
    text = "雨降旧屋夜不語" * 60
    (tmp_path / "zh.txt").write_text(text)
    path = str(tmp_path / "zh.txt")
    for sample in build_perplexity(toy_tokenizer(), lengths=(128, 512), text=path):
        assert text.startswith(sample["context"] + sample["continuation"])
        assert sample["num_bytes"] == len(sample["continuation"].encode())


def test_a_text_that_cannot_be_parted_is_an_error(tmp_path):
    (tmp_path / "blank.txt").write_text("a" + "\n" * 400)
    with pytest.raises(ValueError, match="blank cannot be parted"):
        build_perplexity(toy_tokenizer(), lengths=(128,), text=str(tmp_path / "blank.txt"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "must give lengths"),
        ({"lengths": [64]}, "whole number >= 128; got 64"),
        ({"lengths": [512, 128]}, "must be whole numbers that ascend"),
        ({"lengths": [128], "num_chunk": 2}, "Did you mean 'num_chunks'"),
        ({"lengths": [128], "num_chunks": 0}, "num_chunks must be"),
        ({"lengths": [10**6]}, "documents of 1000000 tokens are needed"),
        ({"lengths": [128], "text": "nowhere.txt"}, "text must be"),
    ],
    ids=str,
)
def test_wrong_settings_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        perplexity_dataset(tokenizer=toy_tokenizer(), **options)


# --- metrics ------------------------------------------------------------------------------------


def test_metrics_of_a_chunk_count_for_its_own_length_only():
    doc = {"num_tokens": 4, "num_bytes": 10, "document": "a", "length": 256, "lengths": [128, 256]}
    found = perplexity_results(doc, [(-6.0, False)])
    assert found["nats_per_token"] == 1.5
    assert found["ppl_000256"] == (1.5, 1.0)
    assert found["ppl_000128"] == (0.0, 0.0)
    assert bits_per_byte_of_pairs([found["bits_per_byte"]]) == pytest.approx(0.6 / math.log(2))
    assert perplexity_of_pairs([found["ppl_000256"], (2.5, 1.0)]) == pytest.approx(math.exp(2.0))


def test_a_length_without_chunks_is_null_rather_than_one():
    assert perplexity_of_pairs([(0.0, 0.0)]) is None
    assert perplexity_of_pairs([(1e9, 1.0)]) == math.inf


# --- files and runs -----------------------------------------------------------------------------


def test_the_files_are_the_three_tasks():
    assert [path.stem for path in LEAVES] == ["ppl_govreport_16k", "ppl_pg19_128k", "ppl_tiny"]


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
def test_every_length_of_a_task_has_its_metric(path):
    config = load_yaml(path, resolve_func=True)
    lengths = config["metadata"]["lengths"]
    doc = {"num_tokens": 1, "num_bytes": 1, "document": "a", "length": 0, "lengths": lengths}
    assert [entry["metric"] for entry in config["metric_list"]] == [
        *perplexity_results(doc, [(0.0, False)])
    ]
    assert length_key(lengths[-1]) == config["metric_list"][-1]["metric"]
    assert not any(entry["higher_is_better"] for entry in config["metric_list"])
    assert config["task"] == path.stem


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
def test_tasks_load_and_have_every_length(path, tmp_path, llama):
    book = read_documents("heldout")[0].text * 18
    for name in ("gov_report", "pg19"):
        (tmp_path / f"{name}.txt").write_text(book)
    settings = {"data_dir": str(tmp_path), "num_chunks": 1, "num_documents": 1}
    metadata = {"pretrained": str(llama), **settings}
    manager = TaskManager(include_defaults=False, metadata=metadata)
    (task,) = manager.load([str(path)])["tasks"].values()
    docs = list(task.test_docs())
    lengths = task.config.metadata["lengths"]
    assert [doc["length"] for doc in docs] == lengths
    assert len({tuple(task.process_results(doc, [(-1.0, False)])) for doc in docs}) == 1


def evaluate(model, limit=None) -> dict:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(
        include_defaults=False, metadata={"tokenizer": toy_tokenizer(), "num_chunks": 1}
    )
    results = evaluator.simple_evaluate(
        model=model,
        tasks=[str(FOLDER / "ppl_tiny.yaml")],
        task_manager=manager,
        limit=limit,
        bootstrap_iters=0,
    )
    return results["results"]["ppl_tiny"]


def test_ppl_tiny_gives_the_causal_models_own_perplexity(llama):
    found = evaluate(RopeLM(pretrained=str(llama), device="cpu"))
    (document,) = read_documents("heldout")
    ids = torch.tensor(tokenize(document, toy_tokenizer()).ids)
    sample = next(
        s
        for s in build_perplexity(toy_tokenizer(), lengths=(128, 256, 512, 1024, 2048, 4096))
        if s["length"] == 1024
    )
    start, end = sample["num_context"], sample["num_context"] + sample["num_tokens"]
    model = LlamaForCausalLM.from_pretrained(llama).eval()
    with torch.inference_mode():
        log_probs = model(ids[None, :end]).logits[0].double().log_softmax(dim=-1)
    nats = -float(log_probs[torch.arange(start - 1, end - 1), ids[start:end]].mean())
    assert found["ppl_001024,none"] == pytest.approx(math.exp(nats), rel=1e-4)
    by_length = [found[f"{length_key(n)},none"] for n in (128, 256, 512, 1024, 2048, 4096)]
    assert found["perplexity,none"] == pytest.approx(math.prod(by_length) ** (1 / 6), rel=1e-6)
    assert found["nats_per_token,none"] == pytest.approx(math.log(found["perplexity,none"]))
    assert found["nats_per_token_clustered_se,none"] is None  # one document
    assert found["nats_per_token_stderr,none"] == "N/A"


def test_ppl_tiny_runs_with_llada_and_a_limit_leaves_lengths_null(make):
    found = evaluate(make(mc_num=2, is_check_greedy=False), limit=2)
    assert found["ppl_000128,none"] > 1
    assert found["ppl_000256,none"] > 1
    assert found["ppl_000512,none"] is None
    assert 0 < found["bits_per_byte,none"] < 100
