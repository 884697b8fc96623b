"""What a set of RULER samples is made of: tasks, lengths and the options, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lm_eval_llada.errors import require_whole, unknown_choice
from lm_eval_llada.tasks.dataset import SampleOptions
from lm_eval_llada.tasks.prompts import RulerTemplate, ruler_template
from lm_eval_llada.tasks.ruler.scores import GROUPS

RULER_TASKS: tuple[str, ...] = tuple(task for group in GROUPS.values() for task in group)
"""The 13 tasks."""

FILELESS_TASKS: tuple[str, ...] = (
    *("niah_single_1", "niah_multikey_2", "niah_multikey_3"),
    *("vt", "cwe", "fwe"),
)
"""Those of the original's tasks that are made without any corpus."""


SYNTHETIC_QUESTIONS = "qa_synthetic"
"""qa without a corpus, which the original has not."""


def kind_of(task: str) -> str:
    """Return what kind a task is: niah, vt, cwe, fwe or qa.

    Raises:
        ValueError: If the task is unknown; the message names the nearest.
    """
    known = (*RULER_TASKS, SYNTHETIC_QUESTIONS)
    if task not in known:
        raise unknown_choice("RULER task", task, known)
    return task.partition("_")[0]


@dataclass(frozen=True, kw_only=True)
class RulerOptions(SampleOptions):
    """What a set of samples is made of. A ``data_dir`` is one with ``ruler/`` and ``needlebench/``.

    Attributes:
        task: One of ``RULER_TASKS``, or ``SYNTHETIC_QUESTIONS``.
        length: Tokens of prompt, answer prefix and output together, in ``length_unit``.
        gen_length: Tokens reserved for the output.
        num_samples: How many samples.
        seed: Seed of everything random.
        answer_newlines: How many newlines follow the answer prefix.
        settings: Numbers of the task's configuration that are to differ from the original's.
        template: Wording in place of the original's; see ``prompts.RulerTemplate`` for the fields.
        answer_prefix: The same for the answer's beginning, with its own white space in front.
    """

    task: str
    length: int
    gen_length: int
    num_samples: int = 100
    seed: int = 2025
    answer_newlines: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    template: str | None = None
    answer_prefix: str | None = None

    def __post_init__(self) -> None:
        """Refuse values of a wrong kind or out of range.

        Raises:
            ValueError: Naming the option, what it may be, and what it was.
        """
        kind_of(self.task)
        super().__post_init__()
        for name in ("length", "gen_length", "num_samples"):
            require_whole(name, getattr(self, name), 1)
        for name in ("seed", "answer_newlines"):
            require_whole(name, getattr(self, name), 0)
        if not isinstance(self.settings, Mapping):
            raise ValueError(f"settings must be names with values; got {self.settings!r}.")
        if self.gen_length >= self.length:
            raise ValueError(
                f"length={self.length} must be more than the output's {self.gen_length} tokens, "
                "which are a part of it."
            )
        if self.answer_newlines and self.apply_chat_template:
            raise ValueError(
                f"answer_newlines={self.answer_newlines} is for prompts without a chat format: "
                "templates drop white space at the end of an opened answer. Leave out one of the "
                "two."
            )

    @property
    def kind(self) -> str:
        """Return the kind of task, as in ``kind_of``."""
        return kind_of(self.task)

    @property
    def wording(self) -> RulerTemplate | None:
        """Return the wording where it is not the original's, else None.

        Raises:
            ValueError: If a field of it is unknown or missing.
        """
        if self.template is None and self.answer_prefix is None:
            return None
        original = ruler_template(self.kind)
        return replace(
            original,
            template=original.template if self.template is None else self.template,
            answer_prefix=(
                original.answer_prefix if self.answer_prefix is None else self.answer_prefix
            ),
        )
