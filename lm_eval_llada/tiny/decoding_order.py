"""Masks as decoding leaves them: the tokens that a model is surest of are revealed first.

Random masks and masks from some place on are not what a model meets when it decodes: it begins
with ends, separators and whatever token of a word is surest, and then has to fill in what stands
between them. A model that has not been trained on that gives the same word twice, or the beginning
of one and the end of another.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from lm_eval_llada.tiny.curriculum import Batch

ROUNDS = 2
"""Forward passes that say what is surest; each reveals its share of the tokens."""


def reveal_surest(model: PreTrainedModel, batch: Batch, rng: np.random.Generator) -> Batch:
    """The same batch with some of its masked tokens known: those the model is surest of.

    How many is drawn for each sequence, from none to all but one. They are revealed as they are in
    the text, whatever the model would have given.

    Args:
        model: what is being trained; it is not changed.
        batch: of samples.
        rng: draws how many.
    """
    num_masked = torch.bincount(batch.rows[:, 0], minlength=len(batch.input_ids))
    wanted = torch.from_numpy(rng.integers(num_masked.numpy()))
    for left in range(ROUNDS, 0, -1):
        counts = wanted // left
        wanted = wanted - counts
        batch = _reveal(batch, _confidences(model, batch), counts)
    return batch


def _confidences(model: PreTrainedModel, batch: Batch) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model(batch.input_ids, rows=batch.rows).logits
    return logits.float().softmax(dim=-1).amax(dim=-1)


def _reveal(batch: Batch, confidences: Tensor, counts: Tensor) -> Batch:
    """Reveal the `counts` (batch,) tokens of each sequence with the highest `confidences`."""
    sequences, positions = batch.rows.unbind(dim=1)
    by_confidence = confidences.argsort(descending=True)
    # Stable, so that the masked tokens of each sequence stay in that order.
    order = by_confidence[sequences[by_confidence].argsort(stable=True)]
    num_masked = torch.bincount(sequences, minlength=len(counts))
    first = num_masked.cumsum(dim=0) - num_masked
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order)) - first[sequences[order]]
    is_known = rank < counts[sequences]
    ids = batch.input_ids.clone()
    ids[sequences[is_known], positions[is_known]] = batch.targets[is_known]
    kept = {
        name: getattr(batch, name)[~is_known]
        for name in ("rows", "targets", "weights", "is_decisive")
    }
    totals = torch.zeros(len(counts)).index_add_(0, kept["rows"][:, 0], kept["weights"])
    kept["weights"] = kept["weights"] / totals[kept["rows"][:, 0]]
    return replace(batch, input_ids=ids, **kept)
