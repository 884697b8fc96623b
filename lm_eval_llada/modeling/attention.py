"""Bidirectional attention through transformers' attention functions, with ragged queries.

The last layer asks for queries at some positions only, `rows`, as many in each sequence as it
happens. Two layouts carry them. A rectangle (batch, slots) with unused slots serves sdpa, eager and
flex_attention; flash_attention_2 takes packed tokens instead, which also gives it padding and
documents without a mask.

Padding is taken out before sdpa and eager rather than masked: kernels sum over as many keys as they
get, and in which order depends on how many those are. Masked, a sequence would get other last bits
beside a longer one than alone; in bfloat16 these were seen to change one text in ten.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, bidirectional_mask_function
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lm_eval_llada.modeling.packing import Packing, PreparedAttention, Rows, pack
from lm_eval_llada.modeling.pairwise import is_pairwise, pairwise_mask


class Group(NamedTuple):
    """Sequences of a batch that can attend in one call without padding.

    Attributes:
        sequences: int64 (group_size,), which of the batch.
        slots: int64 (num_queries,), where their queries are.
        keys: int64 (num_keys,), where their real keys are.
    """

    sequences: Tensor
    slots: Tensor
    keys: Tensor


def locate_rows(
    rows: Tensor, batch_size: int, seq_length: int, window: Tensor | None = None
) -> Rows:
    """Assigns each row a slot in a (batch, num_slots) rectangle.

    Args:
        rows: int64 (num_rows, 2) of (batch, position), in any order; a row may repeat.
        batch_size: number of sequences.
        seq_length: positions of a sequence, or of a window.
        window: int64 (batch, seq_length), ascending positions, the last of which may repeat; rows
            name some of them and are counted from its start from here on.

    Raises:
        ValueError: if a row lies outside the batch (not checked inside a compiled graph).
    """
    batch, position = rows.unbind(1)
    if window is not None:
        position = torch.searchsorted(window[batch], position[:, None].contiguous()).squeeze(1)
    num_rows = rows.shape[0]
    # Clamped so that a wrong row is reported below instead of failing here.
    counted = batch.clamp(0, batch_size - 1)
    counts = batch.new_zeros(batch_size).scatter_add_(0, counted, torch.ones_like(batch))
    if num_rows == 0:
        num_slots = 0
    elif torch.compiler.is_compiling():
        # The exact number of slots depends on data; any bound is right, only slower.
        num_slots = num_rows
    else:
        extremes = torch.stack([counts.max(), *batch.aminmax(), *position.aminmax()]).tolist()
        num_slots = _checked_slots(extremes, batch_size, seq_length)
    if num_slots >= seq_length:
        every = torch.arange(seq_length, device=rows.device).expand(batch_size, -1)
        return Rows(batch, position, position, every)
    order = torch.argsort(batch, stable=True)
    first = (counts.cumsum(0) - counts)[batch[order]]
    rank = torch.arange(num_rows, device=rows.device) - first
    slot = torch.empty_like(batch).scatter_(0, order, rank)
    slot_position = batch.new_zeros(batch_size, num_slots).index_put((batch, slot), position)
    return Rows(batch, position, slot, slot_position)


def window_rows(window: Tensor | None, rows: Rows | None) -> Rows | None:
    """Rows of a window with their positions in the whole sequence, as masks need them.

    Args:
        window: int64 (batch, seq), positions of a window; None if there is no window.
        rows: rows counted from the start of the window; None for all of it.

    Returns:
        `rows` unchanged where there is no window.
    """
    if window is None:
        return rows
    if rows is None:
        batch_size, width = window.shape
        batch = torch.arange(batch_size, device=window.device).repeat_interleave(width)
        slot = torch.arange(width, device=window.device).repeat(batch_size)
        return Rows(batch, window.flatten(), slot, window)
    return rows._replace(
        position=window[rows.batch, rows.position],
        slot_position=window.gather(1, rows.slot_position),
    )


def attention_mask_for(
    implementation: str,
    hidden_states: Tensor,
    key_length: int,
    attention_mask: Tensor | PreparedAttention | None,
    document_ids: Tensor | None,
    rows: Rows | None,
) -> Any:
    """What `attend` takes: None, groups, a packing, or what transformers builds for its function.

    A masked position still attends to itself where documents are given, so that no query is left
    without keys: some kernels make that NaN, and NaN spreads through gradients.

    Args:
        implementation: name of the attention function.
        hidden_states: (batch, seq, width), read for batch, dtype and device.
        key_length: positions that keys are there for.
        attention_mask: bool (batch, key_length), True = real; or pairwise, bool (batch or 1, 1,
            seq, key_length), True = is seen; None if all are.
        document_ids: int (batch, key_length); None if each sequence is one document.
        rows: queries to be asked for; None for all positions.
    """
    if isinstance(attention_mask, PreparedAttention):
        return attention_mask
    if rows is not None and rows.batch.shape[0] == 0:
        return None
    batch_size = hidden_states.shape[0]
    if attention_mask is not None and is_pairwise(attention_mask):
        dtype = hidden_states.dtype
        return pairwise_mask(implementation, attention_mask, dtype, batch_size, rows)
    unmasked = attention_mask is None and document_ids is None
    if implementation == "flash_attention_2":
        if unmasked and rows is None:
            return None
        return pack(
            batch_size, key_length, hidden_states.device, attention_mask, document_ids, rows
        )
    groups_possible = document_ids is None and implementation in ("sdpa", "eager")
    if groups_possible and not torch.compiler.is_compiling():
        return _groups(batch_size, key_length, hidden_states.device, attention_mask, rows)
    if unmasked:
        return None
    mask_function = bidirectional_mask_function
    if document_ids is not None:
        mask_function = _document_mask_function(document_ids, attention_mask, rows)
    return ALL_MASK_ATTENTION_FUNCTIONS[implementation](
        batch_size=batch_size,
        q_length=key_length if rows is None else rows.slot_position.shape[1],
        kv_length=key_length,
        q_offset=0,
        kv_offset=0,
        mask_function=mask_function,
        attention_mask=attention_mask if document_ids is None else None,
        allow_is_causal_skip=False,
        allow_is_bidirectional_skip=False,
        dtype=hidden_states.dtype,
        device=hidden_states.device,
    )


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Any,
    rows: Rows | None,
    with_weights: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Attention output of each query over the keys its mask allows, and what it gives each of them.

    Args:
        module: the block, read for `config`, `scaling` and `num_key_value_groups`.
        query: (batch, queries, heads, head_dim), or (num_rows, heads, head_dim) with `rows`.
        key: (batch, seq, kv_heads, head_dim).
        value: like `key`.
        mask: from `attention_mask_for`.
        rows: where the queries sit; None if each sequence has equally many.
        with_weights: return the weights too, which of the functions `eager` alone computes.

    Returns:
        Output (batch, queries, heads * head_dim) and weights (batch, heads, queries, keys) or None;
        with `rows`, (num_rows, heads * head_dim) and (num_rows, heads, keys).
    """
    if isinstance(mask, PreparedAttention):
        return mask.attend(module, query, key, value, rows), None
    if isinstance(mask, Packing):
        return _attend_packed(module, query, key, value, mask), None
    if rows is not None and rows.batch.shape[0] == 0:
        # Some kernels cannot be called without a query.
        nothing = query.new_zeros(0, query.shape[1], key.shape[1])
        return query.flatten(1), nothing if with_weights else None
    run = _attend_groups if isinstance(mask, list) else call_attention
    if rows is None:
        output, weights = run(module, query, key, value, mask, with_weights)
        return output.flatten(2), weights
    rectangle = query.new_zeros(*rows.slot_position.shape, *query.shape[1:])
    rectangle = rectangle.index_put((rows.batch, rows.slot), query)
    output, weights = run(module, rectangle, key, value, mask, with_weights)
    if weights is not None:
        weights = weights[rows.batch, :, rows.slot]
    return output[rows.batch, rows.slot].flatten(1), weights


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attention as two matrix products, softmax in float32: transformers' interface for `eager`.

    Args:
        module: read for `num_key_value_groups`.
        query: (batch, heads, queries, head_dim).
        key: (batch, kv_heads, keys, head_dim).
        value: like `key`.
        attention_mask: additive, broadcastable to (batch, heads, queries, keys).
        scaling: factor on the scores.

    Returns:
        Output (batch, queries, heads, head_dim) and weights (batch, heads, queries, keys).
    """
    groups: Any = module.num_key_value_groups
    key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def call_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Any,
    with_weights: bool,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """One call of the configured attention function; heads last but one on both sides.

    Of the module its `config`, `scaling` and `num_key_value_groups` are read.
    """
    config = module.config
    function = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager_attention)
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))
    kwargs |= {"dropout": 0.0, "scaling": module.scaling, "is_causal": False}
    output, weights = function(module, query, key, value, mask, **kwargs)
    return output, weights if with_weights else None


def _attend_groups(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    groups: list[Group],
    with_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    # Zeros at padding keep every later layer finite.
    output = torch.zeros_like(query)
    weights = None
    if with_weights:
        batch_size, num_slots, num_heads, _ = query.shape
        weights = query.new_zeros(batch_size, num_slots, key.shape[1], num_heads)
    for group in groups:
        if len(group.slots) and len(group.keys):
            sequences = group.sequences[:, None]
            some_keys, some_values = (states[sequences, group.keys] for states in (key, value))
            some_queries = query[sequences, group.slots]
            some, given = call_attention(
                module, some_queries, some_keys, some_values, None, with_weights
            )
            output[sequences, group.slots] = some
            if weights is not None and given is not None:
                places = (sequences[:, None], group.slots[:, None], group.keys)
                weights[places] = given.permute(0, 2, 3, 1)
    return output, None if weights is None else weights.permute(0, 3, 1, 2)


def _groups(
    batch_size: int,
    key_length: int,
    device: torch.device,
    attention_mask: Tensor | None,
    rows: Rows | None,
) -> list[Group] | None:
    """Sequences with the same real positions and equally many queries; None for one whole group."""
    num_slots = key_length if rows is None else rows.slot_position.shape[1]
    is_square = num_slots == key_length
    kinds = torch.full((batch_size, 1), num_slots, device=device)
    if rows is not None and not is_square:
        kinds = torch.zeros(batch_size, dtype=torch.int64, device=device)
        kinds = kinds.scatter_reduce_(0, rows.batch, rows.slot + 1, "amax")[:, None]
    if attention_mask is not None:
        kinds = torch.cat([kinds, attention_mask.long()], dim=1)
    present, kind_of = kinds.unique(dim=0, return_inverse=True)
    if attention_mask is None and len(present) == 1:
        return None
    groups = []
    every_slot, every_key = (torch.arange(n, device=device) for n in (num_slots, key_length))
    for index, kind in enumerate(present):
        keys = every_key if attention_mask is None else kind[1:].nonzero()[:, 0]
        slots = keys if is_square else every_slot[: kind[0]]
        groups.append(Group((kind_of == index).nonzero()[:, 0], slots, keys))
    return groups


def _attend_packed(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, packing: Packing
) -> Tensor:
    if packing.max_queries == 0:
        return torch.zeros_like(query).flatten(-2)
    flat_query = query.flatten(0, -3)
    packed_key, packed_value = (
        states.flatten(0, 1)[packing.key_order][None] for states in (key, value)
    )
    output, _ = call_attention(
        module,
        flat_query[packing.query_order][None],
        packed_key,
        packed_value,
        None,
        False,
        cu_seq_lens_q=packing.query_ends,
        cu_seq_lens_k=packing.key_ends,
        max_length_q=packing.max_queries,
        max_length_k=packing.max_keys,
    )
    # Positions outside the packing are padding; zeros there keep every later layer finite.
    unpacked = torch.zeros_like(flat_query).index_put((packing.query_order,), output[0])
    return unpacked.view_as(query).flatten(-2)


def _document_mask_function(
    document_ids: Tensor, attention_mask: Tensor | None, rows: Rows | None
) -> Any:
    """Whether a query may see a key, in the form transformers' mask builders call."""

    def allowed(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        position = query if rows is None else rows.slot_position[batch, query]
        same = document_ids[batch, position] == document_ids[batch, key]
        if attention_mask is not None:
            same = same & attention_mask[batch, key]
        return same | (position == key)

    return allowed


def _checked_slots(extremes: list[int], batch_size: int, seq_length: int) -> int:
    num_slots, first_batch, last_batch, first_position, last_position = extremes
    if first_batch < 0 or last_batch >= batch_size:
        raise ValueError(
            f"rows name sequences {first_batch} to {last_batch}, outside a batch of {batch_size}."
        )
    if first_position < 0 or last_position >= seq_length:
        raise ValueError(
            f"rows name positions {first_position} to {last_position}, outside sequences of "
            f"{seq_length} tokens."
        )
    return num_slots
