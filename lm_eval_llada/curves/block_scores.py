"""Cross entropies of chunks under a model that is causal between blocks: a pass for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lm_eval_llada.curves.scores import Chunk, Scored, per_token, timed
from lm_eval_llada.diffusion.block_likelihood import Span, likelihood_rules, span_estimates
from lm_eval_llada.diffusion.block_reader import BlockReader, Clean
from lm_eval_llada.diffusion.denoiser import Denoiser, DenoiserStats
from lm_eval_llada.diffusion.estimates import LikelihoodOptions

_ESTIMATOR = "elbo"


def check_block_estimators(estimators: Sequence[str]) -> None:
    """Refuses estimators that hide or replay a whole chunk at once.

    Raises:
        ValueError: If there is another one than the bound within blocks.
    """
    for name in estimators:
        if name != _ESTIMATOR:
            raise ValueError(
                f"The estimator {name} reveals a whole chunk in one go, and this model is causal "
                f"between blocks, which it decides one after the other; use --estimator "
                f"{_ESTIMATOR}: exact between blocks, a bound within."
            )


@dataclass
class BlockScorer:
    """Scores chunks of a text from one pass over it, as `curves.scores.Scorer` has it.

    Attributes:
        denoiser: The model, with blocks.
        mc_num: Masks drawn for the tokens of a block, where not all are taken.
    """

    denoiser: Denoiser
    mc_num: int = 8

    @property
    def stats(self) -> DenoiserStats:
        """See `Scorer`."""
        return self.denoiser.stats

    @property
    def _options(self) -> LikelihoodOptions:
        return LikelihoodOptions(mc_num=self.mc_num)

    def score(self, chunks: Sequence[Chunk], estimators: Sequence[str]) -> Iterator[Scored]:
        """Score chunks of one document.

        Args:
            chunks: In any order.
            estimators: See `check_block_estimators`.

        Raises:
            ValueError: If the model returns NaN or infinite logits, or as `check_block_estimators`.
        """
        check_block_estimators(estimators)
        longest = max(chunks, key=lambda chunk: chunk.end)
        spans = [Span(chunk.start, chunk.end, chunk.seed) for chunk in chunks]
        tokens = longest.tokens[: longest.end]
        found = span_estimates(self.denoiser, tokens, spans, self._options)
        for chunk, estimate in zip(chunks, found, strict=True):
            yield chunk, _ESTIMATOR, per_token(estimate, chunk.num_tokens)

    def pass_lengths(self, chunks: Sequence[Chunk], estimators: Sequence[str]) -> list[int]:
        """See `Scorer`: the text once, then rows of blocks."""
        assert self.denoiser.blocks is not None
        size = likelihood_rules(self._options, self.denoiser.blocks).block_length
        num_rows = size * self._options.num_masks(size) if size > 1 else 0
        blocks = sum(-(-chunk.num_tokens // size) + 1 for chunk in chunks)
        return [max(chunk.end for chunk in chunks), *[num_rows] * blocks]

    def seconds(self, tokens: Tensor) -> float:
        """See `Scorer`."""
        rules = self.denoiser.blocks
        assert rules is not None
        uncounted = replace(self.denoiser, stats=DenoiserStats())
        last = torch.tensor([len(tokens) - 1])

        def read() -> Tensor:
            reader = BlockReader.of(uncounted, rules, 1, len(tokens))
            return reader.keep([Clean(0, tokens, 0, (), len(tokens), last)])[1][0]

        return timed(read)
