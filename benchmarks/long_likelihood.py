"""The likelihood case of `long_context`: four-way questions behind 2,000 tokens, by `tiny-ultra`.

Contexts are pieces of the package's own prose that no model was trained on, and the first option is
how they go on. The others are near: the same with two of its tokens drawn from the context. Both
sides score them under the same masks.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.diffusion.estimates import Estimate, LikelihoodOptions
from lm_eval_llada.diffusion.likelihood import log_likelihoods
from lm_eval_llada.modeling import as_denoiser, load_model
from lm_eval_llada.tasks.text.haystacks import heldout_text

CONTEXT, LENGTHS, NUM_OPTIONS, NUM_MASKS = 2000, (20, 40), 4, 16
_NUM_CHANGED = 2
# What the harness' model would take on one thread: passes of about a thousand tokens.
_TOKENS_AT_ONCE = 1024

Question = list[tuple[Tensor, Tensor]]


def questions(count: int) -> list[Question]:
    """Questions of four options, the true one first; always the same."""
    tokenizer = load_tokenizer(None, "tiny-ultra", None)
    ids = tokenizer(heldout_text(), add_special_tokens=False)["input_ids"]
    rng = random.Random(f"{CONTEXT} {LENGTHS}")
    made = []
    for _ in range(count):
        length = rng.randint(*LENGTHS)
        start = rng.randrange(len(ids) - CONTEXT - length)
        context = ids[start : start + CONTEXT]
        true = ids[start + CONTEXT : start + CONTEXT + length]
        options = [true]
        for _ in range(NUM_OPTIONS - 1):
            other = list(true)
            for place in rng.sample(range(length), _NUM_CHANGED):
                other[place] = rng.choice([token for token in context if token != true[place]])
            options.append(other)
        made.append([(torch.tensor(context), torch.tensor(option)) for option in options])
    return made


def likelihood_case(repeats: int, num_questions: int) -> dict[str, Any]:
    """Time of each side over all questions, in turns question by question, and what they say."""
    denoiser = as_denoiser(load_model("tiny-ultra", dtype="float32"))
    sides = {
        "exact": LikelihoodOptions(mc_num=NUM_MASKS, batch_size=1),
        "context": LikelihoodOptions(
            mc_num=NUM_MASKS, batch_size=_TOKENS_AT_ONCE // LENGTHS[1], cache="context"
        ),
    }
    seconds = dict.fromkeys(sides, 0.0)
    found: dict[str, list[Sequence[Estimate]]] = {name: [] for name in sides}
    for number, question in enumerate(questions(num_questions)):
        seeds = [NUM_OPTIONS * number + i for i in range(NUM_OPTIONS)]
        for name, options in sides.items():
            start = time.process_time()
            found[name].append(log_likelihoods(denoiser, question, options, seeds=seeds))
            seconds[name] += time.process_time() - start
    pairs = [
        (one, other)
        for ours, theirs in zip(found["context"], found["exact"], strict=True)
        for one, other in zip(ours, theirs, strict=True)
    ]
    gaps = [abs(one.value - other.value) for one, other in pairs]
    choices = {name: [_best(scores) for scores in some] for name, some in found.items()}
    same = sum(map(int.__eq__, choices["context"], choices["exact"]))
    return {
        "questions": num_questions,
        "seconds": seconds,
        "speed_up": seconds["exact"] / seconds["context"],
        "mean_gap": sum(gaps) / len(gaps),
        "largest_gap": max(gaps),
        "mean_stderr": sum(other.stderr for _, other in pairs) / len(pairs),
        "same_choice": same / num_questions,
        "right": {name: some.count(0) / num_questions for name, some in choices.items()},
        "target": 12,
    }


def _best(scores: Sequence[Estimate]) -> int:
    return max(range(len(scores)), key=lambda i: scores[i].value)
