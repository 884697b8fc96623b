"""Filling a RULER sample: the most units that fit, in few encodings, for any tokenizer."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.tasks.ruler.draft import Draft
from lm_eval_llada.tasks.ruler.fitting import Fitted, fit


class Ladder:
    """A maker whose text holds its number of units, padded as if each had so many characters."""

    unit = "rung"

    def __init__(self, most: int | None, fewest: int = 0, characters: int = 0) -> None:
        self.most, self.fewest, self.characters = most, fewest, characters

    def draft(self, num_units: int) -> Draft:
        assert num_units >= self.fewest
        assert self.most is None or num_units <= self.most
        return Draft(f"{num_units} ", "." * self.characters * num_units, ("x",))


class Scale:
    """Counts tokens by a rule on the number of units, and how often it was asked."""

    def __init__(self, tokens: Callable[[int], int]) -> None:
        self.tokens, self.encodings = tokens, 0

    def __call__(self, text: str) -> int:
        self.encodings += 1
        return self.tokens(int(text.split()[0]))


def table(numbers: list[int]) -> Callable[[int], int]:
    """The numbers in their order, and behind them one token a unit."""
    return lambda n: numbers[n] if n < len(numbers) else numbers[-1] + n - len(numbers) + 1


def is_maximal(fitted: Fitted, maker: Ladder, tokens: Callable[[int], int], budget: int) -> bool:
    n = fitted.num_units
    assert fitted.num_tokens == tokens(n)
    assert fitted.draft == maker.draft(n)
    return tokens(n) <= budget and (n == maker.most or tokens(n + 1) > budget)


MOST_ENCODINGS = 2 + 8 + 2 * 11
"""For 2,000 units: the first two, eight that interpolate, then halvings every other time."""

token_tables = st.lists(st.integers(0, 60), min_size=1, max_size=200)


# A budget of 4 allows 256 units that take no token, more than any table has.
@given(steps=token_tables, budget=st.integers(4, 4000), characters=st.sampled_from([0, 1, 7, 90]))
@pytest.mark.parametrize("endless", [False, True])
def test_result_is_that_of_a_plain_search_where_tokens_grow(steps, budget, characters, endless):
    tokens = table([sum(steps[: i + 1]) for i in range(len(steps))])
    maker = Ladder(None if endless else len(steps) - 1, characters=characters)
    budget = max(budget, tokens(0))
    fitted = fit(maker, budget, Scale(tokens))
    n = 0
    while n != maker.most and tokens(n + 1) <= budget:
        n += 1
    assert fitted.num_units == n
    assert fitted.num_tokens == tokens(n)


@given(numbers=token_tables, budget=st.integers(60, 400), characters=st.sampled_from([0, 1, 7]))
@pytest.mark.parametrize("endless", [False, True])
def test_result_fits_and_one_more_does_not_whatever_tokens_do(numbers, budget, characters, endless):
    tokens = table([3 * number for number in numbers])
    maker = Ladder(None if endless else len(numbers) - 1, characters=characters)
    if tokens(0) <= budget:
        fitted = fit(maker, budget, Scale(tokens))
        assert is_maximal(fitted, maker, tokens, budget)
        assert fit(maker, budget, Scale(tokens)) == fitted


@given(seed=st.integers(0, 10**6), power=st.floats(0.1, 10))
def test_number_of_encodings_is_bounded_for_any_tokenizer(seed, power):
    rng = random.Random(seed)
    tokens = table(sorted(int(10**6 * rng.random() ** power) for _ in range(2000)))
    count = Scale(tokens)
    fit(Ladder(1999, characters=9), max(5 * 10**5, tokens(0)), count)
    assert count.encodings <= MOST_ENCODINGS


@pytest.mark.parametrize("cliff", [2, 700, 1500, 1998])
def test_search_does_not_creep_where_tokens_jump(cliff):
    count = Scale(lambda n: n if n < cliff else n + 10**12)
    assert fit(Ladder(1999, characters=9), 4000, count).num_units == cliff - 1
    assert count.encodings <= MOST_ENCODINGS


@given(
    overhead=st.integers(1, 900),
    weight=st.integers(1, 400),
    budget=st.integers(1000, 200_000),
    characters=st.integers(1, 1000),
)
def test_units_of_one_weight_take_at_most_five_encodings(overhead, weight, budget, characters):
    count = Scale(lambda n: overhead + weight * n)
    fitted = fit(Ladder(None, characters=characters), budget, count)
    assert fitted.num_units == (budget - overhead) // weight
    assert count.encodings <= 5


def test_fewest_and_most_are_kept():
    assert fit(Ladder(7, fewest=3), 100, lambda text: 5).num_units == 7
    assert fit(Ladder(3, fewest=3), 100, lambda text: 5).num_units == 3
    assert fit(Ladder(7, fewest=3), 6, Scale(lambda n: 3 + n)).num_units == 3


def test_budget_below_the_shortest_sample_is_an_error_that_names_its_tokens():
    message = r"of 3 rungs, takes 13 tokens, but the budget is 9; .* greater by at least 4"
    with pytest.raises(ValueError, match=message):
        fit(Ladder(7, fewest=3), 9, Scale(lambda n: 10 + n))


@pytest.mark.parametrize("characters", [0, 4])
def test_tokenizer_that_counts_nothing_is_an_error_not_an_endless_search(characters):
    with pytest.raises(ValueError, match="does not seem to count"):
        fit(Ladder(None, characters=characters), 50, lambda text: 2)
