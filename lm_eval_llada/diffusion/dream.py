"""Dream's choices: how many tokens a step reveals, which ones, and from what distribution.

The rules are those of `diffusion_generate` in Dream's release (DreamLM/Dream), for one text at a
time. Beside LLaDA's they differ in the schedule, in what ranks positions, and in `top_p` and
`top_k`, which shape the distribution that tokens and ranks come from.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lm_eval_llada.diffusion.choices import NOT_FINITE
from lm_eval_llada.errors import require_whole

ALGS = ("none", "entropy", "maskgit_plus", "topk_margin", "origin")
"""Values of `alg`. `none` is LLaDA's decoding, `origin` reveals positions at random."""

_LAST_TIME = 1e-3  # eps of the release, where time ends
_LOG_FLOOR = 1e-10  # the release adds it to a probability before its logarithm


def _shares(steps: int) -> Tensor:
    """Of the tokens left, the share 1 - s / t that each step reveals, float32 (steps,).

    Time runs evenly from 1 to 0.001. The last step takes all, whatever its times say.
    """
    require_whole("steps", steps, 1)
    times = torch.linspace(1, _LAST_TIME, steps + 1)
    shares = 1 - times[1:] / times[:-1]
    shares[-1] = 1
    return shares


def dream_schedule(num_masked: int, steps: int) -> list[int]:
    """Tokens revealed at each of `steps` steps: floor(left * (1 - s / t)), at the last step all.

    They sum to `num_masked`, and many are 0: with one step a token, so is the first. Computed in
    float32 as in the release, since a floor can hang on the last bit.

    Differs from the release in a batch, where it takes the mean over texts of what is left.

    Raises:
        ValueError: if num_masked is negative or steps is not positive.
    """
    require_whole("num_masked", num_masked, 0)
    counts = []
    left = num_masked
    for share in _shares(steps):
        count = int(torch.tensor(float(left)) * share)
        counts.append(count)
        left -= count
    return counts


def reveal_chances(steps: int) -> list[float]:
    """The chance of each masked token to be revealed at each step, under `alg=origin`."""
    return _shares(steps).tolist()


def shaped(logits: Tensor, temperature: float, top_p: float, top_k: int) -> Tensor:
    """Logits of the distribution that tokens are drawn from, float32 (num_rows, vocab).

    In the release's order: divided by the temperature, unless that is 0; then the likeliest tokens
    that together reach `top_p`; then those no less likely than the `top_k`-th. The others get -inf.

    Args:
        logits: (num_rows, vocab), -inf where a token is never chosen.
        temperature: 0 leaves the logits as they are.
        top_p: from 0 to 1, which keeps all. The likeliest token always stays.
        top_k: 0 keeps all.
    """
    logits = logits.float()
    if temperature > 0:
        logits = logits / temperature
    if top_p < 1:
        ordered = logits.sort(dim=-1, descending=True, stable=True)
        reached = ordered.values.softmax(dim=-1).cumsum(dim=-1) > top_p
        # The token that passes top_p still counts.
        surplus = reached.roll(1, dims=-1)
        surplus[:, 0] = False
        logits = logits.masked_fill(surplus.scatter(1, ordered.indices, surplus), -math.inf)
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    return logits


def choose_ranked(logits: Tensor, alg: str, noised: Tensor | None) -> tuple[Tensor, Tensor]:
    """The token of each row and how sure it is, int64 and float32 (num_rows,), on the CPU.

    `entropy` ranks by the negative entropy of the row's distribution, `topk_margin` by the lead of
    its likeliest token over the next, the others by the probability of the token itself.

    Differs from the release, which allows the mask token and leaves a position masked that way;
    here its logit is -inf. Differs from it too in bfloat16, whose probabilities tie there.

    Args:
        logits: from `shaped`, (num_rows, vocab).
        alg: one of `ALGS`.
        noised: (num_rows,) tokens already drawn; None takes the argmax, the lowest id among equals.

    Raises:
        ValueError: if a row holds NaN or +inf.
    """
    tokens = logits.argmax(dim=-1) if noised is None else noised.to(logits.device)
    probabilities = logits.softmax(dim=-1)
    if alg == "entropy":
        sure = (probabilities * (probabilities + _LOG_FLOOR).log()).sum(dim=-1)
    elif alg == "topk_margin":
        best, next_best = probabilities.topk(2, dim=-1).values.unbind(dim=-1)
        sure = best - next_best
    else:
        sure = probabilities.gather(1, tokens[:, None]).squeeze(1)
    if bool(sure.isnan().any()):
        raise ValueError(NOT_FINITE)
    return tokens.cpu(), sure.cpu()


def draw_ranked(sure: Tensor, alg_temp: float, count: int, uniform: Tensor) -> Tensor:
    """Indices of `count` rows drawn without replacement by softmax(sure / alg_temp), int64.

    The largest of sure / alg_temp + Gumbel noise are such a draw, in its order.

    Args:
        sure: (num_rows,).
        alg_temp: above 0.
        count: at most num_rows.
        uniform: float64 (num_rows,), in [0, 1).
    """
    noisy = sure.double() / alg_temp - uniform.log().neg().log()
    return noisy.sort(descending=True, stable=True).indices[:count]
