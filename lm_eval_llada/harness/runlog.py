"""What happened in a run, for its results: truncation, sampling options, errors, work done."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lm_eval_llada.engine.requests import GenerationSettings

_LONG_OUTPUT = 2_000  # tokens; tasks for thinking models ask for many times as many
_logger = logging.getLogger("lm_eval_llada")

Sample = tuple[Any, ...]
"""What tells a request from the others of its task, so that a repetition does not count twice."""


@dataclass
class RunLog:
    """What one rank did. Logs of several ranks add up.

    Attributes:
        dropped: Tokens cut from each prompt, by task and sample; 0 where nothing was.
        left_out: Tokens of prompt and target of each sample that was left out, by task and number.
        settings: How each task's texts were generated.
        stderrs: Monte-Carlo standard error of each log-likelihood, by task and sample.
        likelihood_approximations: Settings by which log-likelihoods are other than exact ones.
        num_passes: Forward passes.
        num_tokens: Tokens they read, padding not counted.
        seconds: Time spent on requests.
        num_from_disk: Requests that an earlier run had answered.
        peak_memory_bytes: The most memory in use; None where the system does not tell.
    """

    dropped: dict[str, dict[Sample, int]] = field(default_factory=dict)
    left_out: dict[str, dict[int, int]] = field(default_factory=dict)
    settings: dict[str, set[GenerationSettings]] = field(default_factory=dict)
    stderrs: dict[str, dict[Sample, float]] = field(default_factory=dict)
    likelihood_approximations: Sequence[str] = ()
    num_passes: int = 0
    num_tokens: int = 0
    seconds: float = 0.0
    num_from_disk: int = 0
    peak_memory_bytes: int | None = None

    def saw_prompt(self, task: str, sample: Sample, num_dropped: int) -> None:
        """Notes a request, and the tokens its prompt lost."""
        self.dropped.setdefault(task, {})[sample] = num_dropped

    def saw_left_out(self, task: str, doc_id: int, num_tokens: int) -> None:
        """Notes a sample that was too long to ask, with the tokens that it would have."""
        self.left_out.setdefault(task, {})[doc_id] = num_tokens

    def saw_settings(self, task: str, settings: GenerationSettings) -> None:
        """Notes how a text of a task is generated, and says once if that will take very long."""
        found = self.settings.setdefault(task, set())
        if settings not in found:
            found.add(settings)
            if line := long_output_line(task, settings):
                _logger.warning(line)

    def saw_stderr(self, task: str, sample: Sample, stderr: float | None) -> None:
        """Notes the standard error of a log-likelihood; None where it is not known."""
        self.stderrs.setdefault(task, {})[sample] = math.nan if stderr is None else stderr

    def summary(self) -> dict[str, Any]:
        """The log in plain values, by task where it depends on one."""
        return {
            "truncation": {task: _count(cuts) for task, cuts in sorted(self.dropped.items())},
            **({"left_out": self._left_out()} if self.left_out else {}),
            "generation": {
                task: [dataclasses.asdict(one) for one in sorted(found, key=repr)]
                for task, found in sorted(self.settings.items())
            },
            "approximations": self._approximations(),
            "mean_likelihood_stderr": {
                task: math.fsum(errors.values()) / len(errors)
                for task, errors in sorted(self.stderrs.items())
            },
            "work": {
                "forward_passes": self.num_passes,
                "tokens_read": self.num_tokens,
                "seconds": round(self.seconds, 3),
                "tokens_per_second": round(self.num_tokens / max(self.seconds, 1e-9), 1),
                "peak_memory_bytes": self.peak_memory_bytes,
                "answers_from_disk": self.num_from_disk,
            },
        }

    def _approximations(self) -> dict[str, list[str]]:
        """Settings of each task that change its answers; only of tasks that have some."""
        names: dict[str, set[str]] = {}
        for task, found in self.settings.items():
            names[task] = {name for one in found for name in one.options.approximations}
        for task in self.stderrs:
            names.setdefault(task, set()).update(self.likelihood_approximations)
        return {task: sorted(some) for task, some in sorted(names.items()) if some}

    def _left_out(self) -> dict[str, dict[str, Any]]:
        return {
            task: {"samples": sorted(found), "most_tokens": max(found.values())}
            for task, found in sorted(self.left_out.items())
        }

    def truncation_lines(self, how: str, max_length: int | None) -> list[str]:
        """One line for each task some of whose prompts were cut, or its samples left out.

        Args:
            how: The kind of truncation.
            max_length: What the prompts had to fit.
        """
        counts = {task: _count(cuts) for task, cuts in sorted(self.dropped.items())}
        out = [
            f"{task}: {len(found['samples'])} samples have more than max_length={max_length} "
            f"tokens (up to {found['most_tokens']}) and are left out of its mean "
            f"(truncation={how}): {', '.join(map(str, found['samples']))}."
            for task, found in self._left_out().items()
        ]
        return out + [
            f"{task}: {count['truncated']} of {count['requests']} prompts lost tokens "
            f"(truncation={how}) to fit max_length={max_length}, {count['tokens_dropped']} in all "
            f"and at most {count['most_dropped']} each."
            for task, count in counts.items()
            if count["truncated"]
        ]


def merge_logs(logs: Sequence[RunLog]) -> RunLog:
    """The logs of all ranks as one.

    They worked side by side, so their times do not add up. Memory is that of the largest rank.
    """
    merged = RunLog()
    if logs:
        merged.likelihood_approximations = logs[0].likelihood_approximations
    for log in logs:
        for task, cuts in log.dropped.items():
            merged.dropped.setdefault(task, {}).update(cuts)
        for task, lengths in log.left_out.items():
            merged.left_out.setdefault(task, {}).update(lengths)
        for task, found in log.settings.items():
            merged.settings.setdefault(task, set()).update(found)
        for task, errors in log.stderrs.items():
            merged.stderrs.setdefault(task, {}).update(errors)
        merged.num_passes += log.num_passes
        merged.num_tokens += log.num_tokens
        merged.seconds = max(merged.seconds, log.seconds)
        merged.num_from_disk += log.num_from_disk
        peaks = [p for p in (merged.peak_memory_bytes, log.peak_memory_bytes) if p is not None]
        merged.peak_memory_bytes = max(peaks, default=None)
    return merged


def long_output_line(task: str, settings: GenerationSettings) -> str | None:
    """What to say of an output of thousands of tokens; None for a shorter one, or another rank.

    A causal model pays for what it writes, and this one for the whole room that it might use.
    """
    options = settings.options
    if options.gen_length < _LONG_OUTPUT or os.environ.get("RANK", "0") != "0":
        return None
    passes = options.steps or options.gen_length
    return (
        f"{task} asks for {options.gen_length:,} tokens of output: up to {passes:,} passes over "
        f"prompt and output for each sample, however short its answer. --gen_kwargs "
        f"gen_length=512,steps=512,block_length=32 caps them; `lm-eval-llada plan` tells the hours."
    )


def _count(cuts: dict[Sample, int]) -> dict[str, int]:
    return {
        "requests": len(cuts),
        "truncated": sum(dropped > 0 for dropped in cuts.values()),
        "tokens_dropped": sum(cuts.values()),
        "most_dropped": max(cuts.values()),
    }
