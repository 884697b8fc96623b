"""From the strings of `--model_args` to validated options, before anything is loaded."""

from __future__ import annotations

import dataclasses
import os
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from lm_eval_llada.checkpoints.adapters import adapter_digest, check_adapter_folder
from lm_eval_llada.checkpoints.names import DEFAULT_CHECKPOINT
from lm_eval_llada.diffusion.likelihood import LikelihoodOptions
from lm_eval_llada.diffusion.sampler import SamplingOptions
from lm_eval_llada.engine.answers import ANSWERS_DIR
from lm_eval_llada.engine.argument_text import text_from
from lm_eval_llada.engine.fingerprints import fingerprint
from lm_eval_llada.engine.keys import plain_settings
from lm_eval_llada.errors import nearest, real_from, unknown_choice, whole_from
from lm_eval_llada.modeling.attention_choice import check_attention_choice
from lm_eval_llada.modeling.loading import DTYPES, check_quantization
from lm_eval_llada.modeling.model import check_attention
from lm_eval_llada.modeling.packed import KERNELS
from lm_eval_llada.rope import EXTRA_KEYS, RopeChoice

TRUNCATION = ("middle", "left", "error", "skip")
LENGTH_UNITS = ("model", "cl100k")


@dataclass(frozen=True)
class LoadingOptions:
    """Which weights to load, and how.

    Attributes:
        pretrained: Shipped model, folder or hub id.
        tokenizer: The same for the tokenizer; None means `pretrained`.
        revision: Branch, tag or commit on the hub.
        dtype: One of `DTYPES`; auto is what the checkpoint is stored in.
        device: A torch device, or auto: the GPU of this rank if there is one, else the CPU.
        attn_implementation: One of `modeling.ATTENTION_IMPLEMENTATIONS`.
        device_map: Spread one model over devices as `transformers` does, such as auto.
        tp: Number of ranks that share each layer; needs torchrun. A multiple of it holds several
            copies of the model, which share the requests.
        quantization: Weights in `8bit` or `4bit` by bitsandbytes; changes the numbers a little.
        attention: `bidirectional` or `block`, where a checkpoint's files do not say which; with
            `block`, block_length is the model's own. None is what they say.
        peft: Folder of a LoRA adapter that is merged into the weights.
        kernels: `packed` keeps weights in the order in which a CPU's kernels read them, in float32;
            faster, and the last bits of numbers change.

    Raises:
        ValueError: If a value is not one of those allowed or two of them contradict each other.
        ImportError: If flash-attn, bitsandbytes or peft is asked for and missing.
    """

    pretrained: str = DEFAULT_CHECKPOINT
    tokenizer: str | None = None
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    attn_implementation: str = "sdpa"
    device_map: str | None = None
    tp: int | None = None
    quantization: str = "none"
    attention: str | None = field(default=None, metadata={"later": True})
    peft: str | None = field(default=None, metadata={"later": True})
    kernels: str = field(default="default", metadata={"later": True})

    def __post_init__(self) -> None:  # noqa: D105
        check_attention_choice(self.attention)
        if self.kernels not in KERNELS:
            raise unknown_choice("kernels", self.kernels, KERNELS)
        for name in ("device_map", "tp", "quantization") if self.kernels == "packed" else ():
            if (value := getattr(self, name)) not in (None, "none"):
                raise ValueError(
                    f"kernels=packed runs a whole model on a CPU, without {name}={value}; drop one "
                    "of them."
                )
        if self.dtype not in DTYPES:
            raise unknown_choice("dtype", self.dtype, DTYPES)
        check_attention(self.attn_implementation)
        check_quantization(self.quantization)
        if self.tp is not None and self.device_map is not None:
            raise ValueError(
                f"tp={self.tp} and device_map={self.device_map} both spread one model over "
                "devices; give only one of them."
            )
        if self.peft is not None:
            check_adapter_folder(self.peft)
            if self.tp is not None or self.quantization != "none":
                raise ValueError(
                    "peft= is merged into whole weights, which tp= cuts and quantization= rounds; "
                    "merge it by peft itself, and give the merged folder."
                )


@dataclass(frozen=True)
class RequestOptions:
    """What happens to requests between the harness and the model.

    Attributes:
        batch_size: Sequences in a forward pass, or auto: as many as fit. Scores stay the same, but
            for rounding in matrix products whose kernels sum in another order in a larger pass.
        max_batch_size: The most that auto may choose.
        max_length: Longest sequence, prompt and target together, in tokens; None sets no limit.
        truncation: Which part of a longer prompt is dropped: its middle, its left end, or none
            (error), or whether its sample is left out of the mean (skip). Targets are never cut.
            Cuts and what is left out are counted and reported.
        add_bos_token: Whether prompts start with the BOS token; None leaves it to the tokenizer.
        seed: With a request's content, the seed of that request.
        is_check_greedy: Whether loglikelihood also says if greedy decoding gives the target; False
            saves its forward passes and reports False.
        answers_dir: Folder where finished answers are kept, and read from by a later run. none
            keeps none; auto means beside the results, where there are to be any.

    Raises:
        ValueError: If a value is out of range.
    """

    batch_size: int | str = "auto"
    max_batch_size: int | None = None
    max_length: int | None = None
    truncation: str = "middle"
    add_bos_token: bool | None = None
    seed: int = 2025
    is_check_greedy: bool = True
    answers_dir: str = "auto"

    def __post_init__(self) -> None:  # noqa: D105
        # The harness also knows `auto:N`, which probes again N times in a run; ours adapts anyway.
        is_auto = isinstance(self.batch_size, str) and self.batch_size.split(":")[0] == "auto"
        if not is_auto and (isinstance(self.batch_size, str) or self.batch_size < 1):
            raise ValueError(
                f"batch_size must be auto or an integer of at least 1; got {self.batch_size!r}."
            )
        for name in ("max_batch_size", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}.")
        if self.truncation not in TRUNCATION:
            raise unknown_choice("truncation", self.truncation, TRUNCATION)

    @property
    def answers_folder(self) -> str | None:
        """Where finished answers are kept, None for nowhere."""
        if self.answers_dir == "auto":
            return os.environ.get(ANSWERS_DIR)
        return None if self.answers_dir.lower() == "none" else self.answers_dir

    @property
    def fixed_batch_size(self) -> int | None:
        """The batch size that was asked for, None for auto."""
        return None if isinstance(self.batch_size, str) else self.batch_size


@dataclass(frozen=True)
class TaskOptions:
    """Names that tasks read: the harness hands all of model_args on to them.

    Attributes:
        data_dir: Folder with a task's files as they were downloaded.
        length_unit: What a NIAH length counts: tokens of the model, or of cl100k as in the papers.

    Raises:
        ValueError: If the folder does not exist or the unit is unknown.
    """

    data_dir: str | None = None
    length_unit: str = "model"

    def __post_init__(self) -> None:  # noqa: D105
        if self.data_dir is not None and not Path(self.data_dir).is_dir():
            raise ValueError(f"data_dir={self.data_dir!r} is not an existing folder.")
        if self.length_unit not in LENGTH_UNITS:
            raise unknown_choice("length_unit", self.length_unit, LENGTH_UNITS)


@dataclass(frozen=True)
class ModelArguments:
    """All of model_args, by the part of the package that uses them."""

    loading: LoadingOptions = field(default_factory=LoadingOptions)
    rope: RopeChoice = field(default_factory=RopeChoice)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    likelihood: LikelihoodOptions = field(default_factory=LikelihoodOptions)
    requests: RequestOptions = field(default_factory=RequestOptions)
    tasks: TaskOptions = field(default_factory=TaskOptions)


# Fields whose name in model_args is not their own.
_RENAMED = {
    "rope": {"method": "rope_method", "scale": "rope_scale", "force": "force_rope"},
    "likelihood": {"method": "likelihood", "cache": "likelihood_cache"},
}
# Not set by a name of their own: the batch size is that of the requests, `extra` is filled below.
_UNNAMED = {"rope": {"extra"}, "likelihood": {"batch_size"}}
# What the harness' command line passes as device when the user named none, on any machine.
_UNSAID_DEVICE = "cuda:0"
# `lm_eval --trust_remote_code` adds this name for the sake of data sets; our model runs no remote
# code whatever it says.
_IGNORED = ("trust_remote_code",)
# What changes how fast answers come, not what they are.
_WITHOUT_EFFECT = {
    "loading": ("pretrained", "revision", "device", "device_map", "tp", "attn_implementation"),
    "requests": ("batch_size", "max_batch_size", "answers_dir"),
    "tasks": ("data_dir", "length_unit"),
}


def _name_table() -> dict[str, list[tuple[str, str, Any]]]:
    """For each name of model_args the (part, field, type) it sets; cfg_scale sets two fields."""
    table: dict[str, list[tuple[str, str, Any]]] = {}
    for part, part_type in get_type_hints(ModelArguments).items():
        hints = get_type_hints(part_type)
        for item in dataclasses.fields(part_type):
            if item.name in _UNNAMED.get(part, ()):
                continue
            name = _RENAMED.get(part, {}).get(item.name, item.name)
            table.setdefault(name, []).append((part, item.name, hints[item.name]))
    return table


_NAMES = _name_table()
SAMPLING_NAMES = tuple(item.name for item in dataclasses.fields(SamplingOptions))
"""Names that gen_kwargs and a task's generation_kwargs may override."""

_SHARED_PARTS = ("rope", "tasks")
_SHARED_REQUESTS = ("max_length", "truncation")


def known_names() -> tuple[str, ...]:
    """Every name that `--model_args` takes, in the order of the parts that use them."""
    return (*_NAMES, *(f"rope_{key}" for key in EXTRA_KEYS))


def shared_names() -> tuple[str, ...]:
    """The names that mean the same to every model of ours, causal ones included."""
    shared = [
        name
        for name, targets in _NAMES.items()
        if name in _SHARED_REQUESTS or {part for part, _, _ in targets} & {*_SHARED_PARTS}
    ]
    return (*shared, *(f"rope_{key}" for key in EXTRA_KEYS))


def parse_model_args(model_args: Mapping[str, Any]) -> ModelArguments:
    """Options from model_args, validated.

    Args:
        model_args: Names and values, as strings or as the harness has parsed them.

    Returns:
        The options, validated.

    Raises:
        ValueError: If a name is unknown, with the nearest that is known, or a value is not of its
            type, not one of those allowed, or out of range.
    """
    parts = get_type_hints(ModelArguments)
    values: dict[str, dict[str, Any]] = {part: {} for part in parts}
    extra: dict[str, Any] = {}
    for name, value in model_args.items():
        if name in _IGNORED:
            continue
        if name in _NAMES:
            for part, attribute, hint in _NAMES[name]:
                values[part][attribute] = convert(name, value, hint)
        elif name.startswith("rope_") and name.removeprefix("rope_") in EXTRA_KEYS:
            extra[name.removeprefix("rope_")] = value
        else:
            raise unknown_name("model_args", name, known_names())
    if extra:
        values["rope"]["extra"] = extra
    return ModelArguments(**{part: parts[part](**given) for part, given in values.items()})


def with_run_settings(
    arg_dict: Mapping[str, Any], additional_config: Mapping[str, Any] | None
) -> dict[str, Any]:
    """model_args with what the command line passes beside them.

    The command line always passes a batch size and a device, so model_args win over both, and
    its own default device is taken as none given.

    Args:
        arg_dict: model_args.
        additional_config: batch_size, max_batch_size and device; None means not given.
    """
    beside = {k: v for k, v in (additional_config or {}).items() if v is not None}
    if beside.get("device") == _UNSAID_DEVICE:
        beside["device"] = "auto"
    return {**beside, **arg_dict}


def answer_fingerprint(arguments: ModelArguments, checkpoint: str) -> str:
    """A digest of everything that answers depend on besides the request.

    Args:
        arguments: Those of the run.
        checkpoint: Folder or hub id; a folder's files count, since a model trained on under the
            same name answers differently.

    Returns:
        64 hexadecimal digits.
    """
    values = plain_settings(arguments)
    for part, names in _WITHOUT_EFFECT.items():
        for name in names:
            values[part].pop(name)
    if arguments.loading.peft is not None:
        values["loading"]["peft"] = adapter_digest(arguments.loading.peft)
    return fingerprint(values, checkpoint, revision=arguments.loading.revision)


def unknown_name(where: str, name: str, known: tuple[str, ...]) -> ValueError:
    """The error for a name that nothing reads; the nearest one comes before the long list."""
    suggestion = nearest(name, known)
    hint = f" Did you mean {suggestion!r}?" if suggestion is not None else ""
    return ValueError(f"{where} has no {name!r}.{hint} Known names: {', '.join(known)}.")


def convert(name: str, value: Any, hint: Any) -> Any:
    """A value as the type of the field it is for.

    Values come parsed or as strings, whichever way an argument was given, and mean the same:
    `1e3` is 1000, and `none` is a word.

    Args:
        name: For the error message.
        value: What was given.
        hint: int, float, bool, str, or a union of them, possibly with None.

    Returns:
        The value as the first type of the union that can hold it.

    Raises:
        ValueError: If no type can, or a number is given where text is wanted: the text that was
            typed is lost, with its leading zeros and the ends of its decimals.
    """
    is_union = get_origin(hint) in (Union, types.UnionType)
    options = get_args(hint) if is_union else (hint,)
    if name in _WITH_NONE and value in (None, "None"):
        return "none"
    # Not `none`, which is one of the names of rope_method.
    if type(None) in options and value in (None, "None", ""):
        return None
    for kind in options:
        converted = _READERS.get(kind, _as_nothing)(value)
        if converted is not None:
            return converted
    if str in options and len(set(options) - {type(None)}) == 1:
        return text_from(name, value)
    expected = " or ".join(_KIND_NAMES[kind] for kind in options if kind in _KIND_NAMES)
    raise ValueError(f"{name} must be {expected}; got {value!r}.")


# Names for which none is a word among others, of which some parsers make None.
_WITH_NONE = ("alg", "answers_dir", "cache", "likelihood_cache", "quantization")


def _as_nothing(value: Any) -> None:
    return None


def _as_bool(value: Any) -> bool | None:
    words = {"true": True, "false": False, "1": True, "0": False}
    return words.get(str(value).strip().lower())


def _as_str(value: Any) -> str | None:
    return str(value) if isinstance(value, (str, Path)) else None


_READERS = {bool: _as_bool, int: whole_from, float: real_from, str: _as_str}
_KIND_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
