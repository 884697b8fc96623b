"""The recipe of the shipped models: apart from the evaluation, resumable, true to its record."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from lm_eval_llada.checkpoints.names import TINY_MODELS, resolve_checkpoint
from lm_eval_llada.modeling import load_config
from lm_eval_llada.rope import ntk_scale
from lm_eval_llada.tasks.niah.single import NiahOptions
from lm_eval_llada.tasks.niah.words import EVALUATION_WORDS
from lm_eval_llada.tasks.text.haystacks import heldout_text, noise_sentences
from lm_eval_llada.tiny.corpus import (
    BOS_ID,
    MASK_ID,
    SPECIAL_TOKENS,
    train_tokenizer,
)
from lm_eval_llada.tiny.curriculum import (
    FINAL_STAGE,
    STAGES,
    begun_with,
    collate,
    draw_batch,
)
from lm_eval_llada.tiny.samples import SampleMaker
from lm_eval_llada.tiny.train import Trainer, run
from lm_eval_llada.tiny.training_options import TRAIN_LENGTH, TrainingOptions

SHARED_RUN = 8
"""Words in a row that two texts may not share; shorter runs are ordinary phrases."""


@pytest.fixture
def maker(corpus, tokenizer):
    return SampleMaker(corpus, tokenizer, seed=3)


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def runs(text: str) -> set[tuple[str, ...]]:
    words = words_of(text)
    return {tuple(words[i : i + SHARED_RUN]) for i in range(len(words) - SHARED_RUN + 1)}


def test_no_evaluation_word_is_in_the_training_text_or_among_the_training_keys(corpus, maker):
    assert EVALUATION_WORDS.isdisjoint(corpus.words)
    for document in corpus.documents:
        assert EVALUATION_WORDS.isdisjoint(words_of(document))
    drawn = {word for _ in range(5000) for word in words_of(maker._key())}
    assert len(drawn) > 1000
    assert EVALUATION_WORDS.isdisjoint(drawn)
    # Keys are also made of syllables; none of the evaluation's words can come about that way.
    made_up = re.compile(r"(?:[bcdfghjklmnpqrstvwz][aeiou]){1,3}[nrsl]?")
    assert not [word for word in EVALUATION_WORDS if made_up.fullmatch(word)]


def test_no_evaluation_text_is_in_the_training_text(corpus):
    trained_on = set().union(*(runs(document) for document in corpus.documents))
    assert not runs(heldout_text()) & trained_on
    corpus_text = " ".join(" ".join(words_of(document)) for document in corpus.documents)
    for sentence in noise_sentences():
        assert " ".join(words_of(sentence)) not in corpus_text


def test_training_noise_shares_no_sentence_with_evaluation_noise(maker, tokenizer):
    text = tokenizer.decode(maker._noise(60_000))
    sentences = {sentence.strip() for sentence in text.split(".")}
    assert len(sentences) > 3
    assert sentences.isdisjoint(sentence.strip(".") for sentence in noise_sentences())


@pytest.mark.parametrize("stage", [*STAGES, FINAL_STAGE], ids=lambda s: f"{s.length}")
def test_batches_stay_inside_the_trained_context_and_mask_something(maker, stage):
    for _ in range(12):
        batch = draw_batch(maker, stage, tokens_per_batch=1024)
        assert batch.input_ids.shape[1] <= min(stage.length, TRAIN_LENGTH)
        assert torch.equal((batch.input_ids == MASK_ID).nonzero(), batch.rows)
        per_sequence = torch.zeros(len(batch.input_ids))
        per_sequence.index_add_(0, batch.rows[:, 0], batch.weights)
        torch.testing.assert_close(per_sequence, torch.ones(len(batch.input_ids)))
        assert not bool((batch.targets == MASK_ID).any())


def test_decisive_rows_follow_a_visible_token(maker):
    sample = maker.plain_text(64)
    batch = collate([sample])
    for (_, position), decisive in zip(
        batch.rows.tolist(), batch.is_decisive.tolist(), strict=True
    ):
        if position > 0:
            assert decisive == (int(batch.input_ids[0, position - 1]) != MASK_ID)


def test_every_masked_value_stands_in_the_haystack_as_well(maker, tokenizer):
    num_values = 0
    for _ in range(100):
        sample = maker.needles(256, max_needles=4)
        assert len(sample.input_ids) == 256
        whole = tokenizer.decode(sample.input_ids.tolist(), skip_special_tokens=True)
        starts = np.flatnonzero(sample.is_decisive)
        assert len(starts) >= 1
        for start in starts:
            value = tokenizer.decode(sample.input_ids[start : start + 7].tolist())
            digits = re.match(r"\d{3,7}", value)
            if digits:
                num_values += 1
                assert len(re.findall(rf"(?<!\d){digits[0]}(?!\d)", whole)) >= 2
    assert num_values > 100


def test_copies_hold_every_masked_token_twice(maker):
    for _ in range(50):
        sample = maker.copy(48)
        for token in sample.input_ids[sample.is_masked]:
            assert np.count_nonzero(sample.input_ids == token) >= 2


def test_digits_and_newlines_are_tokens_of_their_own(small_corpus):
    tokenizer = train_tokenizer(small_corpus)
    tokens = tokenizer.encode("is 48213.\n\nx").tokens
    assert [t for t in tokens if t.isdigit()] == list("48213")
    assert tokens.count("Ċ") == 2
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == list(range(6))


SMALL = TrainingOptions(width=64, layers=1, mlp_width=32, tokens_per_batch=128, min_stage_steps=2)


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def test_a_resumed_run_equals_one_that_was_never_killed(small_corpus, tmp_path):
    whole = Trainer(SMALL, small_corpus)
    for _ in range(6):
        whole.train_step()
    first = Trainer(SMALL, small_corpus)
    for _ in range(3):
        first.train_step()
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = Trainer(SMALL, small_corpus)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=False))
    for _ in range(3):
        second.train_step()
    assert second.step == 6
    for name, parameter in weights_of(whole).items():
        assert torch.equal(parameter, weights_of(second)[name]), name


def test_a_state_of_other_options_is_refused(small_corpus):
    state = Trainer(SMALL, small_corpus).state_dict()
    other = TrainingOptions(**{**state["options"], "seed": 5})
    with pytest.raises(ValueError, match="saved run has options="):
        Trainer(other, small_corpus).load_state_dict(state)


def test_a_finished_run_writes_a_checkpoint_that_loads(small_corpus, tmp_path):
    options = TrainingOptions(
        width=64, layers=1, mlp_width=32, tokens_per_batch=128, constant_steps=2, decay_steps=2
    )
    trainer = Trainer(options, small_corpus)
    trainer.stage = len(STAGES)
    run(trainer, tmp_path, log_every=1)
    config = load_config(str(tmp_path))
    assert (config.d_model, config.mask_token_id, config.rope_theta) == (64, MASK_ID, 1e4)
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["steps"] == 4
    assert trainer.learning_rate() == 0.0
    assert record["corpus_sha256"] == small_corpus.sha256


def test_without_neighbours_only_the_look_ups_of_the_first_layer_are_others(small_corpus):
    options = asdict(SMALL)
    plain = weights_of(Trainer(SMALL, small_corpus))
    random = weights_of(
        Trainer(TrainingOptions(**{**options, "first_layer": "random"}), small_corpus)
    )
    changed = {name for name in plain if not torch.equal(plain[name], random[name])}
    first = "model.transformer.blocks.0"
    assert changed == {f"{first}.q_proj.weight", f"{first}.k_proj.weight"}


def test_a_first_token_stands_first_and_is_not_asked_for(maker):
    batch = draw_batch(maker, STAGES[0], tokens_per_batch=512)
    batch.rows[0, 1] = 0
    begun = begun_with(batch, BOS_ID)
    assert (begun.input_ids[:, 0] == BOS_ID).all()
    assert torch.equal(begun.input_ids[:, 1:], batch.input_ids[:, 1:])
    asked = batch.rows[:, 1] > 0
    assert 0 < len(begun.rows) == int(asked.sum()) < len(batch.rows)
    for name in ("rows", "targets", "weights", "is_decisive"):
        assert torch.equal(getattr(begun, name), getattr(batch, name)[asked])


@pytest.mark.parametrize("name", TINY_MODELS)
def test_a_shipped_model_is_small_official_in_layout_and_says_how_it_was_made(name):
    folder = Path(resolve_checkpoint(name))
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
        count = sum(file.get_tensor(key).numel() for key in names)
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] == "llada":
        assert load_config(str(folder)).mask_token_id == MASK_ID
        num_layers, context, embedding = "n_layers", "max_sequence_length", "transformer.wte"
        block = "model.transformer.blocks"
    else:
        assert config["model_type"] == "llama"
        num_layers, embedding = "num_hidden_layers", "embed_tokens"
        context = "max_position_embeddings"
        block = "model.layers"
    assert config[context] == (4096 if name == "tiny-ultra" else TRAIN_LENGTH)
    assert f"model.{embedding}.weight" in names
    assert sum(name.startswith(f"{block}.{config[num_layers] - 1}.") for name in names) == 9
    assert 1e6 < count < 6e6
    assert (folder / "model.safetensors").stat().st_size < 12e6
    assert not (folder / "state.pt").exists()


@pytest.mark.parametrize("name", [name for name in TINY_MODELS if name != "tiny-ultra"])
def test_a_model_of_the_recipe_says_how_it_was_trained(name):
    record = json.loads((Path(resolve_checkpoint(name)) / "training.json").read_text())
    assert re.fullmatch(r"[0-9a-f]{64}", record["corpus_sha256"])
    assert record["python_version"]
    assert max(stage["length"] for stage in record["stages"]) == TRAIN_LENGTH
    assert record["options"]["seed"] != NiahOptions(length=512, gen_length=8).seed


def test_tiny_ultra_says_how_it_was_extended_and_needs_no_rope_argument():
    record = json.loads((Path(resolve_checkpoint("tiny-ultra")) / "posttrain.json").read_text())
    assert record["options"]["pretrained"] == "tiny-llada"
    assert record["options"]["rope"]["target_length"] == 4096
    assert record["log"][-1]["step"] == record["options"]["training"]["max_steps"]
    config = load_config("tiny-ultra")
    scale = ntk_scale(1e4, 64, TRAIN_LENGTH, 4096, bidirectional=True)
    assert config.rope_theta == pytest.approx(scale * 1e4)
    assert config.train_length == 4096
