"""The loss of a family whose token at p is read from the row before."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lm_eval_llada.modeling import LLaDAConfig
from lm_eval_llada.posttrain.model import LLaDAForPosttraining
from tests.helpers.llada_models import ROWS, SIZES, tokens

ROWS_ASKED = torch.tensor([[0, 0], [1, 4], [0, 5], [1, 9], [0, 1]])
DOCUMENTS = torch.tensor([[0] * 5 + [1] * 6, [0] * 9 + [1] * 2])


def posttrained(family: str) -> LLaDAForPosttraining:
    torch.manual_seed(0)
    return LLaDAForPosttraining(LLaDAConfig(**{**SIZES, **ROWS[family]})).eval()


@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("documents", [None, DOCUMENTS], ids=["whole", "documents"])
def test_each_target_is_read_from_its_own_row_or_the_one_before(family, documents):
    model, ids, targets = posttrained(family), tokens(2, 11), tokens(5, seed=3)
    weights = torch.arange(1.0, 6.0)
    with torch.no_grad():
        full = model(ids, document_ids=documents).logits
    starts = [(0, 0), (1, 0)] if documents is None else [(0, 0), (0, 5), (1, 0), (1, 9)]
    expected = torch.zeros(())
    for weight, (batch, position), target in zip(
        weights, ROWS_ASKED.tolist(), targets, strict=True
    ):
        # The first token of a document has no row before it.
        row = position - (family == "dream" and (batch, position) not in starts)
        expected += weight * F.cross_entropy(full[batch, row], target)
    arguments = {"rows": ROWS_ASKED, "targets": targets, "weights": weights}
    losses = []
    for by_document in (False, True):
        model.by_document = by_document
        with torch.no_grad():
            losses.append(model(ids, document_ids=documents, **arguments).loss)
    assert all(torch.allclose(loss, expected, atol=1e-4) for loss in losses)
