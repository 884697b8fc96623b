"""RULER's eight needle tasks: find what belongs to a key, among other keys or values.

Source: RULER (arXiv 2404.06654), ``scripts/synthetic.yaml`` and ``scripts/data/synthetic/niah.py``.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval_llada.errors import require_whole, unknown_choice
from lm_eval_llada.tasks.dataset import require_bool
from lm_eval_llada.tasks.prompts import (
    RulerTemplate,
    ruler_template,
    ruler_text,
)
from lm_eval_llada.tasks.ruler.draft import Draft
from lm_eval_llada.tasks.ruler.haystacks import (
    DEPTHS,
    EssayHaystack,
    Haystack,
    LineHaystack,
)
from lm_eval_llada.tasks.ruler.words import draw_key_word, words_release
from lm_eval_llada.tasks.settings import changed

HAYSTACK_TYPES: tuple[str, ...] = ("noise", "essay", "needle")
"""One short paragraph over and over, Paul Graham's essays, or needles of other keys."""

_NEW: Mapping[str, Callable[[random.Random], str]] = {
    "words": draw_key_word,
    "numbers": lambda rng: str(rng.randrange(10**6, 10**7)),
    "uuids": lambda rng: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
}

NEEDLE_TYPES: tuple[str, ...] = tuple(_NEW)
"""What keys and values can be: adjective and noun, seven digits, or random UUIDs."""


@dataclass(frozen=True)
class NeedleSettings:
    """What is hidden in a sample and what is asked. The names are the original's.

    Attributes:
        type_haystack: One of ``HAYSTACK_TYPES``.
        type_needle_k: What keys are, one of ``NEEDLE_TYPES``.
        type_needle_v: What values are, one of ``NEEDLE_TYPES``.
        num_needle_k: Keys hidden; at least as many as are asked for.
        num_needle_v: Values of each key.
        num_needle_q: Keys asked for.
        full_stops: False takes each full stop before a blank out of the essays, not of the needles,
            as OpenCompass does.

    Raises:
        ValueError: If a type is unknown, a number is not a whole one from 1, there are more needles
            than places for them in an essay, or full stops are to go where there is no essay.
    """

    type_haystack: str = "essay"
    type_needle_k: str = "words"
    type_needle_v: str = "numbers"
    num_needle_k: int = 1
    num_needle_v: int = 1
    num_needle_q: int = 1
    full_stops: bool = True

    def __post_init__(self) -> None:
        """Check each value."""
        for name, choices in (
            ("type_haystack", HAYSTACK_TYPES),
            ("type_needle_k", NEEDLE_TYPES),
            ("type_needle_v", NEEDLE_TYPES),
        ):
            if getattr(self, name) not in choices:
                raise unknown_choice(name, getattr(self, name), choices)
        for name in ("num_needle_k", "num_needle_v", "num_needle_q"):
            require_whole(name, getattr(self, name), 1)
        require_bool("full_stops", self.full_stops)
        if self.type_haystack != "essay" and not self.full_stops:
            raise ValueError(
                f"full_stops=false is for essays; type_haystack is {self.type_haystack!r}. Leave "
                "it out."
            )
        if self.type_haystack == "essay" and self.num_needles > len(DEPTHS):
            raise ValueError(
                f"{self.num_needles} needles have no depths of their own in an essay, which has "
                f"{len(DEPTHS)}; use fewer keys or values, or another type_haystack."
            )

    @property
    def num_keys(self) -> int:
        """Keys that are hidden: those that the original's configuration leaves implied too."""
        return max(self.num_needle_k, self.num_needle_q)

    @property
    def num_needles(self) -> int:
        """Needles in the haystack, asked for or not; a haystack of needles is not counted."""
        return self.num_keys * self.num_needle_v


NIAH_TASKS: Mapping[str, NeedleSettings] = {
    "niah_single_1": NeedleSettings(type_haystack="noise"),
    "niah_single_2": NeedleSettings(),
    "niah_single_3": NeedleSettings(type_needle_v="uuids"),
    "niah_multikey_1": NeedleSettings(num_needle_k=4),
    "niah_multikey_2": NeedleSettings(type_haystack="needle"),
    "niah_multikey_3": NeedleSettings(
        type_haystack="needle", type_needle_k="uuids", type_needle_v="uuids"
    ),
    "niah_multivalue": NeedleSettings(num_needle_v=4),
    "niah_multiquery": NeedleSettings(num_needle_q=4),
}
"""The original's configuration of each task."""


def needle_maker(
    task: str,
    *,
    seed: str,
    settings: Mapping[str, Any] | None = None,
    template: RulerTemplate | None = None,
    essays: Sequence[str] | None = None,
) -> NeedleMaker:
    """Return the maker of one sample of a needle task.

    Args:
        task: One of ``NIAH_TASKS``.
        seed: Names the sample; everything random depends on it alone.
        settings: Fields of ``NeedleSettings`` that are to differ from the original's.
        template: Wording of the prompt; the original's where it is None. A sample with a single
            answer uses its singular form, as the original does.
        essays: Texts for the haystack ``essay``; the others need none.

    Raises:
        ValueError: If the task or a setting is unknown or wrong, or essays are missing.
        ImportError: If lm-eval, or for keys of words wonderwords, is not installed.
    """
    if task not in NIAH_TASKS:
        raise unknown_choice("task", task, NIAH_TASKS)
    chosen = changed(NIAH_TASKS[task], settings, task)
    if chosen.type_haystack == "essay" and not essays:
        raise ValueError(f"{task} hides its needles in essays; pass essays, at least one text.")
    return NeedleMaker(chosen, seed, template or ruler_template("niah"), essays or ())


class NeedleMaker:
    """Makes a sample of a needle task at any number of lines or words of haystack.

    Keys, values and, in essays, depths are the same at every number, and a longer haystack begins
    with the shorter one.

    Differs from RULER, where a key or a value may by chance be drawn twice: here all keys and all
    values of a sample are distinct, those of a haystack of needles included, so that no other
    needle answers a question. The original also hides several needles in one and the same order in
    all samples; here the order is drawn, too.

    Attributes:
        settings: What is hidden and asked.
        unit: ``line`` or ``word``.
        fewest: Lines that give every needle a place of its own, or one word.
        most: None: lines can be repeated, and essays begin again.
    """

    most: int | None = None

    def __init__(
        self,
        settings: NeedleSettings,
        seed: str,
        template: RulerTemplate,
        essays: Sequence[str] = (),
    ) -> None:
        """Draw the keys, the values and the question, all of which hold at any length."""
        self.settings = settings
        self._seed = seed
        self._template = template.singular() if self._asks_for_one else template
        self._statement = ruler_text("niah_needle")
        self._haystack = self._make_haystack(essays)
        rng = random.Random(f"{seed}/needles")
        self._taken: set[str] = set()
        keys = self._distinct(rng, settings.type_needle_k, settings.num_keys, self._taken)
        num_needles = settings.num_needles
        self._values = self._distinct(rng, settings.type_needle_v, num_needles, self._taken)
        # Number of the needle behind each answer, in the order in which the keys are asked for.
        asked = rng.sample(range(settings.num_keys), settings.num_needle_q)
        self._asked = [
            key * settings.num_needle_v + value
            for key in asked
            for value in range(settings.num_needle_v)
        ]
        self._query = _listed([keys[key] for key in asked])
        self._needles = [
            self._write(keys[number // settings.num_needle_v], value)
            for number, value in enumerate(self._values)
        ]

    @property
    def unit(self) -> str:
        """What the haystack is made of."""
        return self._haystack.unit

    @property
    def fewest(self) -> int:
        """Units of the shortest haystack."""
        return 1 if self.settings.type_haystack == "essay" else self.settings.num_needles

    def draft(self, num_units: int) -> Draft:
        """Make the sample with a haystack of that many units."""
        rng = random.Random(f"{self._seed}/places")
        context, depths = self._haystack.hide(num_units, self._needles, rng)
        kind = self.settings.type_needle_v
        # The original takes the plural's last letter away.
        named = {"query": self._query, "type_needle_v": kind[:-1] if self._asks_for_one else kind}
        return Draft(
            prompt=self._template.template.format(context=context, **named),
            answer_prefix=self._template.answer_prefix.format(**named),
            references=tuple(self._values[number] for number in self._asked),
            details=self._details([depths[number] for number in self._asked]),
        )

    @property
    def _asks_for_one(self) -> bool:
        return self.settings.num_needle_q * self.settings.num_needle_v == 1

    def _details(self, depths: list[float]) -> dict[str, Any]:
        """Return the depth of each reference's needle, the number of needles, and the words."""
        details: dict[str, Any] = {"depths": depths, "num_needles": self.settings.num_needles}
        if "words" in (self.settings.type_needle_k, self.settings.type_needle_v):
            details["words"] = words_release()
        return details

    def _make_haystack(self, essays: Sequence[str]) -> Haystack:
        if self.settings.type_haystack == "essay":
            return EssayHaystack(essays, self.settings.full_stops)
        if self.settings.type_haystack == "needle":
            return LineHaystack(self._distractors)
        noise = ruler_text("niah_noise")
        return LineHaystack(lambda num_lines: [noise] * num_lines)

    def _distractors(self, num_lines: int) -> list[str]:
        """Write needles with other keys and values; a greater number begins with the same ones."""
        rng = random.Random(f"{self._seed}/distractors")
        taken = set(self._taken)
        lines = []
        for _ in range(num_lines):
            (key,) = self._distinct(rng, self.settings.type_needle_k, 1, taken)
            (value,) = self._distinct(rng, self.settings.type_needle_v, 1, taken)
            lines.append(self._write(key, value))
        return lines

    def _write(self, key: str, value: str) -> str:
        # The kind is in the plural here whatever is asked, as in the original.
        kind = self.settings.type_needle_v
        return self._statement.format(type_needle_v=kind, key=key, value=value)

    @staticmethod
    def _distinct(rng: random.Random, kind: str, number: int, taken: set[str]) -> list[str]:
        """Draw keys or values that were not taken, and note that they are now."""
        drawn: list[str] = []
        while len(drawn) < number:
            new = _NEW[kind](rng)
            if new not in taken:
                taken.add(new)
                drawn.append(new)
        return drawn


def _listed(keys: Sequence[str]) -> str:
    if len(keys) == 1:
        return keys[0]
    return f"{', '.join(keys[:-1])}, and {keys[-1]}"
