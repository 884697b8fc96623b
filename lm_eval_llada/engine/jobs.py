"""Requests as jobs that any rank can run, and their answers as they are kept."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from lm_eval_llada.diffusion.likelihood import Estimate
from lm_eval_llada.engine.answers import Answer, answer_key
from lm_eval_llada.engine.arguments import ModelArguments
from lm_eval_llada.engine.batching import Progress
from lm_eval_llada.engine.runner import (
    Generation,
    Runner,
    Target,
)
from lm_eval_llada.engine.tokenization import Tokenization
from lm_eval_llada.modeling import LLaDAConfig
from lm_eval_llada.modeling.cost import generation_work, likelihood_work

KINDS = ("generate_until", "loglikelihood", "loglikelihood_rolling")
"""What the harness asks for, in the order in which ranks that disagree work on it."""

Run = Callable[[Sequence[Any], Progress], Iterator[list[tuple[int, Answer]]]]
"""From items and a progress bar to batches of their indices and answers."""


@dataclass(frozen=True)
class Job:
    """A request on its way to the rank that runs it.

    Attributes:
        item: What to run.
        key: Of its answer; equal for requests that are bound to have equal answers.
        cost: Floating-point operations that it takes, at most.
        group: Jobs of one group share work and stay on one rank.
        args: Of the request, under which the harness' own cache keeps its answer.
    """

    item: Generation | Target
    key: str
    cost: float
    group: str
    args: tuple[Any, ...]


@dataclass(frozen=True)
class JobMaker:
    """Gives requests their keys and costs.

    Attributes:
        owner: Digest of everything that answers depend on besides the request.
        arguments: Those of the run.
        config: Of the model.
        max_length: Tokens of a window of rolling likelihoods.
    """

    owner: str
    arguments: ModelArguments
    config: LLaDAConfig
    max_length: int

    def generation(self, item: Generation, args: tuple[Any, ...]) -> Job:
        """A text to generate.

        Args:
            item: What to run.
            args: Of the request.
        """
        options = item.plan.options
        # A seed that nothing reads would tell equal requests apart.
        seed = item.seed if options.is_random else None
        digest = hashlib.sha256(item.prompt.numpy().tobytes()).hexdigest()
        key = answer_key(self.owner, "generate_until", [digest, item.plan, seed])
        cost = generation_work(self.config, len(item.prompt), options).flops
        return Job(item, key, cost, key, args)

    def target(self, kind: str, item: Target, args: tuple[Any, ...]) -> Job:
        """A target to score.

        Args:
            kind: loglikelihood or loglikelihood_rolling.
            item: What to run.
            args: Of the request.
        """
        tensors = (item.prefix, item.target)
        digests = [hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for tensor in tensors]
        key = answer_key(self.owner, kind, [*digests, item.seed, self.max_length])
        # The options of a question share the passes in which they are wholly masked.
        group = digests[0] if len(item.prefix) else key
        return Job(item, key, self._scoring_cost(kind, item), group, args)

    def _scoring_cost(self, kind: str, item: Target) -> float:
        length, num_windows = len(item.target), 1
        if kind == "loglikelihood_rolling" and length > self.max_length:
            num_windows, length = -(-length // self.max_length), self.max_length
        work = likelihood_work(
            self.config,
            len(item.prefix),
            length,
            self.arguments.likelihood,
            check_greedy=self.arguments.requests.is_check_greedy,
        )
        return num_windows * work.flops


@dataclass(frozen=True)
class Runs:
    """Runs items of each kind and puts results into the form in which they are kept.

    Attributes:
        runner: Gives the loaded model; called when the first item runs.
        text: Its tokenizer.
        arguments: Those of the run.
        max_length: Tokens of a window of rolling likelihoods.
    """

    runner: Callable[[], Runner]
    text: Tokenization
    arguments: ModelArguments
    max_length: int

    def by_kind(self) -> dict[str, Run]:
        """What runs the items of each of `KINDS`."""
        return dict(zip(KINDS, (self._generations, self._scores, self._rolling), strict=True))

    def _generations(
        self, items: Sequence[Generation], progress: Progress
    ) -> Iterator[list[tuple[int, Answer]]]:
        for batch in self.runner().texts(items, progress):
            yield [(index, self._text_of(items[index], tokens)) for index, tokens in batch]

    def _text_of(self, item: Generation, tokens: Tensor) -> str:
        plan = item.plan
        return self.text.text_of(tokens.tolist(), plan.until, ignore_eos=plan.ignore_eos)

    def _scores(
        self, items: Sequence[Target], progress: Progress
    ) -> Iterator[list[tuple[int, Answer]]]:
        check_greedy = self.arguments.requests.is_check_greedy
        for batch in self.runner().scores(
            items, self.arguments.likelihood, progress, check_greedy=check_greedy
        ):
            yield [(index, answer_of(*score)) for index, score in batch]

    def _rolling(
        self, items: Sequence[Target], progress: Progress
    ) -> Iterator[list[tuple[int, Answer]]]:
        for batch in self.runner().rolling_scores(
            items, self.arguments.likelihood, progress, max_length=self.max_length
        ):
            yield [(index, answer_of(estimate, False)) for index, estimate in batch]


def answer_of(estimate: Estimate, is_greedy: bool) -> Answer:
    """A score in the form in which it is kept; a standard error that is not known is None."""
    stderr = None if math.isnan(estimate.stderr) else estimate.stderr
    return (estimate.value, is_greedy, stderr)


def score_of(answer: Answer) -> tuple[float, bool, float]:
    """Log-likelihood, greedy check and standard error (NaN: not known) of a kept score."""
    value, is_greedy, stderr = cast("tuple[float, bool, float | None]", answer)
    return value, is_greedy, math.nan if stderr is None else stderr
