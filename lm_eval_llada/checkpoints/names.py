"""From the name of a checkpoint to the folder or hub id that holds it."""

from __future__ import annotations

import os
from pathlib import Path

from lm_eval_llada.errors import nearest, unknown_choice

_TINY_FOLDER = Path(__file__).resolve().parents[1] / "tiny"

DEFAULT_CHECKPOINT = "tiny-llada"
"""The checkpoint that is used where none is named."""

TINY_MODELS: tuple[str, ...] = tuple(
    sorted(config.parent.name for config in _TINY_FOLDER.glob("*/config.json"))
)
"""Names of the checkpoints that ship inside the package."""


def resolve_checkpoint(name: str | os.PathLike[str] = DEFAULT_CHECKPOINT) -> str:
    """Turn what a user wrote for ``pretrained`` or ``tokenizer`` into a folder or a hub id.

    The first rule that fits decides: a shipped model's name is its packaged folder (a local folder
    of the same name is reached as ``./name``), an existing folder is itself, and anything else that
    can be a hub id is one. Nothing is downloaded, so whether a hub id exists is not known here.

    Args:
        name: A name of ``TINY_MODELS``, a folder, or a hub id such as ``GSAI-ML/LLaDA-8B-Base``.

    Returns:
        The folder as a string, with ``~`` expanded, or the hub id as it was written.

    Raises:
        ValueError: If ``name`` is a path to nothing or to a file, is close to the name of a shipped
            model without being one, or cannot be a hub id.
    """
    text = os.fspath(name)
    if text in TINY_MODELS:
        return str(_TINY_FOLDER / text)
    path = Path(text).expanduser()
    if text and path.is_dir():
        return str(path)
    if text and path.is_file():
        raise ValueError(
            f"Checkpoint {text!r} is a file; give the folder that holds it and config.json: "
            f"{str(path.parent)!r}."
        )
    if _looks_like_path(text) or isinstance(name, os.PathLike):
        raise _missing_path(text, path)
    if "/" not in text and nearest(text, TINY_MODELS) is not None:
        raise unknown_choice("A checkpoint without '/'", text, TINY_MODELS)
    return _checked_hub_id(text)


def _looks_like_path(text: str) -> bool:
    return text.startswith((".", "/", "~")) or text.count("/") > 1


def _missing_path(text: str, path: Path) -> ValueError:
    """Build the error for a path that is not there, with its nearest sibling where one is close."""
    message = f"Checkpoint folder {text!r} does not exist."
    suggestion = nearest(path.name, TINY_MODELS)
    if path.parent.is_dir():
        siblings = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
        sibling = nearest(path.name, siblings)
        suggestion = str(path.parent / sibling) if sibling is not None else suggestion
    if suggestion is not None:
        message += f" Did you mean {suggestion!r}?"
    shipped = ", ".join(TINY_MODELS)
    return ValueError(
        f"{message} Give an existing folder, a hub id (organisation/name) or a shipped model "
        f"({shipped})."
    )


def _checked_hub_id(text: str) -> str:
    """Return a hub id unchanged, or raise a ``ValueError`` saying why it cannot be one."""
    # Imported here: naming a shipped model or a folder needs nothing outside the standard library.
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError as error:
        shipped = ", ".join(TINY_MODELS)
        raise ValueError(
            f"Checkpoint {text!r} is no existing folder, no shipped model ({shipped}) and cannot "
            f"be a hub id (organisation/name): {error}"
        ) from error
    return text
