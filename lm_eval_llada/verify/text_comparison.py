"""Texts of two engines side by side: how many are equal, where they part, what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from lm_eval_llada.tasks.statistics import clustered_interval


@dataclass(frozen=True)
class TextPair:
    """One sample's texts.

    Attributes:
        task: Its task.
        doc_id: Its number there.
        ours: Text of the exact mode.
        theirs: Text of the other engine.
        score_ours: Score of ours, on the task's own scale; None where it has none.
        score_theirs: Score of theirs.
        cluster: Samples of one cluster depend on each other, such as those of one needle.
        place: First token in which the two differ; None where they are equal.
        tokens: What the two have there, empty at an end.
    """

    task: str
    doc_id: int
    ours: str
    theirs: str
    score_ours: float | None
    score_theirs: float | None
    cluster: Hashable
    place: int | None = None
    tokens: tuple[str, str] = ("", "")


def first_difference(
    ours: str, theirs: str, encode: Callable[[str], Sequence[int]], decode: Callable[[int], str]
) -> tuple[int | None, tuple[str, str]]:
    """Return the first token in which two texts differ, from 0, and what each has there.

    Args:
        ours: A text.
        theirs: Another one.
        encode: Tokens of a text.
        decode: Text of a token.

    Returns:
        None and empty texts where they are equal. Texts that differ in nothing but how they end
        differ at the token behind the shorter one's last.
    """
    if ours == theirs:
        return None, ("", "")
    one, other = encode(ours), encode(theirs)
    pairs = zip(one, other, strict=False)
    shorter = min(len(one), len(other))
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), shorter)
    shown = [decode(ids[place]) if place < len(ids) else "" for ids in (one, other)]
    return place, (shown[0], shown[1])


@dataclass(frozen=True)
class TaskComparison:
    """All samples of a task.

    Attributes:
        task: Its name.
        pairs: Its samples, in order.
    """

    task: str
    pairs: tuple[TextPair, ...]

    @property
    def num_equal(self) -> int:
        """Samples with equal texts."""
        return sum(pair.place is None for pair in self.pairs)

    @property
    def first(self) -> TextPair | None:
        """The sample whose texts part earliest; None where all are equal."""
        parted = [pair for pair in self.pairs if pair.place is not None]
        return min(parted, key=lambda pair: (pair.place or 0, pair.doc_id), default=None)

    def lines(self) -> list[str]:
        """What to say of it: equal texts, scores with the interval of their difference."""
        total = len(self.pairs)
        text = f"{self.task}: {self.num_equal} of {total} texts are equal"
        lines = [f"{text} ({100 * self.num_equal / total:.1f} %)"]
        if (first := self.first) is not None:
            lines.append(
                f"  they part first in sample {first.doc_id} at token {first.place}: ours "
                f"{first.tokens[0]!r}, theirs {first.tokens[1]!r}"
            )
            places = sorted(pair.place for pair in self.pairs if pair.place is not None)
            lines.append(
                f"  median place of the first difference: token {places[len(places) // 2]}"
            )
            spaced = sum(
                pair.place is not None and pair.ours.strip() == pair.theirs.strip()
                for pair in self.pairs
            )
            if spaced:
                lines.append(f"  {spaced} differ in white space at their ends alone")
        return [*lines, *self._score_lines()]

    def _score_lines(self) -> list[str]:
        scored = [
            (pair.score_ours, pair.score_theirs, pair.cluster)
            for pair in self.pairs
            if pair.score_ours is not None and pair.score_theirs is not None
        ]
        if not scored:
            return []
        ours = math.fsum(one for one, _, _ in scored) / len(scored)
        theirs = math.fsum(other for _, other, _ in scored) / len(scored)
        line = f"  score: ours {ours:.2f}, theirs {theirs:.2f}, difference {theirs - ours:+.2f}"
        clusters = [cluster for _, _, cluster in scored]
        if len(set(clusters)) < 2:
            return [f"{line} (no interval from a single sample or needle)"]
        differences = [other - one for one, other, _ in scored]
        low, high = clustered_interval(differences, clusters)
        return [f"{line}, 95 % interval {low:+.2f} to {high:+.2f}"]
