"""RULER's qa_1 and qa_2: a question of SQuAD or HotpotQA, its documents hidden among others.

Source: RULER (arXiv 2404.06654), ``scripts/synthetic.yaml`` and ``scripts/data/synthetic/qa.py``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from lm_eval_llada.errors import require_whole, unknown_choice
from lm_eval_llada.tasks.prompts import (
    RulerTemplate,
    ruler_template,
    ruler_text,
)
from lm_eval_llada.tasks.ruler.draft import Draft
from lm_eval_llada.tasks.text.sources import (
    Source,
    find_file,
    parse_json,
)


@dataclass(frozen=True)
class Question:
    """A question, its answers, and its documents by their place in ``QuestionSet.documents``.

    Attributes:
        text: What is asked.
        answers: Answers of which each is enough, none twice.
        documents: What every sample must hold: SQuAD's paragraph, HotpotQA's ten articles.
        supporting: Those of them that the answer follows from.
        related: What is drawn first to hide them among: the paragraphs of SQuAD's same article.
    """

    text: str
    answers: tuple[str, ...]
    documents: tuple[int, ...]
    supporting: tuple[int, ...]
    related: tuple[int, ...] = ()


@dataclass(frozen=True)
class QuestionSet:
    """The answerable questions of a file in their order, and all its documents, each once.

    Attributes:
        questions: The questions.
        documents: The documents' texts, sorted.
    """

    questions: tuple[Question, ...]
    documents: tuple[str, ...]


def question_maker(
    task: str,
    *,
    index: int,
    seed: str,
    data_dir: str | Path | None = None,
    hub_revision: str | None = None,
    template: RulerTemplate | None = None,
) -> QuestionMaker:
    """Return the maker of one sample of a question task.

    Args:
        task: One of ``QUESTION_TASKS``.
        index: Number of the question among the answerable ones of its file, from 0.
        seed: Names the sample; everything random depends on it alone.
        data_dir: Folder that holds ``ruler/<official file>``, or another file of its form; None
            reads the hub.
        hub_revision: Revision of the hub repository; None means the pinned one.
        template: Wording of the prompt; the original's where it is None.

    Raises:
        ValueError: If the task is unknown, the file has no question of that index, or is of
            another form.
        FileNotFoundError: If the file is neither there nor to be had from the hub.
        ImportError: If lm-eval, which holds the wording, is not installed.
    """
    require_whole("index", index, 0)
    found = read_questions(task, data_dir, hub_revision)
    if index >= len(found.questions):
        raise ValueError(
            f"{task} has no question {index}: {len(found.questions)} can be answered in the file "
            f"that was read. Use at most that many samples."
        )
    return QuestionMaker(found, index, seed, template or ruler_template("qa"))


class QuestionMaker:
    """Makes a sample of qa out of any number of documents.

    The question's own documents are in each sample, once. A greater number keeps the documents of a
    smaller one and adds to them: first those of the same article (SQuAD), then any of the file, in
    random order. References are the answers, any of which is right. ``details`` holds the numbers
    that the supporting documents have in the prompt (``places``), the question's number in its
    file (``question``), and how many documents are copies of others (``num_copies``).

    Differs from RULER in two ways. There a shuffle depends on the number of documents alone, so
    that the first document, SQuAD's answer, has one and the same place in samples of equal number.
    And once the whole file is in a sample, there all its documents are repeated, so that the answer
    may come twice; here the question's own ones are not.

    Attributes:
        unit: ``document``.
        fewest: The question's own documents.
        most: None, unless the file has only the question's own documents.
    """

    unit = "document"

    def __init__(self, found: QuestionSet, index: int, seed: str, template: RulerTemplate) -> None:
        """Choose the question."""
        self._documents = found.documents
        self._index = index
        self._question = found.questions[index]
        self._seed = seed
        self._template = template
        self._wording = ruler_text("qa_document")
        self.fewest = len(self._question.documents)
        self.most = self.fewest if self._num_others == 0 else None

    def draft(self, num_units: int) -> Draft:
        """Make the sample out of that many documents."""
        require_whole("num_units", num_units, self.fewest)
        question = self._question
        order = [*question.documents, *self._draw_others(num_units - self.fewest)]
        random.Random(f"{self._seed}/order").shuffle(order)
        context = "\n\n".join(
            self._wording.format(i=number, document=self._documents[document])
            for number, document in enumerate(order, start=1)
        )
        filled = {"query": question.text}
        return Draft(
            prompt=self._template.template.format(context=context, **filled),
            answer_prefix=self._template.answer_prefix.format(**filled),
            references=question.answers,
            details={
                "question": self._index,
                "places": [order.index(document) + 1 for document in question.supporting],
                "num_copies": len(order) - len(set(order)),
            },
        )

    @property
    def _num_others(self) -> int:
        return len(self._documents) - len(self._question.documents)

    def _draw_others(self, number: int) -> list[int]:
        """Draw documents to hide the question's own ones among; a greater number goes on."""
        rng = random.Random(f"{self._seed}/documents")
        drawn = rng.sample(self._question.related, len(self._question.related))[:number]
        taken = {*self._question.documents, *self._question.related}
        # Documents are drawn until a new one comes: shuffling HotpotQA's 66,000 takes far longer.
        while len(drawn) < min(number, self._num_others):
            document = rng.randrange(len(self._documents))
            if document not in taken:
                taken.add(document)
                drawn.append(document)
        return list(islice(cycle(drawn), number))


@lru_cache(maxsize=4)
def read_questions(
    task: str, data_dir: str | Path | None = None, hub_revision: str | None = None
) -> QuestionSet:
    """Read the questions and documents of a task.

    Args:
        task: One of ``QUESTION_TASKS``.
        data_dir: Folder that holds ``ruler/<official file>``, or another file of its form; None
            reads the hub.
        hub_revision: Revision of the hub repository; None means the pinned one.

    Raises:
        ValueError: If the task is unknown, or the file of another form or without a question.
        FileNotFoundError: If the file is neither there nor to be had from the hub.
    """
    if task not in _FILES:
        raise unknown_choice("task", task, QUESTION_TASKS)
    file = _FILES[task]
    source = Source("ruler", file.name, file.repository, hub_revision or file.revision, file.hub)
    try:
        path = find_file(source, data_dir, lambda path: _is_read(file.parse, path))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} The hub has it as a table; the JSON file itself, which goes to "
            f"<folder>/ruler/{file.name}, is at {file.page}."
        ) from error
    try:
        content = file.convert(_rows(path)) if path.suffix == ".parquet" else _json(path)
        found = file.parse(content)
    except _WRONG_FORM as error:
        raise ValueError(
            f"{path} is not of the form of {file.name} ({type(error).__name__}: {error}). Download "
            f"it again from {file.page}."
        ) from error
    if not found.questions:
        raise ValueError(f"{path} holds no question with an answer; {file.name} should.")
    return found


# What reading a file of another form can raise.
_WRONG_FORM = (KeyError, TypeError, ValueError, AttributeError)


def _parse_squad(content: Any) -> QuestionSet:
    """Read the official form: articles of paragraphs with questions."""
    articles = [article["paragraphs"] for article in content["data"]]
    documents = _sorted_once(part["context"] for parts in articles for part in parts)
    places = {text: place for place, text in enumerate(documents)}
    questions = []
    for parts in articles:
        # An article can hold a paragraph twice.
        article = dict.fromkeys(places[part["context"]] for part in parts)
        for part in parts:
            own = places[part["context"]]
            related = tuple(place for place in article if place != own)
            for asked in part["qas"]:
                if not asked["is_impossible"]:
                    answers = tuple(dict.fromkeys(answer["text"] for answer in asked["answers"]))
                    questions.append(Question(asked["question"], answers, (own,), (own,), related))
    return QuestionSet(tuple(questions), documents)


def _parse_hotpotqa(content: Any) -> QuestionSet:
    """Read the official form: questions with articles, each a title and sentences."""
    contexts = [
        [(title, f"{title}\n{''.join(sentences)}") for title, sentences in row["context"]]
        for row in content
    ]
    documents = _sorted_once(text for context in contexts for _, text in context)
    places = {text: place for place, text in enumerate(documents)}
    questions = []
    for row, context in zip(content, contexts, strict=True):
        titles = {title for title, _ in row["supporting_facts"]}
        own = dict.fromkeys(places[text] for _, text in context)
        supporting = dict.fromkeys(places[text] for title, text in context if title in titles)
        questions.append(Question(row["question"], (row["answer"],), tuple(own), tuple(supporting)))
    return QuestionSet(tuple(questions), documents)


def _convert_squad(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Bring the hub's table, one row a question, into the official form."""
    articles: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        answers = [{"text": text} for text in row["answers"]["text"]]
        question = {
            "question": row["question"],
            "answers": answers,
            "is_impossible": not answers,
        }
        articles.setdefault(row["title"], {}).setdefault(row["context"], []).append(question)
    return {
        "data": [
            {"paragraphs": [{"context": text, "qas": asked} for text, asked in article.items()]}
            for article in articles.values()
        ]
    }


def _convert_hotpotqa(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Bring the hub's table, whose lists of pairs are pairs of lists, into the official form."""

    def pairs(columns: Mapping[str, Any], first: str, second: str) -> list[tuple[Any, Any]]:
        return list(zip(columns[first], columns[second], strict=True))

    return [
        {
            **row,
            "context": pairs(row["context"], "title", "sentences"),
            "supporting_facts": pairs(row["supporting_facts"], "title", "sent_id"),
        }
        for row in rows
    ]


@dataclass(frozen=True)
class _File:
    """Where a task's questions are, and how they are read.

    Attributes:
        name: The official file's name.
        page: Where that file is described and downloaded.
        repository: Data set on the hub with the same questions as a table.
        revision: Revision of it that is read where none is named.
        hub: Path of the table in it.
        parse: Reads the content of the official file.
        convert: Brings the rows of the table into that form.
    """

    name: str
    page: str
    repository: str
    revision: str
    hub: str
    parse: Callable[[Any], QuestionSet]
    convert: Callable[[Iterable[Mapping[str, Any]]], Any]


_FILES: dict[str, _File] = {
    "qa_1": _File(
        name="dev-v2.0.json",
        page="https://rajpurkar.github.io/SQuAD-explorer",
        repository="rajpurkar/squad_v2",
        revision="3ffb306f725f7d2ce8394bc1873b24868140c412",
        hub="squad_v2/validation-00000-of-00001.parquet",
        parse=_parse_squad,
        convert=_convert_squad,
    ),
    "qa_2": _File(
        name="hotpot_dev_distractor_v1.json",
        page="https://hotpotqa.github.io",
        repository="hotpotqa/hotpot_qa",
        revision="1908d6afbbead072334abe2965f91bd2709910ab",
        hub="distractor/validation-00000-of-00001.parquet",
        parse=_parse_hotpotqa,
        convert=_convert_hotpotqa,
    ),
}

QUESTION_TASKS: tuple[str, ...] = tuple(_FILES)
"""SQuAD 2.0's answerable questions, and HotpotQA's in the distractor setting."""


def _sorted_once(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(texts)))


def _json(path: Path) -> Any:
    return parse_json(path.name, path.read_bytes())


def _rows(path: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    return parquet.read_table(path).to_pylist()


def _is_read(parse: Callable[[Any], QuestionSet], path: Path) -> bool:
    try:
        return bool(parse(_json(path)).questions)
    except _WRONG_FORM:
        return False
