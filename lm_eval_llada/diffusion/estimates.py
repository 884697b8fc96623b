"""The masks a target is scored under, and how their scores make an estimate."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lm_eval_llada.diffusion.mask_passes import Pair
from lm_eval_llada.diffusion.masks import (
    MAX_ENUMERATED_LENGTH,
    elbo_weights,
    enumerate_masks,
    mask_probabilities,
    random_mask,
)
from lm_eval_llada.errors import (
    require_number,
    require_whole,
    unknown_choice,
)

LIKELIHOOD_CACHES = ("none", "context")
METHODS = ("auto", "mc", "enumerate", "dream")

# eps of Dream's evaluation: the least chance of a token to be masked.
_LEAST_CHANCE = 1e-3
# More than the options of a question need, few enough that progress is seen and saved.
_MASKS_OF_A_GROUP = 2048


@dataclass(frozen=True)
class LikelihoodOptions:
    """How to estimate log-likelihoods.

    Attributes:
        mc_num: masks drawn for each target. All are used, whatever batch_size is.
        method: `mc` draws masks; `enumerate` takes every mask once, for targets of up to 7 tokens;
            `auto` enumerates where that needs no more passes than mc_num, so that a target of
            one token costs one pass, and draws otherwise. `dream` draws as Dream's authors do,
            see `TargetMasks.independent`.
        batch_size: sequences in a forward pass; guidance doubles them.
        cfg_scale: weight of classifier-free guidance, 0 = off.
        cache: `none` reads the whole sequence under every mask. `context` reads a context that is
            longer than its target once, with the target masked, and under each mask the target
            alone. An approximation; `likelihood_cache` in model_args.

    Raises:
        ValueError: if a value is out of range.
    """

    mc_num: int = 128
    method: str = "auto"
    batch_size: int = 8
    cfg_scale: float = 0.0
    cache: str = field(default="none", metadata={"later": True})

    def __post_init__(self) -> None:  # noqa: D105
        if self.cache not in LIKELIHOOD_CACHES:
            raise unknown_choice("likelihood_cache", self.cache, LIKELIHOOD_CACHES)
        require_whole("mc_num", self.mc_num, 1)
        require_whole("batch_size", self.batch_size, 1)
        require_number("cfg_scale", self.cfg_scale, 0, inclusive=True)
        if self.method not in METHODS:
            raise unknown_choice("likelihood method", self.method, METHODS)

    def enumerates(self, target_length: int) -> bool:
        """Whether a target of this length is enumerated rather than sampled."""
        if self.method == "auto":
            return target_length <= MAX_ENUMERATED_LENGTH and 2**target_length - 1 <= self.mc_num
        return self.method == "enumerate"

    @property
    def approximations(self) -> list[str]:
        """Settings that move estimates, as `name=value` of model_args."""
        return [] if self.cache == "none" else [f"likelihood_cache={self.cache}"]

    def num_masks(self, target_length: int) -> int:
        """Masks that a target of this length is scored under, at most."""
        return 2**target_length - 1 if self.enumerates(target_length) else self.mc_num


@dataclass(frozen=True)
class Estimate:
    """A log-likelihood, or a cross entropy, with its uncertainty.

    Attributes:
        value: natural log, summed over target tokens (`curves`: a mean per token).
        stderr: standard error of value over the mask draws; 0 where masks were enumerated, NaN
            where a single draw leaves it unknown.
        num_passes: different sequences it rests on; guidance is not counted. A sequence that other
            estimates rest on too counts in each of them, and one that only the greedy check reads
            in none: `DenoiserStats.num_sequences` is what was read in all.
    """

    value: float
    stderr: float
    num_passes: int


@dataclass(frozen=True)
class TargetMasks:
    """The distinct masks of one target, bool (num_masks, length), and how to combine them.

    A short target is hit by the same mask often, and equal masks give equal scores.

    Attributes:
        masks: bool (num_masks, length).
        draws: int64 (mc_num,), the mask each draw hit; None where the masks are all there are.
            A draw that hit no token has the number of masks in place of one.
        weights: float64 (mc_num,), of each draw; None for those that its mask has by Eq. 14.
    """

    masks: Tensor
    draws: Tensor | None
    weights: Tensor | None = None

    @classmethod
    def made(cls, length: int, options: LikelihoodOptions, seed: int | None) -> TargetMasks:
        """The masks that options ask for.

        Raises:
            ValueError: if drawing them needs a seed, or there are too many to enumerate.
        """
        if length == 0 or options.enumerates(length):
            return cls.enumerated(length)
        if seed is None:
            raise ValueError(
                f"Drawing masks for a target of {length} tokens needs seeds; got None."
            )
        return cls.sampled(length, options.mc_num, seed)

    @classmethod
    def enumerated(cls, length: int) -> TargetMasks:
        """Every mask once. An empty target has none, and log-likelihood 0."""
        masks = enumerate_masks(length) if length else torch.empty(0, 0, dtype=torch.bool)
        return cls(masks, None)

    @classmethod
    def sampled(cls, length: int, mc_num: int, seed: int) -> TargetMasks:
        """Independent draws: a count uniform in 1..length, then positions without replacement."""
        generator = torch.Generator().manual_seed(seed)
        drawn = []
        for _ in range(mc_num):
            num_masked = int(torch.randint(1, length + 1, (), generator=generator))
            drawn.append(random_mask(length, num_masked, generator))
        masks, draws = torch.stack(drawn).unique(dim=0, return_inverse=True)
        return cls(masks, draws)

    @classmethod
    def independent(cls, is_maskable: Tensor, mc_num: int, seed: int) -> TargetMasks:
        """Draws as in the evaluation of Dream's release: each token masked with probability p.

        p = 0.999 t + 0.001 with t even in [0, 1): one uniform number shifts mc_num equal steps. A
        draw weighs 1 / p. An estimate's standard error takes the draws as independent, which
        overstates it.

        Differs from the release, whose steps are those of a batch, by which it depends on it.

        Args:
            is_maskable: bool (length,).
            mc_num: draws.
            seed: of the one uniform number, then one for each draw and token, float64.
        """
        generator = torch.Generator().manual_seed(seed)
        offset = torch.rand((), generator=generator, dtype=torch.float64)
        times = (offset + torch.arange(mc_num, dtype=torch.float64) / mc_num) % 1
        chances = (1 - _LEAST_CHANCE) * times + _LEAST_CHANCE
        shape = (mc_num, len(is_maskable))
        drawn = torch.rand(shape, generator=generator, dtype=torch.float64) < chances[:, None]
        masks, draws = (drawn & is_maskable).unique(dim=0, return_inverse=True)
        # The one that hides nothing, if it was hit, comes first.
        num_empty = int(not bool(masks[0].any()))
        draws = torch.where(draws < num_empty, len(masks) - num_empty, draws - num_empty)
        return cls(masks[num_empty:], draws, 1 / chances)

    def elbo(self, scores: Tensor) -> Estimate:
        """The estimate of Eq. 14 from the summed log probabilities under each mask."""
        if self.weights is not None and self.draws is not None:
            by_draw = torch.cat([scores, scores.new_zeros(1)])[self.draws]
            return _mean(self.weights * by_draw, len(self.masks))
        weighted = elbo_weights(self.masks) * scores
        if self.draws is None:
            value = (mask_probabilities(self.masks) * weighted).sum()
            return Estimate(float(value), 0.0, len(self.masks))
        return _mean(weighted[self.draws], len(self.masks))


def _mean(drawn: Tensor, num_passes: int) -> Estimate:
    stderr = float(drawn.std()) / math.sqrt(len(drawn)) if len(drawn) > 1 else math.nan
    return Estimate(float(drawn.mean()), stderr, num_passes)


def summed(parts: Sequence[Estimate]) -> Estimate:
    """The sum of independent estimates; their errors add in squares."""
    return Estimate(
        math.fsum(part.value for part in parts),
        math.sqrt(math.fsum(part.stderr**2 for part in parts)),
        sum(part.num_passes for part in parts),
    )


def child_seeds(seed: int, count: int) -> list[int]:
    """Seeds for parts of what one seed is for."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2**63 - 1, (count,), generator=generator).tolist()


def by_context(pairs: Sequence[Pair], options: LikelihoodOptions) -> list[list[int]]:
    """Indices of the pairs in groups of one prefix, whose masks have passes to share.

    A prefix with very many targets, such as an empty one, makes several groups, the shortest
    targets first, so that results come before all of them are done.
    """
    contexts: dict[bytes, list[int]] = {}
    for i, (prefix, _) in enumerate(pairs):
        contexts.setdefault(hashlib.sha256(prefix.numpy().tobytes()).digest(), []).append(i)
    groups: list[list[int]] = []
    for members in contexts.values():
        room = -1
        for i in sorted(members, key=lambda i: len(pairs[i][1])):
            room -= options.num_masks(len(pairs[i][1]))
            if room < 0:
                groups.append([])
                room = _MASKS_OF_A_GROUP - options.num_masks(len(pairs[i][1]))
            groups[-1].append(i)
    return groups


def longest_first(pairs: Sequence[Pair]) -> list[int]:
    """Indices of the pairs by descending length; batches of neighbours need little padding."""
    return sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
