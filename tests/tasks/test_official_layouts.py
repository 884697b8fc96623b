"""Corpora as their releases lay them out, in a `data_dir`, itself or in the benchmark's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from lm_eval_llada.tasks.longbench.samples import longbench_documents
from lm_eval_llada.tasks.niah.needlebench import raw_documents
from lm_eval_llada.tasks.ruler.question_answering import read_questions
from lm_eval_llada.tasks.ruler.samples import build_ruler
from lm_eval_llada.tasks.text.haystacks import corpus, haystack_pieces, heldout_text
from lm_eval_llada.tasks.text.long_texts import read_documents
from tests.helpers.longbench_documents import document
from tests.helpers.toy_tokenizer import toy_tokenizer

ESSAYS = "Ships carry grain.\n\nTrains carry coal, 雨."


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("place", ["ruler/", "needlebench/", ""])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_rulers_own_essays_are_read_where_needlebenchs_are_not_there(tmp_path, place, mark):
    name = f"{place}PaulGrahamEssays.json"
    write(tmp_path, {name: mark + json.dumps({"text": ESSAYS})})
    assert corpus("essays", tmp_path) == (ESSAYS,)
    assert "".join(haystack_pieces("essays", 6, "s", tmp_path)) == ESSAYS[: ESSAYS.index(" 雨")]
    # NeedleBench's own contexts follow from its documents and their order.
    with pytest.raises(FileNotFoundError, match=r"PaulGrahamEssays\.jsonl"):
        raw_documents("essays", tmp_path)
    corpus.cache_clear()
    write(tmp_path, {"needlebench/PaulGrahamEssays.jsonl": json.dumps({"text": "NeedleBench's."})})
    assert corpus("essays", tmp_path) == ("NeedleBench's.",)


def test_a_ruler_task_is_the_same_from_either_file_of_one_text(tmp_path):
    text = json.dumps({"text": heldout_text()})
    options = {"task": "niah_single_2", "length": 512, "gen_length": 128, "num_samples": 2}
    made = [
        build_ruler(toy_tokenizer(), **options, data_dir=write(tmp_path / name, {name: text}))
        for name in ("ruler/PaulGrahamEssays.json", "needlebench/PaulGrahamEssays.jsonl")
    ]
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "expected an object with a 'text'"),
        ("{", "not JSON"),
        ('{"text": " "}', "has no 'text'"),
        ('{"essay": "x"}', "has no 'text'"),
    ],
)
def test_essays_of_another_form_are_refused_by_their_path(tmp_path, content, message):
    write(tmp_path, {"ruler/PaulGrahamEssays.json": content})
    with pytest.raises(ValueError, match=message) as caught:
        corpus("essays", tmp_path)
    assert str(tmp_path / "ruler" / "PaulGrahamEssays.json") in str(caught.value)


def test_missing_essays_name_both_files(tmp_path):
    both = r"needlebench/PaulGrahamEssays\.jsonl.*RULER's PaulGrahamEssays\.json does"
    with pytest.raises(FileNotFoundError, match=both):
        corpus("essays", tmp_path)


@pytest.mark.parametrize("place", ["longbench/", ""])
def test_an_unpacked_archive_of_longbench_is_read(tmp_path, place):
    rows = {name: document("qmsum", context=name) for name in ("qmsum", "qmsum_e")}
    files = {f"{place}data/{name}.jsonl": json.dumps(row) for name, row in rows.items()}
    # The archive may lie beside what it was unpacked to; it need not be opened then.
    write(tmp_path, {**files, f"{place}data.zip": "kept, but cut off"})
    assert [d["context"] for d in longbench_documents("qmsum", tmp_path)] == ["qmsum"]


@pytest.mark.parametrize("place", ["ppl/", ""])
def test_tables_are_read_in_the_folders_that_the_hub_has_them_in(tmp_path, place):
    path = tmp_path / f"{place}document/test-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.table({"report": ["A report."]}), path)
    assert [d.text for d in read_documents("gov_report", tmp_path)] == ["A report."]


@pytest.mark.parametrize("place", ["ruler/", ""])
def test_the_hubs_tables_of_questions_are_read_where_its_message_says(tmp_path, place):
    with pytest.raises(FileNotFoundError, match="/ruler/squad_v2/validation-00000-of-00001.parq"):
        read_questions("qa_1", tmp_path)
    path = tmp_path / f"{place}squad_v2/validation-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    row = {"title": "T", "context": "C.", "question": "Q?", "answers": {"text": ["C"]}}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    assert [q.text for q in read_questions("qa_1", tmp_path).questions] == ["Q?"]
