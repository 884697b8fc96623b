"""A prompt text that the installed harness words differently: used, warned of, and recorded."""

from __future__ import annotations

import hashlib
import importlib.metadata

import pytest
import yaml

from lm_eval_llada.tasks import harness_texts
from lm_eval_llada.tasks.grid import shipped_configs
from lm_eval_llada.tasks.harness_texts import RULER_SOURCES, Source
from lm_eval_llada.tasks.prompts import longbench_prompt, ruler_template
from lm_eval_llada.tasks.ruler.samples import ruler_dataset
from lm_eval_llada.tasks.ruler.scores import ruler_results
from lm_eval_llada.tasks.task import SampledTask
from tests.helpers.harness_copies import copied_tasks, edit

__all__ = ["copied_tasks"]


@pytest.fixture
def warnings_of(caplog, monkeypatch):
    """What was warned of so far, each text once whatever other tests have read."""
    monkeypatch.setattr(harness_texts, "_warned", set())
    return lambda: [record.getMessage() for record in caplog.records]


def test_a_reworded_longbench_prompt_is_used_with_a_warning_and_noted(copied_tasks, warnings_of):
    before = harness_texts.longbench_text("qmsum")
    edit(copied_tasks / "longbench" / "qmsum.yaml", "meeting transcript", "meeting's transcript")
    after = before.replace("meeting transcript", "meeting's transcript")
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in (before, after)]
    for _ in range(2):
        with harness_texts.noted_changes() as changed:
            assert "meeting's transcript" in longbench_prompt("qmsum").template
            assert longbench_prompt("vcsum")  # the others are as they were
        assert changed == {"longbench/qmsum": digests[1]}
    (message,) = warnings_of()
    assert "longbench/qmsum" in message and all(digest in message for digest in digests)
    assert importlib.metadata.version("lm_eval") in message
    assert not harness_texts._changes.get()


def test_a_release_that_puts_something_right_gets_it_once(copied_tasks, warnings_of):
    edit(copied_tasks / "ruler" / "vt_utils.py", "assgined", "assigned")
    path = copied_tasks / "longbench" / "passage_count.yaml"
    task = yaml.load(path.read_text(encoding="utf-8"), Loader=harness_texts._TaskLoader)
    path.write_text(yaml.safe_dump({**task, "doc_to_text": task["doc_to_text"] + " "}))
    assert ruler_template("vt").answer_prefix.count("assigned") == 1
    assert longbench_prompt("passage_count").template.endswith(": ")
    assert not longbench_prompt("passage_count").template.endswith("  ")
    assert len(warnings_of()) == 2


@pytest.mark.parametrize("name", RULER_SOURCES)
def test_a_change_of_any_ruler_text_is_noticed(name, monkeypatch, warnings_of):
    source = RULER_SOURCES[name]
    changed = Source(source.file, source.path, hashlib.sha256(b"other").hexdigest())
    monkeypatch.setitem(RULER_SOURCES, name, changed)
    with harness_texts.noted_changes() as noted:
        harness_texts.ruler_source_text(name)
    assert noted == {f"ruler/{name}": source.checksum}
    assert source.checksum in warnings_of()[0]


def test_changed_texts_of_a_task_are_in_its_config(copied_tasks, warnings_of):
    edit(copied_tasks / "ruler" / "vt_utils.py", "assgined", "given")
    config = shipped_configs()["ruler"]["ruler_tiny_vt_2048"]
    for _ in range(2):
        task = SampledTask(
            {**config, "custom_dataset": ruler_dataset, "process_results": ruler_results}
        )
        digests = task.dump_config()["metadata"]["prompt_digest"]
        assert list(digests) == ["ruler/vt_answer_prefix"]
