"""The native LLaDA model: its configuration, its forward pass, and reading checkpoints."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

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

__all__ = [
    "ATTENTION_IMPLEMENTATIONS",
    "BlockCache",
    "KeyValueCache",
    "LLaDAConfig",
    "LLaDAForMaskedLM",
    "apply_rope",
    "as_denoiser",
    "find_config",
    "load_config",
    "load_model",
]

AutoConfig.register(LLaDAConfig.model_type, LLaDAConfig, exist_ok=True)
# The official code maps AutoModel to the model with its LM head as well.
AutoModel.register(LLaDAConfig, LLaDAForMaskedLM, exist_ok=True)
AutoModelForMaskedLM.register(LLaDAConfig, LLaDAForMaskedLM, exist_ok=True)
