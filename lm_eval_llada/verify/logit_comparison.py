"""The same logits computed in two ways: masked prompts to compute them of, and what may differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lm_eval_llada.diffusion.masks import random_mask
from lm_eval_llada.engine.tokenization import Tokenization
from lm_eval_llada.modeling import LLaDAForMaskedLM
from lm_eval_llada.tasks.text.haystacks import heldout_text

_SEED = 2025
_MOST_ROWS = 64  # of a prompt: enough to compare, and 32 MB in fp32 for 128K tokens


@dataclass(frozen=True)
class Tolerance:
    """How far two computations of the same logits may be apart.

    Attributes:
        mean: Mean absolute difference, in spreads (see `Difference`).
        largest: Largest absolute difference, in spreads.
        same_top: Share of rows, at least, whose most likely token is the same.
    """

    mean: float
    largest: float
    same_top: float


TOLERANCES: Mapping[torch.dtype, Tolerance] = {
    torch.float32: Tolerance(mean=1e-5, largest=1e-4, same_top=0.99),
    torch.float16: Tolerance(mean=0.02, largest=0.2, same_top=0.95),
    torch.bfloat16: Tolerance(mean=0.1, largest=1.0, same_top=0.85),
}
"""What rounding can explain, by the dtype of the model.

A block adds to the residual stream twice, each time off by about the unit roundoff u (6e-8, 5e-4,
4e-3), so 32 blocks leave about 8 u of the logits' spread, and the largest of millions of such
differences is five times as much. The bounds are 4 to 40 times that. For comparison, bfloat16 moves
the logits of tiny-llada, 4 blocks, by 0.005 spreads in the mean and 0.04 at most, and a wrong
rotation, mask or weight moves them by whole spreads.
"""


@dataclass(frozen=True)
class Difference:
    """How far apart two computations of the same logits are.

    Attributes:
        mean: Mean absolute difference.
        largest: Largest absolute difference.
        spread: Standard deviation of a row of the expected logits, mean over rows: the unit that
            makes models comparable, since softmax takes no notice of a row's level.
        num_same: Rows whose most likely token is the same.
        num_rows: Rows compared.
    """

    mean: float
    largest: float
    spread: float
    num_same: int
    num_rows: int

    def is_within(self, tolerance: Tolerance) -> bool:
        """Whether rounding can explain it; never so where a logit is NaN."""
        return (
            self.mean <= tolerance.mean * self.spread
            and self.largest <= tolerance.largest * self.spread
            and self.num_same >= tolerance.same_top * self.num_rows
        )

    def describe(self, tolerance: Tolerance) -> str:
        """The numbers and what is allowed, in one line."""
        return (
            f"largest difference {self.largest:.2g} (allowed "
            f"{tolerance.largest * self.spread:.2g}), mean {self.mean:.2g} (allowed "
            f"{tolerance.mean * self.spread:.2g}), same most likely token in {self.num_same} of "
            f"{self.num_rows} rows; the logits' spread is {self.spread:.2g}"
        )


def compare_logits(found: Tensor, expected: Tensor) -> Difference:
    """How far logits are from the expected ones.

    Args:
        found: float32 (rows, vocabulary).
        expected: The same rows, computed in another way.

    Raises:
        ValueError: If the shapes differ.
    """
    if found.shape != expected.shape:
        raise ValueError(
            f"the logits have the shape {tuple(found.shape)} against {tuple(expected.shape)}"
        )
    apart = (found - expected).abs()
    return Difference(
        mean=float(apart.mean()),
        largest=float(apart.max()),
        spread=float(expected.std(dim=-1).mean()),
        num_same=int((found.argmax(-1) == expected.argmax(-1)).sum()),
        num_rows=len(found),
    )


@dataclass(frozen=True)
class MaskedPrompt:
    """A text with masks, and the masked positions whose logits are compared.

    Attributes:
        ids: int64 (length,).
        rows: int64 (num_rows,), ascending.
    """

    ids: Tensor
    rows: Tensor


def masked_prompts(text: Tokenization, count: int, longest: int) -> list[MaskedPrompt]:
    """Prompts of rising length and rising share of masks, the same at every call.

    Args:
        text: The model's tokenizer.
        count: How many.
        longest: Tokens of the last one; the others have equal fractions of it.
    """
    generator = torch.Generator().manual_seed(_SEED)
    ids = torch.tensor(text.encode(heldout_text(), add_special_tokens=False))
    ids = ids.repeat(-(-longest // len(ids)))
    prompts = []
    for number in range(1, count + 1):
        length = max(1, longest * number // count)
        mask = random_mask(length, max(1, length * number // (count + 1)), generator)
        masked = mask.nonzero()[:, 0]
        chosen = torch.linspace(0, len(masked) - 1, min(len(masked), _MOST_ROWS)).long()
        prompts.append(
            MaskedPrompt(ids[:length].masked_fill(mask, text.mask_token_id), masked[chosen])
        )
    return prompts


@torch.inference_mode()
def native_logits(model: LLaDAForMaskedLM, prompts: list[MaskedPrompt]) -> Tensor:
    """Logits of the rows of prompts that run one by one, float32 (rows, vocabulary) on the CPU."""
    parts = []
    for prompt in prompts:
        rows = torch.stack([torch.zeros_like(prompt.rows), prompt.rows], dim=1)
        logits = model(prompt.ids[None].to(model.device), rows=rows.to(model.device)).logits
        parts.append(logits.float().cpu())
    return torch.cat(parts)
