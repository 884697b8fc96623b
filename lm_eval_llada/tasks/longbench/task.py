"""LongBench's task class: in a run with a chat format, some of its datasets take none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lm_eval_llada.tasks.task import SampledTask


class LongBenchTask(SampledTask):
    """A task from a YAML file whose samples say whether their prompts take the chat format.

    The harness applies a chat format to all tasks of a run or to none.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        """Make the samples, and score one of them.

        Args:
            config: As in `SampledTask`.

        Raises:
            ValueError: If the file or the samples are wrong.
            FileNotFoundError: If the documents are neither there nor to be had from the hub.
            ImportError: If a package that the metric needs is missing.
        """
        super().__init__(config)
        # What scoring lacks is found out now rather than after everything has been generated.
        sample = self.eval_docs[0]
        self.process_results(sample, [sample["answers"][0]])

    def build_all_requests(
        self,
        *,
        apply_chat_template: bool = False,
        chat_template: Callable[..., str] | None = None,
        **options: Any,
    ) -> None:
        """Build the requests, in the run's chat format if the dataset takes one.

        Args:
            apply_chat_template: Whether the run has a chat format.
            chat_template: Writes messages in that format.
            **options: The harness' other ones, passed on.

        Raises:
            ValueError: If the format is to be applied to prompts that were made without room for
                it, or the other way round.
        """
        takes_chat = bool(self.eval_docs[0]["chat_template"])
        has_room = bool((self.config.metadata or {}).get("apply_chat_template"))
        if takes_chat and has_room != apply_chat_template:
            raise ValueError(
                f"The prompts of {self.config.task} were made "
                f"{'with' if has_room else 'without'} room for the chat format, and the run "
                f"{'applies' if apply_chat_template else 'does not apply'} it. lm-eval-llada sees "
                "to this by itself; with lm_eval, give both --apply_chat_template and "
                "--metadata '{\"apply_chat_template\": true}', or neither."
            )
        super().build_all_requests(
            apply_chat_template=apply_chat_template and takes_chat,
            chat_template=chat_template if takes_chat else None,
            **options,
        )
