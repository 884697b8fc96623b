"""A mask that says of each query which keys it sees, as transformers takes one in four dimensions.

Attention that is causal between blocks, the reference of every cache of it, and training on a clean
and a noisy copy of one text all need no more than this.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor

from lm_eval_llada.modeling.packing import Rows

PAIRWISE_IMPLEMENTATIONS = ("sdpa", "eager")
"""Attention functions that take such a mask; flash attention has none, flex another form."""


def is_pairwise(attention_mask: object) -> TypeGuard[Tensor]:
    """Whether a mask names pairs of query and key rather than padding."""
    return isinstance(attention_mask, Tensor) and attention_mask.dim() == 4


def block_causal(query_blocks: Tensor, key_blocks: Tensor) -> Tensor:
    """Which keys each query sees where blocks see themselves and those before them.

    With every token a block of its own this is causal attention; with one block, full attention.

    Args:
        query_blocks: int64 (batch, queries), number of each query's block.
        key_blocks: int64 (batch, keys).

    Returns:
        bool (batch, 1, queries, keys), True = is seen.
    """
    return (key_blocks[:, None, :] <= query_blocks[:, :, None])[:, None]


def pairwise_mask(
    implementation: str, allowed: Tensor, dtype: torch.dtype, batch_size: int, rows: Rows | None
) -> Tensor:
    """The mask in the form that an attention function reads.

    Args:
        implementation: name of the attention function.
        allowed: bool (batch or 1, 1, seq, keys), True = is seen.
        dtype: of the scores.
        batch_size: number of sequences.
        rows: queries to be asked for; None for all positions.

    Returns:
        (batch or 1, 1, queries, keys); bool, or for `eager` numbers to add.

    Raises:
        ValueError: if the function has no such mask.
    """
    if implementation not in PAIRWISE_IMPLEMENTATIONS:
        raise ValueError(
            f"attn_implementation={implementation!r} takes no mask of single pairs; use "
            f"{' or '.join(PAIRWISE_IMPLEMENTATIONS)}."
        )
    if rows is not None:
        sequences = torch.arange(batch_size, device=allowed.device)[:, None]
        every = allowed[:, 0].expand(batch_size, -1, -1)
        allowed = every[sequences, rows.slot_position][:, None]
    if implementation == "sdpa":
        return allowed
    hidden = torch.finfo(dtype).min
    return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, hidden)
