"""Scores of needle tasks, one cell for each length and depth.

Lengths are tokens, depths are per cent of the context above the needle, scores are 0-100.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lm_eval_llada.report.frontier import RopeFacts

_DEPTH_KEY = re.compile(r"depth_(\d{3})")


@dataclass(frozen=True)
class Cell:
    """Score of one length at one depth.

    Attributes:
        length: Context length in tokens, prompt and output together.
        depth: Position of the needle in per cent; 0 is the start of the context.
        score: Mean over the samples, 0-100.
    """

    length: int
    depth: int
    score: float

    def __post_init__(self) -> None:
        """Reject what no needle task can produce.

        Raises:
            ValueError: If a value is out of range.
        """
        if self.length < 1 or not 0 <= self.depth <= 100 or not 0 <= self.score <= 100:
            raise ValueError(
                "A cell needs a length >= 1 and a depth and score in 0-100; got "
                f"length={self.length}, depth={self.depth}, score={self.score}."
            )


@dataclass(frozen=True)
class NeedleScores:
    """Needles of one evaluation: tasks that differ in their length alone.

    Attributes:
        label: How tables and pictures call it.
        cells: One for each length and depth, in ascending order.
        samples: Number of samples behind a whole length, by length; lengths where that is not
            known are left out.
        rope: What the frontier is predicted from; None where no prediction is made.
        planned: Number of samples that a whole length has, by length; lengths where that is not
            known are left out.
        planned_depths: Depths that were to be measured at each length; those measured if empty.
    """

    label: str
    cells: tuple[Cell, ...]
    samples: Mapping[int, int]
    rope: RopeFacts | None = None
    planned: Mapping[int, int] = field(default_factory=dict)
    planned_depths: tuple[int, ...] = ()

    @property
    def lengths(self) -> list[int]:
        """Context lengths in tokens, ascending."""
        return sorted({cell.length for cell in self.cells})

    @property
    def depths(self) -> list[int]:
        """Depths in per cent that were measured or planned, ascending."""
        return sorted({*self.planned_depths, *(cell.depth for cell in self.cells)})

    @property
    def missing(self) -> str | None:
        """What an unfinished run lacks, for captions; None where nothing is known to be missing."""
        cells = len(self.lengths) * len(self.depths)
        parts = []
        if len(self.cells) < cells:
            parts.append(f"{len(self.cells)} of {cells} cells")
        known = self.planned.keys() & self.samples.keys()
        measured = sum(self.samples[n] for n in known)
        if any(self.samples[n] < self.planned[n] for n in known):
            parts.append(f"{measured} of {sum(self.planned[n] for n in known)} samples")
        return f"partial: {', '.join(parts)}" if parts else None

    def score(self, length: int, depth: int) -> float | None:
        """Score of one cell, 0-100, or None where nothing was measured."""
        return next((c.score for c in self.cells if (c.length, c.depth) == (length, depth)), None)

    def mean(self, length: int, low: float = 0, high: float = 100) -> float:
        """Mean score, 0-100, over the depths of one length that lie in [low, high] per cent.

        Raises:
            ValueError: If nothing was measured there.
        """
        scores = [c.score for c in self.cells if c.length == length and low <= c.depth <= high]
        if not scores:
            raise ValueError(f"No score of {self.label} at length {length}, depths {low}-{high} %.")
        return math.fsum(scores) / len(scores)

    def predicted_mean(self, length: int) -> float | None:
        """Mean score, 0-100, if exactly the depths from the frontier on were retrieved.

        None where no frontier is predicted.
        """
        if self.rope is None:
            return None
        frontier = self.rope.frontier(length)
        depths = [cell.depth for cell in self.cells if cell.length == length]
        return 100 * sum(depth >= frontier for depth in depths) / len(depths)


def needle_cells(length: int, metrics: Mapping[str, Any]) -> list[Cell]:
    """The cells of one task, a score for each depth that has one.

    Args:
        length: Context length in tokens.
        metrics: Values by keys such as ``depth_070``; other keys are passed over.
    """
    matches = ((_DEPTH_KEY.fullmatch(key), value) for key, value in metrics.items())
    return [Cell(length, int(match[1]), float(value)) for match, value in matches if match]
