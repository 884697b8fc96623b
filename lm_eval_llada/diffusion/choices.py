"""From logits to tokens: which one a row chooses, which rows are surest, how many a step takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lm_eval_llada.errors import require_whole

NOT_FINITE = (
    "The denoiser returned logits that are NaN or infinite. Check dtype first: float16 overflows "
    "in some checkpoints, so use dtype=bfloat16 or float32; then rope_scale and rope_theta, and "
    "the weights themselves."
)


def num_transfer_tokens(num_masked: int, steps: int) -> list[int]:
    """Tokens to reveal at each of `steps` steps: equal shares, the first ones take the remainder.

    The shares sum to `num_masked` and differ by at most one. LLaDA (arXiv 2502.09992) section 2.4:
    under a linear schedule the expected number revealed is the same at every step.

    Raises:
        ValueError: if num_masked is negative or steps is not positive.
    """
    require_whole("num_masked", num_masked, 0)
    require_whole("steps", steps, 1)
    base, remainder = divmod(num_masked, steps)
    return [base + 1] * remainder + [base] * (steps - remainder)


def choose_tokens(
    logits: Tensor, forbidden: Sequence[int], noised: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The token of each row and its probability, int64 and float32 (num_rows,), on the CPU.

    The token is the argmax of the logits, the lowest id among equals; the probability is its
    softmax in fp32. Forbidden tokens get a logit of -inf before both, so probabilities are those
    of the remaining vocabulary.

    Differs from LLaDA's generate.py, where the mask token may be chosen: a mask would then survive
    into the text. Setting its logit to -inf is the zero-masking rule of MDLM (arXiv 2406.07524).
    Differs from it too in the type of the probability, which there is that of the logits.

    Args:
        logits: (num_rows, vocab), before noise.
        forbidden: ids never chosen.
        noised: (num_rows,) tokens already drawn by noise; None takes the argmax.

    Raises:
        ValueError: if a row holds NaN or +inf.
    """
    allowed = forbid(logits, forbidden).float()
    tokens = allowed.argmax(dim=-1) if noised is None else noised.to(logits.device)
    probabilities = allowed.softmax(dim=-1).gather(1, tokens[:, None]).squeeze(1).cpu()
    if bool(probabilities.isnan().any()):
        raise ValueError(NOT_FINITE)
    return tokens.cpu(), probabilities


def forbid(logits: Tensor, forbidden: Sequence[int]) -> Tensor:
    """A copy of the logits, (num_rows, vocab), with -inf for the tokens never to be chosen."""
    return logits.index_fill(1, torch.tensor(list(forbidden), device=logits.device), -math.inf)


def most_confident(confidence: Tensor, count: int) -> Tensor:
    """Indices of the `count` largest values, int64 (count,), in descending order.

    Tie rule: of equal values the lower index comes first, so results do not depend on the sorting
    algorithm of a device (`topk` leaves the order of equals open).
    """
    return confidence.sort(descending=True, stable=True).indices[:count]
