"""Masks as decoding leaves them: the surest tokens of each sequence are known, and only those."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.tiny import decoding_order
from lm_eval_llada.tiny.corpus import MASK_ID
from lm_eval_llada.tiny.curriculum import Batch, collate
from lm_eval_llada.tiny.decoding_order import reveal_surest
from lm_eval_llada.tiny.samples import Sample
from lm_eval_llada.tiny.train import Trainer
from lm_eval_llada.tiny.training_options import TrainingOptions

LENGTH = 12
VOCABULARY = 40


def drawn(rng: np.random.Generator, num_sequences: int) -> Batch:
    """Sequences of tokens of which at least one is masked each, weighed at random."""
    samples = []
    for _ in range(num_sequences):
        is_masked = rng.random(LENGTH) < rng.random()
        is_masked[rng.integers(LENGTH)] = True
        samples.append(
            Sample(
                rng.integers(6, VOCABULARY, LENGTH),
                is_masked,
                rng.random(LENGTH) < 0.5,
                "keys",
                rng.random(LENGTH).astype(np.float32) + 0.1,
            )
        )
    return collate(samples)


class SureByPlace:
    """A model that is as sure of a place as a table says, whatever else it reads."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table
        self.num_calls = 0

    def __call__(self, input_ids: torch.Tensor, rows: torch.Tensor) -> SimpleNamespace:
        assert (input_ids[tuple(rows.T)] == MASK_ID).all()
        self.num_calls += 1
        logits = torch.zeros(len(rows), VOCABULARY)
        logits[:, 7] = self.table[tuple(rows.T)]
        return SimpleNamespace(logits=logits)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_the_surest_tokens_are_known_as_they_are_in_the_text(seed, num_sequences):
    rng = np.random.default_rng(seed)
    batch = drawn(rng, num_sequences)
    table = torch.from_numpy(rng.permutation(num_sequences * LENGTH)).float() / 50
    table = table.view(num_sequences, LENGTH)
    result = reveal_surest(SureByPlace(table), batch, np.random.default_rng(seed))

    x0 = batch.input_ids.clone()
    x0[tuple(batch.rows.T)] = batch.targets
    counts = np.random.default_rng(seed).integers(torch.bincount(batch.rows[:, 0]).numpy())
    expected = batch.input_ids.clone()
    for sequence, count in enumerate(counts):
        places = batch.rows[batch.rows[:, 0] == sequence, 1]
        surest = sorted(places.tolist(), key=lambda place: -table[sequence, place])
        for place in surest[:count]:
            expected[sequence, place] = x0[sequence, place]
    assert torch.equal(result.input_ids, expected)
    assert torch.equal(result.rows, (expected == MASK_ID).nonzero())
    assert torch.equal(result.targets, x0[tuple(result.rows.T)])
    assert result.kinds == batch.kinds


@given(st.integers(0, 2**32 - 1))
def test_what_stays_masked_keeps_its_share_and_each_sequence_counts_as_before(seed):
    rng = np.random.default_rng(seed)
    batch = drawn(rng, 4)
    result = reveal_surest(SureByPlace(torch.rand(4, LENGTH)), batch, rng)
    before = {tuple(row): part for row, *part in _by_row(batch)}
    for sequence in range(4):
        weights = result.weights[result.rows[:, 0] == sequence]
        assert len(weights) > 0
        assert weights.sum().item() == pytest.approx(1, abs=1e-5)
        old = torch.tensor([before[tuple(row)][0] for row, *_ in _by_row(result, sequence)])
        assert torch.allclose(weights, old / old.sum(), atol=1e-5)
    for row, _, is_decisive in _by_row(result):
        assert is_decisive == before[tuple(row)][1]


def _by_row(batch, sequence=None):
    parts = (batch.rows.tolist(), batch.weights.tolist(), batch.is_decisive.tolist())
    return [p for p in zip(*parts, strict=True) if sequence is None or p[0][0] == sequence]


def test_what_is_surest_is_asked_again_once_some_of_it_is_known(monkeypatch):
    # The second place is sure only where the first is known.
    class SureOfTheNext(SureByPlace):
        def __call__(self, input_ids, rows):
            logits = super().__call__(input_ids, rows).logits
            known = input_ids[rows[:, 0], (rows[:, 1] - 1).clamp(min=0)] != MASK_ID
            logits[known, 7] += 9
            return SimpleNamespace(logits=logits)

    sample = Sample(np.arange(10, 10 + LENGTH), np.ones(LENGTH, bool), np.zeros(LENGTH, bool), "vt")
    batch = collate([sample])
    table = torch.linspace(0, 1, LENGTH)[None].clone()
    table[0, 4] = 5
    for rounds, expected in ((1, [4, LENGTH - 1]), (2, [4, 5])):
        monkeypatch.setattr(decoding_order, "ROUNDS", rounds)
        model = SureOfTheNext(table)
        found = reveal_surest(model, batch, SimpleNamespace(integers=lambda n: np.array([2])))
        assert (found.input_ids[0] != MASK_ID).nonzero().flatten().tolist() == expected
        assert model.num_calls == rounds


SMALL = {"width": 64, "layers": 1, "mlp_width": 32, "tokens_per_batch": 128}


def test_revealing_changes_the_masked_model_and_neither_the_samples_nor_its_causal_twin(
    small_corpus,
):
    runs = {}
    for objective in ("masked", "causal"):
        for share in (0.0, 1.0):
            options = TrainingOptions(**SMALL, objective=objective, reveal_share=share)
            trainer = Trainer(options, small_corpus)
            for _ in range(2):
                trainer.train_step()
            runs[objective, share] = trainer
    states = {key: trainer.maker.rng.getstate() for key, trainer in runs.items()}
    assert states["masked", 0.0] == states["masked", 1.0]
    assert states["causal", 0.0] == states["causal", 1.0]

    def same(objective):
        pairs = zip(
            runs[objective, 0.0].model.parameters(),
            runs[objective, 1.0].model.parameters(),
            strict=True,
        )
        return all(torch.equal(a, b) for a, b in pairs)

    assert same("causal")
    assert not same("masked")


def test_a_run_that_reveals_goes_on_after_a_kill_with_the_numbers_of_one_that_was_not(small_corpus):
    options = TrainingOptions(**SMALL, reveal_share=0.5)
    whole, first = (Trainer(options, small_corpus) for _ in range(2))
    for _ in range(6):
        whole.train_step()
    for _ in range(3):
        first.train_step()
    second = Trainer(options, small_corpus)
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        second.train_step()
    for ours, theirs in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
