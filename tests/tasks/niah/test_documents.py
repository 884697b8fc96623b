"""Words, built-in text, and the files of NeedleBench."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lm_eval_llada.tasks.niah.needles import needlebench_needles, parse_needlebench
from lm_eval_llada.tasks.niah.single import build_niah
from lm_eval_llada.tasks.niah.words import (
    ADJECTIVES,
    ATTRIBUTES,
    EVALUATION_WORDS,
    KEYS,
    NOUNS,
)
from lm_eval_llada.tasks.text.haystacks import (
    corpus,
    haystack_pieces,
    heldout_text,
    noise_sentences,
    read_needlebench,
)
from tests.helpers.needle_rows import needle_row
from tests.helpers.toy_tokenizer import toy_tokenizer


@pytest.fixture
def small_corpora(tmp_path) -> Path:
    """A data folder of NeedleBench's form: one document, and needles of two keys."""
    folder = tmp_path / "needlebench"
    folder.mkdir()
    text = "Ships carry grain. Trains carry coal.\n\nNobody carries sand, it is everywhere!"
    for name in ("en_un_asr.jsonl", "PaulGrahamEssays.jsonl"):
        lines = [json.dumps({"title": "", "text": text}), json.dumps({"title": "", "text": ""})]
        (folder / name).write_text("\n".join(lines), encoding="utf-8")
    rows = [
        {**needle_row("Mars", "Red Band"), "language": "English"},
        {**needle_row("Venus", "Red Band"), "language": "English"},
        {**needle_row("Venus", "Blue Band"), "language": "English"},
        {**needle_row("Pluto", "Ice Band"), "language": "Chinese"},
    ]
    (folder / "needles.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def num_tokens(text: str) -> int:
    return len(toy_tokenizer()(text, add_special_tokens=False)["input_ids"])


# --- words and built-in text --------------------------------------------------------------------


def test_evaluation_words_are_plain_distinct_and_complete():
    assert len(set(ADJECTIVES)) == len(ADJECTIVES) >= 100
    assert len(set(NOUNS)) == len(NOUNS) >= 100
    assert not set(ADJECTIVES) & set(NOUNS)
    assert all(re.fullmatch("[a-z]+", word) for word in EVALUATION_WORDS)
    assert len(KEYS) == len(ADJECTIVES) * len(NOUNS) == len(set(KEYS))
    assert {word for key in KEYS for word in key.split("-")} == EVALUATION_WORDS


def test_built_in_text_holds_no_evaluation_word_and_no_digit():
    for text in ("\n".join(noise_sentences()), heldout_text()):
        assert text.isascii()
        assert not re.search(r"\d", text)
        assert not EVALUATION_WORDS & set(re.findall("[a-z]+", text.lower()))
    assert not EVALUATION_WORDS & set(" ".join(ATTRIBUTES).split())


def test_noise_is_about_sixty_short_sentences():
    sentences = noise_sentences()
    assert len(set(sentences)) == len(sentences) >= 60
    assert all(5 <= len(sentence.split()) <= 14 for sentence in sentences)
    assert all(re.fullmatch(r"[A-Z][^.]*\.", sentence) for sentence in sentences)


def test_heldout_text_is_long_prose_without_repeated_sentences():
    text = heldout_text()
    assert len(text.split()) >= 3500
    sentences = re.findall(r"[A-Z][^.?!]+[.?!]", text)
    assert len(set(sentences)) == len(sentences) > 200


def test_longer_haystack_begins_with_the_shorter_one_and_never_runs_out():
    long = haystack_pieces("noise", 5000, "7")
    assert len(long) == 5000
    assert haystack_pieces("noise", 300, "7") == long[:300]
    text = "".join(long)
    assert all(text.count(sentence) >= 5 for sentence in noise_sentences())


# --- NeedleBench --------------------------------------------------------------------------------


def test_request_for_a_format_is_cut_to_the_stem():
    needle = parse_needlebench(needle_row("Mars", "Red Band"))
    assert needle.question == "Which band is on Mars?"
    assert needle.stem == "The band on the Mars is"
    assert (needle.answer, needle.key) == ("Red Band", "Mars")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"retrieval_question": "Which band?"}, "answer in the format"),
        ({"arg2": None}, "lacks arg2"),
    ],
)
def test_line_of_another_form_is_refused(change, message):
    row = {**needle_row("Mars", "Red Band"), **change}
    row = {name: value for name, value in row.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        parse_needlebench(row)


@pytest.mark.parametrize("haystack", ["needlebench", "essays"])
def test_local_corpus_is_used_over_and_over(small_corpora, haystack):
    samples = build_niah(
        toy_tokenizer(),
        length=500,
        gen_length=16,
        haystack=haystack,
        data_dir=small_corpora,
        repeats=3,
        depths=[50],
    )
    for sample in samples:
        assert sample["prompt"].count("Trains carry coal.") > 2
        assert sample["prompt"].count(sample["answer"]) == 1
    assert len({s["needle_id"] for s in samples}) == 3


def test_distractors_have_other_keys_and_other_keywords(small_corpora):
    for seed in range(20):
        for repeat in range(3):
            if needlebench_needles(seed, repeat, 0, small_corpora)[0].reference.count(
                "Venus is Red"
            ):
                continue  # shares its key with one needle and its keyword with the other
            needle, distractor = needlebench_needles(seed, repeat, 1, small_corpora)
            assert needle.key != distractor.key
            assert needle.answer != distractor.answer
    with pytest.raises(ValueError, match="num_distractors=2 is more than NeedleBench can give"):
        needlebench_needles(0, 0, 2, small_corpora)


def test_generated_needles_go_into_any_haystack(small_corpora):
    (sample,) = build_niah(
        toy_tokenizer(),
        length=300,
        gen_length=8,
        haystack="essays",
        needles="numbers",
        data_dir=small_corpora,
        repeats=1,
        depths=[0],
    )
    assert re.search(r"is \d{5}\.", sample["prompt"]) and "Ships carry grain." in sample["prompt"]


def test_missing_files_are_an_error_that_names_both_ways_to_get_them(tmp_path):
    for read in (
        lambda: read_needlebench("needles.jsonl", tmp_path),
        lambda: read_needlebench("needles.jsonl", None),  # the hub, which tests cannot reach
    ):
        with pytest.raises(FileNotFoundError) as caught:
            read()
        assert "data_dir" in str(caught.value)
        assert "opencompass/NeedleBench" in str(caught.value)


def test_broken_file_is_an_error_that_names_the_line(tmp_path):
    (tmp_path / "needles.jsonl").write_text('{"needle": "x"}\nnot json\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: not JSON"):
        read_needlebench("needles.jsonl", tmp_path)
    (tmp_path / "needles.jsonl").write_text("[1]\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1: expected an object"):
        read_needlebench("needles.jsonl", tmp_path)


def test_corpus_without_text_is_refused(tmp_path):
    (tmp_path / "en_un_asr.jsonl").write_text('{"title": "x"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="en_un_asr.jsonl has no 'text'"):
        corpus("needlebench", tmp_path)


def test_official_needles_all_have_a_stem_and_a_keyword(data_dir):
    rows = read_needlebench("needles.jsonl", data_dir)
    needles = [parse_needlebench(row) for row in rows if row["language"] == "English"]
    assert len(needles) == 188
    for needle in needles:
        assert needle.answer in needle.statement
        assert needle.answer not in needle.question + needle.stem
        assert needle.stem == needle.stem.strip() and "_" not in needle.stem


@pytest.mark.parametrize("haystack", ["needlebench", "essays"])
def test_official_haystacks_fill_a_sample(data_dir, haystack):
    samples = build_niah(
        toy_tokenizer(),
        length=4096,
        gen_length=32,
        haystack=haystack,
        data_dir=data_dir,
        repeats=3,
        depths=[0, 50, 100],
        num_distractors=2,
    )
    for sample in samples:
        total = num_tokens(sample["prompt"]) + 32
        assert total <= 4096 <= total + 8
        assert sample["prompt"].count(sample["answer"]) == 1
