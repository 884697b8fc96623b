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


def refuse_random_cache(
    cache_hook: CacheHook, gen_kwargs: Mapping[str, Any], *, is_random: bool
) -> None:
    """Refuse to keep a drawn text in the harness' cache, whose key is the same for all repeats.

    A second run would answer every repeat with the last one's text, and a run with more repeats
    than the first with a single text. `do_sample: true` has the harness pass the cache over.

    Args:
        cache_hook: The model's.
        gen_kwargs: Of the request, as the harness sees them.
        is_random: Whether the text depends on a seed.

    Raises:
        ValueError: If there is a cache, and the harness would use it.
    """
    if is_random and cache_hook.dbdict is not None and not gen_kwargs.get("do_sample"):
        raise ValueError(
            "--use_cache keeps one answer for all repeats of a request, and these are drawn at "
            "random; add do_sample=true to --gen_kwargs, by which the harness passes its cache "
            "over, or drop --use_cache: --output_path and answers_dir keep an answer for each."
        )
