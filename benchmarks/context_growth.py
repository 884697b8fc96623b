"""Perplexity of the same tokens as the text before them grows, and nothing else does.

    python -m benchmarks.context_growth --pretrained tiny-llada

A curve scores other passages at other lengths, so that a hard one looks like a failure. Here each
chunk of 64 tokens of the held-out prose, from its second half, is scored with the last 512 tokens,
itself included, then with more of what stands before them, under the same masks. Printed are nats a
token at each context, and what is more than at the first one with its standard error over chunks.
`--bos` puts the start-of-text token in the first place of each context, for a causal model that was
trained with one. A line of JSON comes last.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.curves.places import spread
from lm_eval_llada.curves.scores import CausalScorer, Chunk, DiffusionScorer, Scorer
from lm_eval_llada.engine.batching import Batcher
from lm_eval_llada.engine.device_memory import DeviceMemory
from lm_eval_llada.modeling import LLaDAConfig, as_denoiser, load_model
from lm_eval_llada.tasks.statistics import clustered_stderr
from lm_eval_llada.tasks.text.haystacks import heldout_text

CHUNK_LENGTH = 64
CONTEXTS = (512, 1024, 2048, 4096)


def load_scorer(folder: Any, mc_num: int) -> tuple[Scorer, str]:
    """What scores chunks under a checkpoint in float32, and by which estimator."""
    if AutoConfig.from_pretrained(folder).model_type != LLaDAConfig.model_type:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return CausalScorer(model.eval()), "causal"
    masked = load_model(folder, dtype="float32")
    batcher = Batcher(mc_num, None, DeviceMemory(masked.device), lambda length, rows: 1)
    return DiffusionScorer(as_denoiser(masked), batcher, mc_num=mc_num), "elbo"


def chunk_at(tokens: Tensor, end: int, context: int, first_token: int | None) -> Chunk:
    """The chunk that ends at `end`, with so many tokens of context, itself included.

    Args:
        tokens: of the text, int64 (length,).
        end: where the chunk ends in it.
        context: tokens that the model reads.
        first_token: put in the first place, if any.
    """
    seen = tokens[end - context : end].clone()
    if first_token is not None:
        seen[0] = first_token
    return Chunk("heldout", seen, context - CHUNK_LENGTH, context, 0, seed=end)


def grow(
    scorer: Scorer,
    estimator: str,
    tokens: Tensor,
    num_chunks: int,
    contexts: Sequence[int],
    first_token: int | None = None,
) -> dict[int, list[float]]:
    """Nats a token of each chunk, by context.

    Raises:
        ValueError: if the text is too short for the longest context.
    """
    first = max(max(contexts), len(tokens) // 2)
    if first > len(tokens):
        raise ValueError(f"The text has {len(tokens):,} tokens, fewer than {first:,} of context.")
    ends = spread(first, len(tokens), num_chunks, "even")
    found: dict[int, list[float]] = {context: [] for context in contexts}
    for context in contexts:
        for end in ends:
            chunk = chunk_at(tokens, end, context, first_token)
            ((_, _, estimate),) = scorer.score([chunk], [estimator])
            found[context].append(estimate.value)
    return found


def lines(found: dict[int, list[float]]) -> list[str]:
    """A line for each context."""
    base = next(iter(found.values()))
    told = []
    for context, values in found.items():
        changes = [value - first for value, first in zip(values, base, strict=True)]
        error = clustered_stderr(changes, range(len(changes))) or 0.0
        change = fmean(changes)
        told.append(
            f"{context:6,} tokens: {fmean(values):.3f} nats, {change:+.3f} ± {error:.3f}, "
            f"perplexity {math.exp(change):.2f}x"
        )
    return told


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pretrained", default="tiny-llada")
    parser.add_argument("--chunks", type=int, default=12)
    parser.add_argument("--mc_num", type=int, default=4, help="masks of each chunk")
    parser.add_argument("--contexts", type=int, nargs="+", default=list(CONTEXTS))
    parser.add_argument("--bos", action="store_true", help="the first token is the start of text")
    given = parser.parse_args()
    folder = resolve_checkpoint(given.pretrained)
    tokenizer = load_tokenizer(folder)
    tokens = torch.tensor(tokenizer(heldout_text(), verbose=False)["input_ids"])
    scorer, estimator = load_scorer(folder, given.mc_num)
    first_token = tokenizer.bos_token_id if given.bos else None
    found = grow(scorer, estimator, tokens, given.chunks, given.contexts, first_token)
    print("\n".join(lines(found)))
    print(json.dumps({**vars(given), "nats": found}))


if __name__ == "__main__":
    main()
