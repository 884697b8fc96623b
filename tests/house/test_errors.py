"""Messages about wrong arguments."""

from __future__ import annotations

import math

import pytest

from lm_eval_llada.errors import (
    nearest,
    require_number,
    require_whole,
    unknown_choice,
)

CHOICES = ("low_confidence", "random")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("random", "random"),
        ("Low-Confidence", "low_confidence"),
        ("lowconfidence", "low_confidence"),
        ("randm", "random"),
        ("entropy", None),
        ("", None),
    ],
)
def test_nearest_finds_spellings_and_nothing_far(name, expected):
    assert nearest(name, CHOICES) == expected


def test_an_unknown_choice_names_the_value_the_choices_and_the_nearest():
    error = unknown_choice("remasking", "randm", iter(CHOICES))
    assert isinstance(error, ValueError)
    assert str(error) == (
        "remasking must be one of low_confidence, random; got 'randm'. Did you mean 'random'?"
    )


@pytest.mark.parametrize("value", ["entropy", 3, None])
def test_an_unknown_choice_without_a_near_one_suggests_nothing(value):
    message = str(unknown_choice("remasking", value, CHOICES))
    assert message == f"remasking must be one of low_confidence, random; got {value!r}."


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None, math.inf])
def test_what_is_not_a_whole_number_of_the_minimum_is_refused(value):
    with pytest.raises(ValueError, match="steps must be a whole number >= 1; got"):
        require_whole("steps", value, 1)
    require_whole("steps", 1, 1)


@pytest.mark.parametrize("value", [0, -1e-9, math.nan, math.inf, True, "1", None, 1j, 10**309])
def test_what_is_not_a_finite_number_above_the_bound_is_refused(value):
    with pytest.raises(ValueError, match="cfg_scale must be a number > 0; got"):
        require_number("cfg_scale", value, 0)
    require_number("cfg_scale", 1e-9, 0)


def test_an_inclusive_bound_is_allowed():
    require_number("cfg_scale", 0, 0, inclusive=True)
    with pytest.raises(ValueError, match="cfg_scale must be a number >= 0; got -1"):
        require_number("cfg_scale", -1, 0, inclusive=True)
