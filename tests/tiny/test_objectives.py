"""The causal twin of the tiny model: the same weights and samples, and nothing seen ahead."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lm_eval_llada.modeling import LLaDAForMaskedLM
from lm_eval_llada.tiny.corpus import (
    MASK_ID,
)
from lm_eval_llada.tiny.curriculum import (
    Stage,
    collate,
    draw_batch,
)
from lm_eval_llada.tiny.objectives import (
    block_matrices,
    build_model,
    predict,
)
from lm_eval_llada.tiny.samples import SampleMaker
from lm_eval_llada.tiny.train import Trainer, run
from lm_eval_llada.tiny.training_options import TrainingOptions

OPTIONS = TrainingOptions(width=128, layers=2, mlp_width=96, tokens_per_batch=128)
STAGE = Stage(64, 2, 0.3, 0.3, 1.0)
RNG = np.random.default_rng(0)


@pytest.fixture
def maker(small_corpus, tokenizer):
    return SampleMaker(small_corpus, tokenizer, seed=1, is_causal=True)


@pytest.fixture(scope="module")
def causal():
    return build_model(OPTIONS.model_config(), 0, is_causal=True).eval()


def test_a_model_of_one_layer_without_positions_ahead_computes_what_the_masked_one_does(causal):
    # Of one token there is nothing behind, so the direction of attention cannot matter.
    masked = build_model(OPTIONS.model_config(), 0, is_causal=False).eval()
    ids = torch.arange(10, 40)[:, None]
    with torch.inference_mode():
        torch.testing.assert_close(causal(ids).logits, masked(ids).logits, rtol=1e-5, atol=1e-5)
    assert isinstance(masked, LLaDAForMaskedLM)
    assert causal.num_parameters() == masked.num_parameters()


def test_causal_predictions_depend_on_what_stands_before_and_on_nothing_else(causal, maker):
    batch = collate([maker.plain_text(64)])
    with torch.inference_mode():
        before = predict(causal, batch, RNG)
        for row, (_, position) in enumerate(batch.rows.tolist()):
            changed = batch.input_ids.clone()
            changed[0, position + 1 :] = 77
            later = batch.rows[:, 1] > position
            targets = batch.targets.clone()
            targets[later | (batch.rows[:, 1] == position)] = 78
            other = type(batch)(
                changed, batch.rows, targets, batch.weights, batch.is_decisive, batch.kinds
            )
            torch.testing.assert_close(predict(causal, other, RNG)[row], before[row])


def test_causal_predictions_equal_next_token_logits_of_the_unmasked_text(causal, maker):
    batch = collate([maker.needles(96, 2), maker.needles(96, 2)])
    x0 = batch.input_ids.clone()
    x0[batch.rows[:, 0], batch.rows[:, 1]] = batch.targets
    assert not bool((x0 == MASK_ID).any())
    with torch.inference_mode():
        logits = causal(x0).logits
        expected = torch.stack([logits[b, p - 1] for b, p in batch.rows.tolist()])
        torch.testing.assert_close(predict(causal, batch, RNG), expected)


def test_masked_copies_are_told_by_what_stands_before(maker):
    for _ in range(30):
        sample = maker.copy(64)
        first_masked = int(sample.is_masked.argmax())
        known = sample.input_ids[:first_masked].tolist()
        assert sample.input_ids[first_masked] in known


def test_both_objectives_see_the_same_samples_apart_from_which_copy_is_masked(
    small_corpus, tokenizer
):
    streams = [
        SampleMaker(small_corpus, tokenizer, 4, is_causal=causal) for causal in (False, True)
    ]
    kinds = set()
    for _ in range(30):
        masked, causal = (draw_batch(maker, STAGE, 256) for maker in streams)
        kinds.update(masked.kinds)
        assert causal.kinds == masked.kinds
        if "copy" not in masked.kinds:
            assert torch.equal(causal.input_ids, masked.input_ids)
            assert torch.equal(causal.targets, masked.targets)
    assert kinds == {"copy", "needle", "text"}


def test_matrices_of_blocks_are_the_same_number_in_both():
    config = OPTIONS.model_config()
    masked, causal = (build_model(config, 0, is_causal=c) for c in (False, True))
    shapes = [sorted(tuple(p.shape) for p in block_matrices(m)) for m in (masked, causal)]
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == 7 * OPTIONS.layers


def test_a_causal_run_ends_in_a_folder_that_transformers_opens(small_corpus, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = TrainingOptions(
        objective="causal",
        width=64,
        layers=1,
        mlp_width=32,
        tokens_per_batch=128,
        tail_tokens_per_batch=1024,
        min_stage_steps=1,
        max_stage_steps=1,
        constant_steps=1,
        decay_steps=1,
    )
    run(Trainer(options, small_corpus), tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.model_type == "llama"
    assert model.config.max_position_embeddings == 512
    ids = AutoTokenizer.from_pretrained(tmp_path)("one two", return_tensors="pt")["input_ids"]
    assert model(ids).logits.shape == (1, ids.shape[1], 1024)


def test_an_unknown_objective_is_an_error():
    with pytest.raises(
        ValueError, match="objective must be one of masked, causal, block; got 'casual'"
    ):
        TrainingOptions(objective="casual")
