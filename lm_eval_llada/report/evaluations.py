"""Evaluations: what one model under one setting scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from lm_eval_llada.report.files import ResultFile, Skipped
from lm_eval_llada.report.frontier import RopeFacts, rope_facts
from lm_eval_llada.report.samples import Sample


@dataclass(frozen=True)
class TaskResult:
    """What one task of one run came to.

    Attributes:
        name: Name of the task.
        metrics: Values by the name of the metric, followed by ``,filter`` unless that is none.
        errors: Standard errors under the same names, where lm-eval gives one.
        samples: Number of samples scored; None where it is not known.
        planned: Number of samples of the whole task; None where it is not known.
        metadata: Of the task file.
        gaps: What stands in place of a number, such as ``infinite``, by the name of the metric.
    """

    name: str
    metrics: Mapping[str, float]
    errors: Mapping[str, float]
    samples: int | None
    planned: int | None
    metadata: Mapping[str, Any]
    gaps: Mapping[str, str] = field(default_factory=dict)

    @property
    def score(self) -> float | None:
        """The score, 0-100, of a task of this package; None for other tasks."""
        return self.metrics.get("score")

    @property
    def stderr(self) -> float | None:
        """Standard error of the score, clustered by needle where the task has that."""
        clustered = self.metrics.get("score_clustered_se")
        return self.errors.get("score") if clustered is None else clustered

    @property
    def length(self) -> int | None:
        """Context length in tokens, for LongBench that of the prompt; None where it is not said."""
        length = self.metadata.get("length", self.metadata.get("prompt_length"))
        is_whole = isinstance(length, int) and not isinstance(length, bool)
        return length if is_whole and length >= 1 else None

    @property
    def is_whole(self) -> bool:
        """Whether every sample of the task was scored, as far as is known."""
        return self.extent == "complete"

    @property
    def extent(self) -> str:
        """How much of the task was scored: ``complete``, ``partial`` or ``size unknown``."""
        if self.planned is None or self.samples is None:
            return "size unknown"
        return "complete" if self.samples >= self.planned else "partial"


@dataclass(frozen=True)
class Evaluation:
    """One model under one setting.

    Attributes:
        label: How tables and pictures call it; no two evaluations of a report share one.
        model: Base name of the checkpoint.
        kind: ``diffusion``, ``causal`` or ``other``.
        config: Of the newest file: what lm-eval and the model wrote about the run.
        tasks: What was measured, by name of the task.
        files: The files all of it comes from, oldest first.
        samples: Samples by name of the task, where they were logged.
    """

    label: str
    model: str
    kind: str
    config: Mapping[str, Any]
    tasks: Mapping[str, TaskResult]
    files: tuple[ResultFile, ...]
    samples: Mapping[str, tuple[Sample, ...]] = field(default_factory=dict)

    @property
    def rope(self) -> RopeFacts | None:
        """What a frontier is predicted from; None where there is no prediction."""
        return rope_facts(self.config)

    @property
    def rope_scale(self) -> float | None:
        """λ, 1 for methods that leave the base; None where the run does not say."""
        rope = self.config.get("rope")
        return float(rope["rope_scale"]) if rope else None


@dataclass(frozen=True)
class Reading:
    """All evaluations of some files.

    Attributes:
        evaluations: Diffusion first, then causal; by model and λ.
        skipped: Files left out, whole or in part.
        notes: Lines about choices made between files.
    """

    evaluations: tuple[Evaluation, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()


def model_arguments(config: Mapping[str, Any]) -> dict[str, str]:
    """The model arguments of a run as texts by name; those that are None are left out.

    Args:
        config: The ``config`` entry of lm-eval's results, which has them as a mapping or as
            ``name=value,name=value``.
    """
    arguments = config.get("model_args") or {}
    if isinstance(arguments, str):
        pairs = (item.partition("=") for item in arguments.split(","))
        arguments = {key.strip(): value.strip() for key, _, value in pairs}
    return {str(name): str(value) for name, value in arguments.items() if value is not None}


# Where lm-eval's models have their name, the base model before what is put on it.
_NAMES = ("pretrained", "model", "model_name", "path", "engine")


def model_name(config: Mapping[str, Any]) -> str:
    """The model of a run: the last part of its path or hub id, an API's model by its own name.

    Args:
        config: The ``config`` entry of lm-eval's results.
    """
    arguments = model_arguments(config)
    name = next((arguments[key] for key in _NAMES if arguments.get(key)), None)
    name = str(config.get("model")) if name is None else name
    # A path such as "." has no last part.
    return PurePath(name).name or name
