"""Keys of the harness' cache of answers (`--use_cache`) that say whose answers they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from lm_eval.api.model import CacheHook

from lm_eval_llada import __version__
from lm_eval_llada.checkpoints.provenance import checkpoint_digest


def fingerprint(values: Mapping[str, Any], checkpoint: str, *, revision: str | None = None) -> str:
    """A digest of everything that answers depend on besides the request.

    Args:
        values: Settings that change answers.
        checkpoint: Folder or hub id. What counts is the content, not the place: a model trained on
            under the same name answers differently, and a copy of it does not.
        revision: Branch, tag or commit of a hub id.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: If a folder holds none of the files of a checkpoint.
    """
    content = checkpoint_digest(checkpoint, revision=revision)
    text = json.dumps([__version__, content, values], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def own_keys(cache_hook: CacheHook, owner: str) -> None:
    """Puts `owner` in front of every key of a cache.

    The harness' own keys hold the request only, so one cache file under two values of rope_scale
    would answer the second run with the results of the first.

    Args:
        cache_hook: The model's; its store is changed in place, if it has one.
        owner: From `fingerprint`.
    """
    if cache_hook.dbdict is not None:
        prefix = owner + ":"
        cache_hook.dbdict.encode_key = lambda key: prefix + key
        cache_hook.dbdict.decode_key = lambda key: key.removeprefix(prefix)
