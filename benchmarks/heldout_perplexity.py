"""Perplexity of held-out text under a checkpoint, by context length, against a bigram model.

    python -m benchmarks.heldout_perplexity --pretrained tiny-llada

The held-out text is cut into windows. The last 64 tokens of each window are scored given all before
them, as LongLLaDA does (plain mean cross entropy over masked tokens, `--mc-num` draws). The bigram
model is counted on the training corpus of the recipe with the same tokenizer, smoothed by
interpolation with the unigrams, and its one weight is chosen on the scored tokens themselves, which
can only help it. Both score the same tokens. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math

import numpy as np
import torch
from numpy.typing import NDArray

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.diffusion.likelihood import LikelihoodOptions, log_likelihoods
from lm_eval_llada.modeling import as_denoiser, load_model
from lm_eval_llada.tasks.text.haystacks import heldout_text
from lm_eval_llada.tiny.corpus import read_corpus
from lm_eval_llada.tiny.samples import CHUNK_LENGTH

LENGTHS = (128, 256, 384, 512)


class Bigram:
    """Interpolated bigram model: w p(b | a) + (1 - w) p(b), unigrams with one added count."""

    def __init__(self, tokens: NDArray[np.int64], vocab_size: int) -> None:
        """Counts of a token stream."""
        self.pairs = np.zeros((vocab_size, vocab_size))
        np.add.at(self.pairs, (tokens[:-1], tokens[1:]), 1.0)
        unigram = np.bincount(tokens, minlength=vocab_size) + 1.0
        self.unigram = unigram / unigram.sum()

    def cross_entropy(
        self, previous: NDArray[np.int64], tokens: NDArray[np.int64], weight: float
    ) -> float:
        """Mean -log p of tokens after their predecessors, nats."""
        totals = self.pairs[previous].sum(axis=1)
        known = np.divide(
            self.pairs[previous, tokens], totals, out=np.zeros(len(tokens)), where=totals > 0
        )
        return float(-np.log(weight * known + (1 - weight) * self.unigram[tokens]).mean())

    def best_cross_entropy(
        self, previous: NDArray[np.int64], tokens: NDArray[np.int64]
    ) -> tuple[float, float]:
        """Lowest cross entropy over the weights, and the weight."""
        weights = np.linspace(0.05, 0.99, 48)
        return min((self.cross_entropy(previous, tokens, w), float(w)) for w in weights)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pretrained", default="tiny-llada")
    parser.add_argument("--mc-num", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = resolve_checkpoint(arguments.pretrained)
    tokenizer, model = load_tokenizer(folder), load_model(folder, dtype="float32")
    tokens = np.array(tokenizer(heldout_text())["input_ids"])
    corpus = read_corpus()
    encoded = tokenizer(list(corpus.documents))["input_ids"]
    eos = model.config.eos_token_id
    bigram = Bigram(np.concatenate([[*ids, eos] for ids in encoded]), len(tokenizer))
    options = LikelihoodOptions(mc_num=arguments.mc_num, method="mc")
    rows = []
    for length in LENGTHS:
        starts = range(0, len(tokens) - length + 1, length)
        scored = np.concatenate([np.arange(s + length - CHUNK_LENGTH, s + length) for s in starts])
        pairs = [
            (
                torch.from_numpy(tokens[s : s + length - CHUNK_LENGTH]),
                torch.from_numpy(tokens[s + length - CHUNK_LENGTH : s + length]),
            )
            for s in starts
        ]
        estimates = log_likelihoods(
            as_denoiser(model),
            pairs,
            options,
            seeds=[arguments.seed * 100_003 + s for s in starts],
        )
        ours = -sum(e.value for e in estimates) / len(scored)
        noise = math.sqrt(sum(e.stderr**2 for e in estimates)) / len(scored)
        theirs, weight = bigram.best_cross_entropy(tokens[scored - 1], tokens[scored])
        rows.append(
            {
                "length": length,
                "windows": len(pairs),
                "perplexity": round(math.exp(ours), 2),
                "monte_carlo_stderr_nats": round(noise, 4),
                "bigram_perplexity": round(math.exp(theirs), 2),
                "bigram_weight": round(weight, 2),
            }
        )
        print("  ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
    print(json.dumps({"pretrained": arguments.pretrained, "corpus": corpus.sha256, "rows": rows}))


if __name__ == "__main__":
    main()
