"""Training documents: where they come from, in which order, to which rank, and from where on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.posttrain import document_stream as documents
from lm_eval_llada.posttrain.document_stream import (
    DocumentStream,
    StreamOptions,
    open_documents,
)
from lm_eval_llada.posttrain.packing import Packer, PackingOptions
from lm_eval_llada.tiny import corpus
from tests.helpers.toy_tokenizer import toy_tokenizer

TEXTS = ["First text.", "Zweiter Text: ä", "third\r\n", "第四", "5"]


def characters(text: str, **_: object) -> dict[str, list[int]]:
    """A tokenizer whose tokens are characters."""
    return {"input_ids": [ord(character) for character in text]}


def texts_of(stream: Iterable) -> list[str]:
    return ["".join(map(chr, document.tolist())) for document in stream]


def read(source: object, data_dir: Path | None = None, **options) -> list[str]:
    """Texts of a source, once and in its own order."""
    settings = StreamOptions(**{"epochs": 1, "buffer_size": 1, **options})
    return texts_of(open_documents(source, characters, data_dir, settings))


def stream_of(num_documents: int, **options) -> DocumentStream:
    names = [f"{number}." for number in range(num_documents)]
    settings = StreamOptions(**{"epochs": 2, "buffer_size": 4, **options})
    return DocumentStream(lambda start: iter(names[start:]), characters, settings, "numbers")


# --- sources ------------------------------------------------------------------------------------


def write_text(folder: Path) -> Path:
    for number, text in enumerate(TEXTS):
        (folder / f"{number}.txt").write_bytes(text.encode())
    return folder


def write_separated(folder: Path) -> Path:
    path = folder / "all.txt"
    path.write_bytes("\n<|end|>\n".join(TEXTS).encode() + b"\n<|end|>\r\n")
    return path


def write_json(folder: Path) -> Path:
    path = folder / "all.jsonl"
    lines = [json.dumps({"id": n, "text": text}) for n, text in enumerate(TEXTS)]
    path.write_text("\n\n".join(lines), encoding="utf-8")
    return path


def write_parquet(folder: Path) -> Path:
    path = folder / "all.parquet"
    table = pyarrow.table({"id": range(len(TEXTS)), "text": TEXTS})
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    return path


WRITERS = [write_text, write_json, write_parquet]


@pytest.mark.parametrize("write", WRITERS)
def test_every_kind_of_file_gives_the_same_documents(tmp_path, write: Callable[[Path], Path]):
    path = write(tmp_path)
    assert read(path) == TEXTS
    # A folder of such files is the same as the file.
    assert read(str(tmp_path)) == TEXTS


def test_separators_part_a_file_into_what_stands_between_them(tmp_path):
    path = write_separated(tmp_path)
    parted = [text.strip("\r\n") for text in TEXTS]
    assert read(path, separator="<|end|>") == parted
    assert len(read(path)) == 1
    path.write_bytes(b"\n<|end|>\n\n<|end|>\none\ntwo\n<|end|>three")
    assert read(path, separator="<|end|>") == ["one\ntwo\n<|end|>three"]


@pytest.mark.parametrize("write", [*WRITERS, write_separated])
@pytest.mark.parametrize("taken", [1, 2, 5])
def test_every_kind_of_file_goes_on_from_any_document(tmp_path, write, taken):
    options = StreamOptions(epochs=1, buffer_size=2, separator="<|end|>")
    path = write(tmp_path)
    stream = open_documents(path, characters, None, options)
    taken_texts = texts_of(islice(stream, taken))
    other = open_documents(path, characters, None, options)
    other.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    whole = texts_of(open_documents(path, characters, None, options))
    assert taken_texts + texts_of(other) == whole
    assert len(whole) == len(TEXTS)


def test_lines_before_the_place_are_not_parsed(tmp_path):
    path = tmp_path / "all.jsonl"
    path.write_text('not json\n{"text": "good"}\n')
    stream = open_documents(path, characters, None, StreamOptions(epochs=1, buffer_size=1))
    stream.load_state_dict({**stream.state_dict(), "document": 1})
    assert texts_of(stream) == ["good"]


def test_documents_are_tokens_of_the_model_without_special_ones(tmp_path):
    tokenizer = toy_tokenizer()
    (tmp_path / "a.txt").write_text("Rain fell.")
    (document,) = open_documents(tmp_path, tokenizer, None, StreamOptions(epochs=1))
    assert tokenizer.decode(document) == "Rain fell."
    assert tokenizer.bos_token_id not in document


def test_the_built_in_text_is_that_of_the_tiny_models(monkeypatch):
    # Its tests show that it shares nothing with the text and the words of the evaluation.
    small = corpus.Corpus(tuple(TEXTS), (), "3", "")
    monkeypatch.setattr(corpus, "read_corpus", lambda: small)
    assert read("python") == TEXTS


# --- PG19 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["", "pg19"])
@pytest.mark.parametrize("name", ["data/train-00000-of-00001.parquet", "train-0.parquet"])
def test_pg19_is_read_from_the_hubs_own_files(tmp_path, place, name):
    path = tmp_path / place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_parquet(tmp_path).rename(path)
    assert read("pg19", tmp_path) == TEXTS


def test_pg19_is_read_from_the_released_files_of_the_training_split_alone(tmp_path):
    for split in ("train", "test", "validation"):
        (tmp_path / "pg19" / split).mkdir(parents=True)
        (tmp_path / "pg19" / split / "10146.txt").write_text(f"A {split} book.")
    assert read("pg19", tmp_path) == ["A train book."]


def test_pg19_streams_from_the_hub(tmp_path, monkeypatch):
    asked = []

    def load_dataset(repository, **arguments):
        asked.append((repository, arguments))
        rows = [{"text": text, "url": "none"} for text in TEXTS]
        return datasets.Dataset.from_list(rows).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    stream = open_documents("pg19", characters, None, StreamOptions(epochs=1, buffer_size=1))
    assert texts_of(islice(stream, 2)) == TEXTS[:2]
    assert texts_of(stream) == TEXTS[2:]
    ((repository, arguments),) = asked
    assert repository == "emozilla/pg19"
    assert arguments["split"] == "train" and arguments["streaming"] is True


def test_a_missing_pg19_names_the_two_ways_to_get_it(tmp_path):
    message = r"emozilla/pg19 holds the file, or .* data_dir=<folder>"
    with pytest.raises(FileNotFoundError, match=f"none of data/train.*{message}"):
        read("pg19", tmp_path)
    # Tests have no network.
    with pytest.raises(FileNotFoundError, match=f"could not be read from the hub.*{message}"):
        read("pg19")


# --- wrong sources ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"txt": "x"}', "found txt"),
        ('{"text": null}', "found text"),
        ("[1]", "found list"),
        ("{", "not JSON"),
        ('{"text": "\\u00e4', "not JSON"),
    ],
)
def test_a_line_without_text_is_an_error_with_file_and_line(tmp_path, line, found):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\n\n' + line + "\n")
    with pytest.raises(ValueError, match=f"a.jsonl, line 3: .*{found}"):
        read(path)


def test_the_text_field_can_have_another_name(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "good"}')
    assert read(tmp_path, text_field="body") == ["good"]


@pytest.mark.parametrize("column", [{"body": ["x"]}, {"text": [None]}, {"text": [1]}], ids=str)
def test_a_parquet_file_without_texts_is_an_error(tmp_path, column):
    pyarrow.parquet.write_table(pyarrow.table(column), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a.parquet has no texts in a column 'text'"):
        read(tmp_path)


@pytest.mark.parametrize("separator", [None, "--"])
def test_a_file_that_is_not_utf8_is_an_error(tmp_path, separator):
    (tmp_path / "a.txt").write_bytes(b"good\n--\n\xff\xfe")
    with pytest.raises(ValueError, match="a.txt is not UTF-8"):
        read(tmp_path, separator=separator)


def test_a_file_too_large_for_one_document_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 8)
    (tmp_path / "a.txt").write_text("nine char")
    with pytest.raises(ValueError, match="9 bytes.*give the separator"):
        read(tmp_path)
    assert read(tmp_path, separator="--") == ["nine char"]


def test_unknown_and_mixed_sources_are_errors(tmp_path):
    with pytest.raises(ValueError, match="got 'pg-19'. Did you mean 'pg19'"):
        read("pg-19")
    with pytest.raises(ValueError, match="is for evaluation"):
        read("heldout")
    write_json(write_text(tmp_path))
    with pytest.raises(ValueError, match=r"several kinds, .jsonl, .txt"):
        read(tmp_path)


@pytest.mark.parametrize("num_documents", [0, 2])
def test_a_source_without_a_document_for_each_shard_is_an_error_and_no_hang(num_documents):
    message = f"numbers holds {num_documents} documents, none for shard=2 of num_shards=3"
    with pytest.raises(ValueError, match=message):
        list(stream_of(num_documents, epochs=None, shard=2, num_shards=3))


@pytest.mark.parametrize(
    "changes", [{"shard": 2, "num_shards": 2}, {"epochs": 0}, {"buffer_size": 0}, {"seed": -1}]
)
def test_options_out_of_range_are_errors(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        StreamOptions(**changes)


# --- order, shares, places ----------------------------------------------------------------------


@given(num_documents=st.integers(1, 15), buffer_size=st.integers(1, 6), seed=st.integers(0, 3))
def test_every_epoch_has_every_document_once_and_near_its_place(num_documents, buffer_size, seed):
    stream = stream_of(num_documents, buffer_size=buffer_size, seed=seed)
    names = [int(float(text)) for text in texts_of(stream)]
    for epoch in (names[:num_documents], names[num_documents:]):
        assert sorted(epoch) == list(range(num_documents))
        assert all(a // buffer_size == b // buffer_size for a, b in enumerate(epoch))


def test_the_order_depends_on_seed_and_epoch():
    first, second = (
        texts_of(stream_of(64, buffer_size=64)),
        texts_of(stream_of(64, buffer_size=64, seed=1)),
    )
    assert len({tuple(order) for order in (first[:64], first[64:], second[:64])}) == 3
    assert first == texts_of(stream_of(64, buffer_size=64))


@given(num_documents=st.integers(5, 15), num_shards=st.integers(1, 5))
def test_shards_deal_out_the_order_of_one_rank(num_documents, num_shards):
    whole = texts_of(stream_of(num_documents, epochs=1))
    shares = [
        texts_of(stream_of(num_documents, epochs=1, shard=shard, num_shards=num_shards))
        for shard in range(num_shards)
    ]
    assert shares == [whole[shard::num_shards] for shard in range(num_shards)]


@given(
    num_documents=st.integers(2, 15),
    length=st.integers(1, 9),
    stop=st.integers(0, 30),
    shard=st.integers(0, 1),
)
def test_a_packed_stream_resumes_to_the_token(num_documents, length, stop, shard):
    def packer() -> Packer:
        stream = stream_of(num_documents, shard=shard, num_shards=2)
        return Packer(PackingOptions("eod", length, eod_token_id=0), stream)

    def tokens(packs) -> list[list[int]]:
        return [packed.input_ids.tolist() for packed in packs]

    first, second, uninterrupted = packer(), packer(), packer()
    begun = tokens(islice(first, stop))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert begun + tokens(second) == tokens(uninterrupted)
    assert second.statistics == uninterrupted.statistics


def test_a_stream_without_epochs_goes_on():
    assert len(list(islice(stream_of(3, epochs=None), 50))) == 50


@pytest.mark.parametrize("changes", [{"seed": 1}, {"num_shards": 2}, {"buffer_size": 3}], ids=str)
def test_a_place_in_another_order_is_refused(changes):
    with pytest.raises(ValueError, match="resume with the same"):
        stream_of(5, **changes).load_state_dict(stream_of(5).state_dict())
