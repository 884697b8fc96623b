"""What was run: the runs of a report, their speed and memory, and the settings they differ in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from lm_eval_llada.report.document import (
    GAP,
    Block,
    Bullets,
    Paragraph,
    Section,
    number,
    table,
    with_error,
)
from lm_eval_llada.report.evaluations import Evaluation, Reading, TaskResult
from lm_eval_llada.report.files import ResultFile, Skipped
from lm_eval_llada.report.kinds import kind_of
from lm_eval_llada.report.perplexity import is_at_length
from lm_eval_llada.report.settings import machine_of, own_entry, settings_of

_GIB = 2**30
# The start of a commit's name says which it is.
_COMMIT = re.compile(r"\b([0-9a-f]{10})[0-9a-f]{30}\b")
_TOP_SETTINGS = (
    *("lm_eval_version", "transformers_version", "system_instruction"),
    *("chat_template_sha", "fewshot_as_multiturn"),
)
_OWN_SETTINGS = ("version", "commit")
_CONFIG_SETTINGS = (
    *("model_dtype", "model_num_parameters", "limit"),
    *("random_seed", "numpy_seed", "torch_seed", "fewshot_seed", "use_cache"),
)


def overview_section(reading: Reading, skipped: Sequence[Skipped]) -> Section:
    """The runs, how they were put together and which files were left out."""
    rows = []
    for evaluation in reading.evaluations:
        extents = Counter(task.extent for task in evaluation.tasks.values())
        parts = [f"{extents[e]} {e}" for e in ("partial", "size unknown") if extents[e]]
        state = ", ".join(parts) or "complete"
        tasks = str(len(evaluation.tasks))
        files = str(len(evaluation.files))
        rows.append([evaluation.label, evaluation.kind, tasks, state, files])
    blocks: list[Block] = []
    if rows:
        caption = "A run is one model under one setting, from all files that hold it."
        blocks.append(table(["run", "kind", "tasks", "state", "files"], rows, caption))
    if reading.notes:
        blocks.append(Bullets(reading.notes))
    if skipped:
        blocks.append(Paragraph(f"Skipped, whole or in part: {len(skipped)} files."))
        blocks.append(Bullets(tuple(map(str, skipped))))
    return Section("Runs", tuple(blocks))


def facts(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """When the runs were made, by which versions of what, on which machine; a line each."""
    contents = [file.content for evaluation in evaluations for file in evaluation.files]
    if not contents:
        return ()
    stamps = [float(c["date"]) for c in contents if isinstance(c.get("date"), int | float)]
    days = sorted({datetime.fromtimestamp(s, timezone.utc).date().isoformat() for s in stamps})
    own = [own_entry(content.get("config", {})) for content in contents]
    versions = {
        "lm_eval_llada": [entry.get("version") for entry in own],
        "lm-eval": [content.get("lm_eval_version") for content in contents],
        "transformers": [content.get("transformers_version") for content in contents],
        "torch": [(entry.get("machine") or {}).get("torch") for entry in own],
    }
    known = {name: sorted({str(v) for v in found if v}) for name, found in versions.items()}
    machines = sorted({machine_of(content) for content in contents} - {GAP})
    parts = [
        f"Measured {days[0]}{f' to {days[-1]}' if len(days) > 1 else ''}" if days else "",
        ", ".join(f"{name} {' and '.join(found)}" for name, found in known.items() if found),
        ", ".join(machines),
    ]
    return (" · ".join(part for part in parts if part),) if any(parts) else ()


def speed_section(evaluations: Iterable[Evaluation]) -> Section | None:
    """Time, work and memory of each results file, or None where there is none."""
    rows = [
        [evaluation.label, *_speed(file)] for evaluation in evaluations for file in evaluation.files
    ]
    if not rows:
        return None
    header = ["run", "tasks", "whole time (s)", "requests (s)", "forward passes", "tokens read"]
    header += ["tokens/s", "tokens/pass", "peak memory (GiB)", "ranks", "machine"]
    caption = (
        f"One line for each results file; {GAP} where the run did not write it down. Tokens are "
        "those read in forward passes, padding not counted; times of ranks do not add up."
    )
    return Section("Speed and memory", (table(header, rows, caption),))


def settings_section(evaluations: Sequence[Evaluation]) -> Section | None:
    """The settings in which runs differ, or None for fewer than two runs with settings."""
    runs = [evaluation for evaluation in evaluations if evaluation.files]
    if len(runs) < 2:
        return None
    settings = [{**settings_of(run), **_circumstances(run)} for run in runs]
    names = list(dict.fromkeys(name for one in settings for name in one))
    rows = []
    for name in names:
        # Runs of another kind of model have no such setting, which is no difference.
        if len({one[name] for one in settings if name in one}) > 1:
            rows.append([name, *(one.get(name, GAP) for one in settings)])
    if not rows:
        text = "The runs differ in no setting that was written down."
        return Section("Settings that differ", (Paragraph(text),))
    header = ["setting", *(run.label for run in runs)]
    caption = f"Settings that are equal in all runs are left out; {GAP} where a run has none."
    return Section("Settings that differ", (table(header, rows, caption),))


def other_tasks_section(evaluations: Iterable[Evaluation]) -> Section | None:
    """All metrics of tasks that no other part of the report is about, or None."""
    rows = [
        [evaluation.label, task.name, metric, value, _samples(task)]
        for evaluation in evaluations
        for task in evaluation.tasks.values()
        if kind_of(task) is None
        for metric, value in _values(task)
        if not is_at_length(metric)
    ]
    if not rows:
        return None
    header = ["run", "task", "metric", "value", "samples"]
    return Section(
        "Other tasks", (table(header, rows, "Values ± standard error, as lm-eval has."),)
    )


def _values(task: TaskResult) -> list[tuple[str, str]]:
    """Metrics and what to show of each, those without a number in words."""
    numbers = [(m, with_error(v, task.errors.get(m), 4)) for m, v in task.metrics.items()]
    return [*numbers, *task.gaps.items()]


def _samples(task: TaskResult) -> str:
    return GAP if task.samples is None else str(task.samples)


def _speed(file: ResultFile) -> list[str]:
    config = file.content.get("config", {})
    own = own_entry(config)
    work = own["work"] if isinstance(own.get("work"), dict) else {}
    passes, tokens = _float(work.get("forward_passes")), _float(work.get("tokens_read"))
    memory = _float(work.get("peak_memory_bytes"))
    names = [name for name in file.content["results"] if name in file.content["configs"]]
    return [
        _few(names),
        number(_float(file.content.get("total_evaluation_time_seconds"))),
        number(_float(work.get("seconds"))),
        number(passes, 0),
        number(tokens, 0),
        number(_float(work.get("tokens_per_second")), 0),
        number(tokens / passes if passes and tokens else None, 0),
        number(memory / _GIB if memory else None, 2),
        str(own.get("num_ranks", GAP)),
        machine_of(file.content),
    ]


def _circumstances(evaluation: Evaluation) -> dict[str, str]:
    """What a run depends on beside its settings: seeds, versions, the machine, a limit."""
    merged: dict[str, list[str]] = {}
    for file in evaluation.files:
        content = file.content
        config = content.get("config", {})
        found = {name: _text(config[name]) for name in _CONFIG_SETTINGS if name in config}
        found |= {name: _text(content[name]) for name in _TOP_SETTINGS if name in content}
        own = own_entry(config)
        found |= {f"package {k}": _COMMIT.sub(r"\1", _text(own[k])) for k in _OWN_SETTINGS
                  if k in own}  # fmt: skip
        found["machine"] = machine_of(content)
        for name, value in found.items():
            values = merged.setdefault(name, [])
            if value not in values:
                values.append(value)
    return {name: " | ".join(values) for name, values in merged.items()}


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} tasks, {names[0]} first"


def _float(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
