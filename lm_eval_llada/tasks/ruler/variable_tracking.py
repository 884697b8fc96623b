"""RULER's vt: follow a number through variables that copy it, in the order of the text.

Source: RULER (arXiv 2404.06654), ``scripts/synthetic.yaml`` and
``scripts/data/synthetic/variable_tracking.py``.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lm_eval_llada.errors import require_whole
from lm_eval_llada.tasks.prompts import (
    RulerTemplate,
    ruler_template,
    ruler_text,
)
from lm_eval_llada.tasks.ruler.draft import Draft
from lm_eval_llada.tasks.settings import changed

# As in the original, whose upper end is left out.
_NUMBERS = range(10_000, 99_999)

# The original's limit for worked examples, whatever the sample's own number is.
_MOST_EXAMPLE_HOPS = 10

# Each sample has a maker of its own, and reading a text out of lm-eval's modules takes 4 ms.
_text = lru_cache(maxsize=3)(ruler_text)


@dataclass(frozen=True)
class TracingSettings:
    """What a sample of vt is made of; the defaults are the original's.

    Attributes:
        num_chains: Chains of variables in the text. The first one is asked about.
        num_hops: Copies in a chain, which has one variable more than that.
        name_length: Letters of a variable's name.
        num_examples: Worked examples in front. OpenCompass, with which LongLLaDA and UltraLLaDA
            ran this task, has none.
        example_lines: Lines of noise in a worked example. The original fills an example to 500
            tokens, which is 10 lines of GPT-4's; here an example is the same for every tokenizer.
        example_name_length: Letters of a variable's name in a worked example.

    Raises:
        ValueError: If a number is not a whole one or too small, there are too few names of a
            length, or an example has fewer lines than statements in a chain.
    """

    num_chains: int = 1
    num_hops: int = 4
    name_length: int = 5
    num_examples: int = 1
    example_lines: int = 10
    example_name_length: int = 3

    def __post_init__(self) -> None:
        """Check each number, and that names and lines suffice."""
        for name in ("num_chains", "num_hops", "name_length", "example_name_length"):
            require_whole(name, getattr(self, name), 1)
        for name in ("num_examples", "example_lines"):
            require_whole(name, getattr(self, name), 0)
        if self.num_examples and self.example_lines < self.example_hops + 1:
            raise ValueError(
                f"example_lines={self.example_lines} must be at least {self.example_hops + 1}, the "
                "number of statements in an example's chain."
            )
        num_variables = self.num_chains * (self.num_hops + 1) * (1 + self.num_examples)
        for name in ("name_length", "example_name_length"):
            # Drawing distinct names gets slow where most of them are taken.
            if 2 * num_variables > len(string.ascii_uppercase) ** getattr(self, name):
                raise ValueError(
                    f"{name}={getattr(self, name)} gives too few names for the {num_variables} "
                    "variables; use more letters, or fewer chains, hops or examples."
                )

    @property
    def example_hops(self) -> int:
        """Copies in a chain of a worked example."""
        return min(self.num_hops, _MOST_EXAMPLE_HOPS)


@dataclass(frozen=True)
class _Chain:
    """A number, and the variables that hold it: the first by value, each other by copying."""

    value: str
    names: tuple[str, ...]

    def statements(self, number: str, copy: str) -> list[str]:
        """Write the chain out in the wording of ``ruler_text``."""
        later = zip(self.names[1:], self.names, strict=False)
        return [
            number.format(name=self.names[0], value=self.value),
            *(copy.format(name=name, value=source) for name, source in later),
        ]


def tracing_maker(
    *,
    seed: str,
    settings: Mapping[str, Any] | None = None,
    template: RulerTemplate | None = None,
) -> TracingMaker:
    """Return the maker of one sample of vt.

    Args:
        seed: Names the sample; everything random depends on it alone.
        settings: Fields of ``TracingSettings`` that are to differ from the original's.
        template: Wording of the prompt; the original's where it is None.

    Raises:
        ValueError: If a setting is unknown or wrong.
        ImportError: If lm-eval, which holds the wording, is not installed.
    """
    chosen = changed(TracingSettings(), settings, "vt")
    return TracingMaker(chosen, seed, template or ruler_template("vt"))


class TracingMaker:
    """Makes a sample of vt at any number of noise lines.

    Names, numbers and worked examples are the same at every number of lines. References are the
    variables of the chain that is asked about; ``details`` holds its number (``value``) and which
    lines of the context, from 0, state it (``places``).

    Differs from RULER in drawing numbers and names that are distinct in the whole sample, its
    worked examples included: a number or a name that came twice would have another answer.

    Attributes:
        settings: What the sample is made of.
        unit: ``line``.
        fewest: Lines that give each statement of a chain a line to stand before.
        most: None, as the noise is the same line over and over.
    """

    unit = "line"
    most: int | None = None

    def __init__(
        self,
        settings: TracingSettings,
        seed: str,
        template: RulerTemplate,
        draw_number: Callable[[random.Random], str] | None = None,
    ) -> None:
        """Draw the chains and write the worked examples, all of which hold at any length.

        Args:
            settings: What the sample is made of.
            seed: Names the sample.
            template: Wording of the prompt.
            draw_number: How the number of a chain is drawn; the original's where it is None.
        """
        self._draw_number = _draw_number if draw_number is None else draw_number
        self.settings = settings
        self.fewest = settings.num_hops + 1
        self._seed = seed
        self._template = template
        self._noise = _text("vt_noise")
        self._wording = (_text("vt_number"), _text("vt_copy"))
        rng = random.Random(f"{seed}/chains")
        # "VAR" is the word that every statement begins with.
        taken = {"VAR"}
        self._chains = self._draw_chains(rng, settings.num_hops, settings.name_length, taken)
        self._examples = "".join(
            self._write_example(rng, taken) for _ in range(settings.num_examples)
        )

    def draft(self, num_units: int) -> Draft:
        """Make the sample out of that many lines of noise."""
        require_whole("num_units", num_units, self.fewest)
        rng = random.Random(f"{self._seed}/places")
        prompt, prefix, places = self._ask(self._chains, num_units, rng)
        asked = self._chains[0]
        return Draft(
            prompt=self._examples + prompt,
            answer_prefix=prefix,
            references=asked.names,
            details={"value": asked.value, "places": places},
        )

    def _draw_chains(
        self, rng: random.Random, num_hops: int, name_length: int, taken: set[str]
    ) -> list[_Chain]:
        """Draw chains of numbers and names that are not taken, and note that they are now."""

        def draw_name() -> str:
            return "".join(rng.choices(string.ascii_uppercase, k=name_length))

        chains = []
        for _ in range(self.settings.num_chains):
            value = _first_new(lambda: self._draw_number(rng), taken)
            names = tuple(_first_new(draw_name, taken) for _ in range(num_hops + 1))
            chains.append(_Chain(value, names))
        return chains

    def _write_example(self, rng: random.Random, taken: set[str]) -> str:
        settings = self.settings
        chains = self._draw_chains(rng, settings.example_hops, settings.example_name_length, taken)
        prompt, prefix, _ = self._ask(chains, settings.example_lines, rng)
        # Behind a prefix that ends in a space the original puts another one.
        return f"{prompt}{prefix} {' '.join(chains[0].names)}\n\n"

    def _ask(
        self, chains: list[_Chain], num_lines: int, rng: random.Random
    ) -> tuple[str, str, list[int]]:
        """Write prompt and answer prefix, and tell which lines state the first chain."""
        lines = [self._noise] * num_lines
        for chain in chains:
            statements = chain.statements(*self._wording)
            places = sorted(rng.sample(range(len(lines)), len(statements)))
            for number, (place, statement) in enumerate(zip(places, statements, strict=True)):
                lines.insert(place + number, statement)
        asked = chains[0]
        # Joined as in RULER's first release and in OpenCompass, where a noise line ends in its
        # newline; the present RULER joins all by newlines.
        filled = {"query": asked.value, "num_v": len(asked.names)}
        prompt = self._template.template.format(context=" ".join(lines), **filled)
        prefix = self._template.answer_prefix.format(**filled)
        stated = set(asked.statements(*self._wording))
        return prompt, prefix, [place for place, line in enumerate(lines) if line in stated]


def _draw_number(rng: random.Random) -> str:
    return str(rng.choice(_NUMBERS))


def _first_new(draw: Callable[[], str], taken: set[str]) -> str:
    """Draw until something comes that is not taken, and note that it is now."""
    while (new := draw()) in taken:
        pass
    taken.add(new)
    return new
