"""Where along a text the chunks of a curve lie."""

from __future__ import annotations


def spread(first: int, last: int, count: int, spacing: str) -> list[int]:
    """Exactly `count` ascending whole numbers from first to last; one alone is the last."""
    if count == 1:
        return [last]
    places: list[int] = []
    for i in range(count):
        share = i / (count - 1)
        if spacing == "even":
            wanted = first + (last - first) * share
        else:
            wanted = first * (last / first) ** share
        least = places[-1] + 1 if places else first
        # Where the short end is crowded, numbers give way upwards, and leave room for the rest.
        places.append(min(max(round(wanted), least), last - (count - 1 - i)))
    return places
