"""Likelihood cases of speed.py: four-way questions, scored as a loglikelihood task asks for them.

Contexts and options are pieces of the package's own prose, of fixed numbers of tokens. Either side
gives the value of each option; neither runs the greedy check, unless the name of the case says so.
Then the plain loop decodes one token a pass and compares at the end, as LLaDA's script does.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed_measure import Case, Outcome, Side, Verdict, equal_values, rms_deviation
from benchmarks.speed_models import Scale, counted, tiny
from lm_eval_llada.diffusion.denoiser import DenoiserStats
from lm_eval_llada.diffusion.sampler import SamplingOptions
from lm_eval_llada.engine.requests import content_seed
from lm_eval_llada.harness.llada import LLaDALM
from lm_eval_llada.tasks.text.haystacks import heldout_text

# After speed_models, which says where these two are.
from tests.helpers.likelihood_loops import plain_enumeration
from tests.helpers.plain_loops import plain_generate, plain_log_likelihood, whole_forward

TOLERANCE = 1e-5
"""Of values, relative: what padding and the order of a batch may change in a float32 sum."""

_NUM_OPTIONS = 4
_CONTEXT_TOKENS = (8, 32)
_NUM_ENUMERATED = 40
_MOST_DEVIATION = 1.5
_PUBLISHED_BATCH = 32
"""Copies of one request in a pass of LLaDA's script."""


@dataclass(frozen=True)
class Request:
    """One option of a question.

    Attributes:
        strings: Context and option; they decide the seed.
        prefix: Tokens of the context.
        target: Tokens of the option.
    """

    strings: tuple[str, str]
    prefix: list[int]
    target: list[int]

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """Context and option as the plain loops take them."""
        return torch.tensor(self.prefix), torch.tensor(self.target)


def make_requests(lm: LLaDALM, num_questions: int, lengths: tuple[int, int]) -> list[Request]:
    """Four options for each question, each of a length between two, in tokens; always the same."""
    ids = lm.tok_encode(heldout_text(), add_special_tokens=False)
    rng = random.Random(f"{num_questions} questions of {lengths}")

    def piece(shortest: int, longest: int) -> list[int]:
        length = rng.randint(shortest, longest)
        start = rng.randrange(len(ids) - length)
        return ids[start : start + length]

    requests = []
    for _ in range(num_questions):
        context = piece(*_CONTEXT_TOKENS)
        for _ in range(_NUM_OPTIONS):
            option = piece(*lengths)
            strings = (str(lm.tokenizer.decode(context)), str(lm.tokenizer.decode(option)))
            requests.append(Request(strings, context, option))
    return requests


def plain_scores(
    lm: LLaDALM, requests: Sequence[Request], mc_num: int, batch_size: int, check_greedy: bool
) -> Outcome:
    """(value, standard error) of each option, one at a time."""
    stats, mask_token_id = DenoiserStats(), lm.runner.text.mask_token_id
    denoise = counted(whole_forward(lm.runner.model), stats)
    outputs = []
    for request in requests:
        prefix, target = request.pair
        seed = content_seed(lm.arguments.requests.seed, "loglikelihood", *request.strings)
        score = plain_log_likelihood(
            denoise,
            prefix,
            target,
            mc_num,
            seed,
            mask_token_id=mask_token_id,
            batch_size=batch_size,
        )
        outputs.append(score)
        if check_greedy:
            options = SamplingOptions(gen_length=len(target))
            plain_generate(denoise, prefix, options, mask_token_id=mask_token_id)
    return Outcome(outputs, _num_tokens(requests), stats)


def our_scores(lm: LLaDALM, requests: Sequence[Request]) -> Outcome:
    """(value, 0) of each option by the harness' model."""
    lm.runner.denoiser.stats = DenoiserStats()
    encoded = [(request.strings, request.prefix, request.target) for request in requests]
    values = [value for value, _ in lm._loglikelihood_tokens(encoded, disable_tqdm=True)]
    return Outcome([(value, 0.0) for value in values], _num_tokens(requests), lm.runner.stats)


def likelihood_case(
    name: str,
    scale: Scale,
    *,
    lengths: tuple[int, int],
    target: float | None,
    mc_num: int,
    check_greedy: bool = False,
) -> Case:
    """A plain loop against the harness' model on questions whose options have certain lengths."""
    lm, batch_size = (
        tiny(mc_num=mc_num, is_check_greedy=check_greedy),
        min(mc_num, _PUBLISHED_BATCH),
    )
    requests = make_requests(lm, scale.num_questions, lengths)
    few = requests[: 4 * _NUM_OPTIONS]
    span = f"{lengths[0]}" if len(set(lengths)) == 1 else f"{lengths[0]}-{lengths[1]}"

    def plain(some: Sequence[Request]) -> Outcome:
        return plain_scores(lm, some, mc_num, batch_size, check_greedy)

    def judge(baseline: Outcome, ours: Outcome) -> Verdict:
        if max(lengths) > 1 and lm.arguments.likelihood.enumerates(max(lengths)):
            return enumerated(lm, requests, baseline, ours)
        return equal_values(TOLERANCE)(baseline, ours)

    label = f"plain loop, mc_num {mc_num}" + (f" in {batch_size}s" if mc_num > 1 else "")
    return Case(
        name,
        f"tiny, {scale.num_questions} questions of 4 options, {span} tokens each",
        lm.runner.model,
        Side(label, lambda: plain(requests), lambda: plain(few)),
        Side("harness", lambda: our_scores(lm, requests), lambda: our_scores(lm, few)),
        judge,
        target,
    )


def enumerated(
    lm: LLaDALM, requests: Sequence[Request], baseline: Outcome, ours: Outcome
) -> Verdict:
    """Whether values are those of all masks in turn, and draws of the baseline scatter round them.

    The first options are enumerated again, by a plain loop that nobody times.
    """
    denoise, mask_token_id = whole_forward(lm.runner.model), lm.runner.text.mask_token_id
    some = requests[:_NUM_ENUMERATED]
    exact: list[Any] = [
        (plain_enumeration(denoise, *request.pair, mask_token_id=mask_token_id), 0.0)
        for request in some
    ]
    stats = DenoiserStats()
    verdict = equal_values(TOLERANCE)(
        Outcome(exact, 0, stats), Outcome(ours.outputs[: len(some)], 0, stats)
    )
    deviation = rms_deviation(baseline, ours)
    is_near = math.isfinite(deviation) and deviation <= _MOST_DEVIATION
    text = f"{verdict.text} to all masks; plain is off by {deviation:.2f} standard errors (rms)"
    return Verdict(text, verdict.is_shown and is_near, verdict.is_good and is_near)


def _num_tokens(requests: Sequence[Request]) -> int:
    return sum(len(request.target) for request in requests)
