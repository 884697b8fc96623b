"""What a RULER sample is, and what its maker offers to be filled to a length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Draft:
    """A sample made of a certain number of units.

    Attributes:
        prompt: All that the model reads before the answer's beginning.
        answer_prefix: The answer's beginning, which follows ``prompt`` directly; with its own white
            space in front.
        references: What a right answer holds; all of them, or for QA any of them.
        details: What else is worth keeping with the sample, such as depths of needles. Plain JSON
            values, under the same names for every sample of a task.
    """

    prompt: str
    answer_prefix: str
    references: tuple[str, ...]
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The whole of what the model reads."""
        return self.prompt + self.answer_prefix


class Maker(Protocol):
    """Makes one sample at any number of units.

    ``draft`` is a function of the maker and its argument alone: the same call gives the same text,
    in whatever order calls come.
    """

    @property
    def unit(self) -> str:
        """What a sample is made of, in the singular: word, line, document."""
        ...

    @property
    def fewest(self) -> int:
        """Units of the shortest sample that can be asked about."""
        ...

    @property
    def most(self) -> int | None:
        """Units beyond which there is nothing to add; None if there is no end."""
        ...

    def draft(self, num_units: int) -> Draft:
        """Make the sample out of that many units, ``fewest`` to ``most``."""
        ...
