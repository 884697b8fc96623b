"""Likelihoods and perplexities of a masked diffusion model, in natural logs.

Everything rests on one estimate: the evidence lower bound on log p(target | prefix), from masks
that are drawn or enumerated. The perplexities differ in what text a target is given.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lm_eval_llada.diffusion.block_likelihood import scored_by_blocks
from lm_eval_llada.diffusion.context_reading import read_masks_by
from lm_eval_llada.diffusion.denoiser import Denoiser, check_seeds, token_ids
from lm_eval_llada.diffusion.estimates import (
    Estimate,
    LikelihoodOptions,
    TargetMasks,
    child_seeds,
    summed,
)
from lm_eval_llada.diffusion.mask_passes import Pair
from lm_eval_llada.errors import require_whole

NO_ROLLING = (
    "likelihood=dream ends each target by EOS, which no window of a longer text has; use "
    "likelihood=mc or auto for rolling likelihoods."
)


def scored_pairs(
    denoiser: Denoiser,
    pairs: Sequence[Pair],
    options: LikelihoodOptions,
    *,
    seeds: Sequence[int] | None = None,
    check_greedy: bool = True,
    eos_token_id: int | None = None,
) -> list[tuple[Estimate, bool]]:
    """Estimates of log p(target | prefix), and whether greedy decoding gives the target, in order.

    Masks of different pairs share forward passes, and a sequence that several of them come down to
    is read once. A pair's masks come from its own seed (for each draw the number masked, then the
    positions), so its estimate does not depend on batch_size, order or company beyond the rounding
    of sums.

    Greedy decoding starts from a wholly masked target and reveals the most confident token a pass,
    by the rules of `sampler.generate` with one block and temperature 0. It is given up at its first
    wrong token, since tokens never change once revealed. The check of an enumerated target reads
    nothing of its own; that of a sampled one reads the states on its way that no draw hit.

    Differs from LLaDA's eval_llada.py: there mc_num // batch_size batches are run, and the numbers
    masked are spread evenly over each batch, which ties the estimate to batch_size. Draws here are
    independent, as Eq. 14 has them, which is what makes `stderr` valid.

    Args:
        denoiser: the model; one with `blocks` scores block by block, see `block_likelihood`.
        pairs: (prefix, target); an empty target has log-likelihood 0 and matches.
        options: how to estimate.
        seeds: one for each pair; may be None where every target is enumerated.
        check_greedy: whether to decode greedily too; without, False is returned for every pair.
        eos_token_id: needed by the method `dream`, which has it follow each target.

    Raises:
        ValueError: if eos_token_id or a needed seed is missing, `enumerate` meets a target over 7
            tokens, a tensor is not 1-D, or a needed logit is NaN or infinite.

    Source: LLaDA (arXiv 2502.09992) Eq. 14.
    """
    checked = _check_pairs(pairs)
    check_seeds(seeds, len(pairs))
    if denoiser.blocks is not None:
        return scored_by_blocks(denoiser, checked, options, seeds, check_greedy=check_greedy)
    if options.method == "dream":
        return _dream_scored(denoiser, checked, options, seeds, eos_token_id)
    drawn = [
        TargetMasks.made(len(target), options, None if seeds is None else seeds[i])
        for i, (_, target) in enumerate(checked)
    ]
    scores, matches = read_masks_by(
        denoiser.guided(options.cfg_scale),
        checked,
        [one.masks for one in drawn],
        options.batch_size,
        check_greedy=check_greedy,
        cache=options.cache,
    )
    estimates = [one.elbo(score) for one, score in zip(drawn, scores, strict=True)]
    return list(zip(estimates, matches, strict=True))


def _dream_scored(
    denoiser: Denoiser,
    pairs: Sequence[Pair],
    options: LikelihoodOptions,
    seeds: Sequence[int] | None,
    eos_token_id: int | None,
) -> list[tuple[Estimate, bool]]:
    """As `scored_pairs`, by the convention of Dream's authors; nothing matches, as there.

    The EOS follows each target and is seen under every mask, so this is log p(target | prefix, text
    ends there). The first token of a sequence is never masked: a target without a prefix is given
    its own first token.

    Source: eval/eval.py of DreamLM/Dream, with its default masks.
    """
    if seeds is None or eos_token_id is None:
        raise ValueError("likelihood=dream draws masks and ends targets: it needs seeds and EOS.")
    ended, drawn = [], []
    for (prefix, target), seed in zip(pairs, seeds, strict=True):
        ended.append((prefix, torch.cat([target, target.new_tensor([eos_token_id])])))
        is_maskable = torch.ones(len(target) + 1, dtype=torch.bool)
        is_maskable[-1] = False
        if not len(prefix):
            is_maskable[0] = False
        drawn.append(TargetMasks.independent(is_maskable, options.mc_num, seed))
    scores, _ = read_masks_by(
        denoiser.guided(options.cfg_scale),
        ended,
        [one.masks for one in drawn],
        options.batch_size,
        check_greedy=False,
        cache=options.cache,
    )
    return [(one.elbo(score), False) for one, score in zip(drawn, scores, strict=True)]


def log_likelihoods(
    denoiser: Denoiser,
    pairs: Sequence[Pair],
    options: LikelihoodOptions,
    *,
    seeds: Sequence[int] | None = None,
) -> list[Estimate]:
    """Estimates of log p(target | prefix), one for each pair, in order.

    How they are made, the arguments and the errors are those of `scored_pairs`.
    """
    scored = scored_pairs(denoiser, pairs, options, seeds=seeds, check_greedy=False)
    return [estimate for estimate, _ in scored]


def rolling_windows(
    num_tokens: int, max_length: int, *, num_given: int = 0
) -> list[tuple[int, int, int]]:
    """Windows (start, target_start, target_end) over a text; tokens target_start.. are scored.

    Every token from num_given on is scored exactly once. Windows of 8 tokens over 20 tokens
    (c = context, t = target):

        token    0         5         10        15        20
        window 0 t t t t t t t t
        window 1                 t t t t t t t t
        window 2                         c c c c t t t t

    No window shows more context than the given tokens but the last, where targets run out: it fills
    up with earlier tokens to max_length.

    Args:
        num_tokens: length of the text, given tokens included.
        max_length: longest window, context included.
        num_given: tokens at the start that are context only, such as a BOS.

    Raises:
        ValueError: if num_given leaves no room for a target.
    """
    require_whole("max_length", max_length, 1)
    require_whole("num_given", num_given, 0)
    if num_given >= max_length:
        raise ValueError(
            f"num_given={num_given} leaves no token to score in windows of "
            f"max_length={max_length}; use at most {max_length - 1}."
        )
    windows = []
    target_start, target_end = num_given, min(num_tokens, max_length)
    while target_start < target_end:
        windows.append((max(0, target_end - max_length), target_start, target_end))
        target_start = target_end
        target_end = min(num_tokens, target_start + max_length)
    return windows


def rolling_log_likelihoods(
    denoiser: Denoiser,
    documents: Sequence[Tensor],
    options: LikelihoodOptions,
    *,
    max_length: int,
    prefix: Tensor | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Estimate]:
    """Log-likelihood of each whole document: the sum over its `rolling_windows`.

    Windows of all documents share forward passes. Each window draws its masks from a seed of its
    own, made from the document's, so the windows' errors are independent and add in squares.

    Args:
        denoiser: the model.
        documents: int64 (length,) each; an empty one has log-likelihood 0.
        options: how to estimate each window.
        max_length: longest window in tokens, given ones included.
        prefix: int64 (length,), shown before each document and not scored, such as a BOS.
        seeds: one for each document.

    Raises:
        ValueError: as `rolling_windows` and `log_likelihoods`.
    """
    check_seeds(seeds, len(documents))
    if options.method == "dream":
        raise ValueError(NO_ROLLING)
    given = torch.empty(0, dtype=torch.int64) if prefix is None else token_ids("prefix", prefix)
    pairs: list[Pair] = []
    owners: list[int] = []
    window_seeds: list[int] = []
    for i, document in enumerate(documents):
        text = torch.cat([given, token_ids("Each document", document)])
        windows = rolling_windows(len(text), max_length, num_given=len(given))
        pairs += [(text[start:begin], text[begin:end]) for start, begin, end in windows]
        owners += [i] * len(windows)
        if seeds is not None:
            window_seeds += child_seeds(seeds[i], len(windows))
    estimates = log_likelihoods(
        denoiser, pairs, options, seeds=None if seeds is None else window_seeds
    )
    totals: list[list[Estimate]] = [[] for _ in documents]
    for owner, estimate in zip(owners, estimates, strict=True):
        totals[owner].append(estimate)
    return [summed(parts) for parts in totals]


def _check_pairs(pairs: Sequence[Pair]) -> list[Pair]:
    return [(token_ids("Each prefix", a), token_ids("Each target", b)) for a, b in pairs]
