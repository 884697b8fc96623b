"""What a forward pass may be given: shapes that fit each other."""

from __future__ import annotations

from torch import Tensor

from lm_eval_llada.modeling.cache import KeyValueCache
from lm_eval_llada.modeling.packing import PreparedAttention
from lm_eval_llada.modeling.pairwise import is_pairwise
from lm_eval_llada.modeling.prompt_cache import PromptCache


def check_shapes(
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    width: int,
    attention_mask: Tensor | PreparedAttention | None,
    position_ids: Tensor | None,
    rows: Tensor | None,
    document_ids: Tensor | None,
    cache: KeyValueCache | PromptCache | None,
) -> None:
    """Stops if the arguments of `LLaDAForMaskedLM.forward` do not fit each other.

    Raises:
        ValueError: naming the argument, the shape expected and the one that came.
    """
    batch_size, seq_length = _input_shape(input_ids, inputs_embeds, width)
    is_window = cache is not None and cache.is_filled
    key_length = cache.key_length if cache is not None and is_window else seq_length
    if isinstance(attention_mask, PreparedAttention):
        attention_mask = None
    if attention_mask is not None and is_pairwise(attention_mask):
        _check_pairwise(attention_mask, batch_size, seq_length, document_ids, cache)
        attention_mask = None
    for name, tensor in (("attention_mask", attention_mask), ("document_ids", document_ids)):
        if tensor is not None and tuple(tensor.shape) != (batch_size, key_length):
            raise ValueError(
                f"{name} must have one value for each position, {(batch_size, key_length)}; "
                f"got {tuple(tensor.shape)}."
            )
    shapes = ((seq_length,), (1, seq_length), (batch_size, seq_length))
    allowed = shapes[2:] if is_window else shapes
    given = None if position_ids is None else tuple(position_ids.shape)
    if given not in allowed and (is_window or given is not None):
        raise ValueError(
            f"position_ids must be (batch, seq){'' if is_window else ' or (seq,)'}, here "
            f"{(batch_size, seq_length)}; got {given}."
        )
    if rows is not None and (rows.dim() != 2 or rows.shape[1] != 2):
        raise ValueError(
            f"rows must be (num_rows, 2) of (batch, position); got {tuple(rows.shape)}."
        )
    if cache is not None and document_ids is not None:
        raise ValueError("A cache cannot be combined with document_ids; pass only one of them.")


def _check_pairwise(
    attention_mask: Tensor,
    batch_size: int,
    seq_length: int,
    document_ids: Tensor | None,
    cache: object | None,
) -> None:
    if document_ids is not None or cache is not None:
        raise ValueError(
            "A mask of pairs says all there is to say about attention; pass it without "
            "document_ids and without a cache."
        )
    shapes = [(size, 1, seq_length, seq_length) for size in (batch_size, 1)]
    if tuple(attention_mask.shape) not in shapes:
        raise ValueError(
            f"attention_mask of pairs must be (batch or 1, 1, seq, seq), here {shapes[0]}; got "
            f"{tuple(attention_mask.shape)}."
        )


def _input_shape(
    input_ids: Tensor | None, inputs_embeds: Tensor | None, width: int
) -> tuple[int, int]:
    """(batch, seq) of the one that is given."""
    if input_ids is not None and inputs_embeds is None:
        if input_ids.dim() != 2 or input_ids.numel() == 0:
            raise ValueError(
                f"input_ids must be (batch, seq) and not empty; got {tuple(input_ids.shape)}."
            )
        return input_ids.shape[0], input_ids.shape[1]
    if inputs_embeds is None or input_ids is not None:
        given = "neither" if inputs_embeds is None else "both"
        raise ValueError(f"Pass exactly one of input_ids and inputs_embeds; got {given}.")
    shape = tuple(inputs_embeds.shape)
    if len(shape) != 3 or inputs_embeds.numel() == 0 or shape[2] != width:
        raise ValueError(f"inputs_embeds must be (batch, seq, {width}) and not empty; got {shape}.")
    return shape[0], shape[1]
