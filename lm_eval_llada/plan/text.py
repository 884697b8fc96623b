"""A plan as text: what was assumed, what each task costs, and whether it fits."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from copy import copy
from dataclasses import fields

import torch
from lm_eval.config.evaluate_config import EvaluatorConfig

from lm_eval_llada.diffusion.block_likelihood import check_block_likelihood
from lm_eval_llada.diffusion.blocks import check_blocks
from lm_eval_llada.diffusion.sampler import CACHES
from lm_eval_llada.engine.arguments import parse_model_args, with_run_settings
from lm_eval_llada.engine.decoding import block_lines, with_release_decoding
from lm_eval_llada.modeling import find_config
from lm_eval_llada.modeling.attention_choice import with_attention
from lm_eval_llada.modeling.cost import (
    Work,
    cache_bytes,
    key_value_bytes,
    num_parameters,
)
from lm_eval_llada.plan.costs import GB, CostModel
from lm_eval_llada.plan.hardware import Hardware
from lm_eval_llada.plan.requests import Request, RunPlan, TaskPlan, plan_run
from lm_eval_llada.report.document import Bullets, Section, Table
from lm_eval_llada.report.terminal import to_text

_OWN_ARGUMENTS = tuple(field.name for field in fields(Hardware))


def describe(namespace: argparse.Namespace) -> str:
    """The plan of a run as text.

    Args:
        namespace: Of the parser that `command.add_parser` adds, completed as that of a run.

    Raises:
        ValueError: If an argument is wrong, a task does not exist, or the model is not ours.
    """
    hardware = Hardware(**{name: getattr(namespace, name) for name in _OWN_ARGUMENTS})
    if namespace.model not in ("llada", "mdlm"):
        raise ValueError(f"plan knows the cost of --model llada only; got {namespace.model!r}.")
    config = _run_config(namespace)
    beside = {name: getattr(config, name) for name in ("batch_size", "max_batch_size", "device")}
    given = with_run_settings(config.model_args, beside)
    loading = parse_model_args(given).loading
    shape, note = find_config(loading.pretrained, loading.revision)
    own = parse_model_args(given).sampling.block_length
    shape = with_attention(shape, loading.attention, own)
    arguments = parse_model_args(with_release_decoding(given, shape.family)[0])
    arguments.sampling.require_used()
    check_blocks(parse_model_args(given).sampling, shape.blocks)
    check_block_likelihood(arguments.likelihood, shape.blocks)
    dtype = loading.dtype if loading.dtype != "auto" else shape.dtype or torch.float32
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    costs = CostModel(shape, dtype.itemsize, arguments, hardware)
    plan = plan_run(config, arguments)
    assumptions = _assumptions(costs, plan, str(dtype).removeprefix("torch."), note)
    sections = [Section("Assumed", (Bullets(tuple(assumptions)),))]
    if plan.tasks:
        sections += [
            Section("Tasks", (_task_table(costs, plan),)),
            *_cache_sections(costs, plan),
            Section("Memory", (Bullets(tuple(_memory_lines(costs, plan))),)),
        ]
    if plan.missing:
        sections.append(Section("Not in the estimate", (Bullets(plan.missing),)))
    return to_text(f"Plan of {', '.join(_names(config))}", sections)


def _run_config(namespace: argparse.Namespace) -> EvaluatorConfig:
    """What the harness makes of the arguments of a run."""
    given = copy(namespace)
    for name in _OWN_ARGUMENTS:
        delattr(given, name)
    return EvaluatorConfig.from_cli(given)


def _names(config: EvaluatorConfig) -> list[str]:
    return [config.tasks] if isinstance(config.tasks, str) else list(config.tasks)


def _assumptions(costs: CostModel, plan: RunPlan, dtype: str, note: str | None) -> list[str]:
    config, hardware = costs.config, costs.hardware
    parameters, active = num_parameters(config), num_parameters(config, active=True)
    used = "" if active == parameters else f", {active:,} of them for a token,"
    lines = [
        f"Model: {parameters:,} parameters{used} in {dtype}, "
        f"{_gb(parameters * costs.itemsize)} of weights; keys and values take "
        f"{key_value_bytes(config, costs.itemsize) / 1024:g} KiB a token.",
        f"{hardware.tflops:g} TFLOP/s on each GPU (--tflops), an assumption. Real efficiency is "
        "lower where contexts are short or batches small, and any below a GPU's peak: measure it.",
        "Every step of every request runs: no text ends early, no two requests are equal, and "
        "threshold and factor reveal one token a pass. Otherwise it costs less.",
    ]
    if note is not None:
        lines.insert(0, note)
    if hardware.num_processes > 1:
        lines.append(f"{hardware.num_processes} processes share the requests of each task.")
    lines += block_lines(config.blocks)
    lines += _decoding_lines(plan, config.block_length)
    lines += [note for task in plan.tasks for note in task.notes]
    return lines


def _decoding_lines(plan: RunPlan, block_length: int | None) -> list[str]:
    """One line for each way of decoding, with the tasks that decode so.

    Args:
        plan: Of the run.
        block_length: Of a model that has blocks of its own.
    """
    tasks: dict[str, list[str]] = {}
    for task in plan.tasks:
        for sampling in {request.sampling: None for request in task.requests}:
            text = "likelihoods"
            if sampling is not None:
                steps = min(sampling.steps or sampling.gen_length, sampling.gen_length)
                chosen = sampling.block_length or sampling.gen_length
                size = block_length or min(chosen, sampling.gen_length)
                kept = "exact" if block_length else sampling.cache
                text = (
                    f"gen_length {sampling.gen_length} in blocks of {size}, {steps} steps, "
                    f"cache={kept}"
                )
            tasks.setdefault(text, []).append(task.name)
    return [f"{_shortened(names)}: {text}." for text, names in tasks.items()]


def _shortened(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} to {names[-1]} ({len(names)})"


def _task_table(costs: CostModel, plan: RunPlan) -> Table:
    rows = [_task_row(costs, task) for task in plan.tasks]
    works = [costs.total(task) for task in plan.tasks]
    total = sum(works, Work())
    rows.append(
        (
            "all",
            f"{sum(task.num_requests for task in plan.tasks):,}",
            *("", ""),
            f"{total.num_passes:,.0f}",
            _short(total.flops / 1e15),
            _short(sum(map(costs.hours, plan.tasks))),
            f"{max(_peak(costs, task) for task in plan.tasks) / GB:.1f}",
        )
    )
    header = ("task", "requests", "prompt", "output", "forwards", "PFLOP", "hours", "peak GB")
    caption = (
        "Lengths in tokens. A forward is a pass of one sequence or of a window of it. Peak memory "
        "is that of a GPU, for one sequence where batch_size is auto."
    )
    return Table(header, tuple(rows), caption)


def _task_row(costs: CostModel, task: TaskPlan) -> tuple[str, ...]:
    work = costs.total(task)
    return (
        task.name,
        f"{task.num_requests:,}",
        _range([request.prompt_length for request in task.requests]),
        _range([request.target_length for request in task.requests]),
        f"{work.num_passes:,.0f}",
        _short(work.flops / 1e15),
        _short(costs.hours(task)),
        f"{_peak(costs, task) / GB:.1f}",
    )


def _cache_sections(costs: CostModel, plan: RunPlan) -> list[Section]:
    """The same tasks under each cache; nothing where no text is generated, or one cache is."""
    if costs.config.blocks is not None or not any(request.sampling for request in _requests(plan)):
        return []
    rows = []
    for cache in CACHES:
        total = sum((costs.total(task, cache) for task in plan.tasks), Work())
        peak = max(costs.memory(request, cache=cache) for request in _requests(plan))
        rows.append(
            (
                cache,
                _short(total.flops / 1e15),
                _short(sum(costs.hours(task, cache) for task in plan.tasks)),
                f"{peak / GB:.1f}",
                "yes" if peak <= costs.hardware.memory_gb * GB else "no",
            )
        )
    header = ("cache", "PFLOP", "hours", "peak GB", f"fits {costs.hardware.memory_gb:g} GB")
    caption = "All tasks under each cache. cache=none is exact; the others change texts."
    return [Section("Caches", (Table(header, tuple(rows), caption),))]


def _memory_lines(costs: CostModel, plan: RunPlan) -> Iterator[str]:
    """What the largest request takes, and where it does not fit, what does."""
    largest = max(_requests(plan), key=costs.memory)
    own = "none" if largest.sampling is None else largest.sampling.cache
    yield _memory_line(costs, largest, own)
    if costs.config.blocks is not None:
        return
    # Both caches keep the same, so that one of them stands for both.
    other = "prefix" if own == "none" else "none"
    if largest.sampling is not None and not costs.fits(largest, cache=other):
        yield _memory_line(costs, largest, other)


def _memory_line(costs: CostModel, request: Request, cache: str) -> str:
    weights = num_parameters(costs.config) * costs.itemsize
    peak, fits = costs.memory(request, cache=cache), costs.fits(request, cache=cache)
    batch_size = costs.arguments.requests.fixed_batch_size
    is_kept = cache != "none" or costs.config.blocks is not None
    kept = "none" if cache == "none" else "prefix or dual"
    if costs.config.blocks is not None:
        kept = "exact"
    what = f"{request.length:,} tokens with cache={kept} and batch_size={batch_size or 1} take"
    parts = [f"{_gb(weights)} of weights"]
    if is_kept:
        size = cache_bytes(costs.config, request.length, costs.itemsize)
        parts.append(f"a cache of {size / 2**30:.1f} GiB ({_gb(size)}) for each sequence")
    parts.append("activations")
    limit = f"{costs.hardware.memory_gb:g} GB"
    line = f"{what} {_gb(peak)} on a GPU ({', '.join(parts)})"
    if fits:
        most = costs.most_sequences(request, cache=cache)
        return f"{line}, which fits {limit}. The largest batch_size that fits: {most}."
    ways = "; ".join(costs.ways_to_fit(request, cache)) or "nothing that this command knows"
    return f"{line}, which DOES NOT FIT {limit}. What does: {ways}."


def _peak(costs: CostModel, task: TaskPlan) -> int:
    return max(costs.memory(request) for request in task.requests)


def _requests(plan: RunPlan) -> list[Request]:
    return [request for task in plan.tasks for request in task.requests]


def _range(numbers: list[int]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _short(number: float) -> str:
    """A number with three digits, or all before the point where there are more."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / GB:.1f} GB"
