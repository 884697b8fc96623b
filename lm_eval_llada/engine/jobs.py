"""Jobs: requests of the harness in the one form they keep down to the sampler, and their scores."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import NamedTuple, cast

from torch import Tensor

from lm_eval_llada.diffusion.likelihood import NO_ROLLING, Estimate
from lm_eval_llada.engine.answers import Answer, answer_key
from lm_eval_llada.engine.loading import Checkpoint
from lm_eval_llada.engine.requests import GenerationSettings
from lm_eval_llada.modeling.block_cost import score_work, text_work

KINDS = ("generate_until", "loglikelihood", "loglikelihood_rolling")
"""What the harness asks for, in the order in which ranks that disagree work on it."""

Arguments = tuple[object, ...]
"""Of a request, under which the harness' own cache keeps its answer."""


@dataclass(frozen=True, eq=False)
class Generation:
    """A text to generate.

    Attributes:
        prompt: Token ids, int64 (length,).
        settings: How to generate.
        seed: Of its random numbers.
        key: Of its answer; equal for jobs that are bound to have equal answers.
        cost: Floating-point operations that it takes, at most.
        args: Of the request.
    """

    prompt: Tensor
    settings: GenerationSettings
    seed: int
    key: str = ""
    cost: float = 0.0
    args: Arguments = ()

    @property
    def group(self) -> str:
        """Jobs of one group share work and stay on one rank: texts share none."""
        return self.key


@dataclass(frozen=True, eq=False)
class Target:
    """Tokens to score.

    Attributes:
        prefix: What comes before, int64 (length,).
        target: Token ids, int64 (length,).
        seed: Of its masks.
        key: As of a `Generation`.
        cost: As of a `Generation`.
        group: Jobs of one group share work and stay on one rank.
        args: Of the request.
    """

    prefix: Tensor
    target: Tensor
    seed: int
    key: str = ""
    cost: float = 0.0
    group: str = ""
    args: Arguments = ()


Job = Generation | Target


class Score(NamedTuple):
    """The answer to a target, as it is kept on disk.

    Attributes:
        value: Natural-log likelihood, summed over tokens.
        is_greedy: Whether greedy decoding gives the target; False where nobody looked.
        stderr: Standard error of the value; None where it is not known.
    """

    value: float
    is_greedy: bool
    stderr: float | None

    @classmethod
    def of(cls, estimate: Estimate, is_greedy: bool) -> Score:
        """The score that an estimate makes."""
        stderr = None if math.isnan(estimate.stderr) else estimate.stderr
        return cls(estimate.value, is_greedy, stderr)

    @classmethod
    def kept(cls, answer: Answer) -> Score:
        """The score that an answer is, come from disk or not."""
        return cls(*cast("tuple[float, bool, float | None]", answer))


@dataclass(frozen=True)
class JobMaker:
    """Makes jobs, with their keys and costs.

    Attributes:
        owner: Digest of everything that answers depend on besides the request.
        checkpoint: The one at work.
    """

    owner: str
    checkpoint: Checkpoint

    def generation(
        self, prompt: Tensor, settings: GenerationSettings, seed: int, args: Arguments
    ) -> Generation:
        """A text to generate; arguments as the attributes of `Generation`."""
        options = settings.options
        # A seed that nothing reads would tell equal requests apart.
        content = [_digest(prompt), settings, seed if options.is_random else None]
        key = answer_key(self.owner, "generate_until", content)
        cost = text_work(self.checkpoint.config, len(prompt), options).flops
        return Generation(prompt, settings, seed, key, cost, args)

    def target(
        self, kind: str, prefix: Tensor, target: Tensor, seed: int, args: Arguments
    ) -> Target:
        """Tokens to score; kind is one of `KINDS`, the rest as the attributes of `Target`."""
        if (
            kind == "loglikelihood_rolling"
            and self.checkpoint.arguments.likelihood.method == "dream"
        ):
            raise ValueError(NO_ROLLING)
        context = _digest(prefix)
        content = [context, _digest(target), seed, self.checkpoint.max_length]
        key = answer_key(self.owner, kind, content)
        # The options of a question share the passes in which they are wholly masked.
        group = context if len(prefix) else key
        cost = self._scoring_cost(kind, len(prefix), len(target))
        return Target(prefix, target, seed, key, cost, group, args)

    def _scoring_cost(self, kind: str, prefix_length: int, length: int) -> float:
        num_windows, window = 1, self.checkpoint.max_length
        if kind == "loglikelihood_rolling" and length > window:
            num_windows, length = -(-length // window), window
        arguments = self.checkpoint.arguments
        work = score_work(
            self.checkpoint.config,
            prefix_length,
            length,
            arguments.likelihood,
            check_greedy=arguments.requests.is_check_greedy,
        )
        return num_windows * work.flops


def _digest(tokens: Tensor) -> str:
    return hashlib.sha256(tokens.numpy().tobytes()).hexdigest()
