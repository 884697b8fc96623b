"""Cross entropies of chunks under a model: a masked diffusion model by three estimators, or causal.

A chunk is given all text before it and none after. Values are nats per token.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from lm_eval_llada.diffusion.choices import NOT_FINITE
from lm_eval_llada.diffusion.denoiser import Denoiser, DenoiserStats
from lm_eval_llada.diffusion.duel import duel_log_likelihoods
from lm_eval_llada.diffusion.estimates import Estimate, TargetMasks
from lm_eval_llada.diffusion.likelihood import LikelihoodOptions
from lm_eval_llada.diffusion.mask_passes import Pair, read_masks
from lm_eval_llada.diffusion.masks import mask_probabilities
from lm_eval_llada.engine.batching import Batcher

MASKED_ESTIMATORS = ("elbo", "masked_mean", "duel")
CAUSAL_ESTIMATOR = "causal"

# Chunks go to the likelihood in groups of about so many passes: see `runner`.
# Rows of the vocabulary that are held at once: 512 of 128K entries are 256 MB in fp32.
_ROWS_AT_ONCE = 512
# Their frequencies depend on the length of the pass, so one pass cannot serve several chunks.
_LENGTH_DEPENDENT = ("dynamic", "longrope")
_PROBE_LENGTH = 8


@dataclass(frozen=True)
class Chunk:
    """Tokens to score and the text before them.

    Attributes:
        document: Name of the document.
        tokens: Of the document, int64 (length,); at least up to `end`.
        start: Where the chunk begins, at least 1.
        end: Where it ends; the context length it stands for.
        num_bytes: UTF-8 bytes of its text.
        seed: Of its masks.
    """

    document: str
    tokens: Tensor
    start: int
    end: int
    num_bytes: int
    seed: int

    @property
    def pair(self) -> Pair:
        """The text before the chunk and the chunk, int64 (length,) each."""
        return self.tokens[: self.start], self.tokens[self.start : self.end]

    @property
    def num_tokens(self) -> int:
        """Tokens of the chunk."""
        return self.end - self.start


Scored = tuple[Chunk, str, Estimate]
"""A chunk, the estimator's name, and the cross entropy per token in nats."""


class Scorer(Protocol):
    """What a curve asks of a model."""

    @property
    def stats(self) -> DenoiserStats:
        """Filled as passes run."""
        ...

    def score(self, chunks: Sequence[Chunk], estimators: Sequence[str]) -> Iterator[Scored]:
        """Score chunks of one document under each estimator, as they are done."""
        ...

    def pass_lengths(self, chunks: Sequence[Chunk], estimators: Sequence[str]) -> list[int]:
        """Tokens of each sequence that `score` will read, at most; any order."""
        ...

    def seconds(self, tokens: Tensor) -> float:
        """Time of one sequence in a pass over these tokens, int64 (length,)."""
        ...


def masked_mean(drawn: TargetMasks, scores: Tensor) -> Estimate:
    """LongLLaDA's estimate: the mean over draws of the mean -log p of the tokens a draw masked.

    No weight is written anywhere. Since the chunk's length cancels out of Eq. 14's weight, it is
    the negated `TargetMasks.elbo` per token all the same.

    Args:
        drawn: The masks of one chunk.
        scores: Summed log probabilities of the masked tokens, float64 (num_masks,).

    Source: LongLLaDA (arXiv 2506.14429), its released ppl/get_ppl_llada.py.
    """
    means = -scores / drawn.masks.sum(dim=1)
    if drawn.draws is None:
        value = float((mask_probabilities(drawn.masks) * means).sum())
        return Estimate(value, 0.0, len(drawn.masks))
    values = means[drawn.draws]
    stderr = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Estimate(float(values.mean()), stderr, len(drawn.masks))


@dataclass
class DiffusionScorer:
    """Scores chunks with a masked diffusion model.

    `elbo` and `masked_mean` share their masks and forward passes. `duel` replays the sampler that
    reveals one token a pass.

    Attributes:
        denoiser: The model.
        batcher: Says how many sequences go into a pass.
        mc_num: Masks drawn for each chunk; chunks short enough are enumerated, as `likelihood=auto`
            of the harness does.
    """

    denoiser: Denoiser
    batcher: Batcher
    mc_num: int = 8

    @property
    def stats(self) -> DenoiserStats:
        """See `Scorer`."""
        return self.denoiser.stats

    def score(self, chunks: Sequence[Chunk], estimators: Sequence[str]) -> Iterator[Scored]:
        """Score chunks, the longest first; yields each estimate as its batch is done.

        Args:
            chunks: In any order.
            estimators: Some of `MASKED_ESTIMATORS`.

        Raises:
            MemoryError: If not even one sequence fits.
            ValueError: If the model returns NaN or infinite logits.
        """
        ordered = sorted(chunks, key=lambda chunk: -chunk.end)
        if {"elbo", "masked_mean"} & {*estimators}:
            for chunk, estimates in self._batches(ordered, self._masked, self.mc_num):
                for name in (name for name in estimates if name in estimators):
                    yield chunk, name, estimates[name]
        if "duel" in estimators:
            for chunk, estimate in self._batches(ordered, self._duel, None):
                yield chunk, "duel", estimate

    def pass_lengths(self, chunks: Sequence[Chunk], estimators: Sequence[str]) -> list[int]:
        """See `Scorer`."""
        lengths = []
        for chunk in chunks:
            options = LikelihoodOptions(mc_num=self.mc_num)
            num_masks = options.num_masks(chunk.num_tokens)
            num_passes = num_masks if {"elbo", "masked_mean"} & {*estimators} else 0
            num_passes += chunk.num_tokens if "duel" in estimators else 0
            lengths += [chunk.end] * num_passes
        return lengths

    def seconds(self, tokens: Tensor) -> float:
        """See `Scorer`. The batch is as full as a scored one, so that too large a one shows now."""
        size = self.batcher.size(len(tokens), 1)
        uncounted = replace(self.denoiser, stats=DenoiserStats())
        last = [torch.tensor([len(tokens) - 1])] * size
        return timed(lambda: uncounted.logits([tokens] * size, last, [0] * size)) / size

    def _batches(
        self,
        chunks: Sequence[Chunk],
        run: Callable[[Sequence[Chunk], int], list[Any]],
        num_masks: int | None,
    ) -> Iterator[tuple[Chunk, Any]]:
        """Chunks with their results; num_masks None means one sequence a chunk in each pass."""

        def measure(chunk: Chunk) -> tuple[int, int]:
            return chunk.end, chunk.num_tokens

        counted = None if num_masks is None else lambda chunk: num_masks
        for batch in self.batcher.process(chunks, measure, run, counted):
            yield from batch

    def _masked(self, chunks: Sequence[Chunk], size: int) -> list[dict[str, Estimate]]:
        pairs = [chunk.pair for chunk in chunks]
        drawn = [self._drawn(chunk) for chunk in chunks]
        masks = [one.masks for one in drawn]
        scores, _ = read_masks(self.denoiser, pairs, masks, size, check_greedy=False)
        return [
            {
                "elbo": per_token(one.elbo(score), chunk.num_tokens),
                "masked_mean": masked_mean(one, score),
            }
            for chunk, one, score in zip(chunks, drawn, scores, strict=True)
        ]

    def _drawn(self, chunk: Chunk) -> TargetMasks:
        if LikelihoodOptions(mc_num=self.mc_num).enumerates(chunk.num_tokens):
            return TargetMasks.enumerated(chunk.num_tokens)
        return TargetMasks.sampled(chunk.num_tokens, self.mc_num, chunk.seed)

    def _duel(self, chunks: Sequence[Chunk], size: int) -> list[Estimate]:
        pairs = [chunk.pair for chunk in chunks]
        estimates = duel_log_likelihoods(self.denoiser, pairs, batch_size=size)
        return [per_token(e, c.num_tokens) for c, e in zip(chunks, estimates, strict=True)]


@dataclass
class CausalScorer:
    """Scores chunks with a causal model of transformers: one pass over a text serves all of them.

    Logits are computed a slice at a time and only where a token is scored, never for a whole text.

    Attributes:
        model: On its device.
        stats: Filled as passes run.
    """

    model: Any
    stats: DenoiserStats = field(default_factory=DenoiserStats)

    def score(self, chunks: Sequence[Chunk], estimators: Sequence[str]) -> Iterator[Scored]:
        """Score chunks of one document; the only estimator is `causal`, and its values are exact.

        Raises:
            ValueError: If the model returns NaN or infinite logits.
        """
        if CAUSAL_ESTIMATOR not in estimators:
            return
        for group in self._groups(chunks):
            rows = torch.cat([torch.arange(chunk.start, chunk.end) for chunk in group]) - 1
            log_probs = self._log_probs(group[-1].tokens[: group[-1].end], rows)
            parts = log_probs.split([chunk.num_tokens for chunk in group])
            for chunk, part in zip(group, parts, strict=True):
                yield chunk, CAUSAL_ESTIMATOR, Estimate(-float(part.mean()), 0.0, 1)

    def pass_lengths(self, chunks: Sequence[Chunk], estimators: Sequence[str]) -> list[int]:
        """See `Scorer`."""
        groups = self._groups(chunks) if CAUSAL_ESTIMATOR in estimators else []
        return [group[-1].end for group in groups]

    def seconds(self, tokens: Tensor) -> float:
        """See `Scorer`."""
        return timed(lambda: self._hidden(tokens))

    def _groups(self, chunks: Sequence[Chunk]) -> list[list[Chunk]]:
        """Chunks of one document, ascending, by the pass that serves them."""
        ordered = sorted(chunks, key=lambda chunk: chunk.end)
        parameters = getattr(self.model.config, "rope_parameters", None) or {}
        if parameters.get("rope_type") in _LENGTH_DEPENDENT:
            return [[chunk] for chunk in ordered]
        return [ordered] if ordered else []

    @torch.inference_mode()
    def _log_probs(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """Log probability of the token after each row, float64 (num_rows,), on the CPU."""
        hidden = self._hidden(tokens) if self._has_plain_head(tokens) else None
        self.stats.record(1, len(tokens), len(rows))
        parts = []
        for some in rows.split(_ROWS_AT_ONCE):
            logits = (
                self._whole_logits(tokens, some) if hidden is None else self._head(hidden, some)
            )
            truths = tokens[some + 1].to(logits.device)[:, None]
            found = logits.gather(1, truths).squeeze(1) - logits.logsumexp(dim=-1)
            parts.append(found.double().cpu())
        log_probs = torch.cat(parts)
        if bool(log_probs.isnan().any()):
            raise ValueError(NOT_FINITE)
        return log_probs

    def _has_plain_head(self, tokens: Tensor) -> bool:
        """Whether logits are the output embedding of the last hidden state and nothing more.

        Some models scale or cap them on top; these make a pass for each slice of rows instead.
        """
        probe = tokens[:_PROBE_LENGTH]
        rows = torch.arange(len(probe))
        plain = self._head(self._hidden(probe), rows)
        return torch.allclose(plain, self._whole_logits(probe, rows), rtol=1e-4, atol=1e-4)

    @torch.inference_mode()
    def _hidden(self, tokens: Tensor) -> Tensor:
        """Last hidden states, (1, seq, width)."""
        ids = tokens[None].to(self.model.device)
        return self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state

    def _head(self, hidden: Tensor, rows: Tensor) -> Tensor:
        """Logits of some rows, float32 (num_rows, vocab)."""
        return self.model.get_output_embeddings()(hidden[:, rows.to(hidden.device)])[0].float()

    def _whole_logits(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """The same by the model's own hand."""
        ids = tokens[None].to(self.model.device)
        logits = self.model(ids, logits_to_keep=rows.to(ids.device), use_cache=False).logits
        return logits[0].float()


def expected_seconds(
    short: tuple[int, float], long: tuple[int, float], lengths: Sequence[int]
) -> float:
    """Time of passes over sequences of these lengths, from two that were timed.

    A pass over n tokens costs a * n + b * n**2: layers, and attention. Where noise would make one
    of the two negative, the long pass alone decides the other.

    Args:
        short: Tokens of a sequence, and seconds that it took.
        long: The same of a longer one.
        lengths: Tokens of each sequence to come.
    """
    (few, fast), (many, slow) = short, long
    linear, square = slow / many, 0.0
    if many > few:
        square = max(0.0, (slow / many - fast / few) / (many - few))
        linear = slow / many - square * many
    if linear < 0:
        linear, square = 0.0, slow / many**2
    return math.fsum(linear * length + square * length**2 for length in lengths)


def per_token(estimate: Estimate, num_tokens: int) -> Estimate:
    """A log-likelihood of `num_tokens` tokens as a cross entropy per token."""
    return Estimate(-estimate.value / num_tokens, estimate.stderr / num_tokens, estimate.num_passes)


def timed(run: Callable[[], Tensor]) -> float:
    """Seconds until what it returns can be read."""
    started = time.perf_counter()
    # Reading one number waits for a GPU to finish.
    run().flatten()[:1].sum().item()
    return time.perf_counter() - started
