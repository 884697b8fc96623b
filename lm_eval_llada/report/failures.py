"""Failed samples to read: the prompt around the needle, the answer, the score."""

from __future__ import annotations

from collections.abc import Iterable

from lm_eval_llada.report.document import Block, Excerpt, Paragraph, Section
from lm_eval_llada.report.evaluations import Evaluation
from lm_eval_llada.report.samples import FAILED_BELOW, Sample, spread


def failures_section(evaluations: Iterable[Evaluation], limit: int) -> Section:
    """Some failed samples of each task, with the number there are.

    Args:
        evaluations: In the order of the report.
        limit: Samples to show of each task of each run, at least 0.
    """
    blocks: list[Block] = []
    without = []
    for evaluation in evaluations:
        if not evaluation.samples:
            without.append(evaluation.label)
        for task, samples in sorted(evaluation.samples.items()):
            blocks += _failures(evaluation.label, task, samples, limit)
    first = (
        f"A sample fails if it scores under {FAILED_BELOW:g} of 100. Long texts are shortened, "
        f"and at most {limit} samples of a task are shown, spread over all that failed."
    )
    blocks.insert(0, Paragraph(first))
    if without:
        text = f"No samples were logged (--log_samples) by: {'; '.join(without)}."
        blocks.append(Paragraph(text))
    return Section("Failed samples", tuple(blocks))


def _failures(label: str, task: str, samples: tuple[Sample, ...], limit: int) -> list[Block]:
    scored = [sample for sample in samples if sample.score is not None]
    failed = [sample for sample in scored if sample.failed]
    if not scored:
        return [Paragraph(f"{label}, {task}: no sample has a score of 0-100.")]
    shown = spread(failed, limit)
    count = f"{label}, {task}: {len(failed)} of {len(scored)} samples failed"
    if not failed:
        return [Paragraph(f"{count}.")]
    return [Paragraph(f"{count}, {len(shown)} shown."), *map(_excerpt, shown)]


def _excerpt(sample: Sample) -> Excerpt:
    parts = (("prompt", sample.prompt), ("expected", sample.target), ("answer", sample.answer))
    return Excerpt(sample.title, parts)
