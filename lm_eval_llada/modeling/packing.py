"""Tokens in packed order, as flash attention takes sequences of different lengths."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Rows(NamedTuple):
    """Where the rows asked for sit, as positions and as slots of a rectangle.

    Attributes:
        batch: int64 (num_rows,), sequence of each row.
        position: int64 (num_rows,), its position.
        slot: int64 (num_rows,), its column in the rectangle.
        slot_position: int64 (batch, num_slots), position behind each slot, 0 where unused.
    """

    batch: Tensor
    position: Tensor
    slot: Tensor
    slot_position: Tensor


class Packing(NamedTuple):
    """Queries and keys sorted into groups, attention staying inside a group.

    Attributes:
        query_order: int64, rows of the flattened queries in packed order.
        key_order: int64, tokens of the flattened keys in packed order.
        query_ends: int32 (groups + 1,), where each group's queries start and end.
        key_ends: int32 (groups + 1,), the same for keys.
        max_queries: queries of the largest group.
        max_keys: keys of the largest group.
    """

    query_order: Tensor
    key_order: Tensor
    query_ends: Tensor
    key_ends: Tensor
    max_queries: int
    max_keys: int


class PreparedAttention:
    """Attention that was laid out for one pass beforehand, in the place of its mask."""

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, rows: Rows | None
    ) -> Tensor:
        """Attention output of each query; arguments and shapes as of `attention.attend`."""
        raise NotImplementedError


def pack(
    batch_size: int,
    key_length: int,
    device: torch.device,
    attention_mask: Tensor | None,
    document_ids: Tensor | None,
    rows: Rows | None,
) -> Packing:
    """Sorts queries and keys by (sequence, document), leaving out keys that no query sees."""
    group = torch.arange(batch_size, device=device)[:, None].expand(-1, key_length)
    if document_ids is not None:
        document = document_ids - document_ids.amin()
        group = group * (document.amax() + 1) + document
    group = group.flatten()
    real = torch.ones_like(group, dtype=torch.bool)
    if attention_mask is not None:
        real = attention_mask.flatten()
    if rows is None:
        queries = real.nonzero()[:, 0]
        query_group = group[queries]
    else:
        tokens = rows.batch * key_length + rows.position
        queries = real[tokens].nonzero()[:, 0]
        query_group = group[tokens[queries]]
    if len(queries) == 0:
        empty = _ends(group.new_zeros(0))
        return Packing(queries, queries, empty, empty, 0, 0)
    present, query_index, num_queries = query_group.unique(return_inverse=True, return_counts=True)
    key_index = torch.searchsorted(present, group).clamp(max=len(present) - 1)
    keys = (real & (present[key_index] == group)).nonzero()[:, 0]
    num_keys = torch.bincount(key_index[keys], minlength=len(present))
    return Packing(
        query_order=queries[query_index.argsort(stable=True)],
        key_order=keys[key_index[keys].argsort(stable=True)],
        query_ends=_ends(num_queries),
        key_ends=_ends(num_keys),
        max_queries=int(num_queries.max()),
        max_keys=int(num_keys.max()),
    )


def _ends(counts: Tensor) -> Tensor:
    return nn.functional.pad(counts.cumsum(0), (1, 0)).to(torch.int32)
