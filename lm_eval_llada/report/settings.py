"""In what runs differ: their settings by name, chips for a page, and the title of a report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from lm_eval_llada.report.document import GAP
from lm_eval_llada.report.evaluations import Evaluation, model_arguments
from lm_eval_llada.report.files import ResultFile
from lm_eval_llada.report.frontier import rope_label
from lm_eval_llada.report.page_blocks import Run

MODEL, SCALE = "model", "λ"
OWN_ENTRIES = ("llada", "hf_rope")
"""What the package's own models write into ``config``, under their own name."""

# Where and how fast a run is made, which leaves its scores as they are.
NEUTRAL = (
    *("batch_size", "max_batch_size", "device", "device_map", "tp", "answers_dir"),
    *("is_check_greedy", "attn_implementation"),
)
# Said by the model's name and by λ.
_SAID_OTHERWISE = ("pretrained", "rope_method", "rope_scale", "target_length", "round_scale")
_SECTIONS = ("loading", "sampling", "likelihood", "requests", "tasks")
_MOST_CHIPS = 8
_LONGEST_CHIP = 48


def file_settings(file: ResultFile) -> dict[str, str]:
    """What one file says about how its scores were made, by the names that users give.

    The package's own models write every setting, whether it was given or not, so that a default in
    one run and the same value given in another are no difference.
    """
    config = file.content.get("config", {})
    arguments = (own_entry(config)).get("arguments")
    if isinstance(arguments, dict):
        parts = [part for name in _SECTIONS if isinstance(part := arguments.get(name), dict)]
        given = {name: _text(value) for part in parts for name, value in part.items()}
    else:
        given = model_arguments(config)
    generation = config.get("gen_kwargs")
    if isinstance(generation, dict):
        given |= {name: _text(value) for name, value in generation.items()}
    settings = {n: v for n, v in given.items() if n not in (*NEUTRAL, *_SAID_OTHERWISE)}
    rope = config.get("rope")
    if isinstance(rope, dict):
        settings[SCALE] = rope_label(rope)
    return settings


def settings_of(evaluation: Evaluation) -> dict[str, str]:
    """The settings of a run; where its files have different values, all of them."""
    merged: dict[str, list[str]] = {MODEL: [evaluation.model]}
    for file in evaluation.files:
        for name, value in file_settings(file).items():
            values = merged.setdefault(name, [])
            if value not in values:
                values.append(value)
    return {name: " | ".join(values) for name, values in merged.items()}


def compared(evaluations: Sequence[Evaluation]) -> list[str]:
    """Names of the settings in which runs differ: the model, λ, then the others.

    A setting that only one kind of model has is a difference only between those that have it.
    """
    settings = [settings_of(evaluation) for evaluation in evaluations]
    names = dict.fromkeys(name for one in settings for name in one)
    differing = [n for n in names if len({one[n] for one in settings if n in one}) > 1]
    first = [name for name in (MODEL, SCALE) if name in differing]
    return first + [name for name in differing if name not in first]


def named_runs(evaluations: Sequence[Evaluation]) -> tuple[Run, ...]:
    """Tags from A on, and chips of what tells the runs apart, the model and λ in any case."""
    names = [name for name in compared(evaluations) if name not in (MODEL, SCALE)]
    return tuple(
        Run(_tag(position), evaluation.label, _chips(evaluation, names))
        for position, evaluation in enumerate(evaluations)
    )


def report_title(evaluations: Sequence[Evaluation], benchmarks: Sequence[str]) -> str:
    """What is compared, on what.

    Args:
        evaluations: Of the report.
        benchmarks: What was run, such as ``NIAH``.
    """
    what = listed(benchmarks) or "Evaluation"
    what = what[0].upper() + what[1:]
    models = list(dict.fromkeys(evaluation.model for evaluation in evaluations))
    if len(evaluations) < 2:
        return f"{what}: {evaluations[0].label}" if evaluations else what
    names = compared(evaluations) or ["runs of one setting"]
    more = names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more settings"]
    if models != [models[0]]:
        shown = listed(models) if len(models) <= 3 else f"{len(models)} models"
        rest = [name for name in more if name != MODEL]
        return f"{what}: {shown}" + (f", compared by {listed([MODEL, *rest])}" if rest else "")
    return f"{what}: {models[0]}, {listed(more)} compared"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: ``a``, ``a and b``, ``a, b and c``."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def own_entry(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a model of the package wrote about a run; empty for other models."""
    return next((config[n] for n in OWN_ENTRIES if isinstance(config.get(n), dict)), {})


def approximations(evaluation: Evaluation) -> list[str]:
    """What makes the texts of a run others than those of the plain loops, as ``name=value``."""
    found: set[str] = set()
    for file in evaluation.files:
        by_task = own_entry(file.content.get("config", {})).get("approximations")
        for names in by_task.values() if isinstance(by_task, dict) else ():
            found.update(map(str, names))
    return sorted(found)


def machine_of(content: Mapping[str, Any]) -> str:
    """Graphics cards, or else the processor, from what lm-eval writes about the environment."""
    environment = str(content.get("pretty_env_info") or "")
    cards = re.findall(r"^GPU \d+: (.+)$", environment, re.MULTILINE)
    if cards:
        return ", ".join(f"{cards.count(card)} x {card}" for card in dict.fromkeys(cards))
    processor = re.search(r"^Model name:\s*(.+)$", environment, re.MULTILINE)
    return processor.group(1).strip() if processor else GAP


def _chips(evaluation: Evaluation, names: Sequence[str]) -> tuple[str, ...]:
    settings = settings_of(evaluation)
    chips = [evaluation.model, *([settings[SCALE]] if SCALE in settings else [])]
    if evaluation.kind != "other":
        chips.append(evaluation.kind)
    chips += [f"{name}={_short(settings[name])}" for name in names if name in settings]
    return tuple(chips[:_MOST_CHIPS])


def _short(value: str) -> str:
    name = PurePath(value).name if "/" in value else value
    return name if len(name) <= _LONGEST_CHIP else name[: _LONGEST_CHIP - 1] + "…"


def _tag(position: int) -> str:
    letters = ""
    position += 1
    while position:
        position, digit = divmod(position - 1, 26)
        letters = chr(ord("A") + digit) + letters
    return letters


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
