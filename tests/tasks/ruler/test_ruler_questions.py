"""RULER's qa_1 and qa_2: reading the official files, and hiding documents among others."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.tasks.prompts import RulerTemplate
from lm_eval_llada.tasks.ruler.draft import Draft, Maker
from lm_eval_llada.tasks.ruler.question_answering import (
    QUESTION_TASKS,
    question_maker,
    read_questions,
)
from lm_eval_llada.tasks.ruler.scores import string_match_part
from tests.helpers.official_data import official_data

OFFICIAL = {"qa_1": "dev-v2.0.json", "qa_2": "hotpot_dev_distractor_v1.json"}


def squad() -> dict[str, Any]:
    """Two articles of three and four paragraphs, the second one with a paragraph twice."""

    def paragraph(article: str, number: int) -> dict[str, Any]:
        name = f"{article}{number}"
        answers = [{"text": f"answer {name}", "answer_start": 0}] * 2 + [{"text": name}]
        return {
            "context": f"Paragraph {name} says: answer {name}.",
            "qas": [
                {"question": f"What says {name}?", "answers": answers, "is_impossible": False},
                {"question": f"What not {name}?", "answers": [], "is_impossible": True},
            ],
        }

    first = [paragraph("A", number) for number in range(3)]
    second = [paragraph("B", number) for number in (0, 1, 2, 2)]
    return {
        "version": "v2.0",
        "data": [{"title": "A", "paragraphs": first}, {"title": "B", "paragraphs": second}],
    }


def hotpotqa(num_questions: int = 4) -> list[dict[str, Any]]:
    """Questions with three articles each, of which neighbours share one."""
    return [
        {
            "_id": str(number),
            "question": f"Which {number}?",
            "answer": f"answer {number}",
            "supporting_facts": [[f"T{number}a", 0], [f"T{number + 1}a", 1], [f"T{number}a", 1]],
            "context": [
                [f"T{number}b", ["Nothing.", " At all."]],
                [f"T{number}a", [f"Fact {number}.", " More."]],
                [f"T{number + 1}a", [f"Fact {number + 1}.", " More."]],
            ],
        }
        for number in range(num_questions)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with small files of the official names and forms."""
    (tmp_path / "ruler").mkdir()
    for task, content in (("qa_1", squad()), ("qa_2", hotpotqa())):
        (tmp_path / "ruler" / OFFICIAL[task]).write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with heads of the official files, for the tests that need them."""
    return official_data("ruler/*.json")


def documents_of(draft: Draft) -> list[str]:
    """The documents of a prompt, whose numbers have to be 1, 2, 3, ..."""
    context = draft.prompt.split("are given documents.\n\n")[1].split("\n\nAnswer the question")[0]
    parts = re.split(r"(?:^|\n\n)Document (\d+):\n", context)
    assert parts[1::2] == [str(number + 1) for number in range(len(parts) // 2)]
    return parts[2::2]


# --- reading ------------------------------------------------------------------------------------


def test_squad_keeps_answerable_questions_in_order_with_their_articles(folder):
    found = read_questions("qa_1", folder)
    names = [question.text.split()[2].rstrip("?") for question in found.questions]
    assert names == ["A0", "A1", "A2", "B0", "B1", "B2", "B2"]
    assert len(found.documents) == 6
    for name, question in zip(names, found.questions, strict=True):
        assert question.answers == (f"answer {name}", name)
        (own,) = question.documents
        assert f"Paragraph {name}" in found.documents[own]
        assert question.supporting == question.documents
        related = {found.documents[place].split()[1] for place in question.related}
        assert related == {f"{name[0]}{number}" for number in range(3)} - {name}
        assert len(question.related) == 2


def test_hotpotqa_keeps_the_articles_and_knows_the_supporting_ones(folder):
    found = read_questions("qa_2", folder)
    assert len(found.questions) == 4
    assert len(found.documents) == 4 + 5
    for number, question in enumerate(found.questions):
        assert question.answers == (f"answer {number}",)
        own = [found.documents[place] for place in question.documents]
        assert own == [
            f"T{number}b\nNothing. At all.",
            f"T{number}a\nFact {number}. More.",
            f"T{number + 1}a\nFact {number + 1}. More.",
        ]
        assert question.supporting == question.documents[1:]
        assert question.related == ()


def squad_table() -> list[dict[str, Any]]:
    """The small SQuAD as the hub has it."""
    return [
        {
            "title": article["title"],
            "context": paragraph["context"],
            "question": asked["question"],
            "answers": {"text": [answer["text"] for answer in asked["answers"]]},
        }
        for article in squad()["data"]
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]


def hotpotqa_table() -> list[dict[str, Any]]:
    """The small HotpotQA as the hub has it."""
    return [
        {
            "question": row["question"],
            "answer": row["answer"],
            "context": {
                "title": [title for title, _ in row["context"]],
                "sentences": [sentences for _, sentences in row["context"]],
            },
            "supporting_facts": {
                "title": [title for title, _ in row["supporting_facts"]],
                "sent_id": [number for _, number in row["supporting_facts"]],
            },
        }
        for row in hotpotqa()
    ]


@pytest.mark.parametrize(
    ("task", "table", "asked_for"),
    [
        (
            "qa_1",
            squad_table,
            (
                "rajpurkar/squad_v2",
                "squad_v2/validation-00000-of-00001.parquet",
                "3ffb306f725f7d2ce8394bc1873b24868140c412",
            ),
        ),
        (
            "qa_2",
            hotpotqa_table,
            (
                "hotpotqa/hotpot_qa",
                "distractor/validation-00000-of-00001.parquet",
                "1908d6afbbead072334abe2965f91bd2709910ab",
            ),
        ),
    ],
)
def test_table_of_the_hub_reads_as_the_official_file(
    folder, tmp_path, monkeypatch, task, table, asked_for
):
    from pyarrow import Table, parquet

    calls = []

    def download(repository: str, name: str, *, repo_type: str, revision: str) -> str:
        calls.append((repository, name, revision))
        assert repo_type == "dataset"
        parquet.write_table(Table.from_pylist(table()), tmp_path / "table.parquet")
        return str(tmp_path / "table.parquet")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    read_questions.cache_clear()
    found = read_questions(task)
    assert calls == [asked_for]
    assert found == read_questions(task, folder)
    read_questions(task, None, "other")
    assert calls[-1][-1] == "other"
    read_questions.cache_clear()  # what was read here is not the hub's


def test_file_of_another_name_is_taken_by_its_form(folder):
    for task, name in OFFICIAL.items():
        (folder / "ruler" / name).rename(folder / "ruler" / f"{task}_head.json")
    # The first by name has neither form.
    (folder / "ruler" / "PaulGrahamEssays.json").write_text('{"text": "x"}', encoding="utf-8")
    (folder / "ruler" / "a.jsonl").write_text("{}\n{}\n", encoding="utf-8")
    assert len(read_questions("qa_1", folder).questions) == 7
    assert len(read_questions("qa_2", folder / "ruler").questions) == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "is not of the form of .*: not JSON"),
        ("[1, 2]", "is not of the form of .*TypeError"),
        ('{"data": [{"title": "x"}], "x": [[["context"]]]}', "is not of the form of"),
    ],
)
@pytest.mark.parametrize("task", QUESTION_TASKS)
def test_official_name_with_other_content_is_refused(tmp_path, task, content, message):
    (tmp_path / OFFICIAL[task]).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        read_questions(task, tmp_path)
    assert str(tmp_path / OFFICIAL[task]) in str(caught.value)


@pytest.mark.parametrize(("task", "content"), [("qa_1", '{"data": []}'), ("qa_2", "[]")])
def test_file_without_questions_is_refused(tmp_path, task, content):
    (tmp_path / OFFICIAL[task]).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="holds no question with an answer"):
        read_questions(task, tmp_path)


@pytest.mark.parametrize("task", QUESTION_TASKS)
def test_missing_file_is_an_error_that_names_the_ways_to_get_it(tmp_path, task):
    for place in (tmp_path, None):  # None: the hub, which tests cannot reach
        with pytest.raises(FileNotFoundError) as caught:
            question_maker(task, index=0, seed="", data_dir=place)
        for part in ("data_dir", f"ruler/{OFFICIAL[task]}", "https://"):
            assert part in str(caught.value)


def test_unknown_task_and_index_are_refused(folder):
    with pytest.raises(ValueError, match="task must be one of qa_1, qa_2; got 'qa_3'"):
        question_maker("qa_3", index=0, seed="", data_dir=folder)
    with pytest.raises(ValueError, match="qa_2 has no question 4: 4 can be answered"):
        question_maker("qa_2", index=4, seed="", data_dir=folder)
    with pytest.raises(ValueError, match="index must be a whole number >= 0"):
        question_maker("qa_1", index=-1, seed="", data_dir=folder)


# --- samples ------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", QUESTION_TASKS)
def test_own_documents_are_in_every_sample_once(folder, task):
    found = read_questions(task, folder)
    for index, question in enumerate(found.questions):
        maker = question_maker(task, index=index, seed=str(index), data_dir=folder)
        assert maker.fewest == len(question.documents)
        for number in (maker.fewest, maker.fewest + 1, 6, 50):
            draft = maker.draft(number)
            documents = documents_of(draft)
            assert len(documents) == number
            assert all(documents.count(found.documents[own]) == 1 for own in question.documents)
            supporting = [documents[place - 1] for place in draft.details["places"]]
            assert supporting == [found.documents[place] for place in question.supporting]
            assert draft.details["num_copies"] == number - len(set(documents))
            assert draft.details["question"] == index
            assert draft.references == question.answers
            assert f"Question: {question.text}" in draft.prompt


def test_documents_of_the_article_come_before_any_others(folder):
    for index in range(6):
        maker = question_maker("qa_1", index=index, seed=str(index), data_dir=folder)
        articles = [
            {re.search("Paragraph (.)", text)[1] for text in documents_of(maker.draft(number))}
            for number in (1, 2, 3, 4)
        ]
        assert [len(found) for found in articles] == [1, 1, 1, 2]


@given(number=st.integers(1, 40))
def test_a_document_more_only_adds_to_the_sample(small_folder, number):
    maker = question_maker("qa_1", index=2, seed="add", data_dir=small_folder)
    fewer, more = documents_of(maker.draft(number)), documents_of(maker.draft(number + 1))
    for text in fewer:
        more.remove(text)
    assert len(more) == 1


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory) -> Path:
    """A data folder that lasts for all examples of a property."""
    path = tmp_path_factory.mktemp("data")
    (path / OFFICIAL["qa_1"]).write_text(json.dumps(squad()), encoding="utf-8")
    return path


def test_whole_file_is_used_before_any_document_is_repeated(folder):
    maker = question_maker("qa_2", index=1, seed="whole", data_dir=folder)
    whole = maker.draft(9)
    assert len(set(documents_of(whole))) == 9 and whole.details["num_copies"] == 0
    copied = documents_of(maker.draft(9 + 6 + 2))
    counts = sorted(copied.count(text) for text in set(copied))
    assert counts == [1, 1, 1, 2, 2, 2, 2, 3, 3]


def test_file_of_one_sample_has_an_end(tmp_path):
    content = json.dumps(hotpotqa(1))
    (tmp_path / OFFICIAL["qa_2"]).write_text(content, encoding="utf-8")
    maker = question_maker("qa_2", index=0, seed="", data_dir=tmp_path)
    assert maker.fewest == maker.most == 3
    assert len(documents_of(maker.draft(3))) == 3


def test_supporting_document_is_found_at_every_place(folder):
    places = [
        question_maker("qa_1", index=0, seed=str(number), data_dir=folder)
        .draft(5)
        .details["places"]
        for number in range(200)
    ]
    counts = [places.count([place]) for place in range(1, 6)]
    assert sum(counts) == 200 and min(counts) >= 20, counts


def test_draft_depends_on_the_seed_and_its_argument_alone(folder):
    def make(seed: str) -> Maker:
        return question_maker("qa_2", index=0, seed=seed, data_dir=folder)

    maker = make("7/qa_2/0")
    long, short = maker.draft(12), maker.draft(5)
    random.seed(1)
    state = random.getstate()
    assert make("7/qa_2/0").draft(5) == short == maker.draft(5)
    assert maker.draft(12) == long
    assert random.getstate() == state
    assert make("7/qa_2/1").draft(12) != long
    assert (maker.unit, maker.fewest, maker.most) == ("document", 3, None)
    with pytest.raises(ValueError, match="num_units must be a whole number >= 3; got 2"):
        maker.draft(2)


def test_prompt_ends_in_the_question_and_the_prefix_is_the_originals(folder):
    draft = question_maker("qa_1", index=0, seed="", data_dir=folder).draft(1)
    assert draft.prompt.endswith("\n\nQuestion: What says A0?")
    assert draft.answer_prefix == " Answer:"
    assert "\n\nDocument 1:\nParagraph A0 says: answer A0.\n\nAnswer" in draft.prompt


def test_users_wording_is_used(folder):
    wording = RulerTemplate("qa", "{query} <{context}>", " So:")
    draft = question_maker("qa_1", index=0, seed="", data_dir=folder, template=wording).draft(1)
    assert draft.text == "What says A0? <Document 1:\nParagraph A0 says: answer A0.> So:"


# --- the official files -------------------------------------------------------------------------


def test_real_squad_answers_stand_in_the_documents_at_their_places(data_dir):
    for index in range(0, 200, 10):
        maker = question_maker("qa_1", index=index, seed=str(index), data_dir=data_dir)
        draft = maker.draft(150)
        documents = documents_of(draft)
        assert len(documents) == len(set(documents)) == 150
        (place,) = draft.details["places"]
        assert string_match_part(documents[place - 1], draft.references) == 100


def test_real_hotpotqa_has_two_supporting_documents_among_ten(data_dir):
    found = read_questions("qa_2", data_dir)
    for index, question in enumerate(found.questions):
        assert 2 <= len(question.documents) <= 10
        assert len(question.supporting) == 2, index
    draft = question_maker("qa_2", index=3, seed="3", data_dir=data_dir).draft(200)
    documents = documents_of(draft)
    assert {found.documents[own] for own in found.questions[3].documents} <= set(documents)
    assert len(set(documents)) == 200
