"""The recipe of RULER's tasks: apart from every evaluation, inside its context, resumable."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.modeling import load_model
from lm_eval_llada.tasks.niah.words import EVALUATION_WORDS
from lm_eval_llada.tasks.ruler import build_ruler
from lm_eval_llada.tasks.ruler.common_and_frequent_words import FrequentWordsSettings
from lm_eval_llada.tasks.ruler.variable_tracking import TracingSettings
from lm_eval_llada.tasks.ruler.words import adjectives, nouns, plain_words
from lm_eval_llada.tiny.corpus import EOS_ID, MASK_ID
from lm_eval_llada.tiny.export import wrap_tokenizer
from lm_eval_llada.tiny.ruler_curriculum import (
    RULER_FINAL_STAGE,
    RULER_STAGES,
    draw_ruler_batch,
)
from lm_eval_llada.tiny.ruler_evaluation import CELLS, build_samples
from lm_eval_llada.tiny.ruler_kinds import KINDS, draw_task
from lm_eval_llada.tiny.ruler_samples import RulerSampleMaker
from lm_eval_llada.tiny.ruler_tokenizer import add_ruler_words
from lm_eval_llada.tiny.ruler_words import (
    CODE_LENGTHS,
    EVALUATED_DIGITS,
    NAME_LENGTHS,
    NUM_DIGITS,
    TrainingWords,
    evaluated_words,
)
from lm_eval_llada.tiny.train import Trainer
from lm_eval_llada.tiny.training_options import TRAIN_LENGTH, TrainingOptions


@pytest.fixture(scope="module")
def tokenizer():
    return add_ruler_words(load_tokenizer("tiny-llada").backend_tokenizer)


@pytest.fixture(scope="module")
def maker(small_corpus, tokenizer):
    return RulerSampleMaker(small_corpus, tokenizer, seed=3)


@pytest.fixture(scope="module")
def words(corpus):
    return TrainingWords(corpus.words)


def drafts(words: TrainingWords, length: int, number: int, seed: int = 0):
    """Tasks of training at their fewest units, with the draft of each."""
    rng = random.Random(seed)
    for index in range(number):
        task = draw_task(
            rng,
            words,
            lambda n: "There was nothing. " * (n // 19 + 1),
            length,
            KINDS[index % len(KINDS)],
            is_short=index % 3 == 0,
        )
        yield task, task.maker.draft(task.maker.fewest)


def test_evaluated_words_are_all_that_evaluation_draws_from():
    assert evaluated_words() >= EVALUATION_WORDS
    for word in (*plain_words(), *adjectives(), *nouns()):
        assert evaluated_words() >= set(re.findall("[a-z]+", word.lower()))


@given(st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_no_word_of_training_is_one_of_evaluation(words, seed):
    drawn = re.findall("[a-z]+", words.key(random.Random(seed)))
    assert drawn
    assert evaluated_words().isdisjoint(drawn)


@given(st.integers(0, 2**32), st.sampled_from(NUM_DIGITS))
@settings(max_examples=200, deadline=None)
def test_no_number_of_training_is_one_of_evaluation(seed, num_digits):
    number = TrainingWords.number(random.Random(seed), num_digits)
    assert len(number) == num_digits
    # Numbers of evaluation have five digits or seven and do not begin with 0.
    assert num_digits not in EVALUATED_DIGITS or number[0] == "0"


def test_numbers_of_evaluation_are_of_the_lengths_that_training_avoids(tokenizer):
    wrapped = wrap_tokenizer(tokenizer)
    for kind in ("niah", "single", "keys", "needles", "values", "queries"):
        for sample in build_samples(wrapped, kind, 512, 12):
            for number in sample["references"]:
                assert len(number) in EVALUATED_DIGITS
                assert number[0] != "0"


def test_names_and_codes_of_training_are_of_other_lengths_than_those_of_evaluation():
    names = TracingSettings()
    assert {names.name_length, names.example_name_length}.isdisjoint(NAME_LENGTHS)
    assert FrequentWordsSettings().word_length not in CODE_LENGTHS


def test_answers_of_training_are_apart_from_evaluation_in_every_kind(words):
    seen = set()
    for length in (128, 512):
        for task, draft in drafts(words, length, 300):
            seen.add(task.kind)
            assert draft.references
            for answer in draft.references:
                if task.kind == "vt":
                    assert len(answer) in NAME_LENGTHS
                elif task.kind == "fwe":
                    assert len(answer) in CODE_LENGTHS
                elif answer.isdigit():
                    assert len(answer) not in EVALUATED_DIGITS or answer[0] == "0"
                else:
                    assert evaluated_words().isdisjoint(re.findall("[a-z]+", answer))
    assert seen == set(KINDS)


def test_answers_without_an_order_of_their_own_are_given_as_they_come_in_the_text(words):
    moved = {}
    for task, draft in drafts(words, 256, 200):
        answers = task.answers(draft)
        assert sorted(answers) == sorted(draft.references)
        assert all(answer in draft.prompt for answer in answers)
        if task.kind in ("values", "cwe"):
            places = [re.search(rf"\b{answer}\b", draft.text).start() for answer in answers]
            assert places == sorted(places)
        moved[task.kind] = moved.get(task.kind, False) or answers != list(draft.references)
    assert {kind for kind in moved if moved[kind]} == {"values", "cwe"}


@pytest.mark.parametrize("stage", [*RULER_STAGES, RULER_FINAL_STAGE], ids=lambda s: f"{s.length}")
def test_batches_stay_inside_the_trained_context_and_mask_what_they_ask(maker, stage):
    for _ in range(4):
        batch = draw_ruler_batch(maker, stage, tokens_per_batch=1024)
        assert batch.input_ids.shape[1] <= min(stage.length, TRAIN_LENGTH)
        assert len(batch.kinds) == len(batch.input_ids)
        assert torch.equal((batch.input_ids == MASK_ID).nonzero(), batch.rows)
        per_sequence = torch.zeros(len(batch.input_ids))
        per_sequence.index_add_(0, batch.rows[:, 0], batch.weights)
        torch.testing.assert_close(per_sequence, torch.ones(len(batch.input_ids)))


def test_a_sample_masks_its_answer_and_what_follows_but_nothing_of_the_text(maker, tokenizer):
    for _ in range(80):
        sample = maker.ruler(256)
        assert len(sample.input_ids) == 256
        starts = np.flatnonzero(sample.is_decisive)
        # What parts the first answer from the text is masked with it: a number's place in a list, a
        # key, a person, or the space before digits.
        first = starts[0] - (24 if sample.kind in ("cwe", "queries", "qa") else 1)
        assert not sample.is_masked[:first].any()
        assert (sample.is_masked & (sample.input_ids != EOS_ID)).any()
        text = tokenizer.decode(sample.input_ids[:first].tolist())
        for start in starts:
            assert tokenizer.decode(sample.input_ids[start : start + 1].tolist()).strip() in text


def test_values_and_wording_are_few_tokens_and_all_else_is_spelled_as_before(tokenizer):
    base = load_tokenizer("tiny-llada").backend_tokenizer
    assert tokenizer.encode(" 1851083").tokens == ["Ġ", "185", "108", "3"]
    assert tokenizer.encode(" 90174").tokens == ["Ġ", "901", "74"]
    assert tokenizer.encode(" ... ...").tokens == ["Ġ...", "Ġ..."]
    wording = " special magic numbers are mentioned in the provided text"
    assert len(tokenizer.encode(wording).ids) == len(wording.split())
    for text in (" macabre-veterinarian", " SKXGZ", "\n12. urge"[:1]):
        assert tokenizer.encode(text).ids == base.encode(text).ids
    ours, theirs = tokenizer.get_vocab(), base.get_vocab()
    assert {token: ours[token] for token in theirs} == theirs
    assert sorted(ours.values()) == list(range(len(ours)))


def test_the_tokenizer_keeps_the_text_of_every_task(tokenizer):
    wrapped = wrap_tokenizer(tokenizer)
    for task in ("niah_single_1", "niah_multikey_3", "vt", "fwe"):
        for sample in build_ruler(wrapped, task=task, length=1024, gen_length=64, num_samples=2):
            text = sample["input"] + sample["gen_prefix"]
            assert wrapped.decode(wrapped(text)["input_ids"]) == text


@pytest.mark.parametrize("kind", list(CELLS))
def test_every_reduced_task_fits_the_trained_context(tokenizer, kind):
    wrapped = wrap_tokenizer(tokenizer)
    samples = build_samples(wrapped, kind, TRAIN_LENGTH, 3)
    asked = {"values": 4, "queries": 4, "vt": 3, "cwe": 3, "fwe": 3}.get(kind, 1)
    for sample in samples:
        assert len(sample["references"]) == asked
        used = len(wrapped(sample["prompt"])["input_ids"]) + CELLS[kind].gen_length
        assert used <= TRAIN_LENGTH


SMALL = {
    "recipe": "ruler",
    "width": 64,
    "layers": 1,
    "mlp_width": 32,
    "tokens_per_batch": 256,
    "tail_tokens_per_batch": 1024,
}


@pytest.mark.parametrize("name", ["tiny-llada", "tiny-llama"])
def test_a_start_from_trained_weights_computes_what_they_do_with_new_tokens_and_blocks(
    name, small_corpus
):
    objective = "causal" if name == "tiny-llama" else "masked"
    options = TrainingOptions(recipe="ruler", start_from=name, layers=6, objective=objective)
    ours = Trainer(options, small_corpus).model
    folder = resolve_checkpoint(name)
    theirs = (
        LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        if objective == "causal"
        else load_model(folder, dtype="float32")
    )
    ids = torch.randint(6, 1024, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, expected = ours(ids).logits, theirs(ids).logits
    assert ours.config.vocab_size > 2000
    torch.testing.assert_close(logits[..., :1024], expected, atol=1e-4, rtol=1e-4)


def test_new_tokens_begin_as_different_as_the_trained_ones_are(small_corpus):
    options = TrainingOptions(recipe="ruler", start_from="tiny-llada")
    rows = Trainer(options, small_corpus).model.state_dict()["model.transformer.wte.weight"]
    old, new = rows[:1024], rows[1024:]
    assert new.norm(dim=1).mean() == pytest.approx(old.norm(dim=1).mean().item(), rel=0.02)
    closest = torch.cdist(new, new).fill_diagonal_(torch.inf).min()
    assert closest > 0.5 * torch.cdist(old, old).fill_diagonal_(torch.inf).min()


def test_weights_of_more_blocks_than_the_model_are_refused(small_corpus):
    options = TrainingOptions(recipe="ruler", start_from="tiny-llada", layers=3)
    with pytest.raises(ValueError, match="tiny-llada has 4 blocks and the model to train 3"):
        Trainer(options, small_corpus)


def in_tail(small_corpus, **options: int) -> Trainer:
    """A run at the beginning of its tail."""
    trainer = Trainer(TrainingOptions(**SMALL, **options), small_corpus)
    trainer.stage = len(RULER_STAGES)
    return trainer


def test_the_end_can_be_moved_while_the_rate_has_not_begun_to_fall(small_corpus):
    whole = in_tail(small_corpus, constant_steps=2, decay_steps=2)
    moved = in_tail(small_corpus, constant_steps=1000, decay_steps=1000)
    for trainer in (whole, moved):
        for _ in range(2):
            trainer.train_step()
    resumed = in_tail(small_corpus, constant_steps=2, decay_steps=2)
    resumed.load_state_dict(moved.state_dict())
    for trainer in (whole, resumed):
        while not trainer.finished:
            trainer.train_step()
    assert whole.step == resumed.step == 4
    for ours, theirs in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_end_cannot_be_moved_once_the_rate_has_fallen(small_corpus):
    run = in_tail(small_corpus, constant_steps=1, decay_steps=4)
    for _ in range(2):
        run.train_step()
    with pytest.raises(ValueError, match="saved run has options="):
        in_tail(small_corpus, constant_steps=3, decay_steps=4).load_state_dict(run.state_dict())


def test_an_unknown_recipe_is_an_error():
    with pytest.raises(ValueError, match="recipe must be one of needles, prose, ruler; got 'rule'"):
        TrainingOptions(recipe="rule")
