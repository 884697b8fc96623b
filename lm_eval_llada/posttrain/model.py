"""The model that is trained: a checkpoint under new position embeddings that returns a loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import MaskedLMOutput

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.errors import unknown_choice
from lm_eval_llada.modeling import (
    LLaDAConfig,
    LLaDAForMaskedLM,
    apply_rope,
    find_config,
    load_config,
)
from lm_eval_llada.modeling.model import check_attention
from lm_eval_llada.posttrain.document_attention import rows_by_document
from lm_eval_llada.posttrain.loss import row_losses
from lm_eval_llada.posttrain.options import PosttrainOptions
from lm_eval_llada.rope import ResolvedRope

LORA_TARGETS = r".*\.blocks\.\d+\.(q_proj|k_proj|v_proj|attn_out)"
"""The attention's projections: what a changed rotation bears on. A choice of ours."""

_KERNELS_FOR_DOCUMENTS = ("flash_attention_2", "flex_attention")


class LLaDAForPosttraining(LLaDAForMaskedLM):
    """A `LLaDAForMaskedLM` whose forward also sums losses, so that logits never leave it.

    The loss belongs inside: wrappers such as FSDP gather weights for the forward pass they wrap,
    and the logits of one sequence of 64K tokens in LLaDA's vocabulary are 16 GB in bfloat16.

    Attributes:
        by_document: run each document as a sequence of its own instead of masking attention.
    """

    by_document: bool = False
    _targets: Tensor | None = None

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        rows: Tensor | None = None,
        document_ids: Tensor | None = None,
        targets: Tensor | None = None,
        weights: Tensor | None = None,
        **others: Any,
    ) -> MaskedLMOutput:
        """The weighted sum of the rows' losses, or without targets what `LLaDAForMaskedLM` gives.

        Args:
            input_ids: int64 (batch, seq).
            attention_mask: (batch, seq), 1 = real, 0 = padding; None if all real.
            rows: int64 (num_rows, 2) of (batch, position), at least one with targets.
            document_ids: int64 (batch, seq); attention stays inside equal ids of a sequence.
            targets: int64 (num_rows,), the tokens behind the masks.
            weights: float32 (num_rows,).
            **others: further arguments of `LLaDAForMaskedLM`, for a call without targets.

        Returns:
            `loss`, float32 (), the sum of weight times cross-entropy; or `logits`.
        """
        inputs = {"attention_mask": attention_mask, "rows": rows, "document_ids": document_ids}
        if targets is None or weights is None or rows is None:
            return super().forward(input_ids, **inputs, **others)
        if document_ids is None or not self.by_document:
            losses = self._losses(targets, input_ids, **inputs)
            return MaskedLMOutput(loss=(weights * losses).sum())
        loss = weights.new_zeros(())
        for part in rows_by_document(input_ids, document_ids, rows):
            losses = self._losses(targets[part.index], part.input_ids, rows=part.rows)
            loss = loss + (weights[part.index] * losses).sum()
        return MaskedLMOutput(loss=loss)

    def _losses(self, targets: Tensor, input_ids: Tensor, **inputs: Any) -> Tensor:
        """Cross-entropy of each row, float32 (num_rows,)."""
        self._targets = targets
        if self.config.shift:
            inputs["rows"] = _rows_before(inputs["rows"], inputs.get("document_ids"))
        try:
            return super().forward(input_ids, **inputs).logits
        finally:
            self._targets = None

    def _head(self, hidden_states: Tensor) -> Tensor:
        """Logits, or while there are targets the losses in their place."""
        head = super()._head
        if self._targets is None:
            return head(hidden_states)
        return row_losses(head, hidden_states, self._targets, self.config.embedding_size)


def _rows_before(rows: Tensor, document_ids: Tensor | None) -> Tensor:
    """The rows whose logits are those of the tokens at `rows`, in a model that shifts.

    The first token of a document has no row before it and is read from its own.
    """
    batch, position = rows.unbind(1)
    before = (position - 1).clamp(min=0)
    if document_ids is not None:
        is_inside = document_ids[batch, before] == document_ids[batch, position]
        before = torch.where(is_inside, before, position)
    return torch.stack([batch, before], dim=1)


def extended_config(options: PosttrainOptions) -> tuple[LLaDAConfig, ResolvedRope]:
    """The configuration that a run trains and saves, and the numbers behind its rotation.

    The samples' length becomes the trained context where it is the longer one, so that the result
    is evaluated as it is.

    Raises:
        ValueError: if the checkpoint cannot be read and its shape is not known, or it is extended
            already and `force_rope` is not set, or it is causal between blocks.
    """
    config, _ = find_config(options.pretrained, revision=options.revision)
    if config.blocks is not None:
        raise ValueError(
            f"{options.pretrained} is causal between blocks of {config.block_length} tokens, and "
            "the loss here is that of models in which every token sees all others; it would "
            "unlearn its blocks. Evaluate it as it is, or with rope arguments."
        )
    config, resolved = apply_rope(config, options.rope)
    config.train_length = max(config.train_length, options.data.length)
    # Dynamic scaling starts from this length, so it must stay where it is.
    if resolved.method != "dynamic":
        config.max_sequence_length = max(config.max_sequence_length, config.train_length)
    return config, resolved


def runs_by_document(options: PosttrainOptions) -> bool:
    """Whether documents are run one by one, where attention must stay inside them."""
    if options.data.by_document is not None:
        return options.data.by_document
    if options.attn_implementation == "flex_attention":
        return not torch.cuda.is_available()  # it has no backward pass on CPU
    return options.attn_implementation not in _KERNELS_FOR_DOCUMENTS


def load_for_training(options: PosttrainOptions) -> LLaDAForPosttraining:
    """Reads the checkpoint under its new rotation, with LoRA's weights added where asked for.

    Nothing is said of devices: transformers, FSDP and DeepSpeed place the weights.

    Raises:
        ValueError: if the checkpoint cannot be read, or its tensors are not those of its config.
        ImportError: if LoRA is asked for and peft is missing, or flash-attn is and not there.
    """
    check_attention(options.attn_implementation)
    config, _ = extended_config(options)
    dtype: Any = options.dtype if options.dtype == "auto" else getattr(torch, options.dtype)
    loaded: Any = LLaDAForPosttraining.from_pretrained(
        resolve_checkpoint(options.pretrained),
        config=config,
        revision=options.revision or "main",
        dtype=dtype,
        attn_implementation=options.attn_implementation,
        output_loading_info=True,
    )
    model, info = loaded
    wrong = {name: sorted(map(str, keys)) for name, keys in info.items() if keys}
    if wrong:
        raise ValueError(f"The weights of {options.pretrained} do not fit its config: {wrong}.")
    model.by_document = runs_by_document(options)
    return model if options.lora is None else add_lora(model, options.lora)


def add_lora(model: Any, settings: Mapping[str, Any]) -> Any:
    """The model with low-rank weights beside its own, which alone are trained.

    Args:
        model: of any size, on any device.
        settings: fields of peft's `LoraConfig`; `LORA_TARGETS` unless `target_modules` are given.

    Raises:
        ImportError: if peft is missing.
        ValueError: if a setting has an unknown name.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ImportError(
            'lora needs peft. Install it with: pip install "lm_eval_llada[train]", or leave the '
            "section lora out."
        ) from error
    known = [item.name for item in fields(LoraConfig)]
    for name in settings:
        if name not in known:
            raise unknown_choice("A name in the section lora", name, known)
    lora = get_peft_model(model, LoraConfig(**{"target_modules": LORA_TARGETS, **settings}))
    # Gradient checkpointing follows gradients from a block's input, which is frozen here.
    lora.enable_input_require_grads()
    return lora


def merge_lora(options: PosttrainOptions, adapter: Path) -> dict[str, Tensor]:
    """Weights of the checkpoint with a saved adapter added in, on the CPU."""
    from peft import PeftModel

    config, _ = extended_config(options)
    base = LLaDAForMaskedLM.from_pretrained(
        resolve_checkpoint(options.pretrained),
        config=config,
        revision=options.revision or "main",
        dtype=torch.float32,
    )
    merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    return merged.state_dict()


def save_weights(options: PosttrainOptions, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Writes weights and configuration as a checkpoint in the official layout.

    Args:
        options: of the run.
        weights: under the names of `LLaDAForMaskedLM`, of any dtype.
        folder: made as needed.
    """
    config, _ = extended_config(options)
    # Where the files are that an auto_map names.
    config.name_or_path = resolve_checkpoint(options.pretrained)
    stored = load_config(options.pretrained, revision=options.revision).dtype
    dtype: Any = stored if options.save_dtype == "auto" else options.save_dtype
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype)
    with torch.device("meta"):
        model = LLaDAForMaskedLM(config)
    cast = {name: tensor.to("cpu", dtype or torch.float32) for name, tensor in weights.items()}
    model.load_state_dict(cast, assign=True)
    model.save_pretrained(folder)
