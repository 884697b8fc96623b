"""Attention of one sequence's queries over kept keys: all of them, a band, or the best pages.

Tensors are those of one sequence, without padding. Heads come first where keys are kept, so that
the keys of a head are one piece of memory: (kv_heads, keys, head_dim).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

PAGE = 64
"""Keys of a page, which is kept or left out as a whole."""
NUM_FIRST = 64
"""First tokens of a sequence, which every token attends to."""


def attend_all(query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
    """Attention output of each query over all keys, (queries, heads * head_dim).

    Heads that share keys are folded into one with more queries, which needs no copies of keys.

    Args:
        query: (queries, heads, head_dim).
        keys: (kv_heads, keys, head_dim), in the type of `query`.
        values: like `keys`.
        scaling: factor on the scores.
    """
    folded = _by_key_head(query, keys.shape[0])
    output = F.scaled_dot_product_attention(folded[None], keys[None], values[None], scale=scaling)
    apart = output[0].unflatten(1, (-1, query.shape[0]))
    return apart.permute(2, 0, 1, 3).flatten(1)


def attend_band(
    query: Tensor, keys: Tensor, values: Tensor, scaling: float, start: int, chunk: int, end: int
) -> Tensor:
    """Attention output over the first keys, the last, the queries' own chunk and both beside it.

    The last ones hold the question, mostly, which a text that is read in both directions looks at
    to mark what is asked for.

    Args:
        query: (queries, heads, head_dim), of one chunk.
        keys: (kv_heads, keys, head_dim) of the whole sequence.
        values: like `keys`.
        scaling: factor on the scores.
        start: position of the first query.
        chunk: tokens of a chunk.
        end: position from which on keys are seen by every query.
    """
    number = start // chunk
    first, last = max(0, number - 1) * chunk, (number + 2) * chunk
    near = [slice(last)] if first <= NUM_FIRST else [slice(NUM_FIRST), slice(first, last)]
    seen = [*near, slice(max(last, end), None)]
    keys, values = (torch.cat([own[:, at] for at in seen], dim=1) for own in (keys, values))
    return attend_all(query, keys, values, scaling)


def page_shares(query: Tensor, keys: Tensor, scaling: float, num_pages: int) -> Tensor:
    """What queries give to each of the first pages of keys, summed, float32 (kv_heads, pages).

    Args:
        query: (queries, heads, head_dim).
        keys: (kv_heads, keys, head_dim), in any type; all count in the softmax.
        scaling: factor on the scores.
        num_pages: whole pages to tell the share of.
    """
    shares = []
    for queries, own in zip(_by_key_head(query, keys.shape[0]), keys, strict=True):
        weights = (queries @ own.to(query.dtype).T * scaling).softmax(dim=-1, dtype=torch.float32)
        shares.append(weights[:, : num_pages * PAGE].sum(0).view(num_pages, PAGE).sum(-1))
    return torch.stack(shares)


def best_pages(shares: Tensor, keep: float) -> Tensor:
    """Numbers of the pages with the largest shares, ascending, int64 (kv_heads, num_kept).

    Args:
        shares: (kv_heads, pages).
        keep: share of the pages to keep, rounded up to whole ones.
    """
    # Stable, so that of equal shares the first page is kept whatever the machine.
    order = shares.argsort(dim=-1, descending=True, stable=True)
    return order[:, : num_kept_pages(shares.shape[1], keep)].sort(dim=-1).values


def num_kept_pages(num_pages: int, keep: float) -> int:
    """Whole pages that are kept of so many."""
    return min(num_pages, math.ceil(num_pages * keep))


def _by_key_head(query: Tensor, num_key_heads: int) -> Tensor:
    """(kv_heads, group * queries, head_dim): what reads the keys of each head."""
    grouped = query.unflatten(1, (num_key_heads, -1)).permute(1, 2, 0, 3)
    return grouped.flatten(1, 2)
