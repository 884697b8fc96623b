"""An adapter of the causal baseline, checked before any weight is read."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from lm_eval_llada.checkpoints.adapters import Naming, check_adapter, check_adapter_folder


def checked_adapter(
    theirs: dict[str, Any], pretrained: str, config: PreTrainedConfig
) -> str | None:
    """The folder of an adapter, taken from the arguments once it is known to fit; None for none.

    The harness would leave it beside the weights, and let peft load what fits of it.

    Args:
        theirs: Arguments of the harness' model; `peft` is taken out.
        pretrained: Name of the checkpoint.
        config: Of the checkpoint.

    Raises:
        ValueError: If it does not fit, or the weights are quantized.
        ImportError: If peft is missing.
    """
    adapter = theirs.pop("peft", None)
    if adapter is None:
        return None
    check_adapter_folder(str(adapter))
    if theirs.get("load_in_4bit") or theirs.get("load_in_8bit"):
        raise ValueError(
            "peft= is merged into whole weights, which load_in_4bit and load_in_8bit round; merge "
            "it by peft itself, and give the merged folder."
        )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    check_adapter(str(adapter), pretrained, model, Naming())
    return str(adapter)
