"""From the settings of a task file to its samples, the same way in every benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.errors import unknown_choice
from lm_eval_llada.tasks.settings import generation_settings, own_settings
from lm_eval_llada.tasks.token_counts import LENGTH_UNITS


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """What samples of every benchmark that fills or cuts prompts have in common.

    Attributes:
        length_unit: One of ``LENGTH_UNITS``.
        add_bos_token: Whether the model puts a beginning-of-sequence token before each prompt.
        apply_chat_template: Whether prompts are sent in the model's chat format, whose tokens then
            count as well.
        data_dir: Folder with the corpora; None reads the hub where files are needed.
        hub_revision: Revision of the hub repository; None means the one each corpus has by default.
    """

    length_unit: str = "model"
    add_bos_token: bool = False
    apply_chat_template: bool = False
    data_dir: str | Path | None = None
    hub_revision: str | None = None

    def __post_init__(self) -> None:
        """Refuse values of a wrong kind.

        Raises:
            ValueError: Naming the option, what it may be, and what it was.
        """
        if self.length_unit not in LENGTH_UNITS:
            raise unknown_choice("length_unit", self.length_unit, LENGTH_UNITS)
        for name in ("add_bos_token", "apply_chat_template"):
            require_bool(name, getattr(self, name))


def require_bool(name: str, value: object) -> None:
    """Raise a ``ValueError`` unless ``value`` is true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false; got {value!r}.")


def make_dataset(
    what: str,
    build: Callable[..., list[dict[str, Any]]],
    options: type,
    given: Mapping[str, Any],
    *,
    required: tuple[str, ...],
    gen_length: int | None = None,
) -> dict[str, Any]:
    """Make the data set of a task from what lm-eval hands over.

    Args:
        what: The task, for messages, such as ``a NIAH task``.
        build: Makes the samples; takes a tokenizer and the fields of ``options``.
        options: Dataclass of the settings.
        given: The task's ``metadata``, its ``generation_kwargs`` and the model arguments, which
            include ``tokenizer``, ``pretrained`` (the shipped ``tiny-llada`` where both are
            missing) and ``revision``. Seed of the samples is ``data_seed``: a model argument
            ``seed`` comes here too and must not change them. ``gen_kwargs`` of the command line win
            over the task's ``generation_kwargs``. Other names belong to the model and are ignored,
            unless they look like a misspelt setting.
        required: Settings that a task file must give.
        gen_length: Tokens that samples leave for the output, if not those that are generated.

    Returns:
        The ``datasets.Dataset`` of the samples under the key ``test``.

    Raises:
        ValueError: If a setting is missing, misspelt or wrong, or as ``build`` does.
        FileNotFoundError: As ``build`` does.
        ImportError: As ``build`` does.
    """
    from datasets import Dataset

    names = {option.name for option in fields(options)}
    if missing := [name for name in required if given.get(name) is None]:
        raise ValueError(f"metadata of {what} must give {' and '.join(missing)}.")
    own = own_settings(given, names - {"seed", "gen_length", *required}, what)
    own |= {name: given[name] for name in required}
    if "seed" in names and given.get("data_seed") is not None:
        own["seed"] = given["data_seed"]
    if "gen_length" in names:
        own["gen_length"] = _output_length(what, given) if gen_length is None else gen_length
    tokenizer = load_tokenizer(
        given.get("tokenizer"), given.get("pretrained"), given.get("revision")
    )
    return {"test": Dataset.from_list(build(tokenizer, **own))}


def _output_length(what: str, given: Mapping[str, Any]) -> int:
    """Tokens that the task generates, in which its samples leave that room."""
    generation = generation_settings(
        generation_kwargs=given.get("generation_kwargs"), gen_kwargs=given.get("gen_kwargs")
    )
    for name in ("gen_length", "max_gen_toks"):
        if name in generation:
            length: int = generation[name]
            return length
    raise ValueError(
        f"generation_kwargs of {what} must give gen_length. Where they do, the task file lacks "
        "'class: !function lm_eval_llada.tasks.task.SampledTask', which hands them on."
    )
