"""The native LLaDA model: its configuration, its forward pass, and reading checkpoints.

Names are imported where they are first asked for: PyTorch and transformers take seconds, and what
reads a config.json alone needs neither. The classes are known to transformers' Auto classes from
then on.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm_eval_llada.modeling.block_cache import BlockCache
    from lm_eval_llada.modeling.cache import KeyValueCache
    from lm_eval_llada.modeling.configuration import LLaDAConfig, apply_rope
    from lm_eval_llada.modeling.known_shapes import find_config
    from lm_eval_llada.modeling.loading import load_config, load_model
    from lm_eval_llada.modeling.model import (
        ATTENTION_IMPLEMENTATIONS,
        LLaDAForMaskedLM,
        as_denoiser,
    )
    from lm_eval_llada.modeling.prompt_cache import PromptCache

__all__ = [
    "ATTENTION_IMPLEMENTATIONS",
    "BlockCache",
    "KeyValueCache",
    "LLaDAConfig",
    "LLaDAForMaskedLM",
    "PromptCache",
    "apply_rope",
    "as_denoiser",
    "find_config",
    "load_config",
    "load_model",
]

_MODULE_OF = {
    "ATTENTION_IMPLEMENTATIONS": "model",
    "BlockCache": "block_cache",
    "KeyValueCache": "cache",
    "LLaDAConfig": "configuration",
    "LLaDAForMaskedLM": "model",
    "PromptCache": "prompt_cache",
    "apply_rope": "configuration",
    "as_denoiser": "model",
    "find_config": "known_shapes",
    "load_config": "loading",
    "load_model": "loading",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # The model comes first, so that one name of this room brings all that is registered.
    importlib.import_module(f"{__name__}.model")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value
