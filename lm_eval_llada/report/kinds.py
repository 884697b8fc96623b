"""Which kind of ability a task measures, and differences between two evaluations by kind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lm_eval_llada.report.cells import needle_cells
from lm_eval_llada.report.document import (
    Block,
    Bullets,
    Paragraph,
    Section,
    Table,
    number,
    signed,
    table,
)
from lm_eval_llada.report.evaluations import Evaluation, TaskResult
from lm_eval_llada.report.samples import Sample
from lm_eval_llada.tasks.longbench.scores import DATASETS
from lm_eval_llada.tasks.ruler.options import SYNTHETIC_QUESTIONS
from lm_eval_llada.tasks.ruler.scores import GROUPS
from lm_eval_llada.tasks.statistics import clustered_stderr

_RULER_KINDS = {"niah": "retrieval", "agg": "aggregation", "qa": "question answering"}
_LONGBENCH_KINDS = {
    "single_doc": "question answering",
    "multi_doc": "question answering",
    "summary": "summary",
    "few_shot": "few-shot",
    "synthetic": "synthetic",
    "code": "code",
}
_ORDER = tuple(dict.fromkeys([*_RULER_KINDS.values(), *_LONGBENCH_KINDS.values()]))


@dataclass(frozen=True, order=True)
class Kind:
    """What a task measures.

    Attributes:
        order: Place of the kind in tables.
        name: Such as ``retrieval``.
        benchmark: ``NIAH``, ``RULER`` or ``LongBench``.
        length: Of the context in tokens.
    """

    order: int
    name: str
    benchmark: str
    length: int


@dataclass(frozen=True)
class Difference:
    """The second of two scores less the first.

    Attributes:
        first: Score of the first.
        second: Score of the second.
        stderr: Standard error of the difference; None where it is not known.
        how: How the standard error was made.
    """

    first: float
    second: float
    stderr: float | None
    how: str

    @property
    def value(self) -> float:
        """Second less first."""
        return self.second - self.first

    @property
    def in_errors(self) -> str:
        """The difference in standard errors, or why it cannot be given."""
        if self.stderr is None:
            return "no standard error"
        if self.stderr == 0:
            return "0" if self.value == 0 else "no spread"
        return signed(self.value / self.stderr)


def kind_of(task: TaskResult) -> Kind | None:
    """What a task measures; None for tasks of other packages."""
    ruler, dataset = task.metadata.get("ruler_task"), task.metadata.get("dataset")
    length = task.length
    if task.score is None or length is None:
        return None
    if ruler == SYNTHETIC_QUESTIONS:
        return _kind(_RULER_KINDS["qa"], "RULER", length)
    for group, tasks in GROUPS.items():
        if ruler in tasks:
            return _kind(_RULER_KINDS[group], "RULER", length)
    if isinstance(dataset, str) and dataset in DATASETS:
        return _kind(_LONGBENCH_KINDS[DATASETS[dataset].category], "LongBench", length)
    if needle_cells(length, task.metrics):
        return _kind("retrieval", "NIAH", length)
    return None


def difference(first: Evaluation, second: Evaluation, task: str, metric: str) -> Difference:
    """How two evaluations differ in one metric of one task that both ran.

    Where both logged the same samples, by their hashes, the scores are compared sample by sample,
    clustered by needle if samples share needles. Otherwise the two count as independent.

    Args:
        first: The one to start from.
        second: The one to compare with it.
        task: Name of the task.
        metric: One of its metrics.
    """
    one, other = first.tasks[task], second.tasks[task]
    values = one.metrics[metric], other.metrics[metric]
    pairs = _pairs(first.samples.get(task, ()), second.samples.get(task, ()))
    # Logged samples speak of the score alone, and only if none is missing.
    if metric == "score" and pairs and len(pairs) == one.samples == other.samples:
        changes = [b - a for a, b, _ in pairs]
        clusters = [cluster for _, _, cluster in pairs]
        kind = "paired by sample"
        if len(set(clusters)) < len(clusters):
            kind += ", clustered by needle"
        return Difference(*values, clustered_stderr(changes, clusters), kind)
    if metric == "score":
        errors = one.stderr, other.stderr
    else:
        errors = one.errors.get(metric), other.errors.get(metric)
    if errors[0] is None or errors[1] is None:
        return Difference(*values, None, "no standard error")
    return Difference(*values, math.hypot(errors[0], errors[1]), "independent")


def mean_difference(differences: Sequence[Difference]) -> Difference:
    """The difference of the means over tasks that are independent of each other.

    Args:
        differences: At least one.
    """
    count = len(differences)
    errors = [d.stderr for d in differences if d.stderr is not None]
    stderr = math.sqrt(math.fsum(e**2 for e in errors)) / count if len(errors) == count else None
    return Difference(
        math.fsum(d.first for d in differences) / count,
        math.fsum(d.second for d in differences) / count,
        stderr,
        " and ".join(sorted({d.how for d in differences})),
    )


def by_kind(first: Evaluation, second: Evaluation) -> list[tuple[Kind, int, Difference]]:
    """Differences over the tasks both ran: kind, number of tasks, difference of their means."""
    groups: dict[Kind, list[Difference]] = {}
    for name, task in first.tasks.items():
        kind = kind_of(task)
        # Settings of samples may make another length of a task under the same name.
        if kind is not None and name in second.tasks and kind_of(second.tasks[name]) == kind:
            groups.setdefault(kind, []).append(difference(first, second, name, "score"))
    return [(kind, len(items), mean_difference(items)) for kind, items in sorted(groups.items())]


def kinds_section(evaluations: Iterable[Evaluation]) -> Section | None:
    """Diffusion against causal models by kind of task, or None where there is no pair of them."""
    runs = list(evaluations)
    diffusion = [e for e in runs if e.kind == "diffusion"]
    causal = [e for e in runs if e.kind == "causal"]
    if not diffusion or not causal:
        return None
    blocks: list[Block] = [
        Paragraph(
            "Each diffusion run beside the causal runs with the same λ, over the tasks that both "
            "ran. LongLLaDA finds diffusion models equal in retrieval, behind in aggregation and "
            "ahead in question answering."
        )
    ]
    unpaired = []
    for run in diffusion:
        partners = _partners(run, diffusion, causal)
        for partner in partners:
            blocks.append(_comparison(partner, run))
        if not partners:
            unpaired.append(f"{run.label}: no causal run with the same λ and tasks.")
    if unpaired:
        blocks.append(Bullets(tuple(unpaired)))
    return Section("Diffusion against causal, by kind of task", tuple(blocks))


def _comparison(causal: Evaluation, diffusion: Evaluation) -> Table:
    rows = [
        [
            *(kind.name, kind.benchmark, f"{kind.length:,}", str(count)),
            *(number(d.second), number(d.first), signed(d.value), number(d.stderr)),
            *(d.in_errors, d.how),
        ]
        for kind, count, d in by_kind(causal, diffusion)
    ]
    header = ["kind of task", "benchmark", "length", "tasks", "diffusion", "causal"]
    header += ["difference", "standard error", "in standard errors", "compared"]
    caption = (
        f"{diffusion.label} (diffusion) against {causal.label} (causal): mean scores (0-100) over "
        f"the tasks both ran; positive differences are in favour of diffusion."
    )
    return table(header, rows, caption)


def _partners(
    run: Evaluation, diffusion: Sequence[Evaluation], causal: Sequence[Evaluation]
) -> list[Evaluation]:
    """Causal runs of the same λ, to two decimals, that share a task with a diffusion run.

    Where there is one of each only, they go together whatever their λ.
    """
    is_only_pair = len(diffusion) == len(causal) == 1
    alike = [other for other in causal if is_only_pair or _scale(other) == _scale(run)]
    return [other for other in alike if by_kind(other, run)]


def _scale(evaluation: Evaluation) -> float:
    # The harness' plain `hf` does not write a λ: it has none.
    return round(evaluation.rope_scale or 1.0, 2)


def _kind(name: str, benchmark: str, length: int) -> Kind:
    return Kind(_ORDER.index(name), name, benchmark, length)


def _pairs(first: Sequence[Sample], second: Sequence[Sample]) -> list[tuple[float, float, str]]:
    """Scores of the samples both have, and what they are clustered by; empty if any has none."""
    others = {(s.doc_id, s.doc_hash): s.score for s in second if s.score is not None}
    pairs = []
    for sample in first:
        score = others.get((sample.doc_id, sample.doc_hash))
        if sample.score is None or score is None or not sample.doc_hash:
            return []
        pairs.append((sample.score, score, sample.cluster))
    return pairs
