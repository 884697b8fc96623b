"""One YAML file to checked options, before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments

from lm_eval_llada.checkpoints.names import DEFAULT_CHECKPOINT, resolve_checkpoint
from lm_eval_llada.errors import (
    nearest,
    require_number,
    require_whole,
    unknown_choice,
)
from lm_eval_llada.modeling.loading import DTYPES
from lm_eval_llada.modeling.model import ATTENTION_IMPLEMENTATIONS
from lm_eval_llada.posttrain.loss import ObjectiveOptions
from lm_eval_llada.posttrain.packing import STRATEGIES
from lm_eval_llada.rope import EXTRA_KEYS, RopeChoice
from lm_eval_llada.tasks.niah.options import checked_depths
from lm_eval_llada.tasks.settings import changed

_ROPE_NAMES = {"method": "rope_method", "scale": "rope_scale", "force": "force_rope"}
_LENGTH_DEPENDENT = ("dynamic", "longrope")

# Fields of TrainingArguments that follow from our own, each with what to set instead.
_MANAGED = {
    "output_dir": "set output",
    "seed": "set the seed at the top level",
    "data_seed": "set the seed at the top level",
    "num_train_epochs": "set training.max_steps, and data.epochs",
    "eval_strategy": "set evaluation.every",
    "eval_steps": "set evaluation.every",
    "ignore_data_skip": "the place in the data is saved and restored exactly",
    "resume_from_checkpoint": "a run goes on from the last whole checkpoint in output",
    "remove_unused_columns": "micro-batches are made as the model takes them",
    "label_smoothing_factor": "the loss is that of the objective",
    "auto_find_batch_size": "it would change which samples make a step",
    "neftune_noise_alpha": "its noise would depend on the number of ranks",
}


@dataclass(frozen=True)
class DataOptions:
    """What to train on.

    Attributes:
        source: `tiny` for the shipped models' training text and needles, or a source of
            `documents.open_documents`: `pg19`, `python`, a file or a folder.
        data_dir: folder with the official files; None streams them from the hub.
        strategy: of packing, one of `packing.STRATEGIES`.
        length: tokens of a sample.
        min_document_length: documents of fewer tokens are left out, and counted.
        buffer_size: documents shuffled together.
        epochs: how often the source is read; None goes on without end.
        text_field: of JSON lines and parquet files.
        separator: a line of a text file that ends a document.
        needle_share: share of documents with needles; source `tiny` only, None for its default.
        by_document: run each document of an adaptive sample by itself rather than with a mask of
            length x length; None does so where attention has no kernel for documents.
        num_workers: 0, or 1 to prepare samples beside training.

    Raises:
        ValueError: if a value is unknown or out of range.
    """

    source: str = "tiny"
    data_dir: str | None = None
    strategy: str = "adaptive"
    length: int = 4096
    min_document_length: int = 1
    buffer_size: int = 256
    epochs: int | None = None
    text_field: str = "text"
    separator: str | None = None
    needle_share: float | None = None
    by_document: bool | None = None
    num_workers: int = 0

    def __post_init__(self) -> None:  # noqa: D105
        if self.strategy not in STRATEGIES:
            raise unknown_choice("strategy", self.strategy, STRATEGIES)
        require_whole("length", self.length, 2)
        if self.needle_share is not None and self.source != "tiny":
            raise ValueError(
                f"needle_share={self.needle_share} is for source=tiny; drop it for "
                f"source={self.source}."
            )
        if self.by_document not in (None, True, False):
            raise ValueError(f"by_document must be true or false; got {self.by_document!r}.")
        if self.num_workers not in (0, 1):
            raise ValueError(
                f"num_workers must be 0 or 1, since the stream is one; got {self.num_workers!r}."
            )


@dataclass(frozen=True)
class EvaluationOptions:
    """Needles looked for while training goes on.

    Attributes:
        every: steps between two evaluations; None never evaluates.
        lengths: contexts in tokens, output included.
        depths: places of the needle in percent.
        repeats: samples of each length and depth.
        gen_length: tokens of the output.
        steps: forward passes of a sample.

    Raises:
        ValueError: if a value is out of range.
    """

    every: int | None = None
    lengths: tuple[int, ...] = (512, 4096)
    depths: tuple[float, ...] = (0, 50, 100)
    repeats: int = 1
    gen_length: int = 8
    steps: int = 8

    def __post_init__(self) -> None:
        """Checks each value, and makes tuples of the lists that YAML has."""
        for name in ("repeats", "gen_length", "steps"):
            require_whole(name, getattr(self, name), 1)
        if self.every is not None:
            require_whole("every", self.every, 1)
        for length in self.lengths:
            require_whole("evaluation.lengths", length, self.gen_length + 1)
        object.__setattr__(self, "lengths", tuple(self.lengths))
        object.__setattr__(self, "depths", checked_depths(self.depths))


@dataclass(frozen=True)
class PosttrainOptions:
    """A whole run.

    Attributes:
        output: folder for checkpoints and the result.
        pretrained: shipped model, folder or hub id to start from.
        tokenizer: the same for the tokenizer; None means `pretrained`.
        revision: of a hub id.
        seed: of documents, masks and whatever else is random.
        dtype: of the weights in training, one of `modeling.loading.DTYPES`.
        save_dtype: of the weights saved at the end; `auto` is that of `pretrained`.
        attn_implementation: one of `modeling.ATTENTION_IMPLEMENTATIONS`.
        rope: the new position embeddings.
        data: what to train on.
        objective: what to mask and how to weigh it.
        evaluation: needles on the way.
        lora: fields of peft's `LoraConfig`; None trains all weights.
        training: fields of transformers' `TrainingArguments`.

    Raises:
        ValueError: if a value is unknown or out of range, or two contradict each other.
    """

    output: str
    pretrained: str = DEFAULT_CHECKPOINT
    tokenizer: str | None = None
    revision: str | None = None
    seed: int = 0
    dtype: str = "float32"
    save_dtype: str = "auto"
    attn_implementation: str = "sdpa"
    rope: RopeChoice = field(default_factory=RopeChoice)
    data: DataOptions = field(default_factory=DataOptions)
    objective: ObjectiveOptions = field(default_factory=ObjectiveOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    lora: Mapping[str, Any] | None = field(default=None, hash=False)
    training: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:  # noqa: D105
        resolve_checkpoint(self.pretrained)
        require_whole("seed", self.seed, 0)
        for name in ("dtype", "save_dtype"):
            if getattr(self, name) not in DTYPES:
                raise unknown_choice(name, getattr(self, name), DTYPES)
        # Whether it is installed is asked when the run starts: an estimate may be for elsewhere.
        if self.attn_implementation not in ATTENTION_IMPLEMENTATIONS:
            raise unknown_choice(
                "attn_implementation", self.attn_implementation, ATTENTION_IMPLEMENTATIONS
            )
        _check_training(self.training)
        method = self.rope.effective_method
        if self.data.strategy == "adaptive" and method in _LENGTH_DEPENDENT:
            raise ValueError(
                f"strategy=adaptive cannot be combined with rope_method={method}, whose "
                "frequencies depend on the length of a sequence; use strategy=eod, or "
                "rope_method=diffusion_ntk."
            )

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain values, for a record of the run."""
        return asdict(self)

    def identity(self) -> dict[str, Any]:
        """The settings that an interrupted run must go on with."""
        values = self.to_dict()
        # Those of training may change: a longer run, another rate. Their batch is checked apart.
        for name in ("output", "save_dtype", "attn_implementation", "evaluation", "training"):
            values.pop(name)
        # Where and how samples are prepared does not change them.
        for name in ("data_dir", "by_document", "num_workers"):
            values["data"].pop(name)
        return values


def read_options(path: str | Path, overrides: Sequence[str] = ()) -> PosttrainOptions:
    """Reads a YAML file, with some of its values replaced.

    Args:
        path: of the file.
        overrides: `name=value` each, such as `training.max_steps=10` or `output=elsewhere`; the
            value is YAML.

    Raises:
        ValueError: if the file is not a mapping, or a name or a value is wrong.
        FileNotFoundError: if there is no such file.
    """
    try:
        values = _load(Path(path).read_text(encoding="utf-8-sig"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold names and values; got {type(values).__name__}.")
    for override in overrides:
        _override(values, override)
    return options_from(values)


def options_from(values: Mapping[str, Any]) -> PosttrainOptions:
    """Options from the names and values of a YAML file.

    Raises:
        ValueError: if a name or a value is wrong.
    """
    known = [item.name for item in fields(PosttrainOptions)]
    for name in values:
        if name not in known:
            raise unknown_choice("A name of the file", name, known)
    if not values.get("output"):
        raise ValueError("output is missing; name the folder for checkpoints and the result.")
    given = {name: value for name, value in values.items() if value is not None}
    sections: dict[str, Any] = {
        "rope": _rope_choice(_section(given, "rope")),
        "data": changed(DataOptions(), _section(given, "data"), "the section data"),
        "objective": changed(
            ObjectiveOptions(), _section(given, "objective"), "the section objective"
        ),
        "evaluation": changed(
            EvaluationOptions(), _section(given, "evaluation"), "the section evaluation"
        ),
        "training": _section(given, "training"),
        "lora": _section(given, "lora") if "lora" in given else None,
    }
    return PosttrainOptions(**{**given, **sections})


def _section(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = values.get(name, {})
    if not isinstance(section, Mapping):
        raise ValueError(f"The section {name} must hold names and values; got {section!r}.")
    return dict(section)


def _rope_choice(section: Mapping[str, Any]) -> RopeChoice:
    """The choice under the names of model_args: rope_method, target_length, d_crit, ..."""
    named = {
        _ROPE_NAMES.get(item.name, item.name): item.name
        for item in fields(RopeChoice)
        if item.name != "extra"
    }
    extras = [f"rope_{key}" for key in EXTRA_KEYS]
    given: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for name, value in section.items():
        if name in named:
            given[named[name]] = value
        elif name in extras:
            extra[name.removeprefix("rope_")] = value
        else:
            raise unknown_choice("A name in the section rope", name, [*named, *extras])
    return RopeChoice(**given, extra=extra or None)


def _check_training(training: Mapping[str, Any]) -> None:
    known = {item.name for item in fields(TrainingArguments)}
    for name in training:
        if name in _MANAGED:
            raise ValueError(f"training.{name} cannot be set here: {_MANAGED[name]}.")
        if name not in known:
            guess = nearest(name, known - set(_MANAGED))
            hint = f" Did you mean {guess!r}?" if guess is not None else ""
            raise ValueError(f"transformers' TrainingArguments have no {name!r}.{hint}")
    require_whole("training.max_steps", training.get("max_steps"), 1)
    if "learning_rate" in training:
        require_number("training.learning_rate", training["learning_rate"], 0, inclusive=True)


def _override(values: dict[str, Any], override: str) -> None:
    """Replaces the value of a dotted name."""
    name, separator, text = override.partition("=")
    if not separator:
        raise ValueError(f"Expected name=value, such as training.max_steps=10; got {override!r}.")
    *sections, last = name.split(".")
    place = values
    for section in sections:
        if place.get(section) is None:
            place[section] = {}
        place = place[section]
        if not isinstance(place, dict):
            raise ValueError(f"{override!r}: {section} is a value and holds no names.")
    place[last] = _load(text)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: 1e-4 is a number, and `no`, as in `save_strategy: no`, is a word."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":bool")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _load(text: str) -> Any:
    # A subclass of SafeLoader, which makes plain values only.
    return yaml.load(text, Loader=_Loader)  # noqa: S506
