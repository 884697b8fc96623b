"""What is typed on the command line or in a --config file, before the harness sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lm_eval_llada.cli.task_settings import check_settings
from lm_eval_llada.cli.typed import given_values
from lm_eval_llada.tasks.grid import tasks_path
from tests.helpers.command_line import call, check_one_sentence, parsed


def given(tmp_path: Path, text: str, *arguments: str) -> dict:
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="utf-8")
    return given_values(parsed("run", "--config", str(file), *arguments))


@pytest.mark.parametrize("option", ["--model_args", "--gen_kwargs", "--metadata"])
@pytest.mark.parametrize("command", ["run", "plan"])
def test_an_open_quote_ends_every_command_in_a_sentence(
    monkeypatch, capsys, command: str, option: str
) -> None:
    code = call(monkeypatch, command, "--tasks", "niah_tiny", option, "until=Bob's,max_gen_toks=4")
    check_one_sentence(code, capsys.readouterr().err, f"{option}: ' in .* is not closed by '")


def test_a_file_means_what_the_command_line_means(tmp_path) -> None:
    text = """
        model_args: {seed: 1e3, revision: "1e3", cache: none}
        gen_kwargs: max_gen_toks=1e1,until=["a","b,c"]
        limit: 1e1
    """
    values = given(tmp_path, text)
    assert values["model_args"] == {"seed": 1000.0, "revision": "1e3", "cache": "none"}
    assert values["gen_kwargs"] == {"max_gen_toks": 10.0, "until": ["a", "b,c"]}
    assert values["limit"] == 10
    assert given(tmp_path, "limit: 3", "--limit", "2")["limit"] == 2


def test_a_file_with_a_byte_order_mark_is_read(tmp_path) -> None:
    assert given(tmp_path, "\ufefflimit: 3")["limit"] == 3


@pytest.mark.parametrize(("number", "read"), [("0123", "83"), ("12:30", "750"), ("-010", "-8")])
def test_numbers_of_another_base_are_refused(tmp_path, number: str, read: str) -> None:
    with pytest.raises(ValueError, match=f"line 2: YAML reads {number} as {read}; write {read}"):
        given(tmp_path, f"model_args:\n  seed: {number}")
    assert given(tmp_path, f'model_args: {{revision: "{number}"}}')["model_args"] == {
        "revision": number
    }


@pytest.mark.parametrize(
    ("text", "message"), [("- a", "must hold names and values"), ("a: [", "is not YAML")]
)
def test_a_wrong_file_is_an_error(tmp_path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        given(tmp_path, text)


@pytest.mark.parametrize(("word", "meaning"), [("true", True), ("false", False), ("rag", "rag")])
def test_true_and_false_are_no_names_of_templates(word: str, meaning: object) -> None:
    namespace = parsed("run", "--apply_chat_template", word)
    given_values(namespace)
    assert namespace.apply_chat_template is meaning or namespace.apply_chat_template == meaning


@pytest.mark.parametrize(
    ("task", "metadata", "message"),
    [
        ("niah_tiny", {"repeat": 3}, "no 'repeat'. Did you mean 'repeats'"),
        ("niah_tiny", {"seed": 3}, "no 'seed'. Did you mean 'data_seed'"),
        ("niah_tiny", {"num_samples": 3}, "no 'num_samples'"),
        ("niah", {"depth": 3}, "Did you mean 'depths'"),
        ("ruler_4k", {"num_sample": 3}, "Did you mean 'num_samples'"),
        ("longbench_8k", {"repeats": 3}, "no 'repeats'"),
        ("niah_tiny", {"data_dir": 2024.1}, "data_dir must be text"),
        ("niah_tiny", {"pretrained": 2024.1}, "pretrained must be text"),
    ],
)
def test_settings_of_samples_that_no_task_reads_are_refused(task, metadata, message) -> None:
    with pytest.raises(ValueError, match=message):
        check_settings(metadata, [task], [str(tasks_path())])


@pytest.mark.parametrize(
    ("tasks", "metadata"),
    [
        (["niah_tiny"], {"data_seed": 3, "depths": [10], "length": 512}),
        (["niah_tiny", "ruler_4k"], {"repeats": 3, "num_samples": 3}),
        (["niah_tiny", "gsm8k"], {"max_seq_lengths": [4096]}),
    ],
)
def test_settings_that_a_task_reads_or_may_read_pass(tasks, metadata) -> None:
    check_settings(metadata, tasks, [str(tasks_path())])
