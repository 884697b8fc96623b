"""A generated sample: statements among filler, and what is asked about them, at any length."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from lm_eval_llada.tasks.ruler.draft import Draft


@dataclass(frozen=True)
class Puzzle:
    """All of a sample but how much filler it has.

    Attributes:
        statements: What the answer follows from, in the order in which it is stated.
        filler: Makes the unit of a number; others than the statements, whatever the number.
        opening: What comes before the context.
        question: What comes behind it.
        answer_prefix: The answer's beginning, with its own white space in front.
        references: What a right answer holds.
        unit: What the filler is made of, in the singular.
        joint: What stands between units.
    """

    statements: tuple[str, ...]
    filler: Callable[[int], str]
    opening: str
    question: str
    answer_prefix: str
    references: tuple[str, ...]
    unit: str = "line"
    joint: str = "\n"


class PuzzleMaker:
    """Makes a puzzle at any number of units of filler, as `ruler.fitting.fit` asks for it.

    The statements keep their shares of the context, whatever its length, and their order.

    Attributes:
        unit: Of the filler.
        fewest: None are needed.
        most: None, as filler has no end.
    """

    fewest = 0
    most: int | None = None

    def __init__(self, puzzle: Puzzle, seed: str) -> None:
        """Draw where the statements go.

        Args:
            puzzle: What is asked.
            seed: Names the sample.
        """
        rng = random.Random(f"{seed}/places")
        self.puzzle = puzzle
        self.unit = puzzle.unit
        self._shares = sorted(rng.random() for _ in puzzle.statements)

    def draft(self, num_units: int) -> Draft:
        """Make the sample with so many units of filler."""
        puzzle, units = self.puzzle, [self.puzzle.filler(i) for i in range(num_units)]
        places = [int(share * (num_units + 1)) for share in self._shares]
        for done, (place, statement) in enumerate(zip(places, puzzle.statements, strict=True)):
            units.insert(place + done, statement)
        context = puzzle.joint.join(units)
        return Draft(
            prompt=f"{puzzle.opening}\n\n{context}\n\n{puzzle.question}",
            answer_prefix=puzzle.answer_prefix,
            references=puzzle.references,
            details={"depths": [round(100 * share, 1) for share in self._shares]},
        )
