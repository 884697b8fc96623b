"""What a block-causal tiny model reads: a clean text, and behind it noisy copies of some blocks.

The masked tokens of a block are predicted from its other tokens and from the clean blocks before
it, as they are in decoding. So a text is read once as it is, and of each block that has masks a
copy beside it: training costs little more than a clean pass where few blocks have masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lm_eval_llada.tiny.corpus import MASK_ID
from lm_eval_llada.tiny.curriculum import Batch

PADDING = -1
"""Block of unused places behind the copies; no query but its own kind sees them."""


@dataclass(frozen=True)
class BlockInputs:
    """Arguments of a forward pass.

    Attributes:
        input_ids: int64 (batch, length + copies), clean text, then noisy blocks.
        position_ids: int64, like `input_ids`; a copy has the positions of what it copies.
        attention_mask: bool (batch, 1, length + copies, length + copies), which keys are seen.
        rows: int64 (num_masked, 2), where the masked tokens of the batch are among the copies.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    rows: Tensor


def block_inputs(batch: Batch, block_length: int, rng: np.random.Generator) -> BlockInputs:
    """Clean texts with noisy copies of their blocks that have masks.

    Each text gets its own grid of blocks, which begins up to a block before the text, so that an
    answer begins and ends anywhere in a block. A copy reaches to the end of its block, with masks
    where the text is over: what decoding starts from.

    Args:
        batch: of samples.
        block_length: tokens of a block.
        rng: draws where the grids begin.
    """
    num_texts, length = batch.input_ids.shape
    offsets = torch.from_numpy(rng.integers(block_length, size=num_texts))
    texts, position = batch.rows.unbind(dim=1)
    blocks = (position + offsets[texts]) // block_length
    copies = [blocks[texts == text].unique() for text in range(num_texts)]
    width = max(map(len, copies)) * block_length
    copied = torch.full((num_texts, width), PADDING)
    for text, chosen in enumerate(copies):
        copied[text, : len(chosen) * block_length] = chosen.repeat_interleave(block_length)
    places = copied * block_length - offsets[:, None] + torch.arange(width) % block_length
    # Before the text there is nothing, as there is behind the last copy.
    copied[places < 0] = PADDING
    places = places.clamp(min=0)
    noisy = batch.input_ids.gather(1, places.clamp(max=length - 1))
    noisy[(places >= length) | (copied == PADDING)] = MASK_ID
    clean = batch.input_ids.clone()
    clean[texts, position] = batch.targets
    every = torch.arange(length).expand(num_texts, -1)
    own = (every + offsets[:, None]) // block_length
    return BlockInputs(
        input_ids=torch.cat([clean, noisy], dim=1),
        position_ids=torch.cat([every, places], dim=1),
        attention_mask=_seen(own, copied),
        rows=_copied_rows(texts, position, copied, places, length),
    )


def _seen(clean: Tensor, copied: Tensor) -> Tensor:
    """Clean tokens see clean blocks up to their own; a copy clean ones before it, and itself."""
    below = clean[:, None, :] <= clean[:, :, None]
    before = clean[:, None, :] < copied[:, :, None]
    same = copied[:, None, :] == copied[:, :, None]
    never = torch.zeros(below.shape[0], below.shape[1], copied.shape[1], dtype=torch.bool)
    above = torch.cat([below, never], dim=2)
    return torch.cat([above, torch.cat([before, same], dim=2)], dim=1)[:, None]


def _copied_rows(
    texts: Tensor, position: Tensor, copied: Tensor, places: Tensor, length: int
) -> Tensor:
    where = torch.full((len(copied), length), PADDING)
    # A copy reaches behind the text, where nothing is asked for.
    text, place = ((copied != PADDING) & (places < length)).nonzero().unbind(dim=1)
    where[text, places[text, place]] = length + place
    return torch.stack([texts, where[texts, position]], dim=1)
