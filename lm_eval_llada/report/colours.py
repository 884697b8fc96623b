"""Colours of scores on a page: cividis, as in the pictures, without a library for pictures."""

from __future__ import annotations

# Cividis at 0, 10 ... 100: monotone in lightness, alike under the common colour deficiencies.
_STOPS = (
    *("#00224e", "#083370", "#35456c", "#4f576c", "#666970", "#7d7c78"),
    *("#948e77", "#aea371", "#c8b866", "#e5cf52", "#fee838"),
)
_BRIGHT = 47.0  # scores from here on stand out better under black than under white


def score_colours(score: float) -> tuple[str, str]:
    """Background and text of a score, as ``#rrggbb``.

    Args:
        score: 0-100; beyond them it counts as the nearest.
    """
    place = min(max(score, 0.0), 100.0) / 10
    low = min(int(place), len(_STOPS) - 2)
    share = place - low
    mixed = (
        round(a + share * (b - a))
        for a, b in zip(_parts(_STOPS[low]), _parts(_STOPS[low + 1]), strict=True)
    )
    return "#" + "".join(f"{part:02x}" for part in mixed), "#000" if score >= _BRIGHT else "#fff"


def scale_gradient() -> str:
    """All colours from 0 to 100 as a CSS gradient."""
    return f"linear-gradient(90deg, {', '.join(_STOPS)})"


def _parts(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
