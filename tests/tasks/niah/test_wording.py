"""How needles are asked for: own words, those of NeedleBench read at run time, a template."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

from lm_eval_llada.tasks import harness_texts
from lm_eval_llada.tasks.grid import shipped_configs
from lm_eval_llada.tasks.niah import wording
from lm_eval_llada.tasks.niah.multi import build_niah_multi
from lm_eval_llada.tasks.niah.options import NiahOptions
from lm_eval_llada.tasks.niah.single import build_niah, niah_dataset
from lm_eval_llada.tasks.niah.wording import parse_origin, single_template
from lm_eval_llada.tasks.task import SampledTask
from tests.helpers.origin_module import BEFORE, BEHIND, BETWEEN, ORIGIN, write_origin
from tests.helpers.toy_tokenizer import toy_tokenizer

_HINT = BEHIND.replace("{", "{{").replace("}", "}}")
MADE = f"{BEFORE}{{context}}{BETWEEN}{{question}}{_HINT}{{stem}}"


@pytest.fixture
def nowhere(monkeypatch):
    """No OpenCompass is installed, whatever the machine has."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "opencompass" else real(name)
    )


@pytest.fixture
def said(caplog, monkeypatch):
    """What was warned of so far, each text once whatever other tests have read."""
    monkeypatch.setattr(harness_texts, "_warned", set())
    return lambda: [r.getMessage() for r in caplog.records if r.name == "lm_eval_llada"]


def options(**given) -> NiahOptions:
    return NiahOptions(length=300, gen_length=8, **given)


def build(**given) -> list[dict]:
    settings = {"length": 400, "gen_length": 8, "repeats": 1, "depths": [50], **given}
    return build_niah(toy_tokenizer(), **settings)


def test_words_of_the_module_are_found_without_running_it():
    assert parse_origin(ORIGIN) == MADE
    # As released, the cut is not there yet: it takes ten characters off the quoted form.
    line = next(line for line in ORIGIN.splitlines() if "[:-10]" in line)
    assert parse_origin(ORIGIN.replace(line, "")) == MADE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('language == "English"', 'language == "Welsh"'),
        ("def _generate_prompt", "def _make"),
        (" Please answer in the format", " Answer"),
        ("{retrieval_question}", "{question}"),
        ("parts[0] + ", "hint("),
    ],
)
def test_a_module_of_another_form_has_no_words(old, new):
    source = ORIGIN.replace(old, new)
    if new == "hint(":
        source = source.replace(" + parts[1]", ")")
    assert parse_origin(source) is None


def test_prompts_end_in_the_stem_behind_question_and_hint(tmp_path, nowhere, said):
    write_origin(tmp_path)
    (sample,) = build(wording="needlebench", data_dir=tmp_path)
    (own,) = build(data_dir=tmp_path)
    question, stem = own["prompt"].split("\n\nQuestion: ")[1].split("\nAnswer: ")
    assert sample["prompt"].startswith(BEFORE)
    assert sample["prompt"].endswith(f"{BETWEEN}{question}{BEHIND}{stem}")
    assert sample["answer"] == own["answer"] and own["reference"] in sample["prompt"]
    assert sample["num_tokens"] + 8 <= 400


def test_an_installed_package_is_read_and_not_imported(tmp_path, monkeypatch, said):
    package = tmp_path / "opencompass"
    write_origin(package / "datasets")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "opencompass", raising=False)
    assert single_template(options(wording="needlebench")) == MADE
    assert "opencompass" not in sys.modules
    # A file of data_dir comes first.
    write_origin(tmp_path / "data", ORIGIN.replace("You read.", "You look."))
    found = single_template(options(wording="needlebench", data_dir=tmp_path / "data"))
    assert found == MADE.replace("You read.", "You look.")


def test_words_that_are_not_the_releases_are_used_and_noted(tmp_path, nowhere, said, monkeypatch):
    write_origin(tmp_path)
    digest = hashlib.sha256(MADE.encode()).hexdigest()
    with harness_texts.noted_changes() as noted:
        single_template(options(wording="needlebench", data_dir=tmp_path))
    assert noted == {"needlebench/prompt": digest}
    (line,) = said()
    assert digest in line and wording.CHECKSUM in line and wording.RELEASE in line
    monkeypatch.setattr(wording, "CHECKSUM", digest)
    with harness_texts.noted_changes() as noted:
        single_template(options(wording="needlebench", data_dir=tmp_path))
    assert noted == {} and len(said()) == 1


def test_own_words_in_their_place_are_said_once_and_in_the_results(nowhere, said):
    config = {**shipped_configs()["niah"]["niah_tiny"], "custom_dataset": niah_dataset}
    config["metadata"] = {**config["metadata"], "wording": "needlebench", "depths": [50]}
    config["process_results"] = lambda doc, results: {}
    own = hashlib.sha256(wording.PROMPT.encode()).hexdigest()
    for _ in range(2):
        task = SampledTask(config)
        assert "\n\nQuestion: " in task.test_docs()[0]["prompt"]
        digests = task.dump_config()["metadata"]["prompt_digest"]
        assert digests == {"needlebench/prompt": f"own wording, {own}"}
    (line,) = said()
    assert "own words" in line and 'pip install --no-deps "opencompass==0.4.2"' in line


def test_a_file_without_the_words_is_an_error_that_names_it(tmp_path, nowhere):
    path = write_origin(tmp_path, "x = 1")
    with pytest.raises(ValueError, match=f"{path} does not hold the prompt"):
        single_template(options(wording="needlebench", data_dir=tmp_path))
    write_origin(tmp_path / "b", "x = (")
    with pytest.raises(ValueError, match="no Python module"):
        single_template(options(wording="needlebench", data_dir=tmp_path / "b"))


@pytest.mark.parametrize(
    "template", ["{context} | {question} {stem}", "{context} {{}} {question}", "{context}\n{stem}"]
)
def test_a_template_is_the_whole_prompt(template):
    (own,) = build()
    question, stem = own["prompt"].split("\n\nQuestion: ")[1].split("\nAnswer: ")
    (sample,) = build(template=template, wording="needlebench")
    _, _, tail = template.partition("{context}")
    assert sample["prompt"].endswith(tail.format(question=question, stem=stem))
    assert sample["num_tokens"] + 8 <= 400


def test_several_needles_take_a_template_too():
    settings = {"length": 700, "gen_length": 160, "repeats": 1, "depths": [20, 80]}
    (own,) = build_niah_multi(toy_tokenizer(), **settings)
    (sample,) = build_niah_multi(
        toy_tokenizer(), **settings, template="{context}\nAll of these: {questions}"
    )
    questions = own["prompt"].split("\n\nQuestions: ")[1].split("\nAnswers, ")[0]
    assert sample["prompt"].endswith(f"\nAll of these: {questions}")
    # Without a stem in the prompt, the output has to hold the whole first answer.
    tight = {**settings, "gen_length": 30, "template": "{context}{questions}"}
    with pytest.raises(ValueError, match="leaves no room for the answer 'The "):
        build_niah_multi(toy_tokenizer(), **tight)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"template": "{question} {stem}"}, r"must hold \{context\}"),
        ({"template": "{context}"}, r"must hold \{question\}, \{stem\} or both"),
        ({"template": "{context} {stem} {questions}"}, "no other field"),
        ({"template": 7}, "must be a text; got 7"),
        ({"wording": "needelbench"}, "Did you mean 'needlebench'"),
    ],
)
def test_wrong_wordings_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        build(**given)


def test_words_of_one_needle_are_not_for_several():
    with pytest.raises(ValueError, match="wording='needlebench' is for one needle"):
        build_niah_multi(
            toy_tokenizer(), length=700, gen_length=160, repeats=1, wording="needlebench"
        )


def test_the_papers_ask_in_needlebenchs_words():
    configs = shipped_configs()["papers"]
    single = [name for name in configs if "_niah_" in name and "metadata" in configs[name]]
    asked = {name: configs[name]["metadata"].get("wording") for name in single}
    tasks = {name: word for name, word in asked.items() if "task" in configs[name]}
    named = {name for name, word in tasks.items() if word == "needlebench"}
    lengths = (2000, 4000, 8000, 16000, 24000, 32000)
    assert {f"longllada_niah_{length}" for length in lengths} <= named
    assert {f"ultrallada_niah_{8192 * k}" for k in range(1, 17)} <= named
    assert not any("multi" in name for name in named)


def test_the_words_themselves_are_not_in_the_project():
    found = single_template(options(wording="needlebench"))
    if found == wording.PROMPT:
        pytest.skip(f"needs {wording.RELEASE}")
    assert hashlib.sha256(found.encode()).hexdigest() == wording.CHECKSUM
    root = Path(__file__).resolve().parents[3]
    lines = [line for line in found.split("\n") if len(line) > 24]
    for path in [*root.glob("lm_eval_llada/**/*.py"), *root.glob("t*s/**/*.py")]:
        assert not [line for line in lines if line in path.read_text(encoding="utf-8")], path
