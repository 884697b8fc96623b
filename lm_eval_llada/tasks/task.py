"""The class of our tasks: what makes their samples knows how the task generates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask

from lm_eval_llada.tasks.harness_texts import noted_changes
from lm_eval_llada.tasks.statistics import clustered_stderr_of_pairs

_CLUSTERED = "_clustered_se"
# The harness writes the error of a metric under its name with this behind it, and prints that one
# beside the metric; an entry that comes later takes the place of its own.
_ERROR = "_stderr"
_NOT_DEFINED = "N/A"


class SampledTask(ConfigurableTask):
    """A task from a YAML file whose samples are made to leave room for its own output.

    The harness calls `custom_dataset` with a task's `metadata` alone; this class adds the
    `generation_kwargs`. Where prompt texts of the installed harness are not those whose scores
    are known, `metadata` gets their `prompt_digest`, and so do the results, which hold the config.

    Where samples depend on each other, which a metric named `<metric>_clustered_se` tells, the
    standard errors of all means are clustered in the same way: in the results, in the table that a
    run prints, and in a group's error, whichever command runs the task. The harness' own would take
    the samples as independent, and come out up to 4.5 times too small for needles.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        """Make the samples.

        Args:
            config: The task file's content. Its key `class`, which names this class, is no setting.

        Raises:
            ValueError: If the file is wrong, or as its `custom_dataset` does.
            FileNotFoundError: As its `custom_dataset` does.
            ImportError: As its `custom_dataset` does.
        """
        super().__init__(config={k: v for k, v in config.items() if k != "class"})

    def process_results(self, doc: Mapping[str, Any], results: Any) -> dict[str, Any]:
        """Return the metrics of a sample, with a (value, cluster) pair behind each mean.

        Args:
            doc: The sample.
            results: What the model answered.
        """
        values: dict[str, Any] = super().process_results(doc, results)
        clusters = [pair[1] for name, pair in values.items() if name.endswith(_CLUSTERED)]
        if not clusters:
            return values
        means = [n for n, aggregate in super().aggregation().items() if aggregate is mean]
        pairs = {name + _ERROR: (values[name], clusters[0]) for name in means if name in values}
        return {**values, **pairs}

    def aggregation(self) -> dict[str, Callable[..., Any]]:
        """Return what makes one value of those of all samples, by metric."""
        known: dict[str, Callable[..., Any]] = super().aggregation()
        if not any(name.endswith(_CLUSTERED) for name in known):
            return known
        means = [name for name, aggregate in known.items() if aggregate is mean]
        return {**known, **{name + _ERROR: _clustered_error for name in means}}

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Make the samples; the name is the harness', which calls this once.

        Args:
            dataset_kwargs: As in the task file, beside `metadata`.
            **kwargs: Not used.

        Raises:
            ValueError: If the file names no function that makes samples.
        """
        make = self.config.custom_dataset
        if make is None:
            raise ValueError(
                f"{self.config.task} has no custom_dataset; include a template such as _niah.yaml."
            )
        given = {"generation_kwargs": self.config.generation_kwargs, **(self.config.metadata or {})}
        with noted_changes() as changed:
            self.dataset = make(**given, **(dataset_kwargs or {}))
        if changed:
            self.config.metadata = {**(self.config.metadata or {}), "prompt_digest": dict(changed)}


def _clustered_error(pairs: Any) -> float | str:
    stderr = clustered_stderr_of_pairs(pairs)
    return _NOT_DEFINED if stderr is None else stderr
