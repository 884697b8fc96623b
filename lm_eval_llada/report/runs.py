"""What was run: the runs of a report, their speed and memory, and the settings they differ in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
from lm_eval_llada.report.evaluations import Evaluation, Reading, TaskResult, model_arguments
from lm_eval_llada.report.files import ResultFile, Skipped
from lm_eval_llada.report.kinds import kind_of
from lm_eval_llada.report.perplexity import is_at_length

_GIB = 2**30
# What the package's own models write into `config`, under their own name.
_OWN = ("llada", "hf_rope")
_TOP_SETTINGS = (
    *("git_hash", "lm_eval_version", "transformers_version", "system_instruction"),
    *("chat_template_sha", "fewshot_as_multiturn"),
)
_CONFIG_SETTINGS = (
    *("model", "model_dtype", "model_num_parameters", "batch_size", "limit"),
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
    settings = [_settings(evaluation) for evaluation in runs]
    names = list(dict.fromkeys(name for one in settings for name in one))
    rows = []
    for name in names:
        values = [one.get(name, GAP) for one in settings]
        if len(set(values)) > 1:
            rows.append([name, *values])
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
    own = _own(config)
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
        _machine(str(file.content.get("pretty_env_info") or "")),
    ]


def _settings(evaluation: Evaluation) -> dict[str, str]:
    """Settings by name; a name whose value differs between the files of a run has all of them."""
    merged: dict[str, list[str]] = {}
    for file in evaluation.files:
        for name, value in _file_settings(file.content).items():
            values = merged.setdefault(name, [])
            if value not in values:
                values.append(value)
    return {name: " | ".join(values) for name, values in merged.items()}


def _file_settings(content: Mapping[str, Any]) -> dict[str, str]:
    config = content.get("config", {})
    own = _own(config)
    settings = {f"model_args.{name}": value for name, value in model_arguments(config).items()}
    rope = config.get("rope") or {}
    settings |= {f"rope.{k}": _text(v) for k, v in rope.items() if k not in ("notes", "extra")}
    given = config.get("gen_kwargs")
    if isinstance(given, dict):
        settings |= {f"gen_kwargs.{name}": _text(value) for name, value in given.items()}
    settings |= {name: _text(config[name]) for name in _CONFIG_SETTINGS if name in config}
    settings |= {name: _text(content[name]) for name in _TOP_SETTINGS if name in content}
    settings |= {f"package.{k}": _text(own[k]) for k in ("version", "max_length") if k in own}
    settings |= _generation(own.get("generation") or {})
    settings["machine"] = _machine(str(content.get("pretty_env_info") or ""))
    return settings


def _generation(by_task: Mapping[str, Any]) -> dict[str, str]:
    """Sampling options over all tasks of a run, each with every value it took."""
    values: dict[str, set[str]] = {}
    for plans in by_task.values():
        for plan in plans:
            for name, value in (plan.get("options") or {}).items():
                values.setdefault(f"generation.{name}", set()).add(_text(value))
    return {name: ", ".join(sorted(found)) for name, found in values.items()}


def _own(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((config[name] for name in _OWN if isinstance(config.get(name), dict)), {})


def _machine(environment: str) -> str:
    """Graphics cards, or else the processor, from what lm-eval writes about the environment."""
    cards = re.findall(r"^GPU \d+: (.+)$", environment, re.MULTILINE)
    if cards:
        return ", ".join(f"{cards.count(card)} x {card}" for card in dict.fromkeys(cards))
    processor = re.search(r"^Model name:\s*(.+)$", environment, re.MULTILINE)
    return processor.group(1).strip() if processor else GAP


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} tasks, {names[0]} first"


def _float(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
