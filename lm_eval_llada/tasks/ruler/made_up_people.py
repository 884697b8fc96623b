"""qa_synthetic: short documents about made-up people, and a question about one of them.

RULER's qa without a corpus, for models of a few hundred tokens of context: a document is two
statements, and every document but one is about somebody else. It is no task of the original's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import lru_cache

from lm_eval_llada.tasks.prompts import RulerTemplate, ruler_template
from lm_eval_llada.tasks.ruler.question_answering import Question, QuestionMaker, QuestionSet
from lm_eval_llada.tasks.ruler.words import adjectives, nouns

FACTS: tuple[tuple[str, str], ...] = (
    ("{name} was born in {value}.", "Where was {name} born?"),
    ("{name} works as a {value}.", "What does {name} work as?"),
    ("{name} plays the {value}.", "What does {name} play?"),
    ("{name} wrote a book about {value}.", "What did {name} write a book about?"),
    ("{name} studied {value} at school.", "What did {name} study at school?"),
    ("{name} travels by {value}.", "How does {name} travel?"),
)
"""Statements about a person, each with its question."""

FACTS_EACH = 2
"""Statements in a document."""

TOKENS_EACH = 24
"""Tokens of a sample's length for each document that there is to hide the right one among."""


def made_up_question_maker(
    *, seed: str, length: int, template: RulerTemplate | None = None
) -> QuestionMaker:
    """The maker of one sample of an evaluation, with wonderwords' words for names and values.

    Args:
        seed: names the sample; everything random depends on it alone.
        length: tokens of the sample.
        template: wording of the prompt; that of RULER's qa where it is None.

    Raises:
        ImportError: if wonderwords or lm-eval is not installed.
    """
    maker, _ = synthetic_question_maker(
        seed=seed,
        num_documents=max(2, length // TOKENS_EACH),
        draw_name=lambda rng: rng.choice(_whole(adjectives())),
        draw_value=lambda rng: rng.choice(_whole(nouns())),
        template=template or ruler_template("qa"),
    )
    return maker


@lru_cache(maxsize=2)
def _whole(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for word in words if word.isalpha())


def synthetic_question_maker(
    *,
    seed: str,
    num_documents: int,
    draw_name: Callable[[random.Random], str],
    draw_value: Callable[[random.Random], str],
    template: RulerTemplate,
) -> tuple[QuestionMaker, str]:
    """The maker of one sample, a person a document and one fact asked for, and its answer's stem.

    Args:
        seed: names the sample; everything random depends on it alone.
        num_documents: most documents that there are to hide the right one among.
        draw_name: draws a person's name, which the sample writes with a capital.
        draw_value: draws what is said of one.
        template: wording of the prompt.
    """
    rng = random.Random(f"{seed}/facts")
    names: dict[str, None] = {}
    while len(names) < num_documents:
        names[draw_name(rng).capitalize()] = None
    asked = rng.randrange(len(FACTS))
    documents, answers = [], []
    for name in names:
        others = [number for number in range(len(FACTS)) if number != asked]
        chosen = [asked, *rng.sample(others, FACTS_EACH - 1)]
        values = {number: draw_value(rng) for number in chosen}
        rng.shuffle(chosen)
        documents.append(" ".join(FACTS[n][0].format(name=name, value=values[n]) for n in chosen))
        answers.append(values[asked])
    question = Question(FACTS[asked][1].format(name=next(iter(names))), (answers[0],), (0,), (0,))
    stem = FACTS[asked][0].partition(" {value}")[0].format(name=next(iter(names)))
    return QuestionMaker(QuestionSet((question,), tuple(documents)), 0, seed, template), stem
