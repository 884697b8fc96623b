"""Files and tasks that are not there: one sentence, and the nearest that is."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import lm_eval.tasks
import pytest

from lm_eval_llada.errors import missing_package
from lm_eval_llada.posttrain.shipped import find_config, shipped_configs
from tests.helpers.command_line import call, check_one_sentence

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _own_tasks_only(monkeypatch) -> None:
    own = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", own)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plot", "none.jsonl"), "There is no file none.jsonl; the command curve writes one"),
        (("posttrain", "none/x.yaml"), "There is no file none/x.yaml; give a YAML file"),
        (("posttrain", "tiny_ulta.yaml"), "Did you mean 'tiny_ultra.yaml'"),
        (("validate", "--tasks", "nia_512,ruler_4k"), "'nia_512'. Did you mean 'niah_512'"),
    ],
)
def test_what_is_not_there_is_named(monkeypatch, capsys, arguments, message) -> None:
    code = call(monkeypatch, *arguments)
    check_one_sentence(code, capsys.readouterr().err, re.escape(message))


def test_validate_still_says_that_all_is_well(monkeypatch, capsys) -> None:
    assert call(monkeypatch, "validate", "--tasks", "niah_512,ruler_4k") == 0
    assert "All tasks found and valid" in capsys.readouterr().out


def test_shipped_configurations_are_found_by_name(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = find_config("tiny_ultra.yaml")
    assert found == find_config("configs/tiny_ultra.yaml") == shipped_configs()["tiny_ultra.yaml"]
    (tmp_path / "tiny_ultra.yaml").write_text("pretrained: mine\n")
    assert find_config("tiny_ultra.yaml") == Path("tiny_ultra.yaml")


def test_errors_and_readme_install_by_the_same_words() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    sentence = str(missing_package("x", "nltk", "ruler"))
    (words,) = re.findall(r"pip install -e \"\.\[", sentence)
    assert words in readme
    for file in (ROOT / "lm_eval_llada").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert 'pip install "lm_eval_llada' not in text and "install 'lm_eval_llada" not in text
        for extra in re.findall(r"missing_package\(.*?\"(\w+)\"(?:, instead)?\)", text):
            assert re.search(rf"^{extra} = \[", project, re.MULTILINE), (file, extra)
