"""Makers of training samples of RULER's kinds of task: the package's own, fed with other words."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from lm_eval_llada.tasks.prompts import RulerTemplate, ruler_template
from lm_eval_llada.tasks.ruler.common_and_frequent_words import (
    CommonWordsMaker,
    CommonWordsSettings,
    FrequentWordsMaker,
    FrequentWordsSettings,
    template_asking_for,
)
from lm_eval_llada.tasks.ruler.draft import Draft, Maker
from lm_eval_llada.tasks.ruler.made_up_people import synthetic_question_maker
from lm_eval_llada.tasks.ruler.needles import NeedleMaker, NeedleSettings
from lm_eval_llada.tasks.ruler.variable_tracking import TracingMaker, TracingSettings
from lm_eval_llada.tiny.ruler_words import CODE_LENGTHS, NAME_LENGTHS, NUM_DIGITS, TrainingWords

KINDS = ("single", "keys", "values", "queries", "vt", "cwe", "fwe", "qa")
"""What is trained, beside copies, plain sentences with needles, and prose."""

SHARES = (1.5, 2.5, 2.0, 2.0, 1.5, 2.0, 2.0, 1.5)
"""How often each of `KINDS` comes to begin with."""

FINAL_SHARES = (0.3, 0.6, 2.0, 3.5, 2.5, 3.5, 4.0, 2.5)
"""The same at the end, where what is looked up by its key alone is there already."""

_template = lru_cache(maxsize=8)(ruler_template)
_common_words_template = lru_cache(maxsize=16)(template_asking_for)


@dataclass(frozen=True)
class Task:
    """A sample to be made at any size, and how its answer is written.

    Attributes:
        kind: one of `KINDS`.
        maker: of its drafts.
        is_ordered: whether the answers have an order of their own; if not, they are given as they
            first come in the text. In any order, every token of an answer that is all masked is
            one of several, and a model goes on repeating one that it has given.
        stems: what is written before each answer, if anything. Where it says what is asked for,
            the answer is looked up by what stands right before it, as every other one.
    """

    kind: str
    maker: Maker
    is_ordered: bool
    stems: tuple[str, ...] = ()

    def answers(self, draft: Draft) -> list[str]:
        """The references in the order in which training gives them."""
        answers = list(draft.references)
        return answers if self.is_ordered else sorted(answers, key=partial(_place, draft.text))


def draw_task(
    rng: random.Random,
    words: TrainingWords,
    prose: Callable[[int], str],
    length: int,
    kind: str,
    *,
    is_short: bool,
) -> Task:
    """A random task.

    Args:
        rng: where the randomness comes from.
        words: what is asked for.
        prose: gives running text of about that many characters.
        length: tokens of the sample; short ones hide less.
        kind: one of `KINDS`.
        is_short: whether it asks in fewer words than the original.
    """
    seed = f"train/{rng.getrandbits(64)}"
    if kind == "vt":
        return Task(kind, _tracing(rng, words, seed, is_short), is_ordered=True)
    if kind == "cwe":
        return Task(kind, _common_words(rng, words, seed, is_short, length), is_ordered=False)
    if kind == "fwe":
        return Task(kind, _frequent_words(rng, seed, is_short, length), is_ordered=True)
    if kind == "qa":
        template = _short_qa() if is_short else _template("qa")
        questions, stem = synthetic_question_maker(
            seed=seed,
            num_documents=max(2, length // 24),
            draw_name=words.word,
            draw_value=words.word,
            template=template,
        )
        return Task(kind, questions, is_ordered=True, stems=(stem,))
    maker = _needles(rng, words, prose, seed, is_short, length, kind)
    if kind == "queries":
        stems = tuple(f"{key}:" for key in maker.asked_keys)
        return Task(kind, maker, is_ordered=True, stems=stems)
    return Task(kind, maker, is_ordered=False)


def _needles(
    rng: random.Random,
    words: TrainingWords,
    prose: Callable[[int], str],
    seed: str,
    is_short: bool,
    length: int,
    kind: str,
) -> NeedleMaker:
    several = rng.choice((3, 4, 4, 4, 5)) if length >= 256 else rng.randint(2, 4)
    haystack = rng.choices(("noise", "essay", "needle"), (2, 2, 1))[0]
    if kind == "keys":
        haystack = rng.choices(("noise", "essay", "needle"), (2, 1, 2))[0]
    settings = NeedleSettings(
        type_haystack=haystack,
        num_needle_k=several if kind == "keys" else rng.choice((1, 1, 1, 2)),
        num_needle_v=several if kind == "values" else 1,
        num_needle_q=several if kind == "queries" else 1,
    )
    new: dict[str, Callable[[random.Random], str]] = {
        "words": words.key,
        "numbers": partial(words.number, num_digits=rng.choice(NUM_DIGITS)),
    }
    essays: Sequence[str] = (prose(6 * length),) if haystack == "essay" else ()
    return NeedleMaker(
        settings, seed, _short_niah() if is_short else _template("niah"), essays, new
    )


def _tracing(rng: random.Random, words: TrainingWords, seed: str, is_short: bool) -> TracingMaker:
    settings = TracingSettings(
        num_chains=rng.choice((1, 1, 1, 2)),
        num_hops=rng.choice((1, 2, 2, 2, 3)),
        name_length=rng.choice(NAME_LENGTHS),
        num_examples=0,
    )
    number = partial(words.number, num_digits=rng.choice(NUM_DIGITS))
    return TracingMaker(settings, seed, _short_vt() if is_short else _template("vt"), number)


def _common_words(
    rng: random.Random, words: TrainingWords, seed: str, is_short: bool, length: int
) -> CommonWordsMaker:
    freq_ucw = 1 if rng.random() < 0.8 else 2
    settings = CommonWordsSettings(
        freq_cw=rng.randint(4, 7),
        freq_ucw=freq_ucw,
        num_cw=rng.choice((2, 3, 3, 3, 4)),
        num_examples=0,
    )
    pool = list({words.word(rng): None for _ in range(length // 4)})
    template = _short_cwe() if is_short else _common_words_template(settings.num_cw)
    return CommonWordsMaker(settings, seed, template, pool)


def _frequent_words(
    rng: random.Random, seed: str, is_short: bool, length: int
) -> FrequentWordsMaker:
    settings = FrequentWordsSettings(
        alpha=rng.uniform(1.6, 2.4),
        word_length=rng.choice(CODE_LENGTHS),
        vocab_size=rng.randint(4, max(5, length // 45)),
    )
    return FrequentWordsMaker(settings, seed, _short_fwe() if is_short else _template("fwe"))


def _place(text: str, answer: str) -> int:
    """Where an answer first stands as a word of its own."""
    found = re.search(rf"\b{re.escape(answer)}\b", text)
    return found.start() if found else len(text)


def _short(kind: str, question: str, answer: str) -> RulerTemplate:
    return RulerTemplate(kind, "{context}\n" + question, answer)


def _short_niah() -> RulerTemplate:
    return _short(
        "niah",
        "What are all the {type_needle_v} for {query}?",
        " The {type_needle_v} for {query} are",
    )


def _short_vt() -> RulerTemplate:
    return _short("vt", "Find all variables with {query}.", " Answer: the {num_v} variables are: ")


def _short_cwe() -> RulerTemplate:
    return _short("cwe", "What are the most common words?", " Answer:")


def _short_fwe() -> RulerTemplate:
    return _short("fwe", "What are the three most frequent words?", " Answer:")


def _short_qa() -> RulerTemplate:
    return _short("qa", "Question: {query}", " Answer:")
