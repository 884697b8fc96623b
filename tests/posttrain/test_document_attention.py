"""What documents of a sequence see of one another, and the ways to keep them apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lm_eval_llada.posttrain.document_attention import (
    logits_by_document,
    rows_by_document,
    split_documents,
)
from lm_eval_llada.posttrain.packing import (
    STRATEGIES,
    Packed,
    Packer,
    PackingOptions,
)
from tests.helpers.attention import packed_attention
from tests.helpers.llada_models import assert_close, at, make_model, tokens

LENGTH, DOCUMENTS = 32, (11, 7, 14)
ROWS = torch.tensor([[1, 30], [0, 3], [0, 12], [1, 0], [0, 31], [0, 10], [1, 13], [0, 18]])


@pytest.fixture(scope="module")
def model():
    return make_model(n_kv_heads=2)


def pack(strategy: str, changed: int | None = None) -> Packed:
    """A sequence of three documents, one of which can be replaced by others of its length."""
    documents = [
        tokens(length, seed=number + 100 * (number == changed))
        for number, length in enumerate(DOCUMENTS)
    ]
    options = PackingOptions(strategy, LENGTH, eod_token_id=60)
    return next(Packer(options, [*documents, tokens(LENGTH)]))


def logits(model, packed: Packed, **inputs: Tensor) -> Tensor:
    documents = packed.document_ids
    ids = {} if documents is None else {"document_ids": documents[None]}
    return model(packed.input_ids[None], **ids, **inputs).logits[0]


def batch() -> tuple[Tensor, Tensor]:
    """Two sequences that are cut into documents at different places."""
    ids = torch.tensor([0] * 11 + [1] * 7 + [2] * 14), torch.tensor([0] + [1] * 30 + [2])
    return tokens(2, LENGTH), torch.stack(ids)


# --- strategies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", range(len(DOCUMENTS)))
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_only_under_adaptive_a_document_leaves_the_others_alone(model, strategy, changed):
    before, after = pack(strategy), pack(strategy, changed)
    elsewhere = before.input_ids == after.input_ids
    # All of another document, whatever tokens the two versions happen to share.
    starts = torch.tensor([0, *DOCUMENTS]).cumsum(0) + (strategy == "eod") * torch.arange(4)
    elsewhere[starts[changed] : starts[changed] + DOCUMENTS[changed]] = False
    with torch.no_grad():
        moved = (logits(model, after) - logits(model, before)).abs().amax(dim=-1)[elsewhere]
    if strategy == "adaptive":
        assert moved.max() < 1e-5
    else:
        # Every single position hears of the change, far above rounding.
        assert moved.min() > 1e-3


def test_positions_that_start_anew_in_each_document_change_nothing(model):
    adaptive, concat = pack("adaptive"), pack("concat")
    restarted = torch.cat([torch.arange(length) for length in DOCUMENTS])[None]
    with torch.no_grad():
        assert_close(logits(model, adaptive, position_ids=restarted), logits(model, adaptive), 1e-4)
        # With attention across documents they would matter, so the test can fail.
        far = logits(model, concat, position_ids=restarted) - logits(model, concat)
    assert far.abs().max() > 0.1


# --- the ways to keep documents apart -----------------------------------------------------------


@pytest.mark.parametrize("way", ["flex_attention", "flash_attention_2", "by_document"])
def test_every_way_agrees_with_the_mask_of_sdpa(way, monkeypatch):
    model, (ids, documents) = make_model(n_kv_heads=2), batch()
    with torch.no_grad():
        expected = model(ids, document_ids=documents, rows=ROWS).logits
        if way == "by_document":
            assert_close(logits_by_document(model, ids, documents, ROWS), expected, 1e-4)
            return
        monkeypatch.setitem(
            ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_attention_2", packed_attention
        )
        model.config._attn_implementation = way
        # transformers compiles flex_attention; uncompiled it computes the same within a second.
        with torch.compiler.set_stance("force_eager"):
            assert_close(model(ids, document_ids=documents, rows=ROWS).logits, expected, 1e-4)


def test_a_document_in_a_sequence_is_computed_as_if_alone(model):
    packed = pack("adaptive")
    with torch.no_grad():
        alone = [model(document[None]).logits[0] for document in split_documents(packed)]
        assert_close(logits(model, packed), torch.cat(alone), 1e-4)


def test_gradients_of_documents_one_after_another_sum_to_those_of_the_mask():
    (ids, documents), weights = batch(), torch.linspace(0.2, 1.7, len(ROWS))
    masked, by_document = make_model(), make_model()
    losses = masked(ids, document_ids=documents, rows=ROWS).logits.logsumexp(-1)
    (weights * losses).sum().backward()
    for part in rows_by_document(ids, documents, ROWS):
        losses = by_document(part.input_ids, rows=part.rows).logits.logsumexp(-1)
        (weights[part.index] * losses).sum().backward()
    for expected, actual in zip(masked.parameters(), by_document.parameters(), strict=True):
        assert_close(actual.grad, expected.grad, 1e-4)


# --- splitting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_documents_joined_are_the_sequence(strategy):
    packed = pack(strategy)
    parts = split_documents(packed)
    assert torch.equal(torch.cat(parts), packed.input_ids)
    expected = list(DOCUMENTS) if strategy == "adaptive" else [LENGTH]
    assert [len(part) for part in parts] == expected


def test_padding_is_no_document():
    options = PackingOptions("adaptive", LENGTH, pad_token_id=0)
    packed = next(Packer(options, [tokens(5), tokens(9)]))
    assert [len(part) for part in split_documents(packed)] == [5, 9]


def test_each_row_is_in_one_document_and_points_at_its_token():
    ids, documents = batch()
    parts = list(rows_by_document(ids, documents, ROWS))
    # The document of one token at the end of the second sequence has no row.
    assert [part.input_ids.shape[1] for part in parts] == [11, 7, 14, 1, 30]
    assert sorted(torch.cat([part.index for part in parts]).tolist()) == list(range(len(ROWS)))
    for part in parts:
        assert torch.equal(at(part.input_ids, part.rows), at(ids, ROWS[part.index]))


def test_no_rows_are_no_logits(model):
    ids, documents = batch()
    assert logits_by_document(model, ids, documents, ROWS[:0]).shape == (0, 97)
