"""A mask of pairs: what each query sees, in every shape of model."""

from __future__ import annotations

import pytest
import torch

from lm_eval_llada.modeling.cache import KeyValueCache
from lm_eval_llada.modeling.pairwise import block_causal, pairwise_mask
from tests.helpers.llada_models import ROWS, SHAPES, make_model, tokens

LENGTH = 12


def blocks(size: int, length: int = LENGTH) -> torch.Tensor:
    return (torch.arange(length) // size)[None]


def logits(model, ids, **arguments) -> torch.Tensor:
    with torch.inference_mode():
        return model(ids, **arguments).logits


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mask_of_everything_is_full_attention(shape):
    model, ids = make_model(**SHAPES[shape]), tokens(2, LENGTH)
    every = torch.ones(1, 1, LENGTH, LENGTH, dtype=torch.bool)
    torch.testing.assert_close(logits(model, ids, attention_mask=every), logits(model, ids))


@pytest.mark.parametrize("size", [1, 4, LENGTH])
@pytest.mark.parametrize("row", ROWS)
def test_a_block_sees_itself_and_those_before_it(row, size):
    model, ids = make_model(**ROWS[row]), tokens(1, LENGTH)
    mask = block_causal(blocks(size), blocks(size))
    before = logits(model, ids, attention_mask=mask)[0]
    changed = ids.clone()
    changed[0, 5] += 1
    after = logits(model, changed, attention_mask=mask)[0]
    first = 5 // size * size
    # A mixture of experts gathers the tokens of an expert, so that last bits depend on all of them.
    tolerance = 1e-5 if "moe" in row else 0.0
    torch.testing.assert_close(after[:first], before[:first], atol=tolerance, rtol=0.0)
    assert (after[first:] != before[first:]).any(dim=1).all()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_rows_under_a_mask_of_pairs_are_those_of_all_positions(implementation):
    model, ids = make_model(n_kv_heads=2), tokens(2, LENGTH)
    model.set_attn_implementation(implementation)
    mask = torch.cat([block_causal(blocks(size), blocks(size)) for size in (3, 4)])
    rows = torch.tensor([[1, 7], [0, 2], [1, 0], [1, 11]])
    every = logits(model, ids, attention_mask=mask)
    some = logits(model, ids, attention_mask=mask, rows=rows)
    torch.testing.assert_close(some, every[rows[:, 0], rows[:, 1]])


def test_eager_and_sdpa_read_a_mask_of_pairs_alike():
    model, ids = make_model(n_kv_heads=2), tokens(2, LENGTH)
    mask = block_causal(blocks(4), blocks(4))
    expected = logits(model, ids, attention_mask=mask)
    model.set_attn_implementation("eager")
    torch.testing.assert_close(logits(model, ids, attention_mask=mask), expected)


def test_flash_attention_has_no_mask_of_pairs():
    mask = block_causal(blocks(4), blocks(4))
    with pytest.raises(ValueError, match="takes no mask of single pairs; use sdpa or eager"):
        pairwise_mask("flash_attention_2", mask, torch.float32, 1, None)


def test_a_mask_of_pairs_stands_alone_and_fits():
    model, ids = make_model(), tokens(2, LENGTH)
    mask = block_causal(blocks(4), blocks(4))
    with pytest.raises(ValueError, match="without a cache"):
        model(ids, attention_mask=mask, cache=KeyValueCache())
    with pytest.raises(ValueError, match="without document_ids"):
        model(ids, attention_mask=mask, document_ids=torch.zeros_like(ids))
    with pytest.raises(ValueError, match=r"got \(1, 1, 12, 11\)"):
        model(ids, attention_mask=mask[..., :-1])
