"""The class of our tasks: what makes their samples knows how the task generates."""

from __future__ import annotations

from typing import Any

from lm_eval.api.task import ConfigurableTask

from lm_eval_llada.tasks.harness_texts import noted_changes


class SampledTask(ConfigurableTask):
    """A task from a YAML file whose samples are made to leave room for its own output.

    The harness calls `custom_dataset` with a task's `metadata` alone; this class adds the
    `generation_kwargs`. Where prompt texts of the installed harness are not those whose scores
    are known, `metadata` gets their `prompt_digest`, and so do the results, which hold the config.
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
