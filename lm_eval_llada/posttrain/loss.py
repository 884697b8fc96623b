"""The training loss of a masked diffusion model: what is masked in each sample, and what it weighs.

Each sample's random numbers come from the run's seed and its index in the stream of all samples.
Number of ranks, size of micro-batches and interruptions therefore change none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lm_eval_llada.diffusion.denoiser import pad_right
from lm_eval_llada.diffusion.masks import forward_process
from lm_eval_llada.errors import (
    require_number,
    require_whole,
    unknown_choice,
)
from lm_eval_llada.posttrain.packing import PADDING_DOCUMENT, Packed

LOSSES = ("weighted", "unweighted")

LOGITS_AT_ONCE = 2**26
"""Logits that exist at a time, rows times vocabulary: 256 MB in float32."""


@dataclass(frozen=True)
class ObjectiveOptions:
    """Which tokens are masked, and how their cross-entropies add up.

    Attributes:
        loss: `weighted` by 1/t, over the number of tokens, which is LLaDA's bound on the
            likelihood; or `unweighted`, the mean over the masked tokens.
        eps: t is uniform in [eps, 1), 0 < eps < 1.
        short_share: share of samples cut to a length that is uniform in 1..length, so that no
            length is forgotten; the rest of such a sample is dropped and counted. LLaDA: 0.01.
        block_share: share of samples in which only the end of each document that is attended to
            apart is masked, all that comes before it being visible, as decoding meets a text. Such
            a sample weighs as much as any other. LLaDA: 0.
        block_length: tokens at the end of a document that may be masked.

    Raises:
        ValueError: if a value is unknown or out of range.
    """

    loss: str = "weighted"
    eps: float = 1e-3
    short_share: float = 0.01
    block_share: float = 0.0
    block_length: int = 64

    def __post_init__(self) -> None:  # noqa: D105
        if self.loss not in LOSSES:
            raise unknown_choice("loss", self.loss, LOSSES)
        require_number("eps", self.eps, 0)
        if self.eps >= 1:
            raise ValueError(f"eps must be less than 1; got {self.eps!r}.")
        for name in ("short_share", "block_share"):
            require_number(name, getattr(self, name), 0, inclusive=True)
            if getattr(self, name) > 1:
                raise ValueError(f"{name} must be at most 1; got {getattr(self, name)!r}.")
        require_whole("block_length", self.block_length, 1)


class Sample(NamedTuple):
    """One masked sequence of the global stream, on the CPU.

    Attributes:
        xt: int64 (length,), with masks.
        x0: int64 (length,), without.
        weight: float32 (length,), of each position's cross-entropy; 0 where nothing is masked.
        document_ids: int64 (length,), zeros where the whole sequence is attended to.
        num_items: what the sample adds to the divisor of the batch's loss.
    """

    xt: Tensor
    x0: Tensor
    weight: Tensor
    document_ids: Tensor
    num_items: int


def sample_generator(seed: int, index: int) -> torch.Generator:
    """The source of a sample's randomness.

    Args:
        seed: of the run.
        index: of the sample in the stream of all ranks, counted from 0.
    """
    # Mixed, since generators of neighbouring seeds are not independent.
    mixed = np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> np.uint64(1)))


def kept_length(length: int, options: ObjectiveOptions, generator: torch.Generator) -> int:
    """Tokens of a sample that are kept: mostly all, in a share of samples uniform in 1..length.

    These are the first numbers drawn from a sample's generator.
    """
    chance, place = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    return 1 + int(place * length) if chance < options.short_share else length


def noise_sample(
    packed: Packed, options: ObjectiveOptions, *, seed: int, index: int, mask_token_id: int
) -> Sample:
    """Masks one packed sequence.

    Args:
        packed: a sequence from a `Packer`.
        options: what to mask and how to weigh it.
        seed: of the run.
        index: of the sample in the stream of all ranks.
        mask_token_id: id written over masked tokens.

    Source: LLaDA (arXiv 2502.09992) section 2.2. Differs from it where `block_share` is set, and
    in that a shortened sample weighs by its tokens rather than as a whole one.
    """
    generator = sample_generator(seed, index)
    length = kept_length(len(packed.input_ids), options, generator)
    x0 = packed.input_ids[:length]
    documents = torch.zeros_like(x0)
    if packed.document_ids is not None:
        documents = packed.document_ids[:length]
    maskable = _maskable(documents, options, generator)
    noised = forward_process(
        x0[None],
        mask_token_id=mask_token_id,
        t_range=(options.eps, 1.0),
        maskable=maskable[None],
        generator=generator,
    )
    is_masked = noised.is_masked[0]
    if options.loss == "unweighted":
        return Sample(noised.xt[0], x0, is_masked.float(), documents, int(is_masked.sum()))
    num_real = int((documents != PADDING_DOCUMENT).sum())
    # A block stands for the whole sample, so its tokens share the weight of all.
    share = num_real / max(1, int(maskable.sum()))
    return Sample(noised.xt[0], x0, is_masked * noised.weight[0] * share, documents, num_real)


def collate(samples: Sequence[Sample], pad_token_id: int) -> dict[str, Tensor]:
    """A micro-batch for `LLaDAForPosttraining`, on the CPU.

    Args:
        samples: at least one, of any lengths.
        pad_token_id: id written into padding, which nothing attends to.

    Returns:
        `input_ids` int64 (batch, longest); `rows` int64 (num_rows, 2) of the masked positions,
        their `targets` int64 (num_rows,) and `weights` float32 (num_rows,); `num_items` int64 ();
        `attention_mask` int64 (batch, longest) where some position is padding; `document_ids`
        int64 (batch, longest) where some sequence holds several documents apart. Without any mask
        there is one row of weight 0, so that every micro-batch has a gradient.
    """
    input_ids, _ = pad_right([sample.xt for sample in samples], pad_token_id)
    x0, _ = pad_right([sample.x0 for sample in samples], pad_token_id)
    documents, _ = pad_right([sample.document_ids for sample in samples], PADDING_DOCUMENT)
    weight = torch.nn.utils.rnn.pad_sequence([s.weight for s in samples], batch_first=True)
    rows = weight.nonzero()
    if len(rows) == 0:
        rows = rows.new_zeros(1, 2)
    batch = {
        "input_ids": input_ids,
        "rows": rows,
        "targets": x0[rows[:, 0], rows[:, 1]],
        "weights": weight[rows[:, 0], rows[:, 1]],
        "num_items": torch.tensor(sum(sample.num_items for sample in samples)),
    }
    is_real = documents != PADDING_DOCUMENT
    if not bool(is_real.all()):
        batch["attention_mask"] = is_real.long()
    # A sequence that is one document needs no mask, which lets attention take its fastest kernel.
    if bool((is_real & (documents != documents[:, :1])).any()):
        batch["document_ids"] = documents
    return batch


def row_losses(
    head: Callable[[Tensor], Tensor], states: Tensor, targets: Tensor, vocab_size: int
) -> Tensor:
    """Cross-entropy of each row, float32 (num_rows,), with a part of the logits at a time.

    Logits of one part are freed before the next is made and are made again in the backward pass,
    so memory does not grow with rows times vocabulary.

    Args:
        head: from hidden states (n, width) to logits (n, vocab).
        states: (num_rows, width).
        targets: int64 (num_rows,).
        vocab_size: width of the logits.
    """

    def losses(part: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(head(part).float(), wanted, reduction="none")

    size = max(1, LOGITS_AT_ONCE // vocab_size)
    if len(states) <= size:
        return losses(states, targets)
    parts = zip(states.split(size), targets.split(size), strict=True)
    return torch.cat([checkpoint(losses, *part, use_reentrant=False) for part in parts])


def _maskable(
    document_ids: Tensor, options: ObjectiveOptions, generator: torch.Generator
) -> Tensor:
    """Positions that may be masked, bool (length,): no padding, and perhaps only ends."""
    is_real = document_ids != PADDING_DOCUMENT
    if float(torch.rand((), generator=generator, dtype=torch.float64)) >= options.block_share:
        return is_real
    ends = [
        (document_ids == document).nonzero()[-options.block_length :, 0]
        for document in document_ids[is_real].unique()
    ]
    return torch.zeros_like(is_real).index_fill(0, torch.cat(ends), True)
