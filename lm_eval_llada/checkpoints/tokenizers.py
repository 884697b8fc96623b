"""The tokenizer that a run's model arguments mean."""

from __future__ import annotations

import copy
from functools import lru_cache
from os import PathLike
from typing import Any

from lm_eval_llada.checkpoints.names import DEFAULT_CHECKPOINT, resolve_checkpoint


def load_tokenizer(
    tokenizer: Any = None, pretrained: Any = None, revision: str | None = None
) -> Any:
    """Return the tokenizer that a run's model arguments mean.

    Args:
        tokenizer: A name, a path, or a tokenizer, which is returned as it is. None: the model's.
        pretrained: A name or a path of the model. None: the shipped ``tiny-llada``.
        revision: Revision of ``pretrained`` on the hub; a ``tokenizer`` of its own ignores it.

    Returns:
        A transformers tokenizer.

    Raises:
        ValueError: If the checkpoint does not exist or holds no tokenizer, or if ``pretrained`` is
            a model object and ``tokenizer`` is not given.
    """
    if tokenizer is not None:
        return _load(str(tokenizer), None) if _is_name(tokenizer) else tokenizer
    if pretrained is None:
        pretrained = DEFAULT_CHECKPOINT
    if not _is_name(pretrained):
        raise ValueError(
            f"pretrained is a {type(pretrained).__name__} object, from which no tokenizer can be "
            "told; pass tokenizer= as well."
        )
    return _load(str(pretrained), revision)


def _is_name(value: Any) -> bool:
    return isinstance(value, str | PathLike)


@lru_cache(maxsize=2)
def _load(name: str, revision: str | None) -> Any:
    from transformers import AutoTokenizer

    folder = resolve_checkpoint(name)
    try:
        return AutoTokenizer.from_pretrained(folder, revision=revision or "main")
    except Exception as error:  # damaged files raise errors of every kind there
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"No tokenizer could be loaded from {name!r} ({reason}).") from error


def plain_backend(tokenizer: Any) -> Any:
    """Return the fast tokenizer behind a transformers one, or None if there is none.

    It is a copy that neither truncates nor pads, since the original keeps the truncation and
    padding of the last call made with them.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return None
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_truncation()
    backend.no_padding()
    return backend
