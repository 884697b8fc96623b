"""Made rows of NeedleBench's needles."""

from __future__ import annotations


def needle_row(place: str, band: str) -> dict[str, str]:
    return {
        "needle": f"The band on {place} is the {band}.",
        "retrieval_question": f"Which band is on {place}? Please answer in the format 'The band on "
        f"the {place} is________.'",
        "gold_standard_answer": f"The band on {place} is {band}.",
        "arg1": place,
        "arg2": band,
    }
