"""Keys of the harness' cache of answers (`--use_cache`) that say whose answers they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_eval.api.model import CacheHook

from . import __version__


def fingerprint(values: Mapping[str, Any], checkpoint: str) -> str:
    """A digest of everything that answers depend on besides the request.

    Args:
        values: Settings that change answers.
        checkpoint: Folder or hub id; a folder's files count, since a model trained on under the
            same name answers differently.

    Returns:
        64 hexadecimal digits.
    """
    folder = Path(checkpoint)
    files = [*sorted(folder.glob("*.json")), *sorted(folder.glob("*.safetensors"))]
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    text = json.dumps([__version__, checkpoint, values, states], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def own_keys(cache_hook: CacheHook, owner: str) -> None:
    """Put `owner` in front of every key of a cache.

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
