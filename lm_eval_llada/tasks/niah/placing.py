"""Filling a prompt to an exact length, and finding the place of a needle in it."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

# A filled prompt ends at most this many tokens short where words allow it. Half of what is promised
# (TOLERANCE), so that a prompt also fits when special tokens are counted differently.
_AIM = 4

TOLERANCE = 8
"""A sample is at most this many tokens shorter than its length."""

_SENTENCE_END = re.compile(r"[.!?][\"'\u2019\u201d)\]]*$")
# Farthest move to the start of a sentence. Well under half the 10 % between depths, so that two
# depths of a short sample do not become the same prompt.
_SNAP_SHARE = 0.03
_SNAP_TOKENS = 64
_MAX_GUESSES = 12


@dataclass(frozen=True)
class Haystack:
    """Running text in pieces, with the number of tokens before each.

    Attributes:
        pieces: Words with the white space in front of them.
        offsets: ``offsets[i]`` is the estimated number of tokens in ``pieces[:i]``; one longer
            than ``pieces``.
        breaks: Indices i, ascending, where ``pieces[i]`` begins a sentence.
    """

    pieces: list[str]
    offsets: list[int]
    breaks: list[int]

    @classmethod
    def of(cls, pieces: Sequence[str], counts: Sequence[int]) -> Haystack:
        """Build the haystack of words and their token counts."""
        breaks = [index + 1 for index, piece in enumerate(pieces) if _SENTENCE_END.search(piece)]
        return cls(list(pieces), [0, *accumulate(counts)], breaks)

    def cut(self, num_pieces: int, num_characters: int = 0) -> Haystack:
        """Return the first pieces, then that many characters of the next one."""
        pieces = self.pieces[:num_pieces]
        offsets = self.offsets[: num_pieces + 1]
        if num_characters:
            # Part of a word weighs as much as the whole: estimates may be that coarse.
            pieces.append(self.pieces[num_pieces][:num_characters])
            offsets.append(self.offsets[num_pieces + 1])
        return Haystack(pieces, offsets, self.breaks)

    def place(self, depth: float) -> int:
        """Return the piece before which a needle of this depth goes.

        That is the nearest beginning of a sentence, or of a word where no sentence begins within 64
        tokens and 3 % of the haystack. A greater depth never gives an earlier place.

        Args:
            depth: Share of the haystack's tokens before the needle, 0 to 1.
        """
        end, total = len(self.pieces), self.offsets[-1]
        if depth <= 0 or not end:
            return 0
        if depth >= 1:
            return end
        wanted = depth * total

        def distance(index: int) -> float:
            return abs(self.offsets[index] - wanted)

        after = bisect_right(self.offsets, wanted)
        word = min((after - 1, min(after, end)), key=distance)
        next_break = bisect_right(self.breaks, word)
        near = self.breaks[max(next_break - 1, 0) : next_break + 1]
        sentence = min((0, end, *(i for i in near if i <= end)), key=distance)
        snaps = distance(sentence) <= min(_SNAP_TOKENS, _SNAP_SHARE * total)
        return sentence if snaps else word

    def depth_of(self, place: int) -> float:
        """Return the share of the haystack's tokens before a place, 0 to 1."""
        return self.offsets[place] / self.offsets[-1] if self.offsets[-1] else 0.0


def insert(haystack: Haystack, statements: Sequence[tuple[float, str]]) -> str:
    """Return the haystack's text with sentences inserted, each on a line of its own.

    Args:
        haystack: The text to insert into.
        statements: Depth (0 to 1) and sentence of each. Sentences that share a place keep the order
            of their depths.
    """
    placed = sorted((haystack.place(depth), depth, text) for depth, text in statements)
    parts: list[str] = []
    start = 0
    for place, _, text in placed:
        parts += ["".join(haystack.pieces[start:place]).strip(), text]
        start = place
    parts.append("".join(haystack.pieces[start:]).strip())
    return "\n".join(part for part in parts if part)


def fill(
    haystack: Haystack, budget: int, render: Callable[[Haystack], str], count: Callable[[str], int]
) -> tuple[Haystack, str, int]:
    """Cut a haystack so that the prompt around it has just under ``budget`` tokens.

    Every candidate is rendered and encoded as a whole. Token offsets only tell which to try next,
    so one or two encodings are enough even at lengths of 128K.

    Args:
        haystack: Text that is long enough to overrun the budget.
        budget: Most tokens the prompt may have.
        render: Writes the prompt around a haystack.
        count: Tokens of a prompt.

    Returns:
        The haystack that was used, the prompt, and its number of tokens, at most ``budget`` and at
        least ``budget - TOLERANCE``.

    Raises:
        ValueError: If the prompt overruns the budget without any haystack, or the tokenizer does
            not allow any cut within the tolerance.
    """
    best = _measure(haystack, 0, 0, render, count)
    base = best[2]
    if base > budget:
        raise ValueError(
            f"A needle with its question takes {base} tokens, but only {budget} are left beside "
            "the output; use a greater length, a smaller gen_length or fewer distractors."
        )
    low, high = 0, len(haystack.pieces) + 1
    # Aimed at the middle of what is accepted: estimates err to both sides.
    guess = bisect_right(haystack.offsets, budget - _AIM // 2 - base) - 1
    for attempt in range(_MAX_GUESSES + high.bit_length()):
        if high - low <= 1 or budget - best[2] <= _AIM:
            break
        guess = min(max(guess, low + 1), high - 1)
        candidate = _measure(haystack, guess, 0, render, count)
        if candidate[2] <= budget:
            low, best = guess, candidate
        else:
            high = guess
        if attempt < _MAX_GUESSES:
            guess = _next_guess(haystack, guess, candidate[2], base, budget)
        else:
            guess = (low + high) // 2
    if budget - best[2] > _AIM and low < len(haystack.pieces):
        best = _fill_characters(haystack, low, best, budget, render, count)
    if budget - best[2] > TOLERANCE:
        raise ValueError(
            f"The tokenizer allows no cut of the haystack between {budget - TOLERANCE} and "
            f"{budget} tokens; the nearest has {best[2]}."
        )
    return best


def _measure(
    haystack: Haystack,
    num_pieces: int,
    num_characters: int,
    render: Callable[[Haystack], str],
    count: Callable[[str], int],
) -> tuple[Haystack, str, int]:
    part = haystack.cut(num_pieces, num_characters)
    text = render(part)
    return part, text, count(text)


def _next_guess(haystack: Haystack, guess: int, measured: int, base: int, budget: int) -> int:
    """Correct a guess by its error, at the ratio of real to estimated tokens seen so far."""
    estimated = haystack.offsets[guess]
    ratio = estimated / (measured - base) if measured > base else 1.0
    missing = budget - _AIM // 2 - measured
    return bisect_right(haystack.offsets, estimated + ratio * missing) - 1


def _fill_characters(
    haystack: Haystack,
    num_pieces: int,
    best: tuple[Haystack, str, int],
    budget: int,
    render: Callable[[Haystack], str],
    count: Callable[[str], int],
) -> tuple[Haystack, str, int]:
    """Add as much of the next word as fits, for words of very many tokens."""
    low, high = 0, len(haystack.pieces[num_pieces])
    while high - low > 1 and budget - best[2] > _AIM:
        middle = (low + high) // 2
        candidate = _measure(haystack, num_pieces, middle, render, count)
        if candidate[2] <= budget:
            low = middle
            best = max(best, candidate, key=lambda found: found[2])
        else:
            high = middle
    return best
