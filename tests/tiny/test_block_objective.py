"""Training between clean and noisy blocks, against one pass for each block."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lm_eval_llada.modeling.pairwise import block_causal
from lm_eval_llada.tiny.block_objective import block_inputs
from lm_eval_llada.tiny.corpus import MASK_ID
from lm_eval_llada.tiny.curriculum import Batch
from tests.helpers.llada_models import make_model

LENGTH, BLOCK = 22, 4


def make_batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randint(6, 50, (3, LENGTH), generator=generator)
    is_masked = torch.rand(3, LENGTH, generator=generator) < torch.tensor([[0.1], [0.4], [0.9]])
    is_masked[:, -2] = True
    rows = is_masked.nonzero()
    return Batch(
        x0.masked_fill(is_masked, MASK_ID), rows, x0[is_masked],
        torch.ones(len(rows)), torch.ones(len(rows), dtype=torch.bool), ("text",) * 3,
    )  # fmt: skip


def one_block_at_a_time(model, batch: Batch, offsets: list[int]) -> torch.Tensor:
    """Of each masked token: the clean text before its block, then the block, nothing behind."""
    clean = batch.input_ids.clone()
    clean[batch.rows[:, 0], batch.rows[:, 1]] = batch.targets
    found = []
    for text, position in batch.rows.tolist():
        first = (position + offsets[text]) // BLOCK * BLOCK - offsets[text]
        start, end = max(0, first), first + BLOCK
        block = batch.input_ids[text, start:end]
        tail = torch.full((end - start - len(block),), MASK_ID)
        ids = torch.cat([clean[text, :start], block, tail])[None]
        numbers = ((torch.arange(len(ids[0])) + offsets[text]) // BLOCK)[None]
        with torch.inference_mode():
            logits = model(ids, attention_mask=block_causal(numbers, numbers)).logits
        found.append(logits[0, position])
    return torch.stack(found)


@pytest.mark.parametrize("seed", range(3))
def test_a_noisy_copy_is_predicted_as_in_decoding(seed):
    model, batch = make_model(n_kv_heads=2), make_batch(seed)
    offsets = np.random.default_rng(seed).integers(BLOCK, size=3).tolist()
    inputs = block_inputs(batch, BLOCK, np.random.default_rng(seed))
    with torch.inference_mode():
        logits = model(**vars(inputs)).logits
    expected = one_block_at_a_time(model, batch, offsets)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_the_clean_text_never_sees_a_copy_and_a_copy_never_its_own_clean_block():
    batch = make_batch(0)
    inputs = block_inputs(batch, BLOCK, np.random.default_rng(0))
    seen = inputs.attention_mask[:, 0]
    assert not seen[:, :LENGTH, LENGTH:].any()
    text, row = inputs.rows[-1].tolist()
    position = int(inputs.position_ids[text, row])
    assert not seen[text, row, position]
    assert (inputs.input_ids[inputs.rows[:, 0], inputs.rows[:, 1]] == MASK_ID).all()


def test_copies_have_the_positions_of_what_they_copy():
    batch = make_batch(1)
    inputs = block_inputs(batch, BLOCK, np.random.default_rng(1))
    found = inputs.position_ids[inputs.rows[:, 0], inputs.rows[:, 1]]
    assert found.tolist() == batch.rows[:, 1].tolist()
