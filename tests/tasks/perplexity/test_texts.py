"""Long documents: where they come from, and whose bytes their tokens are."""

from __future__ import annotations

import json

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from lm_eval_llada.tasks.text import long_texts as texts
from lm_eval_llada.tasks.text import sources
from lm_eval_llada.tasks.text.haystacks import heldout_text
from lm_eval_llada.tasks.text.long_texts import (
    Document,
    long_texts,
    read_documents,
    tokenize,
)
from tests.helpers.longbench_documents import document
from tests.helpers.official_data import official_data
from tests.helpers.toy_tokenizer import toy_tokenizer

# One, two, three and four bytes in UTF-8; the toy tokenizer has a token for each byte at most.
MIXED = "Rain fell, é 文字 🙂🙂\n\nand the old roof — 雨 — held."


def tokens_of(text: str, add_bos_token: bool | None = None):
    return tokenize(Document("toy", text), toy_tokenizer(), add_bos_token)


# --- bytes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_bytes_of_all_chunks_add_up_even_where_a_character_is_parted(size):
    text = tokens_of(MIXED)
    ends = [*range(0, text.num_tokens, size), text.num_tokens]
    sizes = [text.num_bytes(a, b) for a, b in zip(ends, ends[1:], strict=False)]
    assert sum(sizes) == len(MIXED.encode())
    if size == 1:
        # 文 is three tokens of one byte each, and counts with the first of them.
        first = text.cuts.index(MIXED.index("文") + 1)
        assert sizes[first - 1 : first + 2] == [3, 0, 0]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_byte_is_lost_or_counted_twice_in_any_text(content):
    text = tokens_of(content)
    assert len(text.cuts) == text.num_tokens + 1
    assert list(text.cuts) == sorted(text.cuts)
    assert text.num_bytes(0, text.num_tokens) == len(content.encode())
    parts = [text.text_of(i, i + 1) for i in range(text.num_tokens)]
    assert "".join(parts) == content


def test_a_bos_token_is_context_without_bytes():
    plain, with_bos = tokens_of(MIXED), tokens_of(MIXED, add_bos_token=True)
    assert with_bos.ids == (toy_tokenizer().bos_token_id, *plain.ids)
    assert with_bos.num_bytes(0, 1) == 0
    assert with_bos.num_bytes(1, 9) == plain.num_bytes(0, 8)


def test_tokens_that_a_tokenizer_puts_behind_a_text_are_left_out():
    backend = Tokenizer.from_str(toy_tokenizer().backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[("<|startoftext|>", 2), ("<|endoftext|>", 0)],
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|startoftext|>")
    plain = tokens_of(MIXED).ids
    document = Document("toy", MIXED)
    assert tokenize(document, tokenizer).ids == (2, *plain)
    assert tokenize(document, tokenizer, add_bos_token=True).ids == (2, *plain)
    assert tokenize(document, tokenizer, add_bos_token=False).ids == plain


def test_a_tokenizer_without_places_is_refused():
    class Slow:
        pass

    with pytest.raises(ValueError, match="Slow does not"):
        tokenize(Document("toy", "text"), Slow())


# --- sources ------------------------------------------------------------------------------------


def test_the_packages_own_text_needs_no_file():
    assert read_documents("heldout") == [Document("heldout", heldout_text())]


def test_a_file_or_a_folder_of_files_is_read_as_it_is(tmp_path):
    (tmp_path / "b.txt").write_bytes("one\r\n文".encode())
    (tmp_path / "a.txt").write_bytes(b"two")
    (tmp_path / "notes.md").write_bytes(b"three")
    expected = [Document("a", "two"), Document("b", "one\r\n文")]
    assert read_documents(str(tmp_path)) == expected
    assert read_documents(str(tmp_path / "b.txt")) == expected[1:]


@pytest.mark.parametrize(
    ("content", "message"), [(b"\xff\xfe", "not UTF-8"), (b" \n", "holds no text")], ids=str
)
def test_a_file_that_is_no_text_is_an_error(tmp_path, content, message):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_documents(str(tmp_path / "bad.txt"))


def test_an_unknown_text_is_an_error_with_the_nearest_name(tmp_path):
    with pytest.raises(ValueError, match="got 'gov_reports'. Did you mean 'gov_report'"):
        read_documents("gov_reports")
    with pytest.raises(ValueError, match="a folder with"):
        read_documents(str(tmp_path))


@pytest.mark.parametrize("place", ["ppl/pg19_2.txt", "pg19.txt", "ppl/pg19/10146.txt"])
def test_a_corpus_is_read_from_local_text_files(tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("A long book.")
    (tmp_path / "gov_report_1.txt").write_text("A report.")
    assert read_documents("pg19", tmp_path) == [Document(path.stem, "A long book.")]


@pytest.mark.parametrize("name", ["gov_report", "pg19"])
def test_a_corpus_is_read_from_the_hubs_own_file(tmp_path, monkeypatch, name):
    corpus = texts._CORPORA[name]
    table = pyarrow.table({corpus.column: ["First.", " ", "Third."], "other": [1, 2, 3]})
    path = tmp_path / corpus.source.name
    pyarrow.parquet.write_table(table, path)
    expected = [Document(f"{name}_0000", "First."), Document(f"{name}_0002", "Third.")]
    assert read_documents(name, tmp_path) == expected
    asked = []

    def fake_hub(source):
        asked.append(source)
        return path

    monkeypatch.setattr(sources, "_from_hub", fake_hub)
    assert read_documents(name) == expected
    assert asked == [corpus.source]
    # A branch could change under a published number.
    assert len(asked[0].revision) == 40


@pytest.mark.parametrize("place", ["longbench/gov_report.jsonl", "gov_report.jsonl"])
def test_the_report_of_longllada_is_document_one_of_longbenchs(tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    rows = [document("gov_report", context=f"Report {number}.") for number in range(3)]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert read_documents("gov_report_001", tmp_path) == [Document("gov_report_001", "Report 1.")]
    path.write_text(json.dumps(rows[0]))
    with pytest.raises(ValueError, match="document 1 of LongBench's gov_report, .* but .* has 1"):
        read_documents("gov_report_001", tmp_path)
    # The release's own file, of the same name, comes first.
    (tmp_path / "ppl").mkdir()
    (tmp_path / "ppl" / "gov_report_001.txt").write_text("As released.")
    (found,) = read_documents("gov_report_001", tmp_path)
    assert found == Document("gov_report_001", "As released.")


def test_a_missing_report_of_longllada_names_the_ways_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"THUDM/LongBench.*ppl/gov_report_001\.txt"):
        read_documents("gov_report_001", tmp_path)


def test_the_report_of_longllada_has_its_characters():
    folder = official_data("ppl/gov_report_001.txt")
    (found,) = read_documents("gov_report_001", folder)
    assert len(found.text) == 81_966 and "\n" not in found.text


def test_a_missing_corpus_names_the_ways_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ccdv/govreport.*ppl/gov_report\*\.txt"):
        read_documents("gov_report", tmp_path)


def test_a_damaged_file_of_the_hub_is_an_error(tmp_path):
    (tmp_path / texts._CORPORA["pg19"].source.name).write_bytes(b"not parquet")
    with pytest.raises(ValueError, match="damaged"):
        read_documents("pg19", tmp_path)


# --- long enough --------------------------------------------------------------------------------


def test_shorter_documents_are_passed_over_and_counted():
    documents = [Document(str(n), "rain " * n) for n in (3, 50, 4, 60, 70)]
    found, num_short = long_texts(
        documents, lambda d: tokenize(d, toy_tokenizer()), num_tokens=40, num_documents=2
    )
    assert [text.document.name for text in found] == ["50", "60"]
    assert num_short == 2


def test_too_few_long_documents_are_an_error():
    documents = [Document("short", "rain rain rain"), Document("long", "rain " * 50)]
    with pytest.raises(ValueError, match=r"num_documents=2 .* has 1; the longest of the others"):
        long_texts(
            documents, lambda d: tokenize(d, toy_tokenizer()), num_tokens=40, num_documents=2
        )
