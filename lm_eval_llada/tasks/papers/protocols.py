"""What a paper's protocol says about the model, for the tasks that are named after it.

Samples, prompts and decoding are in the grid `tasks/papers.yaml`. The rest is arguments of the
model, which task files cannot set: the command line fills them in here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """Arguments of the model as a release ran it.

    Attributes:
        name: What its tasks' names begin with, before an underscore.
        paper: Where it comes from.
        model_args: Filled in where the user gave none.
        families: What of these another family of models has, by its name in the table of families.
    """

    name: str
    paper: str
    model_args: Mapping[str, Any]
    families: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="longllada",
            paper="LongLLaDA (arXiv 2506.14429)",
            # The release loads LLaDA and LLaMA in half precision, and its λ are whole numbers.
            model_args={"dtype": "float16", "round_scale": True},
            families={"Dream": {"dtype": "bfloat16"}},
        ),
        Protocol(
            name="ultrallada",
            paper="UltraLLaDA (arXiv 2510.10481)",
            # The release's wrapper is LongLLaDA's, half precision included. Its checkpoint carries
            # λ in its base, as it is: nothing is rounded.
            model_args={"dtype": "float16", "round_scale": False},
        ),
    )
}
"""The protocols by name."""

# What the user may give besides that changes the prompts or how they are continued.
_CHANGES_RESULTS = (
    *("length_unit", "max_length", "add_bos_token", "suppress_eos"),
    *("alg", "alg_temp", "top_p", "top_k"),
)
# Given by hand, this is what the protocols count lengths in anyway.
_OWN_UNIT = ("length_unit", "cl100k")
# λ is rounded only where it is computed, and only these methods have one.
_ROUNDED_METHODS = (None, "none", "ntk", "diffusion_ntk", "ntk_fixed")


@dataclass(frozen=True)
class Filled:
    """Arguments of the model with those of the protocols, and what there is to say about them.

    Attributes:
        model_args: The user's, then the protocols'.
        lines: Sentences for the user: what was filled in, and what departs.
    """

    model_args: dict[str, Any]
    lines: tuple[str, ...] = ()


def protocols_of(tasks: Iterable[str]) -> list[Protocol]:
    """Return the protocols that tasks belong to, in the order of `PROTOCOLS`.

    Args:
        tasks: Names of tasks or groups, patterns of them, or paths of task files.
    """
    names = [Path(task).stem if task.endswith((".yaml", ".yml")) else task for task in tasks]
    return [p for p in PROTOCOLS.values() if any(name.startswith(f"{p.name}_") for name in names)]


def fill_protocols(
    tasks: Sequence[str],
    model_args: Mapping[str, Any],
    changes: Sequence[str] = (),
    family: str | None = None,
) -> Filled:
    """Complete the arguments of the model by those of the tasks' protocols; the user's win.

    Args:
        tasks: As in `protocols_of`.
        model_args: The user's.
        changes: What else the user gave that changes the results, such as `--gen_kwargs steps`.
        family: Of the model, where it is known.

    Raises:
        ValueError: If two protocols differ in an argument that the user did not give.
    """
    protocols = protocols_of(tasks)
    if not protocols:
        return Filled(dict(model_args))
    values: dict[str, Any] = {}
    for protocol in protocols:
        for name, value in _wanted(protocol, model_args, family).items():
            if values.setdefault(name, value) != value:
                raise ValueError(_conflict(protocols, name))
    missing = {name: value for name, value in values.items() if name not in model_args}
    lines = [_filled_line(protocols, missing, tasks)] if missing else []
    departures = [*_departures(values, model_args), *changes]
    if departures:
        lines.append(
            f"{_names(protocols)}: the results are not the protocol's, because of "
            f"{', '.join(departures)}."
        )
    return Filled({**model_args, **missing}, tuple(lines))


def _wanted(
    protocol: Protocol, model_args: Mapping[str, Any], family: str | None
) -> dict[str, Any]:
    """What the protocol says about this model; an explicit λ leaves nothing to round."""
    wanted = {**protocol.model_args, **protocol.families.get(family or "", {})}
    has_scale = model_args.get("rope_scale") is not None
    if has_scale or model_args.get("rope_method") not in _ROUNDED_METHODS:
        wanted.pop("round_scale", None)
    return wanted


def _departures(values: Mapping[str, Any], model_args: Mapping[str, Any]) -> list[str]:
    departures = [
        f"{name}={_spelled(model_args[name])} ({_spelled(value)} there)"
        for name, value in values.items()
        if name in model_args and _spelled(model_args[name]) != _spelled(value)
    ]
    return departures + [
        f"{name}={_spelled(model_args[name])}"
        for name in _CHANGES_RESULTS
        if model_args.get(name) is not None and (name, model_args[name]) != _OWN_UNIT
    ]


def _filled_line(
    protocols: list[Protocol], missing: Mapping[str, Any], tasks: Sequence[str]
) -> str:
    given = ", ".join(f"{name}={_spelled(value)}" for name, value in missing.items())
    others = [task for task in tasks if not protocols_of([task])]
    scope = f", and hold for {', '.join(others)} too" if others else ""
    return (
        f"{_names(protocols)}: the model arguments {given} are filled in as the release ran"
        f"{scope}; give your own to change them."
    )


def _conflict(protocols: list[Protocol], name: str) -> str:
    said = ", ".join(
        f"{p.name} has {name}={_spelled(p.model_args[name])}"
        for p in protocols
        if name in p.model_args
    )
    return (
        f"Tasks of {_names(protocols)} in one run want different models: {said}. Run them one "
        f"after the other, or give {name} in --model_args for all of them."
    )


def _names(protocols: list[Protocol]) -> str:
    return " and ".join(protocol.name for protocol in protocols)


def _spelled(value: Any) -> str:
    """A value as the command line has it, where true may come as a word or as a bool."""
    text = str(value)
    return text.lower() if text in ("True", "False") else text
