"""What a run is filled in with, and what stays as it was given."""

from __future__ import annotations

import pytest
import yaml

from lm_eval_llada.checkpoints.names import DEFAULT_CHECKPOINT
from lm_eval_llada.cli import run as cli_run
from tests.helpers.command_line import parsed


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of checkpoints need not exist."""
    monkeypatch.setattr(cli_run, "_checked_rope", lambda model_args: None)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("model", [None, "mdlm"])
def test_defaults_fill_what_is_not_given(tmp_path, model) -> None:
    namespace = parsed("--tasks", "niah_tiny", *(("--model", model) if model else ()))
    cli_run.fill_in(namespace, tmp_path)
    assert namespace.model == (model or "llada")
    assert namespace.model_args == {"pretrained": DEFAULT_CHECKPOINT}
    assert (namespace.batch_size, namespace.device) == ("auto", "auto")
    assert namespace.include_path == [str(tmp_path / "shipped")]


@pytest.fixture
def mine(tmp_path, monkeypatch) -> str:
    """A folder of the user's tasks, named as seen from where a run starts."""
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    return "mine"


@pytest.mark.usefixtures("unchecked")
def test_what_is_given_stays(tmp_path, mine) -> None:
    namespace = parsed(
        *("--tasks", "niah_tiny", "--model_args", "pretrained=x,steps=4", "--batch_size", "2"),
        *("--device", "cpu", "--include_path", mine, "--gen_kwargs", "gen_length=4"),
    )
    cli_run.fill_in(namespace, tmp_path)
    assert namespace.model_args == {"pretrained": "x", "steps": 4}
    assert (namespace.batch_size, namespace.device) == ("2", "cpu")
    assert namespace.include_path == [str(tmp_path / "shipped"), mine]
    assert namespace.metadata == {"gen_kwargs": {"gen_length": 4}}


@pytest.mark.usefixtures("unchecked")
def test_a_config_file_counts_as_given(tmp_path, mine) -> None:
    config = {"model_args": {"pretrained": "x"}, "tasks": ["niah_tiny"], "batch_size": 4}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**config, "include_path": mine}))
    namespace = parsed("--config", str(tmp_path / "run.yaml"), "--device", "cpu")
    cli_run.fill_in(namespace, tmp_path)
    assert namespace.model_args == {"pretrained": "x"}
    assert (namespace.batch_size, namespace.device) == (4, "cpu")
    assert namespace.include_path[-1] == mine


def test_other_models_keep_their_own_defaults(tmp_path) -> None:
    namespace = parsed("--model", "hf", "--tasks", "niah_tiny", "--model_args", "pretrained=gpt2")
    cli_run.fill_in(namespace, tmp_path)
    assert namespace.model_args == {"pretrained": "gpt2"}
    assert not hasattr(namespace, "batch_size")
