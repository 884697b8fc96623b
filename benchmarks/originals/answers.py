"""Made-up answers to score: right, nearly right, wrong, empty, and written in odd ways."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from lm_eval_llada.tasks.text.haystacks import heldout_text

_CHINESE = (
    "雨落在旧屋顶上，孩子们在河边看船；船长说：明天去北方的城市，带回茶叶和书。大家都很高兴！"
)
_MARKS = (".", ",", "!", "?", " -", ":", '"', "'s", "…", "，", "。", "(", ")")
_ARTICLES = ("a", "an", "the", "The", "A")


@dataclass(frozen=True)
class Pair:
    """An answer and what it is scored by.

    Attributes:
        prediction: What a model might have written.
        references: Right answers, or texts that it should hold.
        classes: All classes, where the right answer is one of them.
    """

    prediction: str
    references: tuple[str, ...]
    classes: tuple[str, ...] = ()


Maker = Callable[[random.Random], Pair]


def english_pair(rng: random.Random) -> Pair:
    """An answer to a question, by one to three references."""
    references = tuple(_english(rng) for _ in range(rng.randint(1, 3)))
    return Pair(_changed(rng, rng.choice(references), _english), references)


def chinese_pair(rng: random.Random) -> Pair:
    """A Chinese answer, at times with English words in it, by one reference."""
    reference = _chinese(rng)
    return Pair(_changed(rng, reference, _chinese), (reference,))


def class_pair(rng: random.Random) -> Pair:
    """An answer that names none, one or several classes, none of them part of another."""
    words = rng.sample(_words(), 40)
    names: list[str] = []
    for first, second in zip(words[::2], words[1::2], strict=True):
        name = f"{first.capitalize()} {second}"
        if not any(name in other or other in name for other in names):
            names.append(name)
    right = rng.choice(names)
    named = rng.sample(names, rng.choice((0, 1, 1, 2, 3))) + [right] * rng.choice((0, 1, 1))
    rng.shuffle(named)
    text = rng.choice((", ", "\n", " ")).join([*named, rng.choice(("", "Type: other"))])
    return Pair(rng.choice(("", "\n", "\n\n", " ")) + text, (right,), tuple(names))


def number_pair(rng: random.Random) -> Pair:
    """An answer with some numbers, by a number."""
    wanted = str(rng.randint(1, 30))
    return Pair(_numbers(rng, wanted), (wanted,))


def paragraph_pair(rng: random.Random) -> Pair:
    """An answer with some numbers, by the name of a paragraph."""
    wanted = str(rng.randint(1, 30))
    return Pair(_numbers(rng, wanted), (f"Paragraph {wanted}",))


def chinese_paragraph_pair(rng: random.Random) -> Pair:
    """The same in Chinese."""
    wanted = str(rng.randint(1, 30))
    return Pair(_numbers(rng, wanted), (f"段落{wanted}",))


def code_pair(rng: random.Random) -> Pair:
    """Lines of code, some of them comments or fences, by one line."""
    name, value = rng.choice(_words()), rng.randint(0, 99)
    line = rng.choice((f"    return {name} + {value}", f"{name} = [{value}]", f"if {name}:"))
    others = ("", "```python", "# a comment", "// a comment", f"{name}()", "\t", line.upper())
    before = [rng.choice(others) for _ in range(rng.randint(0, 3))]
    return Pair("\n".join([*before, _edited(rng, line), rng.choice(others)]), (line,))


def listed_pair(rng: random.Random) -> Pair:
    """An answer that holds some of one to ten words or numbers, in any case."""
    references = tuple(
        rng.choice((rng.choice(_words()), str(rng.randint(1000, 9_999_999)), rng.choice(_CHINESE)))
        for _ in range(rng.randint(1, 10))
    )
    held = [text for text in references if rng.random() < 0.6]
    cased = [rng.choice((str.upper, str.lower, str.title, str))(text) for text in held]
    return Pair(rng.choice((" ", ", ", "\n", "")).join([*cased, _english(rng)]), references)


def needle_pair(rng: random.Random) -> Pair:
    """An answer to one needle: its references are the keyword and the whole sentence."""
    keyword = rng.choice((str(rng.randint(10_000, 99_999)), rng.choice(_words()).title(), "河边"))
    sentence = f"{_english(rng)} {keyword} {rng.choice(('', _chinese(rng)))}".replace("*", "")
    return Pair(_changed(rng, sentence, _english), (keyword, sentence))


def needles_pair(rng: random.Random) -> Pair:
    """An answer that holds some of two to eleven numbers."""
    numbers = [str(n) for n in rng.sample(range(10_000, 99_999), rng.randint(2, 11))]
    held = [number for number in numbers if rng.random() < 0.6]
    return Pair(f"{_english(rng)} {rng.choice((', ', ''))}".join([*held, ""]), tuple(numbers))


@lru_cache(maxsize=1)
def _words() -> list[str]:
    return sorted({word for word in heldout_text().split() if word.isalpha() and len(word) > 3})


def _english(rng: random.Random) -> str:
    words = []
    for _ in range(rng.randint(1, 12)):
        word = rng.choice((rng.choice(_words()), rng.choice(_ARTICLES), str(rng.randint(0, 99))))
        words.append(word + rng.choice(("", "", rng.choice(_MARKS))))
    return rng.choice((" ", " ", "  ", "\n")).join(words)


def _chinese(rng: random.Random) -> str:
    pieces = []
    for _ in range(rng.randint(1, 6)):
        start = rng.randrange(len(_CHINESE))
        pieces.append(_CHINESE[start : start + rng.randint(1, 8)])
    return rng.choice(("", " ", rng.choice(_words()))).join(pieces)


def _changed(rng: random.Random, text: str, other: Callable[[random.Random], str]) -> str:
    """A text as a model might write it: in other words, longer, shorter, or not at all."""
    changes: tuple[Callable[[], str], ...] = (
        lambda: text,
        lambda: "",
        lambda: other(rng),
        lambda: f"{other(rng)} {text}",
        lambda: f"\n{text}\n{other(rng)}",
        lambda: f" {text.swapcase()} ",
        lambda: f"{text} {text}",
        lambda: text[: rng.randint(0, len(text))],
        lambda: _edited(rng, text),
        lambda: rng.choice((".", "...", " ", "\n\n", "?!")),
    )
    return rng.choice(changes)()


def _edited(rng: random.Random, text: str) -> str:
    """A text with up to four characters put in, taken out or replaced."""
    for _ in range(rng.randint(0, 4)):
        place = rng.randint(0, len(text))
        new, rest = rng.choice(("", "x", " ", "雨", "7")), text[place + rng.randint(0, 1) :]
        text = text[:place] + new + rest
    return text


def _numbers(rng: random.Random, wanted: str) -> str:
    """A text that holds some numbers, the wanted one or forms of it among them."""
    other = str(rng.randint(1, 30))
    forms = (wanted, wanted, f"0{wanted}", f"{wanted}0", f"{wanted}.", other, "７")
    chosen = [rng.choice(forms) for _ in range(rng.randint(0, 4))]
    return rng.choice(("Paragraph ", "段落", "")) + rng.choice((" ", ", ", "\n", "-")).join(chosen)
