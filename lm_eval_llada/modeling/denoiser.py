"""The model as a denoiser: the callable that samplers and likelihoods take."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lm_eval_llada.modeling.cache import KeyValueCache
from lm_eval_llada.modeling.model import LLaDAForMaskedLM


def make_denoiser(model: LLaDAForMaskedLM) -> Callable[..., Tensor]:
    """A function from partly masked sequences to float32 logits, without gradients.

    Args:
        model: the model to call; inputs must be on its device.

    Returns:
        `denoise(input_ids, *, attention_mask, rows=None, position_ids=None, document_ids=None,
        cache=None)`, which gives float32 logits (num_rows, embedding_size), all positions in
        row-major order where `rows` is None. Without a cache every call is an exact forward pass;
        `cache` is a `KeyValueCache`, see `LLaDAForMaskedLM.forward`.
    """

    @torch.inference_mode()
    def denoise(
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None,
        rows: Tensor | None = None,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        logits = model(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            rows=rows,
            document_ids=document_ids,
            cache=cache,
        ).logits
        return logits.flatten(0, -2).float()

    return denoise
