"""Samples to read: failed ones first, and of each cell that nothing failed in, one that did not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from lm_eval_llada.report.document import Block, Excerpt, Paragraph, Section, Table, table
from lm_eval_llada.report.evaluations import Evaluation
from lm_eval_llada.report.page_blocks import Run, SampleRow, SampleTable, cell_anchor
from lm_eval_llada.report.samples import FAILED_BELOW, Sample, spread
from lm_eval_llada.report.settings import named_runs

# So that a page of many runs and long prompts stays small enough to send.
_MOST_SHOWN = 1200
_SHORTEST_MARK = 3  # characters; a shorter answer would be marked all over a text


def failures_section(evaluations: Iterable[Evaluation], limit: int) -> Section:
    """Samples of each task of each run, with the number that failed.

    A page has them of every depth, in a table to filter; texts have the failed ones of each task.

    Args:
        evaluations: In the order of the report.
        limit: Failed samples to show of each task of each run, on a page of each depth; at least 0.
    """
    runs = list(evaluations)
    without = [evaluation.label for evaluation in runs if not evaluation.samples]
    first = (
        f"A sample fails if it scores under {FAILED_BELOW:g} of 100. Long texts are shortened, "
        f"and at most {limit} failed samples of a task and depth are shown, spread over all that "
        "failed."
    )
    blocks: list[Block] = [Paragraph(first)]
    if without:
        text = f"No samples were logged (--log_samples) by: {'; '.join(without)}."
        blocks.append(Paragraph(text))
    logged = [(run, e) for run, e in zip(named_runs(runs), runs, strict=True) if e.samples]
    if logged:
        blocks += [_counts(logged), SampleTable(tuple(_rows(logged, limit)))]
        blocks += [one for _, evaluation in logged for one in _excerpts(evaluation, limit)]
    return Section("Samples", tuple(blocks))


def _counts(logged: Sequence[tuple[Run, Evaluation]]) -> Table:
    """How many samples of each task failed, and where their needles lie."""
    rows = []
    for _, evaluation in logged:
        for task, samples in sorted(evaluation.samples.items()):
            scored = [sample for sample in samples if sample.score is not None]
            failed = [sample for sample in scored if sample.failed]
            depths = sorted({depth for sample in failed for depth, _ in sample.depths})
            where = ", ".join(f"{depth} %" for depth in depths)
            if scored:
                counts = [str(len(failed)), str(len(scored)), where or "-"]
                rows.append([evaluation.label, task, *counts])
    header = ["run", "task", "failed", "samples", "depths of failures"]
    return table(header, rows, "Failed samples by task.", is_detail=True)


def _rows(logged: Sequence[tuple[Run, Evaluation]], limit: int) -> Iterator[SampleRow]:
    cells = {
        (run.tag, task, depth): (run, task, depth, cell)
        for run, evaluation in logged
        for task, samples in sorted(evaluation.samples.items())
        for depth, cell in _by_depth(samples).items()
    }
    each = min(limit, max(1, _MOST_SHOWN // max(1, len(cells))))
    for run, task, depth, cell in cells.values():
        failed = [sample for sample in cell if sample.failed]
        # Something to read behind every cell, even where all is well.
        shown = spread(failed, each) if failed else cell[:1]
        for sample in shown if limit else []:
            yield _row(run, task, depth, sample)


def _by_depth(samples: Sequence[Sample]) -> dict[int | None, list[Sample]]:
    found: dict[int | None, list[Sample]] = {}
    for sample in samples:
        depths: list[int | None] = [at for at, _ in sample.depths]
        for depth in depths or [None]:
            found.setdefault(depth, []).append(sample)
    return dict(sorted(found.items(), key=lambda item: -1 if item[0] is None else item[0]))


def _row(run: Run, task: str, depth: int | None, sample: Sample) -> SampleRow:
    return SampleRow(
        cell_anchor(run.tag, task, depth),
        run.tag,
        task,
        sample.length,
        depth,
        sample.score,
        sample.prompt,
        tuple(text for text in sample.targets if len(text) >= _SHORTEST_MARK),
        sample.target,
        sample.answer,
    )


def _excerpts(evaluation: Evaluation, limit: int) -> Iterator[Block]:
    """For texts, which cannot be filtered: some failed samples of each task."""
    for _, samples in sorted(evaluation.samples.items()):
        failed = [sample for sample in samples if sample.failed]
        shown = spread(failed, limit)
        for sample in shown:
            yield _excerpt(evaluation.label, sample)


def _excerpt(label: str, sample: Sample) -> Excerpt:
    parts = (("prompt", sample.prompt), ("expected", sample.target), ("answer", sample.answer))
    return Excerpt(f"{label}: {sample.title}", parts, on_page=False)
