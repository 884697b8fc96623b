"""Prompt templates: worded as in the originals, and checked against lm-eval's own files."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import string
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.tasks import harness_texts
from lm_eval_llada.tasks.grid import shipped_configs
from lm_eval_llada.tasks.harness_texts import RULER_SOURCES, Source
from lm_eval_llada.tasks.prompts import (
    LONGBENCH_DATASETS,
    RULER_KINDS,
    RULER_TEXTS,
    LongBenchPrompt,
    RulerTemplate,
    longbench_prompt,
    ruler_template,
    ruler_text,
)
from tests.helpers.harness_copies import copied_tasks, edit

__all__ = ["copied_tasks"]

PROJECT = Path(__file__).resolve().parents[2]

# First 16 digits of the SHA-256 of each value in the original's config/dataset2prompt.json.
ORIGINAL_LONGBENCH = {
    "narrativeqa": "aada7ed24b06abac",
    "qasper": "0fbdd123fe7f83d6",
    "multifieldqa_en": "20b4666a2de8a1f7",
    "multifieldqa_zh": "344b3a4e557cd547",
    "hotpotqa": "9ec4ae308865bd0c",
    "2wikimqa": "9ec4ae308865bd0c",
    "musique": "9ec4ae308865bd0c",
    "dureader": "ae53329f51b17908",
    "gov_report": "91c25d585b189ced",
    "qmsum": "dca23b678fe0183b",
    "multi_news": "2af3f28c40b902e6",
    "vcsum": "3e5d8241bc9b512e",
    "trec": "0eff8bebdba99d91",
    "triviaqa": "00a802e6377e72fc",
    "samsum": "a68d884234907eef",
    "lsht": "f3edabdf7fae53d6",
    "passage_count": "986550b6c61009c6",
    "passage_retrieval_en": "39b96b7fa52bdd2a",
    "passage_retrieval_zh": "c1e2346e245eb365",
    "lcc": "6a1f24cf0bb83cd9",
    "repobench-p": "ee9ec182ea5ffeb7",
}

# Datasets whose copy in lm-eval has lost characters, and what was lost.
LOST = {
    "triviaqa": "\n",
    "samsum": "\n",
    "passage_count": " ",
    "passage_retrieval_en": " ",
    "lcc": "\n",
    "repobench-p": "\n",
}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def fields(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def harness_task(dataset: str) -> dict:
    """A task file of lm-eval, without the lines that name functions."""
    path = harness_texts.tasks_folder() / "longbench" / f"{dataset}.yaml"
    text = path.read_text(encoding="utf-8")
    return yaml.safe_load(re.sub(r"(?m)^.*!function.*\n", "", text))


def test_all_longbench_datasets_are_there_in_the_original_order():
    assert list(LONGBENCH_DATASETS) == list(ORIGINAL_LONGBENCH)


@pytest.mark.parametrize("dataset", ORIGINAL_LONGBENCH)
def test_longbench_templates_equal_the_originals(dataset):
    assert digest(longbench_prompt(dataset).template) == ORIGINAL_LONGBENCH[dataset]


@pytest.mark.parametrize("dataset", ORIGINAL_LONGBENCH)
def test_only_lost_whitespace_is_put_back(dataset):
    raw = harness_texts.longbench_text(dataset)
    ours = longbench_prompt(dataset).template
    as_format = raw.replace("{{context}}", "{context}").replace("{{question}}", "{input}")
    assert len(ours) == len(as_format) + len(LOST.get(dataset, ""))
    assert ours.split() == as_format.split()
    if dataset not in ("triviaqa", "samsum"):
        assert ours == as_format + LOST.get(dataset, "")


@pytest.mark.parametrize("dataset", ORIGINAL_LONGBENCH)
def test_longbench_output_lengths_and_first_lines_agree_with_lm_eval(dataset):
    settings = harness_task(dataset)["generation_kwargs"]
    prompt = longbench_prompt(dataset)
    task = shipped_configs()["longbench"][f"longbench_{dataset}_4k"]
    assert task["generation_kwargs"]["gen_length"] == settings["max_gen_toks"]
    assert prompt.first_line == (settings["until"] == ["\n"])


def test_few_shot_and_code_prompts_take_no_chat_template():
    prompts = [longbench_prompt(dataset) for dataset in LONGBENCH_DATASETS]
    plain = {prompt.dataset for prompt in prompts if not prompt.chat_template}
    assert plain == {"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"}
    first_line = {prompt.dataset for prompt in prompts if prompt.first_line}
    assert first_line == {"trec", "triviaqa", "samsum", "lsht"}


def test_datasets_without_a_question_have_no_field_for_it():
    without = {d for d in LONGBENCH_DATASETS if fields(longbench_prompt(d).template) == {"context"}}
    assert without == {"gov_report", "multi_news", "vcsum", "passage_count", "lcc"}


@given(context=st.text(), question=st.text())
def test_rendering_leaves_braces_and_field_names_in_a_sample_alone(context, question):
    prompt = LongBenchPrompt("mine", "<{context}|{input}>", 8)
    assert prompt.render(context=context, input=question) == f"<{context}|{question}>"
    assert prompt.render(context="{input}{{", input="{context}") == "<{input}{{|{context}>"


def test_a_code_prompt_ends_in_a_newline_after_rendering():
    assert longbench_prompt("lcc").render(context="x = 1\n").endswith(":\n")
    assert longbench_prompt("passage_count").render(context="P").endswith(": ")
    for dataset in ("triviaqa", "samsum"):
        assert longbench_prompt(dataset).render(context="C", input="I").endswith("\n\nC\n\nI")
    for dataset in ("trec", "lsht"):
        assert longbench_prompt(dataset).render(context="C", input="I").endswith("\n\nC\nI")


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("no field", "must hold {context}"),
        ("{input} only", "must hold {context}"),
        ("{context} {question}", "{question}"),
        ("{context} {}", "{}"),
        ("{context} {", "unpaired brace"),
        ("{context!z}", "without a format"),
        ("{context:>9}", "without a format"),
    ],
)
def test_a_users_longbench_template_is_checked(template, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        LongBenchPrompt("mine", template)


RULER_FIELDS = {
    "niah": ({"context", "query", "type_needle_v"}, {"query", "type_needle_v"}),
    "vt": ({"context", "query"}, {"query", "num_v"}),
    "cwe": ({"context"}, set()),
    "fwe": ({"context"}, set()),
    "qa": ({"context", "query"}, set()),
}


@pytest.mark.parametrize("task", RULER_FIELDS)
def test_ruler_templates_have_the_originals_fields(task):
    found = ruler_template(task)
    assert found.task == task
    assert (fields(found.template), fields(found.answer_prefix)) == RULER_FIELDS[task]


def test_every_ruler_kind_is_covered():
    assert set(RULER_KINDS) == set(RULER_FIELDS)
    named = {f"{kind}_{part}" for kind in RULER_KINDS for part in ("template", "answer_prefix")}
    assert set(RULER_SOURCES) == named | set(RULER_TEXTS)


@pytest.mark.parametrize("task", RULER_FIELDS)
def test_a_prompt_followed_by_its_answer_prefix_has_one_space_between(task):
    found = ruler_template(task)
    assert found.template == found.template.rstrip()
    assert re.match(r" \S", found.answer_prefix)
    assert found.answer_prefix.endswith(" ") == (task == "vt")


def test_only_the_misspelled_word_of_vt_is_corrected():
    raw = harness_texts.ruler_source_text("vt_answer_prefix")
    ours = ruler_template("vt").answer_prefix
    changed = [pair for pair in zip(raw.split(), ours.split(), strict=True) if pair[0] != pair[1]]
    assert changed == [("assgined", "assigned")]
    assert len(raw) == len(ours)


def test_the_singular_wording_is_that_of_lm_eval():
    one = ruler_template("niah").singular()
    assert digest(one.template + one.answer_prefix) == "931ce9a842e91fa8"
    assert not re.search(r"\b(are|Some)\b", one.template + one.answer_prefix)
    assert fields(one.template) == RULER_FIELDS["niah"][0]


def test_tasks_with_one_wording_refuse_a_singular_one():
    with pytest.raises(ValueError, match="Only niah"):
        ruler_template("qa").singular()


def test_ruler_texts_have_named_fields():
    expected = {
        "niah_needle": {"type_needle_v", "key", "value"},
        "niah_noise": set(),
        "vt_noise": set(),
        "vt_number": {"name", "value"},
        "vt_copy": {"name", "value"},
        "qa_document": {"i", "document"},
    }
    assert {name: fields(ruler_text(name)) for name in RULER_TEXTS} == expected
    assert ruler_text("vt_noise") == ruler_text("niah_noise") + "\n"
    assert re.fullmatch(r"\w+ ABC = 12345", ruler_text("vt_number").format(name="ABC", value=12345))
    assert re.fullmatch(r"(\w+) B = \1 A ", ruler_text("vt_copy").format(name="B", value="A"))


def test_a_users_ruler_template_is_checked():
    with pytest.raises(ValueError, match=re.escape("must hold {context}")):
        RulerTemplate("qa", "{query}", "")
    with pytest.raises(ValueError, match="answer prefix of qa"):
        RulerTemplate("qa", "{context}", "{num_v}")
    with pytest.raises(ValueError, match="Did you mean 'niah'"):
        RulerTemplate("nia", "{context}", "")


@pytest.mark.parametrize(
    ("read", "wrong", "meant"),
    [
        (longbench_prompt, "hotpot_qa", "hotpotqa"),
        (harness_texts.longbench_text, "repobench_p", "repobench-p"),
        (ruler_template, "NIAH", "niah"),
        (ruler_text, "needle", "niah_needle"),
        (harness_texts.ruler_source_text, "qa_prefix", "qa_answer_prefix"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest(read, wrong, meant):
    with pytest.raises(ValueError, match=f"Did you mean '{meant}'"):
        read(wrong)


def test_reading_the_prompts_imports_no_task_of_lm_eval():
    code = (
        "import sys\n"
        "from lm_eval_llada.tasks.prompts import *\n"
        "[longbench_prompt(d) for d in LONGBENCH_DATASETS]\n"
        "[ruler_template(k) for k in RULER_KINDS], [ruler_text(n) for n in RULER_TEXTS]\n"
        "print([name for name in sys.modules if name.startswith('lm_eval.tasks')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_text_that_went_elsewhere_is_named(copied_tasks):
    (copied_tasks / "longbench" / "lcc.yaml").unlink()
    edit(copied_tasks / "longbench" / "trec.yaml", "doc_to_text", "prompt")
    edit(copied_tasks / "ruler" / "qa_utils.py", "DOCUMENT_PROMPT", "DOC")
    edit(copied_tasks / "ruler" / "cwe_utils.py", '"template"', '"prompt"')
    for read, argument, name in [
        (longbench_prompt, "lcc", "longbench/lcc"),
        (longbench_prompt, "trec", "longbench/trec"),
        (ruler_text, "qa_document", "ruler/qa_document"),
        (ruler_template, "cwe", "ruler/cwe_template"),
    ]:
        with pytest.raises(ValueError, match=f"no prompt text {name} "):
            read(argument)


def test_without_lm_eval_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install"):
        longbench_prompt("trec")


TOY_MODULE = """
raise RuntimeError("this module must not run")

def make(n):
    noun = compute(n)
    if n:
        noun = "inner"
    lines = [f"{n + 1}. {noun} in {{braces}}"]
    lines.append(f"-> {n!r}")
    row = {"prefix": (f"one {noun}" if n == 1 else f"many {noun}s"), "count": 3}
    NAME = "local"

NAME = "global"
BOOK = {"chapter": {"text": "a" "b"}}
"""


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("NAME", "global"),
        ("make/NAME", "local"),
        ("make/noun", "inner"),
        ("make/lines", "{n + 1}. {noun} in {{braces}}"),
        ("make/lines.append", "-> {n}"),
        ("make/row/prefix", "many {noun}s"),
        ("BOOK/chapter/text", "ab"),
        ("BOOK/chapter", None),
        ("make/row/count", None),
        ("make/row/absent", None),
        ("absent/NAME", None),
    ],
)
def test_texts_are_found_in_a_module_without_running_it(path, text, tmp_path, monkeypatch):
    (tmp_path / "ruler").mkdir()
    (tmp_path / "ruler" / "toy.py").write_text(TOY_MODULE, encoding="utf-8")
    monkeypatch.setattr(harness_texts, "tasks_folder", lambda: tmp_path)
    checksum = hashlib.sha256((text or "").encode()).hexdigest()
    monkeypatch.setitem(RULER_SOURCES, "toy", Source("toy.py", path, checksum))
    if text is None:
        with pytest.raises(ValueError, match="no prompt text ruler/toy "):
            harness_texts.ruler_source_text("toy")
    else:
        assert harness_texts.ruler_source_text("toy") == text


def test_no_prompt_text_is_typed_into_the_project():
    templates = [longbench_prompt(dataset).template for dataset in LONGBENCH_DATASETS]
    for task in RULER_KINDS:
        templates += [ruler_template(task).template, ruler_template(task).answer_prefix]
    lines = {line.strip() for template in templates for line in template.splitlines()}
    lines = {line for line in lines if len(re.sub(r"\{\w+\}", "", line)) > 24}
    assert len(lines) > 40
    files = [*PROJECT.glob("lm_eval_llada/**/*.py"), *PROJECT.glob("tasks/**/*.yaml")]
    files += [*PROJECT.glob("tests/**/*.py")]
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not [line for line in lines if line in text], path
