"""What a protocol says about the model, as the command line fills it in."""

from __future__ import annotations

import pytest

from lm_eval_llada.cli import run as cli
from lm_eval_llada.tasks.papers.protocols import fill_protocols, protocols_of
from tests.helpers.command_line import call, check_one_sentence, parsed


@pytest.mark.parametrize(
    ("tasks", "names"),
    [
        (["longllada_niah"], ["longllada"]),
        (["niah", "ultrallada_ruler_vt_4k"], ["ultrallada"]),
        (["ultrallada_niah", "longllada_*"], ["longllada", "ultrallada"]),
        (["/x/tasks/longllada/longllada_niah_2000.yaml"], ["longllada"]),
        (["niah", "ruler_4k", "my_longllada_niah"], []),
    ],
)
def test_tasks_belong_to_the_protocol_they_are_named_after(tasks, names):
    assert [protocol.name for protocol in protocols_of(tasks)] == names


def test_arguments_of_the_protocol_are_filled_in_and_said():
    filled = fill_protocols(["longllada_niah"], {"target_length": 16384})
    assert filled.model_args == {"target_length": 16384, "dtype": "float16", "round_scale": True}
    (line,) = filled.lines
    assert "longllada: the model arguments dtype=float16, round_scale=true are filled in" in line


def test_other_tasks_of_the_run_are_named_since_they_share_the_model():
    (line,) = fill_protocols(["niah_512", "ultrallada_niah"], {}).lines
    assert "hold for niah_512 too" in line


def test_arguments_of_the_user_win_and_are_said_to_depart():
    given = {"dtype": "bfloat16", "round_scale": False, "length_unit": "model"}
    filled = fill_protocols(["longllada_niah"], given, ["steps in --gen_kwargs"])
    assert filled.model_args == given
    (line,) = filled.lines
    assert line == (
        "longllada: the results are not the protocol's, because of dtype=bfloat16 (float16 there), "
        "round_scale=false (true there), length_unit=model, steps in --gen_kwargs."
    )


def test_the_protocols_own_values_given_by_hand_are_no_departure():
    given = {"dtype": "float16", "round_scale": "true", "length_unit": "cl100k"}
    assert fill_protocols(["longllada_niah"], given).lines == ()


@pytest.mark.parametrize("given", [{"rope_scale": 3.5}, {"rope_method": "yarn"}])
def test_nothing_is_rounded_where_no_scale_is_computed(given):
    filled = fill_protocols(["longllada_niah"], given)
    assert filled.model_args == {**given, "dtype": "float16"}


def test_other_tasks_are_left_alone():
    filled = fill_protocols(["niah", "ruler_4k"], {"steps": 3}, ["--apply_chat_template"])
    assert filled.model_args == {"steps": 3} and filled.lines == ()


def test_protocols_that_want_different_models_are_an_error_unless_the_user_decides():
    both = ["longllada_niah", "ultrallada_niah"]
    message = (
        "longllada has round_scale=true, ultrallada has round_scale=false.*one after the other"
    )
    with pytest.raises(ValueError, match=message):
        fill_protocols(both, {})
    filled = fill_protocols(both, {"rope_scale": 4})
    assert filled.model_args == {"rope_scale": 4, "dtype": "float16"}


@pytest.fixture
def unchecked(monkeypatch) -> None:
    """Names of checkpoints need not exist."""
    monkeypatch.setattr(cli, "_checked_rope", lambda model_args: None)


@pytest.mark.usefixtures("unchecked")
def test_command_line_fills_in_the_protocol_and_says_so(tmp_path, capsys):
    namespace = parsed("--tasks", "longllada_niah", "--model_args", "pretrained=x")
    cli.fill_in(namespace, tmp_path)
    wanted = {"pretrained": "x", "dtype": "float16", "round_scale": True}
    assert namespace.model_args == wanted
    assert not namespace.metadata
    assert capsys.readouterr().err.count("are filled in") == 1


@pytest.mark.usefixtures("unchecked")
def test_command_line_says_what_departs(tmp_path, capsys):
    namespace = parsed(
        *("--tasks", "longllada_niah", "--model_args", "dtype=float32,round_scale=true"),
        *("--gen_kwargs", "steps=4", "--metadata", '{"repeats": 1}', "--apply_chat_template"),
    )
    cli.fill_in(namespace, tmp_path)
    assert namespace.model_args["dtype"] == "float32"
    said = capsys.readouterr().err
    assert "dtype=float32 (float16 there), steps in --gen_kwargs, repeats in --metadata" in said
    assert "--apply_chat_template" in said and "filled in" not in said
    assert namespace.metadata == {
        "gen_kwargs": {"steps": 4},
        "apply_chat_template": True,
        "repeats": 1,
    }


def test_samples_of_any_model_know_of_the_chat_format(tmp_path):
    namespace = parsed("--model", "hf", "--tasks", "niah_512", "--apply_chat_template")
    cli.fill_in(namespace, tmp_path)
    assert namespace.metadata == {"apply_chat_template": True}
    assert namespace.model_args is None or "dtype" not in namespace.model_args


def test_causal_baseline_gets_the_protocol_too(tmp_path):
    namespace = parsed("--model", "hf_rope", "--tasks", "longllada_ruler_4k")
    cli.fill_in(namespace, tmp_path)
    assert namespace.model_args == {"dtype": "float16", "round_scale": True}


def test_mixed_protocols_are_one_sentence(monkeypatch, capsys):
    code = call(monkeypatch, "--tasks", "longllada_niah,ultrallada_niah")
    check_one_sentence(code, capsys.readouterr().err, "want different models")
