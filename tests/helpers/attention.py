"""Stand-ins for attention kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float,
    is_causal: bool,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What flash-attn computes from packed tokens, one group at a time."""
    assert attention_mask is None and is_causal is False
    key, value = (t.repeat_interleave(module.num_key_value_groups, dim=1) for t in (key, value))
    if "cu_seq_lens_q" not in kwargs:
        weights = (query @ key.mT * scaling).softmax(-1)
        return (weights @ value).transpose(1, 2), None
    ends = [kwargs[name].tolist() for name in ("cu_seq_lens_q", "cu_seq_lens_k")]
    for end, longest in zip(ends, (kwargs["max_length_q"], kwargs["max_length_k"]), strict=True):
        assert max(b - a for a, b in zip(end, end[1:], strict=False)) == longest
    assert ends[0][-1] == query.shape[2] and ends[1][-1] == key.shape[2]
    parts = []
    for group in range(len(ends[0]) - 1):
        q = query[:, :, ends[0][group] : ends[0][group + 1]]
        k, v = (t[:, :, ends[1][group] : ends[1][group + 1]] for t in (key, value))
        parts.append((q @ k.mT * scaling).softmax(-1) @ v)
    return torch.cat(parts, dim=2).transpose(1, 2), None
