"""A model that is causal between blocks against itself: beside its cache, and in one whole pass."""

from __future__ import annotations

import torch
from torch import Tensor

from lm_eval_llada.diffusion.block_reader import BlockReader, Clean
from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.diffusion.denoiser import Part
from lm_eval_llada.modeling import LLaDAForMaskedLM, as_denoiser
from lm_eval_llada.modeling.pairwise import block_causal


def cached_logits(model: LLaDAForMaskedLM, rules: BlockRules, ids: Tensor) -> Tensor:
    """Logits of the last block of a text, all before it finished and kept.

    Args:
        model: On its device.
        rules: How its blocks lie.
        ids: int64 (length,), the last block as it is at work.

    Returns:
        float32 (tokens of the last block, vocabulary), on the CPU.
    """
    start = rules.first_block(len(ids) - 1)
    denoiser = as_denoiser(model, mask_token_id=0)
    reader = BlockReader.of(denoiser, rules, 1, len(ids))
    none = torch.empty(0, dtype=torch.int64)
    reader.keep([Clean(0, ids[:start], 0, (), start, none)])
    own = ids[start:]
    numbers = torch.zeros(len(own), dtype=torch.int64)
    rows = torch.arange(len(own))
    part = Part(0, own, start, (reader.kept(0),), numbers, rows, keep=False)
    return reader.logits([part]).cpu()


@torch.inference_mode()
def whole_logits(model: LLaDAForMaskedLM, rules: BlockRules, ids: Tensor) -> Tensor:
    """The same from one pass over the whole text under a mask of pairs."""
    start = rules.first_block(len(ids) - 1)
    numbers = rules.clean_ids(len(ids), start)
    numbers[start:] = len(ids)
    mask = block_causal(numbers[None], numbers[None]).to(model.device)
    rows = torch.stack([torch.zeros(len(ids) - start), torch.arange(start, len(ids))], dim=1).long()
    logits = model(ids[None].to(model.device), attention_mask=mask, rows=rows.to(model.device))
    return logits.logits.float().cpu()
