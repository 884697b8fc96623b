"""Likelihoods and perplexities of a masked diffusion model, in natural logs.

Everything rests on one estimate: the evidence lower bound on log p(target | prefix), from masks
that are drawn or enumerated. The perplexities differ in what text a target is given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lm_eval_llada.diffusion.denoiser import Denoiser, DenoiserStats
from lm_eval_llada.diffusion.mask_passes import Pair, read_masks
from lm_eval_llada.diffusion.mask_plans import (
    Estimate,
    LikelihoodOptions,
    MaskPlan,
)
from lm_eval_llada.diffusion.masks import (
    Predictor,
    check_seeds,
    token_ids,
)
from lm_eval_llada.errors import require_number, require_whole


def scored_pairs(
    denoise: Denoiser,
    pairs: Sequence[Pair],
    options: LikelihoodOptions,
    *,
    mask_token_id: int,
    pad_token_id: int | None = None,
    seeds: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    stats: DenoiserStats | None = None,
    check_greedy: bool = True,
) -> list[tuple[Estimate, bool]]:
    """`log_likelihoods` and `greedy_matches` of each pair, in order, from the same passes.

    Masks of different pairs share forward passes, and a sequence that several of them come down to
    is read once. A pair's masks come from its own seed (for each draw the number masked, then the
    positions), so its estimate does not depend on batch_size, order or company beyond the rounding
    of sums. The greedy check of an enumerated target reads nothing of its own; that of a sampled
    one reads the states on its way that no draw hit.

    Differs from LLaDA's eval_llada.py: there mc_num // batch_size batches are run, and the numbers
    masked are spread evenly over each batch, which ties the estimate to batch_size. Draws here are
    independent, as Eq. 14 has them, which is what makes `stderr` valid.

    Args:
        denoise: the seam.
        pairs: (prefix, target); an empty target has log-likelihood 0 and matches.
        options: how to estimate.
        mask_token_id: id of the mask token.
        pad_token_id: id written into padding; None writes mask_token_id.
        seeds: one for each pair; may be None where every target is enumerated.
        device: where the denoiser expects its input.
        stats: filled as passes run, if given.
        check_greedy: whether to decode greedily too; without, False is returned for every pair.

    Raises:
        ValueError: if a needed seed is missing, `enumerate` meets a target over 7 tokens, a tensor
            is not 1-D, or a needed logit is NaN or infinite.

    Source: LLaDA (arXiv 2502.09992) Eq. 14.
    """
    checked = _check_pairs(pairs)
    check_seeds(seeds, len(pairs))
    plans = [
        MaskPlan.made(len(target), options, None if seeds is None else seeds[i])
        for i, (_, target) in enumerate(checked)
    ]
    predictor = Predictor(
        denoise, mask_token_id, pad_token_id, options.cfg_scale, device=device, stats=stats
    )
    masks = [plan.masks for plan in plans]
    scores, matches = read_masks(
        predictor, checked, masks, options.batch_size, check_greedy=check_greedy
    )
    estimates = [plan.elbo(score) for plan, score in zip(plans, scores, strict=True)]
    return list(zip(estimates, matches, strict=True))


def log_likelihoods(
    denoise: Denoiser,
    pairs: Sequence[Pair],
    options: LikelihoodOptions,
    *,
    mask_token_id: int,
    pad_token_id: int | None = None,
    seeds: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    stats: DenoiserStats | None = None,
) -> list[Estimate]:
    """Estimates of log p(target | prefix), one for each pair, in order.

    How they are made, the arguments and the errors are those of `scored_pairs`.
    """
    scored = scored_pairs(
        denoise,
        pairs,
        options,
        mask_token_id=mask_token_id,
        pad_token_id=pad_token_id,
        seeds=seeds,
        device=device,
        stats=stats,
        check_greedy=False,
    )
    return [estimate for estimate, _ in scored]


def greedy_matches(
    denoise: Denoiser,
    pairs: Sequence[Pair],
    *,
    mask_token_id: int,
    pad_token_id: int | None = None,
    batch_size: int = 8,
    cfg_scale: float = 0.0,
    device: torch.device | str = "cpu",
    stats: DenoiserStats | None = None,
) -> list[bool]:
    """Whether greedy decoding of each target region reproduces the target.

    All target tokens start masked and each pass reveals the most confident one, by the rules of
    `sampler.generate` with one step a token, one block and temperature 0. A text is given up at
    its first wrong token, since tokens never change once revealed; the place in the batch goes to
    the next pair. Targets that agree in all they have revealed share a sequence, and an empty
    target matches. `scored_pairs` gives the same answers beside log-likelihoods, mostly for free.

    Differs from eval_llada.py, which compares at the end only: same answers, fewer passes here.

    Raises:
        ValueError: if batch_size or cfg_scale is out of range, a tensor is not 1-D, or a needed
            logit is NaN or infinite.
    """
    require_whole("batch_size", batch_size, 1)
    require_number("cfg_scale", cfg_scale, 0, inclusive=True)
    predictor = Predictor(
        denoise, mask_token_id, pad_token_id, cfg_scale, device=device, stats=stats
    )
    checked = _check_pairs(pairs)
    no_masks = [torch.empty(0, len(target), dtype=torch.bool) for _, target in checked]
    return read_masks(predictor, checked, no_masks, batch_size, check_greedy=True)[1]


def rolling_windows(
    num_tokens: int, max_length: int, *, context_length: int = 0, num_given: int = 0
) -> list[tuple[int, int, int]]:
    """Windows (start, target_start, target_end) over a text; tokens target_start.. are scored.

    Every token from num_given on is scored exactly once. Windows of 8 tokens with 3 of context
    over 20 tokens (c = context, t = target):

        token    0         5         10        15        20
        window 0 t t t t t t t t
        window 1           c c c t t t t t
        window 2                     c c c t t t t t
        window 3                         c c c c c c t t

    The first window shows no context but the given tokens. Each later one shows context_length
    tokens before its targets, and the last, where targets run out, fills up with context to
    max_length.

    Args:
        num_tokens: length of the text, given tokens included.
        max_length: longest window, context included.
        context_length: earlier tokens each window after the first is sure to see.
        num_given: tokens at the start that are context only, such as a BOS.

    Raises:
        ValueError: if context_length or num_given leaves no room for a target.
    """
    require_whole("max_length", max_length, 1)
    for name, value in (("context_length", context_length), ("num_given", num_given)):
        require_whole(name, value, 0)
        if value >= max_length:
            raise ValueError(
                f"{name}={value} leaves no token to score in windows of max_length={max_length}; "
                f"use at most {max_length - 1}."
            )
    windows = []
    target_start, target_end = num_given, min(num_tokens, max_length)
    while target_start < target_end:
        windows.append((max(0, target_end - max_length), target_start, target_end))
        target_start = target_end
        target_end = min(num_tokens, target_start + max_length - context_length)
    return windows


def rolling_log_likelihoods(
    denoise: Denoiser,
    documents: Sequence[Tensor],
    options: LikelihoodOptions,
    *,
    max_length: int,
    context_length: int = 0,
    prefix: Tensor | None = None,
    mask_token_id: int,
    pad_token_id: int | None = None,
    seeds: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    stats: DenoiserStats | None = None,
) -> list[Estimate]:
    """Log-likelihood of each whole document: the sum over its `rolling_windows`.

    Windows of all documents share forward passes. Each window draws its masks from a seed of its
    own, made from the document's, so the windows' errors are independent and add in squares.

    Args:
        denoise: the seam.
        documents: int64 (length,) each; an empty one has log-likelihood 0.
        options: how to estimate each window.
        max_length: longest window in tokens, context included.
        context_length: see `rolling_windows`.
        prefix: int64 (length,), shown before each document and not scored, such as a BOS.
        mask_token_id: id of the mask token.
        pad_token_id: id written into padding; None writes mask_token_id.
        seeds: one for each document.
        device: where the denoiser expects its input.
        stats: filled as passes run, if given.

    Raises:
        ValueError: as `rolling_windows` and `log_likelihoods`.
    """
    check_seeds(seeds, len(documents))
    given = torch.empty(0, dtype=torch.int64) if prefix is None else token_ids("prefix", prefix)
    pairs: list[Pair] = []
    owners: list[int] = []
    window_seeds: list[int] = []
    for i, document in enumerate(documents):
        text = torch.cat([given, token_ids("Each document", document)])
        windows = rolling_windows(
            len(text), max_length, context_length=context_length, num_given=len(given)
        )
        pairs += [(text[start:begin], text[begin:end]) for start, begin, end in windows]
        owners += [i] * len(windows)
        if seeds is not None:
            window_seeds += _child_seeds(seeds[i], len(windows))
    estimates = log_likelihoods(
        denoise,
        pairs,
        options,
        mask_token_id=mask_token_id,
        pad_token_id=pad_token_id,
        seeds=None if seeds is None else window_seeds,
        device=device,
        stats=stats,
    )
    totals: list[list[Estimate]] = [[] for _ in documents]
    for owner, estimate in zip(owners, estimates, strict=True):
        totals[owner].append(estimate)
    return [_sum(parts) for parts in totals]


def chunk_cross_entropy(
    denoise: Denoiser,
    tokens: Tensor,
    *,
    mask_token_id: int,
    seed: int,
    chunk_length: int = 64,
    mc_num: int = 8,
    batch_size: int = 1,
    pad_token_id: int | None = None,
    device: torch.device | str = "cpu",
    stats: DenoiserStats | None = None,
) -> list[Estimate]:
    """Cross entropy of each chunk after the first, nats per token, given all earlier text.

    A draw masks l tokens of the chunk, l uniform in 1..chunk_length, and its value is the plain
    mean of -log p over those l; chunks average mc_num draws. That mean is Eq. 14's
    (L/l) * sum / L: a chunk's value is its negated `log_likelihoods` estimate per token, though
    the released script never writes the weight. What sets this apart from `elbo_perplexity` is the
    text shown: all of it before the chunk, none after. The first chunk is context only.

    Args:
        denoise: the seam.
        tokens: int64 (length,), a multiple of chunk_length and at least two chunks.
        mask_token_id: id of the mask token.
        seed: seed of the mask draws.
        chunk_length: tokens of a chunk.
        mc_num: masks drawn for each chunk.
        batch_size: sequences in a forward pass.
        pad_token_id: id written into padding; None writes mask_token_id.
        device: where the denoiser expects its input.
        stats: filled as passes run, if given.

    Raises:
        ValueError: if the text is not a whole number of chunks, at least two.

    Source: LongLLaDA (arXiv 2506.14429), its released ppl/get_ppl_llada.py.
    """
    text = token_ids("tokens", tokens)
    require_whole("chunk_length", chunk_length, 1)
    num_chunks, rest = divmod(len(text), chunk_length)
    if rest or num_chunks < 2:
        raise ValueError(
            f"Chunk perplexity needs two or more whole chunks of {chunk_length} tokens; got "
            f"{len(text)} tokens. Use {max(num_chunks, 2) * chunk_length}."
        )
    starts = range(chunk_length, len(text), chunk_length)
    estimates = log_likelihoods(
        denoise,
        [(text[:start], text[start : start + chunk_length]) for start in starts],
        LikelihoodOptions(mc_num=mc_num, method="mc", batch_size=batch_size),
        mask_token_id=mask_token_id,
        pad_token_id=pad_token_id,
        seeds=_child_seeds(seed, num_chunks - 1),
        device=device,
        stats=stats,
    )
    return [
        Estimate(-one.value / chunk_length, one.stderr / chunk_length, one.num_passes)
        for one in estimates
    ]


def perplexity(cross_entropies: Sequence[float]) -> list[float]:
    """LongLLaDA's curve: element k is the geometric mean of the perplexities of chunks 0..k.

    Args:
        cross_entropies: nats per token of each chunk, such as the values of `chunk_cross_entropy`.
    """
    total, curve = 0.0, []
    for count, value in enumerate(cross_entropies, start=1):
        total += value
        curve.append(math.exp(total / count))
    return curve


def elbo_perplexity(estimates: Sequence[Estimate], num_tokens: int) -> float:
    """exp(-sum of log-likelihoods / num_tokens), per token of whole texts or rolling windows.

    Up to sampling error an upper bound on the perplexity of the model, since each estimate is a
    lower bound on a log-likelihood.

    Args:
        estimates: from `log_likelihoods` or `rolling_log_likelihoods`.
        num_tokens: target tokens they cover in all.

    Raises:
        ValueError: if num_tokens is not positive.
    """
    require_whole("num_tokens", num_tokens, 1)
    return math.exp(-math.fsum(estimate.value for estimate in estimates) / num_tokens)


def _check_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    return [(token_ids("Each prefix", a), token_ids("Each target", b)) for a, b in pairs]


def _child_seeds(seed: int, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2**63 - 1, (count,), generator=generator).tolist()


def _sum(parts: Sequence[Estimate]) -> Estimate:
    return Estimate(
        math.fsum(part.value for part in parts),
        math.sqrt(math.fsum(part.stderr**2 for part in parts)),
        sum(part.num_passes for part in parts),
    )
