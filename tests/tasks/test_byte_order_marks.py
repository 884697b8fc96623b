"""A byte-order mark, which some editors put in front of a file, is no text, whoever reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from lm_eval_llada.posttrain.document_stream import StreamOptions, open_documents
from lm_eval_llada.posttrain.options import read_options
from lm_eval_llada.tasks.longbench.samples import longbench_documents
from lm_eval_llada.tasks.text.haystacks import corpus
from lm_eval_llada.tasks.text.long_texts import read_documents
from lm_eval_llada.tasks.text.sources import parse_json, read_json_lines
from tests.helpers.toy_tokenizer import toy_tokenizer

BOM = "\ufeff"
TEXT = "The key is on the roof."


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(BOM + text, encoding="utf-8")
    return path


def read_by_training(path: Path, **options: str) -> list[list[int]]:
    stream = open_documents(path, toy_tokenizer(), options=StreamOptions(epochs=1, **options))
    return [document.tolist() for document in stream]


def ids(text: str) -> list[int]:
    return toy_tokenizer()(text, add_special_tokens=False)["input_ids"]


def test_perplexity_reads_none(tmp_path) -> None:
    # A text's perplexity rose from 78.48 to 85.94.
    assert read_documents(str(written(tmp_path / "a.txt", TEXT)))[0].text == TEXT
    assert read_documents(str(tmp_path))[0].text == TEXT


def test_a_row_of_a_corpus_has_none(tmp_path) -> None:
    table = pyarrow.table({"text": [BOM + TEXT]})
    pyarrow.parquet.write_table(table, tmp_path / "test-00000-of-00001-29a571947c0b5ccc.parquet")
    assert read_documents("pg19", tmp_path)[0].text == TEXT


def test_training_reads_none_from_any_kind_of_file(tmp_path) -> None:
    assert read_by_training(written(tmp_path / "a.txt", TEXT)) == [ids(TEXT)]
    row = json.dumps({"text": BOM + TEXT})
    assert read_by_training(written(tmp_path / "b.jsonl", row)) == [ids(TEXT)]
    pyarrow.parquet.write_table(pyarrow.table({"text": [BOM + TEXT]}), tmp_path / "c.parquet")
    assert read_by_training(tmp_path / "c.parquet") == [ids(TEXT)]
    two = written(tmp_path / "d.txt", f"{TEXT}\n---\n{BOM}{TEXT}")
    assert read_by_training(two, separator="---") == [ids(TEXT), ids(TEXT)]


def test_a_training_file_of_settings_is_read(tmp_path) -> None:
    text = "output: run\ntraining: {max_steps: 1}\ndata: {source: python}"
    plain = tmp_path / "plain.yaml"
    plain.write_text(text)
    assert read_options(written(tmp_path / "a.yaml", text)) == read_options(plain)


def test_json_lines_and_json_are_read(tmp_path) -> None:
    assert read_json_lines(written(tmp_path / "a.jsonl", '{"a": 1}\n{"a": 2}')) == [
        {"a": 1},
        {"a": 2},
    ]
    assert parse_json("a.json", (BOM + "[1]").encode()) == [1]


@pytest.mark.parametrize("name", ["lcc.jsonl", "another.jsonl"])
def test_longbench_reads_its_files(tmp_path, name: str) -> None:
    row = {"context": "c", "input": "i", "answers": ["a"], "all_classes": None, "dataset": "lcc"}
    written(tmp_path / name, json.dumps(row))
    assert [document["context"] for document in longbench_documents("lcc", tmp_path)] == ["c"]


def test_a_haystack_is_read(tmp_path) -> None:
    written(tmp_path / "needlebench" / "en_un_asr.jsonl", json.dumps({"text": TEXT}))
    assert corpus("needlebench", tmp_path) == (TEXT,)
