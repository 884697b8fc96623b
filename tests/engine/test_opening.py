"""A checkpoint is opened once a run, whoever asks for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from lm_eval_llada.engine import loading as engine_loading
from lm_eval_llada.engine.arguments import parse_model_args
from lm_eval_llada.engine.loading import load_weights, open_checkpoint
from lm_eval_llada.modeling import configuration, loading, weight_files
from tests.helpers.command_line import call


@pytest.fixture
def counts(monkeypatch) -> Counter[str]:
    """How often config, weight headers and rotation are looked at from here on."""
    found: Counter[str] = Counter()

    def count(name: str, *modules: Any) -> None:
        real: Callable[..., Any] = getattr(modules[0], name)

        def counted(*args: Any, **keywords: Any) -> Any:
            found[name] += 1
            return real(*args, **keywords)

        for module in modules:
            monkeypatch.setattr(module, name, counted)

    count("_read_config", loading)
    count("check_weights", loading, engine_loading)
    count("_read_header", weight_files)
    count("resolve", configuration)
    return found


ONCE = {"_read_config": 1, "check_weights": 1, "_read_header": 1, "resolve": 1}


def test_a_run_of_the_command_line_opens_its_checkpoint_once(
    monkeypatch, tmp_path, capsys, counts
) -> None:
    arguments = ["--tasks", "niah_tiny", "--limit", "1", "--output_path", str(tmp_path)]
    assert call(monkeypatch, *arguments) == 0
    assert "niah_tiny" in capsys.readouterr().out
    assert counts == ONCE


def test_a_model_made_without_the_command_line_opens_it_once_too(make, counts) -> None:
    make(rope_scale=2.0).runner  # noqa: B018
    assert counts == ONCE


def test_what_is_kept_is_taken_over_once_and_by_the_same_checkpoint_only(
    random_checkpoint, counts
) -> None:
    given = {"pretrained": str(random_checkpoint), "device": "cpu"}
    kept = open_checkpoint(parse_model_args(given), keep=True)
    taken = open_checkpoint(parse_model_args({**given, "batch_size": "3", "mc_num": "5"}))
    assert counts == ONCE
    assert taken.config is kept.config
    assert taken.arguments.likelihood.mc_num == 5 != kept.arguments.likelihood.mc_num
    assert open_checkpoint(parse_model_args(given)).config is not kept.config
    open_checkpoint(parse_model_args(given), keep=True)
    other = open_checkpoint(parse_model_args({**given, "rope_scale": "2"}))
    assert other.rope.rope_scale == 2


def test_weights_are_read_under_the_config_that_was_opened(random_checkpoint) -> None:
    import torch

    arguments = parse_model_args({"pretrained": str(random_checkpoint), "rope_scale": "4"})
    checkpoint = open_checkpoint(arguments)
    before = checkpoint.config.to_dict()
    model = load_weights(checkpoint, torch.device("cpu"))
    assert model.config.rope_theta == checkpoint.config.rope_theta == 4e4
    assert checkpoint.config.to_dict() == before
