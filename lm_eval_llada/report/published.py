"""The papers' numbers, and the runs of ours that they can stand beside.

The numbers are in ``published.csv``, one a line: the paper, the model, λ as rounded there (1 for a
model as it is), the benchmark, the context length in K tokens, the value and how far it is to be
trusted. LongLLaDA is arXiv 2506.14429 v3. UltraLLaDA, arXiv 2510.10481, is quoted from others, not
from the paper itself, and labelled so.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lm_eval_llada.report.benchmarks import (
    longbench_means,
    longbench_scores,
    ruler_means,
    ruler_scores,
)
from lm_eval_llada.report.document import Paragraph, Section, number, signed, table, with_error
from lm_eval_llada.report.evaluations import Evaluation
from lm_eval_llada.report.needles import needle_scores, needle_tasks

_FILE = Path(__file__).with_name("published.csv")
# Base names of checkpoints on the hub, lower case, by the papers' names.
_MODELS = {
    "llada-8b-base": "LLaDA-Base",
    "llada-8b-instruct": "LLaDA-Instruct",
    "llada-1.5": "LLaDA-1.5",
    "meta-llama-3-8b": "LLaMA3-8B-Base",
    "llama-3-8b": "LLaMA3-8B-Base",
    "ultrallada": "UltraLLaDA",
}
_OVERALL_LENGTHS = (2, 4, 8, 16, 24, 32)
_LONGBENCH_K = {3500: 4, 7500: 8, 16000: 16}


@dataclass(frozen=True)
class PublishedNumber:
    """One number of a paper.

    Attributes:
        paper: ``LongLLaDA`` or ``UltraLLaDA``.
        model: The paper's name of the model.
        rope_scale: λ, 1 for a model as it is.
        benchmark: Such as ``niah`` or ``ruler_average``.
        length: In K tokens; None for numbers over all lengths.
        value: The number; None where the paper gives none.
        label: How far it is to be trusted; empty for a number of the paper's own tables.
    """

    paper: str
    model: str
    rope_scale: float
    benchmark: str
    length: int | None
    value: float | None
    label: str


@dataclass(frozen=True)
class Measured:
    """A number of ours that a paper may have, too.

    Attributes:
        model: The paper's name of the model.
        rope_scale: λ of the run.
        benchmark: As in ``PublishedNumber``.
        length: As in ``PublishedNumber``.
        value: The number.
        stderr: Its standard error, if known.
        source: Which run and tasks it is from.
    """

    model: str
    rope_scale: float
    benchmark: str
    length: int | None
    value: float
    stderr: float | None
    source: str


@cache
def published_numbers() -> tuple[PublishedNumber, ...]:
    """All numbers of the file, in its order."""
    with _FILE.open(encoding="utf-8", newline="") as lines:
        return tuple(_row(line) for line in csv.DictReader(lines))


def paper_name(model: str) -> str | None:
    """The papers' name of a checkpoint; None where they have none.

    Args:
        model: Base name of the checkpoint, such as ``LLaDA-8B-Base``; its case does not matter.
    """
    return _MODELS.get(model.lower())


def length_in_k(length: int) -> int:
    """A context length in K tokens, for decimal ones such as 24000 and for powers of two."""
    return length // 1000 if length % 1000 == 0 else round(length / 1024)


def matches(number: PublishedNumber, measured: Measured) -> bool:
    """Whether two numbers are of one model, λ, benchmark and length.

    A λ that is not whole counts as the next whole number, which is how LongLLaDA rounds it.
    """
    return (
        number.model == measured.model
        and number.benchmark == measured.benchmark
        and number.length == measured.length
        and number.rope_scale == math.ceil(measured.rope_scale - 1e-9)
    )


def measured_numbers(evaluation: Evaluation) -> list[Measured]:
    """What of an evaluation a paper may have, too; empty for models without a paper."""
    model = paper_name(evaluation.model)
    if model is None:
        return []
    scale = evaluation.rope_scale or 1.0
    found: list[Measured] = []
    for benchmark, length, value, stderr, tasks in [
        *_needle_numbers(evaluation),
        *_ruler_numbers(evaluation),
        *_longbench_numbers(evaluation),
    ]:
        if value is not None:
            source = f"{evaluation.label}, {tasks}"
            found.append(Measured(model, scale, benchmark, length, value, stderr, source))
    return found


def published_section(
    evaluations: Iterable[Evaluation], further: Iterable[Measured] = ()
) -> Section:
    """The papers' numbers beside ours."""
    ours = [m for evaluation in evaluations for m in measured_numbers(evaluation)] + [*further]
    rows = [_beside(number, measured) for measured in ours for number in published_numbers()
            if matches(number, measured)]  # fmt: skip
    if not rows:
        text = (
            "No run matches a published number, which takes a model of the papers "
            f"({', '.join(sorted(set(_MODELS.values())))}) at one of their λ and lengths."
        )
        return Section("Beside the papers", (Paragraph(text, on_page=False),))
    header = ["run", "benchmark", "length", "λ", "ours", "paper", "difference", "source"]
    caption = (
        "Ours ± standard error beside the published value. LongLLaDA rounds λ up to a whole "
        "number, and counts lengths in GPT-4 tokens, as the tasks named after it do; others count "
        "in the model's own."
    )
    return Section("Beside the papers", (table(header, rows, caption),))


_Number = tuple[str, int | None, float | None, float | None, str]


def _needle_numbers(evaluation: Evaluation) -> Iterable[_Number]:
    tasks = needle_tasks(evaluation)
    for family, run in needle_scores(evaluation).items():
        base, _, steps = family.partition("_steps_")
        if base.endswith("niah_multi"):  # asks for several needles, unlike the published task
            continue
        lengths = {length_in_k(length): length for length in run.lengths}
        if not steps:
            for k, length in lengths.items():
                task = tasks[family, length]
                how_many = "" if task.samples is None else f": {task.samples} samples"
                remark = "" if task.is_whole else f", {task.extent}{how_many}"
                yield "niah", k, run.mean(length), task.stderr, family + remark
        if set(_OVERALL_LENGTHS) <= set(lengths) and run.missing is None:
            overall = math.fsum(run.mean(lengths[k]) for k in _OVERALL_LENGTHS)
            name = f"niah_overall_steps_{steps}" if steps else "niah_overall"
            yield name, None, overall / len(_OVERALL_LENGTHS), None, family


def _ruler_numbers(evaluation: Evaluation) -> Iterable[_Number]:
    for scores in ruler_scores(evaluation):
        if "reduced" not in scores.protocol:
            for name, (value, stderr) in ruler_means(scores).items():
                k = length_in_k(scores.length)
                yield f"ruler_{name}", k, value, stderr, f"tasks of {scores.protocol}"


def _longbench_numbers(evaluation: Evaluation) -> Iterable[_Number]:
    for scores in longbench_scores(evaluation):
        if scores.length in _LONGBENCH_K:
            value, stderr = longbench_means(scores)["datasets"]
            what = f"tasks of {scores.protocol}, mean of 21 datasets"
            yield "longbench_average", _LONGBENCH_K[scores.length], value, stderr, what


def _beside(published: PublishedNumber, measured: Measured) -> list[str]:
    value = published.value
    scale = f"{measured.rope_scale:.4g}"
    if measured.rope_scale != published.rope_scale:
        scale += f" ({published.rope_scale:g} there)"
    return [
        measured.source,
        measured.benchmark.replace("_", " "),
        "all" if measured.length is None else f"{measured.length}K",
        scale,
        with_error(measured.value, measured.stderr, 2),
        number(value, 2),
        signed(None if value is None else measured.value - value, 2),
        f"{published.paper}, {published.label}" if published.label else published.paper,
    ]


def _row(line: Mapping[str, str]) -> PublishedNumber:
    return PublishedNumber(
        line["paper"],
        line["model"],
        float(line["rope_scale"]),
        line["benchmark"],
        int(line["length_k"]) if line["length_k"] else None,
        float(line["value"]) if line["value"] else None,
        line["label"],
    )
