"""Lengths and stops of a request, as tasks and users name them."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from lm_eval_llada.diffusion.sampler import SamplingOptions
from lm_eval_llada.engine.requests import causal_generation, generation_settings
from lm_eval_llada.engine.stops import stops_of
from lm_eval_llada.tasks.niah.single import niah_dataset
from lm_eval_llada.tasks.output_length import LENGTH_NAMES, output_length
from lm_eval_llada.tasks.ruler.samples import ruler_dataset

HARNESS_NAMES = [name for name in LENGTH_NAMES if name != "gen_length"]


@pytest.mark.parametrize("users", LENGTH_NAMES)
@pytest.mark.parametrize("tasks", LENGTH_NAMES)
def test_the_users_name_of_a_length_wins_over_the_tasks(tasks: str, users: str) -> None:
    merged: dict[str, Any] = {tasks: 32, "until": [], "do_sample": False}
    merged.update({users: 8})  # as the harness does
    assert generation_settings(merged, SamplingOptions(gen_length=64)).options.gen_length == 8
    assert causal_generation(merged, 64)["max_gen_toks"] == 8
    assert {*causal_generation(merged, 64)}.isdisjoint({*LENGTH_NAMES} - {"max_gen_toks"})


@pytest.mark.parametrize("users", HARNESS_NAMES)
def test_prompts_leave_room_for_the_users_length(users: str) -> None:
    settings = {
        "length": 512,
        "generation_kwargs": {"gen_length": 16},
        "gen_kwargs": {users: 6.4e1},
    }
    niah = niah_dataset(**settings, depths=[0], repeats=1)["test"]
    ruler = ruler_dataset(**settings, ruler_task="niah_single_1", num_samples=1)["test"]
    assert (niah["gen_length"], ruler["gen_length"]) == ([64], [64])


@pytest.mark.parametrize("value", [12.5, "many", True, 0, -1])
def test_a_wrong_length_is_refused_under_its_own_name(value: Any) -> None:
    with pytest.raises(ValueError, match="max_new_tokens must be"):
        output_length({"gen_length": 8, "max_new_tokens": value})


def test_no_length_is_none() -> None:
    assert output_length({"until": [], "max_gen_toks": None}) is None


def test_a_stop_with_a_backslash_gets_one_hint_and_stays(caplog) -> None:
    with caplog.at_level(logging.WARNING, logger="lm_eval_llada"):
        for _ in range(3):
            assert stops_of(["\\nQ:", "\n"]) == ("\\nQ:", "\n")
    assert [record.getMessage() for record in caplog.records] == [
        "until=\\nQ: holds a backslash and a letter, not a line break or a tab. Quotes inside of "
        "the shell's make one of them: --gen_kwargs 'until=\"\\nQ:\"'."
    ]


def test_requests_without_metadata_are_answered(make) -> None:
    lm = make(gen_length=4)
    text = Instance("generate_until", {}, ("The key is", {"until": []}), 0)
    pair = Instance("loglikelihood", {}, ("The key for", " rain"), 0)
    rolling = Instance("loglikelihood_rolling", {}, ("The key is",), 0)
    assert isinstance(lm.generate_until([text])[0], str)
    assert lm.loglikelihood([pair])[0][0] < 0
    assert lm.loglikelihood_rolling([rolling])[0] < 0
