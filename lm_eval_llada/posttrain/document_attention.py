"""Attention inside documents by one forward pass for each, where no kernel does it in one.

flex_attention and flash_attention_2 keep attention inside documents at a cost that grows with
their tokens. sdpa takes a mask of length x length elements instead, and flex_attention has no
backward pass on CPU. There a document for itself, as a sequence of its own, gives the same logits
in memory that grows with the tokens, and less work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lm_eval_llada.posttrain.packing import PADDING_DOCUMENT, Packed


@dataclass(frozen=True)
class DocumentRows:
    """A document as a sequence of its own, and the rows asked for in it.

    Attributes:
        input_ids: int64 (1, tokens).
        rows: int64 (num_rows, 2) of (0, position in the document).
        index: int64 (num_rows,), where they stand among all rows asked for.
    """

    input_ids: Tensor
    rows: Tensor
    index: Tensor


def split_documents(packed: Packed) -> list[Tensor]:
    """The documents of a sequence, or what it holds of them: int64 (tokens,) each, no padding.

    A sequence without document ids is one document.
    """
    if packed.document_ids is None:
        return [packed.input_ids]
    ids = packed.document_ids.tolist()
    return [
        packed.input_ids[start:end]
        for start, end in _spans(packed.document_ids)
        if ids[start] != PADDING_DOCUMENT
    ]


def rows_by_document(
    input_ids: Tensor, document_ids: Tensor, rows: Tensor
) -> Iterator[DocumentRows]:
    """Yields each document that has rows, so that each row is in one of them.

    Args:
        input_ids: int64 (batch, seq).
        document_ids: int64 (batch, seq), equal ids standing together.
        rows: int64 (num_rows, 2) of (batch, position), in any order.
    """
    for number, (tokens, ids) in enumerate(zip(input_ids, document_ids, strict=True)):
        index = (rows[:, 0] == number).nonzero()[:, 0]
        position = rows[index, 1]
        for start, end in _spans(ids):
            inside = (position >= start) & (position < end)
            if inside.any():
                local = position[inside] - start
                local_rows = torch.stack([torch.zeros_like(local), local], dim=1)
                yield DocumentRows(tokens[None, start:end], local_rows, index[inside])


def logits_by_document(model: Any, input_ids: Tensor, document_ids: Tensor, rows: Tensor) -> Tensor:
    """Logits of rows with attention inside documents, (num_rows, vocab), differentiable.

    Equal to `model(input_ids, rows=rows, document_ids=document_ids).logits` without a mask.
    Documents without rows are passed over. The number of calls depends on the batch: ranks that
    gather weights in each call (FSDP) would wait for one another, and need one of the kernels.

    Args:
        model: a `LLaDAForMaskedLM`.
        input_ids: int64 (batch, seq).
        document_ids: int64 (batch, seq), equal ids standing together.
        rows: int64 (num_rows, 2) of (batch, position), in any order.
    """
    if len(rows) == 0:
        return model(input_ids, rows=rows).logits
    parts = list(rows_by_document(input_ids, document_ids, rows))
    logits = torch.cat([model(part.input_ids, rows=part.rows).logits for part in parts])
    return logits[torch.cat([part.index for part in parts]).argsort()]


def _spans(document_ids: Tensor) -> list[tuple[int, int]]:
    """Start and end of each run of equal ids in a sequence."""
    _, lengths = torch.unique_consecutive(document_ids, return_counts=True)
    ends = lengths.cumsum(0).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))
