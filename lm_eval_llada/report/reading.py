"""From files to evaluations: those of one setting together, each under a label of its own."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lm_eval_llada.report.cells import needle_cells
from lm_eval_llada.report.evaluations import (
    Evaluation,
    Reading,
    TaskResult,
    model_arguments,
    model_name,
)
from lm_eval_llada.report.files import Found, ResultFile, SampleFile, Skipped
from lm_eval_llada.report.frontier import rope_label
from lm_eval_llada.report.samples import Sample, read_samples
from lm_eval_llada.report.values import listed_metrics, metric_names, read_numbers

_KINDS = {"llada": "diffusion", "mdlm": "diffusion", "hf_rope": "causal", "hf": "causal"}
# Model arguments that leave the scores as they are: where and how fast a run is made.
_NEUTRAL = ("batch_size", "max_batch_size", "device", "device_map", "tp")
_MOST_NAMED = 3


def read_evaluations(found: Found) -> Reading:
    """The evaluations in some files; files of one setting make one evaluation.

    Where two files hold the same task, the one with more samples counts, of two alike the newer; a
    note says so. Samples whose results file is missing make an evaluation of their own.
    """
    skipped = list(found.skipped)
    samples: dict[tuple[Path, str], dict[str, tuple[Sample, ...]]] = {}
    for file in found.samples:
        read, problem = read_samples(file.path, file.task)
        skipped += [problem] if problem else []
        if read:
            samples.setdefault(_run_of(file), {})[file.task] = read
    notes: list[str] = []
    by_setting: dict[str, list[ResultFile]] = {}
    for result in found.results:
        problem = _problem(result)
        if problem:
            skipped.append(problem)
        else:
            by_setting.setdefault(_setting(result.content), []).append(result)
    evaluations = [_merged(files, samples, notes) for files in by_setting.values()]
    orphans = set(samples) - {_run_of(file) for file in found.results}
    for folder, stamp in sorted(orphans):
        evaluations.append(_from_samples(folder, stamp, samples[folder, stamp]))
        notes.append(
            f"{folder}: samples of {stamp} have no results file; their scores are used, their "
            f"settings are unknown."
        )
    return Reading(tuple(_labelled(evaluations)), tuple(skipped), tuple(notes))


def _problem(file: ResultFile) -> Skipped | None:
    """Why a file that has the shape of results cannot be read all the same, or None."""
    try:
        runs = _merged([file], {}, [])
        _setting(file.content)
        for task in runs.tasks.values():
            needle_cells(1, task.metrics)
        if runs.rope is not None and runs.rope_scale:
            runs.rope.frontier(1)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        what = f"{type(error).__name__}: {error}"
        return Skipped(file.path, f"is not a results file of lm-eval ({what})")
    return None


def _run_of(file: ResultFile | SampleFile) -> tuple[Path, str]:
    return file.path.parent.resolve(), file.stamp


def _setting(content: Mapping[str, Any]) -> str:
    """Text that is equal for two files exactly if they hold the same model under one setting."""
    config = content.get("config", {})
    arguments = {k: v for k, v in model_arguments(config).items() if k not in _NEUTRAL}
    own = config.get("llada") or config.get("hf_rope") or {}
    parts = [
        *(config.get("model"), arguments, config.get("gen_kwargs"), config.get("model_dtype")),
        *(own.get("version"), content.get("lm_eval_version")),
        *(content.get("system_instruction_sha"), content.get("chat_template_sha")),
    ]
    return json.dumps(parts, sort_keys=True, default=str)


def _merged(
    files: Sequence[ResultFile],
    samples: Mapping[tuple[Path, str], Mapping[str, tuple[Sample, ...]]],
    notes: list[str],
) -> Evaluation:
    tasks: dict[str, TaskResult] = {}
    kept: dict[str, ResultFile] = {}
    for file in files:
        for task in _task_results(file.content):
            other = tasks.get(task.name)
            if other is None or _count(task) >= _count(other):
                tasks[task.name], kept[task.name] = task, file
            if other is not None:
                notes.append(
                    f"{task.name} is in several files of one setting; {kept[task.name].path} "
                    f"counts, with {_counted(tasks[task.name])}."
                )
    read = {
        task: samples[_run_of(file)][task]
        for task, file in kept.items()
        if task in samples.get(_run_of(file), {})
    }
    notes += [f"{kept[name].path}: {name}: {_gaps(t)}." for name, t in tasks.items() if t.gaps]
    config = files[-1].content.get("config", {})
    model = model_name(config)
    kind = _KINDS.get(str(config.get("model")), "other")
    rope = config.get("rope")
    label = f"{model}, {rope_label(rope)}" if isinstance(rope, dict) else model
    return Evaluation(label, model, kind, config, tasks, tuple(files), read)


def _task_results(content: Mapping[str, Any]) -> Iterable[TaskResult]:
    """The tasks of one file; groups, which average tasks, have no config and are left out."""
    counts = content.get("n-samples", {})
    for name, values in content["results"].items():
        if name not in content["configs"]:
            continue
        metrics, errors, gaps = read_numbers(values)
        listed = listed_metrics(content["configs"][name])
        gaps |= dict.fromkeys(listed - metric_names(values), "missing")
        count = counts.get(name) or {}
        metadata = content["configs"][name].get("metadata")
        scored = count.get("effective", values.get("sample_len"))
        planned = count.get("original")
        yield TaskResult(
            name,
            metrics,
            errors,
            None if scored is None else int(scored),
            None if planned is None else int(planned),
            metadata if isinstance(metadata, dict) else {},
            gaps,
        )


def _count(task: TaskResult) -> int:
    """Samples of a task, to choose by; one that does not say comes last."""
    return -1 if task.samples is None else task.samples


def _counted(task: TaskResult) -> str:
    return f"{'an unknown number of' if task.samples is None else task.samples} samples"


def _gaps(task: TaskResult) -> str:
    """Which metrics have no number, and what they have, as one line."""
    by_reason: dict[str, list[str]] = {}
    for metric, reason in sorted(task.gaps.items()):
        by_reason.setdefault(reason, []).append(metric)
    return "; ".join(f"{_few(names)}: {reason}" for reason, names in by_reason.items())


def _few(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _from_samples(
    folder: Path, stamp: str, samples: Mapping[str, tuple[Sample, ...]]
) -> Evaluation:
    tasks = {name: _scored(name, items) for name, items in samples.items()}
    label = f"{folder.name}, samples of {stamp}"
    return Evaluation(label, folder.name, "other", {}, tasks, (), samples)


def _scored(name: str, samples: Sequence[Sample]) -> TaskResult:
    """A task as far as its samples tell of it."""
    scores = [sample.score for sample in samples if sample.score is not None]
    metrics = {"score": math.fsum(scores) / len(scores)} if scores else {}
    by_depth: dict[int, list[float]] = {}
    for sample in samples:
        for depth, score in sample.depths:
            by_depth.setdefault(depth, []).append(score)
    for depth, values in sorted(by_depth.items()):
        metrics[f"depth_{depth:03d}"] = math.fsum(values) / len(values)
    length = samples[0].length
    metadata = {} if length is None else {"length": length}
    return TaskResult(name, metrics, {}, len(samples), None, metadata)


def _labelled(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """The evaluations in order; those of one label are told apart by their other arguments.

    What tells two runs of a model apart is then said of all its runs that have it: beside one that
    is called exact by its silence, another must not pass for exact.
    """
    kinds = ["diffusion", "causal", "other"]
    ordered = sorted(
        evaluations, key=lambda e: (kinds.index(e.kind), e.model, e.rope_scale or 0, e.label)
    )
    telling = {model: _telling(group) for model, group in _by_model(ordered).items()}
    named = [_with_arguments(e, telling[e.kind, e.model]) for e in ordered]
    counts, seen = Counter(e.label for e in named), Counter[str]()
    unique = []
    for evaluation in named:
        seen[evaluation.label] += 1
        number = f" [{seen[evaluation.label]}]" if counts[evaluation.label] > 1 else ""
        unique.append(replace(evaluation, label=evaluation.label + number))
    return unique


def _by_model(evaluations: Iterable[Evaluation]) -> dict[tuple[str, str], list[Evaluation]]:
    found: dict[tuple[str, str], list[Evaluation]] = {}
    for evaluation in evaluations:
        found.setdefault((evaluation.kind, evaluation.model), []).append(evaluation)
    return found


def _telling(evaluations: Sequence[Evaluation]) -> set[str]:
    """Arguments in which evaluations of one label differ."""
    names: set[str] = set()
    for label in {evaluation.label for evaluation in evaluations}:
        given = [_arguments(e) for e in evaluations if e.label == label]
        every = {name for arguments in given for name in arguments}
        names |= {name for name in every if len({a.get(name) for a in given}) > 1}
    return names


def _with_arguments(evaluation: Evaluation, names: Collection[str]) -> Evaluation:
    own = _arguments(evaluation)
    different = [f"{name}={value}" for name, value in own.items() if name in names]
    return replace(evaluation, label=", ".join([evaluation.label, *different]))


def _arguments(evaluation: Evaluation) -> dict[str, str]:
    generation = evaluation.config.get("gen_kwargs")
    extra = generation if isinstance(generation, dict) else {}
    return {**model_arguments(evaluation.config), **{k: str(v) for k, v in extra.items()}}
