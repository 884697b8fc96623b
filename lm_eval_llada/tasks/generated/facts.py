"""Who is where, told in scattered facts: in the manner of BABILong's first two tasks (2406.10149).

Persons, places, wording and the text around them are ours; what follows from what, and the score,
are theirs.
"""

from __future__ import annotations

import random

from lm_eval_llada.tasks.generated.puzzle import Puzzle
from lm_eval_llada.tasks.text.haystacks import noise_sentences

PLACES = ("attic", "cellar", "greenhouse", "library", "pantry", "stable")
"""What an answer may be."""

_PERSONS = ("Dana", "Emil", "Ines", "Jonas")
_THINGS = ("lantern", "compass", "ladder")
_NUM_MOVES = 8
_OPENING = (
    "The text below tells, among much else, who goes where and who takes what. A later fact counts "
    "more than an earlier one. Answer with the place alone."
)


def one_fact(seed: str) -> Puzzle:
    """Where a person is: the place of the last move."""
    rng = random.Random(f"{seed}/moves")
    moves = _moves(rng)
    # Each person as likely as another: one who moved early alone is asked about, too.
    person = rng.choice(sorted({who for who, _ in moves}))
    place = [where for who, where in moves if who == person][-1]
    told = tuple(f"{who} went to the {where}." for who, where in moves)
    return _puzzle(seed, told, f"Where is {person}?", f" {person} is in the", place)


def two_facts(seed: str) -> Puzzle:
    """Where a thing is: where the person who took it went last."""
    rng = random.Random(f"{seed}/moves")
    moves = _moves(rng)
    person, thing = moves[-1][0], rng.choice(_THINGS)
    others = [name for name in _PERSONS if name != person]
    told = [f"{who} went to the {where}." for who, where in moves]
    told.insert(rng.randrange(len(told)), f"{person} took the {thing}.")
    other = rng.choice([name for name in _THINGS if name != thing])
    told.insert(rng.randrange(len(told) + 1), f"{rng.choice(others)} took the {other}.")
    place = moves[-1][1]
    return _puzzle(seed, tuple(told), f"Where is the {thing}?", f" The {thing} is in the", place)


def _moves(rng: random.Random) -> list[tuple[str, str]]:
    """Persons and where they go, nobody to where he is."""
    at: dict[str, str] = {}
    moves = []
    for _ in range(_NUM_MOVES):
        person = rng.choice(_PERSONS)
        at[person] = rng.choice([place for place in PLACES if place != at.get(person)])
        moves.append((person, at[person]))
    return moves


def _puzzle(seed: str, told: tuple[str, ...], question: str, prefix: str, place: str) -> Puzzle:
    sentences = [text for text in noise_sentences() if not _tells(text)]
    random.Random(f"{seed}/order").shuffle(sentences)
    return Puzzle(
        statements=told,
        filler=lambda number: sentences[number % len(sentences)],
        opening=_OPENING,
        question=question,
        answer_prefix=prefix,
        references=(place,),
        unit="sentence",
        joint=" ",
    )


def _tells(sentence: str) -> bool:
    """Whether a sentence names one of the persons, things or places."""
    return any(name in sentence for name in (*PLACES, *_PERSONS, *_THINGS))
