"""Prompt templates of RULER and LongBench, worded as in the original benchmarks.

The words come from the installed lm-eval (see ``harness_texts.py``), whose copies differ from the
originals in a few places; these are put right here, each with its reason.

Sources: LongBench (arXiv 2308.14508) and its ``config/dataset2prompt.json``,
``config/dataset2maxlen.json``, ``pred.py`` and ``eval.py``; RULER (arXiv 2404.06654) and its
``scripts/data/synthetic/constants.py``.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from lm_eval_llada.errors import unknown_choice
from lm_eval_llada.tasks.harness_texts import (
    LONGBENCH_CHECKSUMS,
    PINNED_VERSION,
    longbench_text,
    ruler_source_text,
)

LONGBENCH_DATASETS: tuple[str, ...] = tuple(LONGBENCH_CHECKSUMS)
"""The 21 datasets of LongBench."""

# Their context is a row of worked examples. Differs from lm-eval, which stops generation at a
# newline (`until`): an output that begins with newlines would score as empty there, whereas the
# original's eval.py strips those and then takes the first line.
_FEW_SHOT = ("trec", "triviaqa", "samsum", "lsht")
_CODE = ("lcc", "repobench-p")

# Differs from lm-eval, whose copies end without the newline behind the code tasks' last sentence
# and without the space behind the colon of the counting and the English retrieval task.
_LOST_ENDINGS: dict[str, str] = {
    "passage_count": " ",
    "passage_retrieval_en": " ",
    "lcc": "\n",
    "repobench-p": "\n",
}

# Differs from lm-eval, whose copies have one newline between the examples and the input; the
# original has an empty line in these two, and one newline in trec and lsht.
_LOST_EMPTY_LINE = ("triviaqa", "samsum")

# The run-together words in narrativeqa's prompt stay: the original was released with them.
# `part_words` is for releases of results that ran it with them apart.


@dataclass(frozen=True)
class LongBenchPrompt:
    """How a LongBench dataset asks, and how its outputs are to be taken.

    Attributes:
        dataset: Name of the dataset.
        template: Format string with the field ``{context}`` and, in most, ``{input}``.
        chat_template: Whether a chat model gets the prompt in its chat template. The original
            leaves few-shot and code prompts as they are, for these are texts to be continued.
        first_line: Whether only the first line of the output, after any leading newlines, is
            scored.

    Raises:
        ValueError: If the template lacks ``{context}``, has another field than these two, or has a
            single brace.
    """

    dataset: str
    template: str
    chat_template: bool = True
    first_line: bool = False

    def __post_init__(self) -> None:
        """Check the template, which a user may have written."""
        where = f"The template of {self.dataset}"
        require_fields(where, self.template, required=("context",), optional=("input",))

    def render(self, *, context: str, input: str = "") -> str:
        """Return the prompt of one sample. Braces in its texts stay what they are.

        Args:
            context: The sample's document or worked examples.
            input: Its question or last example; empty in datasets that have none.
        """
        return self.template.format(context=context, input=input)


@dataclass(frozen=True)
class RulerTemplate:
    """How a kind of RULER task asks.

    Attributes:
        task: ``niah``, ``vt``, ``cwe``, ``fwe`` or ``qa``.
        template: Format string. Fields: ``{context}``, and ``{query}`` except in cwe and fwe; in
            niah also ``{type_needle_v}``, the kind of value asked for, in the plural.
        answer_prefix: Format string of the answer's beginning, which follows the template directly
            and starts with a space; vt's ends with one. Fields: ``{query}`` in niah and vt,
            ``{type_needle_v}`` in niah, ``{num_v}``, the number of variables, in vt.

    Raises:
        ValueError: If the task is unknown, the template lacks ``{context}`` or either text has a
            field that no sample of the task fills.
    """

    task: str
    template: str
    answer_prefix: str

    def __post_init__(self) -> None:
        """Check the task and both texts, which a user may have written."""
        if self.task not in RULER_KINDS:
            raise unknown_choice("task", self.task, RULER_KINDS)
        fields = _ruler_fields(self.task)
        where = f"The template of {self.task}"
        require_fields(where, self.template, required=("context",), optional=fields)
        where = f"The answer prefix of {self.task}"
        require_fields(where, self.answer_prefix, required=(), optional=fields)

    def singular(self) -> RulerTemplate:
        """Return the wording for a sample of niah that asks for a single value.

        ``{type_needle_v}`` is then to be filled with a singular noun.

        Raises:
            ValueError: If the task is not ``niah``; the others have one wording only.
        """
        if self.task != "niah":
            raise ValueError(f"Only niah has a singular wording; got the task {self.task!r}.")
        return replace(
            self,
            template=_singular(self.template),
            answer_prefix=_singular(self.answer_prefix),
        )


RULER_TEXTS: tuple[str, ...] = (
    "niah_needle",
    "niah_noise",
    "vt_noise",
    "vt_number",
    "vt_copy",
    "qa_document",
)
"""Names that ``ruler_text`` knows."""

RULER_KINDS: tuple[str, ...] = ("niah", "vt", "cwe", "fwe", "qa")
"""Kinds of RULER task; the eight needle tasks share one, and so do the two of QA."""

# A misspelling in lm-eval's copy of vt's answer prefix; vt's question has the word spelled right.
_MISSPELLED, _CORRECTED = "assgined", "assigned"


def longbench_prompt(
    dataset: str,
    template: str | None = None,
    *,
    wording: str | None = None,
    part_words: str | None = None,
    ending: str = "",
) -> LongBenchPrompt:
    """Return the prompt and the settings of a LongBench dataset.

    Args:
        dataset: One of ``LONGBENCH_DATASETS``.
        template: Wording in place of the original's, as in ``LongBenchPrompt``. The rest then
            changes nothing.
        wording: The dataset whose wording asks; None stands for ``dataset`` itself.
        part_words: A dataset in whose wording words stand apart that are run together in this one,
            where they are then parted.
        ending: What follows the wording.

    Raises:
        ValueError: If a dataset is unknown, the installed lm-eval lacks the text and no template
            is given, or the template is wrong.
        ImportError: If lm-eval is needed and not installed.
    """
    for name, value in (("dataset", dataset), ("wording", wording), ("part_words", part_words)):
        if value is not None and value not in LONGBENCH_DATASETS:
            raise unknown_choice(name, value, LONGBENCH_DATASETS)
    if template is None:
        template = _longbench_template(wording or dataset)
        if part_words is not None:
            template = _parted_as(_longbench_template(part_words), template)
        template += ending
    return LongBenchPrompt(
        dataset=dataset,
        template=template,
        chat_template=dataset not in _FEW_SHOT + _CODE,
        first_line=dataset in _FEW_SHOT,
    )


def ruler_template(task: str) -> RulerTemplate:
    """Return the prompt of a kind of RULER task.

    Args:
        task: One of ``RULER_KINDS``.

    Raises:
        ValueError: If the task is unknown, or the installed lm-eval lacks the text.
        ImportError: If lm-eval is not installed.
    """
    if task not in RULER_KINDS:
        raise unknown_choice("task", task, RULER_KINDS)
    prefix = ruler_source_text(f"{task}_answer_prefix").replace(_MISSPELLED, _CORRECTED)
    return RulerTemplate(
        task=task,
        template=ruler_source_text(f"{task}_template"),
        # Differs from lm-eval, which keeps the prefixes of niah and qa without the space in front,
        # because it puts a delimiter there; in the original every prefix brings its own space.
        answer_prefix=" " + prefix.removeprefix(" "),
    )


def ruler_text(name: str) -> str:
    r"""Return a text that RULER's samples are composed of.

    * ``niah_needle``: fields ``{type_needle_v}``, in the plural, ``{key}`` and ``{value}``.
    * ``niah_noise``: the sentences that fill the simplest haystack, without a newline.
    * ``vt_noise``: the same for vt, ending in a newline.
    * ``vt_number``: a variable set to a number; fields ``{name}`` and ``{value}``.
    * ``vt_copy``: a variable set to another one; the same fields. It ends in a space.
    * ``qa_document``: fields ``{i}``, counted from 1, and ``{document}``.

    Args:
        name: One of ``RULER_TEXTS``.

    Raises:
        ValueError: If the name is unknown, or the installed lm-eval lacks the text.
        ImportError: If lm-eval is not installed.
    """
    if name not in RULER_TEXTS:
        raise unknown_choice("name", name, RULER_TEXTS)
    text = ruler_source_text(name)
    if name in ("vt_number", "vt_copy"):
        # The fields of these two f-strings are expressions of the code around them.
        fields = re.findall(r"\{[^{}]*\}", text)
        if len(fields) != 2:
            raise ValueError(
                f"The installed lm-eval words RULER's {name} with {len(fields)} fields; expected a "
                "name and a value. Install the release that the prompts are known of: "
                f'pip install "lm_eval=={PINNED_VERSION}".'
            )
        names = iter(("{name}", "{value}"))
        return re.sub(r"\{[^{}]*\}", lambda _: next(names), text)
    return text


def require_fields(
    where: str, template: str, *, required: Sequence[str], optional: Sequence[str]
) -> None:
    """Refuse a format string that lacks a field, has another one, or formats one.

    Args:
        where: Whose it is, for the message.
        template: The format string.
        required: Fields that it must hold.
        optional: Fields that it may hold.

    Raises:
        ValueError: Naming what it must and may hold, and what it holds.
    """
    if not isinstance(template, str):
        raise ValueError(f"{where} must be a text; got {template!r}.")
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{where} has an unpaired brace ({error}); double it.") from error
    if any(spec or conversion for _, _, spec, conversion in parsed):
        raise ValueError(f"{where} must hold its fields without a format after ! or :.")
    found = {name for _, name, _, _ in parsed if name is not None}
    if not {*required} <= found <= {*required, *optional}:
        duty = f"must hold {_listed(required)} and " if required else ""
        raise ValueError(
            f"{where} {duty}may hold {_listed(optional)}, but no other field; got "
            f"{_listed(sorted(found)) or 'none'}."
        )


def _longbench_template(dataset: str) -> str:
    # Fields of a Jinja template become those of a format string: Jinja would drop a newline at the
    # end, and the official files call `input` what the copy that lm-eval loads calls `question`.
    text = longbench_text(dataset).replace("{{context}}", "{context}")
    text = text.replace("{{question}}", "{input}")
    if dataset in _LOST_EMPTY_LINE:
        text = text.replace("{context}\n{input}", "{context}\n\n{input}")
    ending = _LOST_ENDINGS.get(dataset, "")
    # A release that has put an ending right must not get it twice.
    return text if text.endswith(ending) else text + ending


def _parted_as(model: str, text: str) -> str:
    """Part each word of a text that is two neighbouring words of another text run together."""
    pairs = {one + other: f"{one} {other}" for one, other in pairwise(re.findall(r"\w+", model))}
    return re.sub(r"\w+", lambda word: pairs.get(word[0], word[0]), text)


def _ruler_fields(task: str) -> tuple[str, ...]:
    # The original fills the query of cwe and fwe too, with nothing, so a template may have it.
    extra = {"niah": ("type_needle_v",), "vt": ("num_v",)}
    return ("query", *extra.get(task, ()))


def _singular(text: str) -> str:
    # The original's rules in their order; one more, for "answers", finds nothing in these texts.
    # Differs from it in sparing words that a user's own template may have, such as "compare".
    for plural, singular in (("Some", "A"), ("are all", "is"), ("are", "is")):
        text = re.sub(rf"\b{plural}\b", singular, text)
    return text


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)
