"""Filling a RULER sample to its budget: the largest number of units that fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lm_eval_llada.tasks.ruler.draft import Draft, Maker

# On real text interpolation is done in fewer steps. Where it is not, every other step from here on
# halves the bracket, which bounds their number for any tokenizer.
_TRUSTED_STEPS = 8

# A text that is measured for its tokens per unit has this many characters per token of the budget,
# or up to twice as many: an eighth to a quarter of the budget in English.
_PROBE_CHARACTERS = 0.5

# Units per token of the budget beyond which the tokenizer, not the sample, must be at fault.
_MOST_UNITS_PER_TOKEN = 64


@dataclass(frozen=True)
class Fitted:
    """A sample that fills its budget.

    Attributes:
        draft: The sample.
        num_units: Units that it is made of.
        num_tokens: Tokens of its whole text, at most the budget.
    """

    draft: Draft
    num_units: int
    num_tokens: int


def fit(maker: Maker, budget: int, count: Callable[[str], int]) -> Fitted:
    """Make the largest sample that has at most ``budget`` tokens.

    Every sample that is tried is encoded as a whole, so the number of tokens is exact. Which one to
    try next is interpolated between the largest that fits and the smallest that does not. At 32K
    this encodes the length of the budget about five times for essays, two or three times for lines.

    The result fits and has either one unit less than a sample that does not, or ``maker.most``
    units. Tokens therefore need not grow with every unit; where they shrink again, this is one
    of several such results, always the same one.

    Differs from RULER, which searches once for a whole task and takes back 25 lines or 500 words
    from a sample that turns out too long.

    Args:
        maker: Makes the sample at any number of units.
        budget: Most tokens that prompt and answer prefix may have together.
        count: Tokens of a text.

    Returns:
        The sample, its units and its tokens.

    Raises:
        ValueError: If the shortest sample is over the budget; the message names its tokens. Also if
            the tokens hardly grow with the units, so that no end is in sight.
    """

    def measure(num_units: int) -> Fitted:
        draft = maker.draft(num_units)
        return Fitted(draft, num_units, count(draft.text))

    low = measure(maker.fewest)
    if low.num_tokens > budget:
        raise ValueError(
            f"The shortest sample, of {_amount(maker, low.num_units)}, takes {low.num_tokens} "
            f"tokens, but the budget is {budget}; use a length that is greater by at least "
            f"{low.num_tokens - budget}."
        )
    below: Fitted | None = None
    high: Fitted | None = None
    steps = 0
    while low.num_units != maker.most and (high is None or high.num_units - low.num_units > 1):
        if high is None:
            num_units = _beyond(maker, below, low, budget, steps)
        else:
            num_units = _between(low, high, budget, steps)
        found = measure(num_units)
        if found.num_tokens <= budget:
            below, low = low, found
        else:
            high = found
        steps += 1
    return low


def _beyond(maker: Maker, below: Fitted | None, low: Fitted, budget: int, steps: int) -> int:
    """Return a number of units above ``low``, which fits, where the budget should be used up."""
    if below is None:
        return _probe(maker, low, budget)
    if maker.most is None and low.num_units > _MOST_UNITS_PER_TOKEN * budget:
        raise ValueError(
            f"{_amount(maker, low.num_units)} take only {low.num_tokens} tokens, so no number of "
            f"them fills a budget of {budget}; the tokenizer does not seem to count this text."
        )
    # The last two that fit tell the tokens of a unit near the end, where more are to be added.
    num_units, gained = low.num_units - below.num_units, low.num_tokens - below.num_tokens
    step = 2 * num_units
    if gained > 0 and steps < _TRUSTED_STEPS:
        step = (budget - low.num_tokens) * num_units // gained
    return _bounded(maker, low.num_units + max(step, 1))


def _between(low: Fitted, high: Fitted, budget: int, steps: int) -> int:
    """Return a number of units strictly between one that fits and one that does not."""
    width = high.num_units - low.num_units
    if steps >= _TRUSTED_STEPS and steps % 2:
        return low.num_units + width // 2
    # Rounded down: at the end this tries the units next to the bound that is nearer to the budget.
    step = (budget - low.num_tokens) * width // (high.num_tokens - low.num_tokens)
    return low.num_units + min(max(step, 1), width - 1)


def _probe(maker: Maker, first: Fitted, budget: int) -> int:
    """Return a number of units whose text is cheap to encode and long enough to learn from."""
    wanted = len(first.draft.text) + _PROBE_CHARACTERS * budget
    step = 1
    num_units = _bounded(maker, first.num_units + step)
    while num_units != maker.most and len(maker.draft(num_units).text) < wanted:
        # The limit is for makers whose text never grows; counting tells what is wrong with it.
        if step > _MOST_UNITS_PER_TOKEN * budget:
            break
        step *= 2
        num_units = _bounded(maker, first.num_units + step)
    return num_units


def _bounded(maker: Maker, num_units: int) -> int:
    return num_units if maker.most is None else min(num_units, maker.most)


def _amount(maker: Maker, num_units: int) -> str:
    return f"{num_units} {maker.unit}{'' if num_units == 1 else 's'}"
