"""Passes with a `PromptCache`: the one that reads prompts, and those that read windows beside them.

The first takes its sequences one by one, each in parts of its rows: what it holds beside keys and
values is one residual stream and the tensors of a part. Attention goes through PyTorch's
`scaled_dot_product_attention`, whatever `attn_implementation` says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lm_eval_llada.modeling.packing import PreparedAttention
from lm_eval_llada.modeling.prompt_attention import attend_all, attend_band, page_shares
from lm_eval_llada.modeling.prompt_cache import KeptLayer, KeptText, PromptCache

if TYPE_CHECKING:
    from lm_eval_llada.modeling.block import LayerReader, LLaDABlock

NUM_LAST = 64
"""Last tokens of a prompt, which attend to everything and, with the masks behind them, are seen by
everything: a question mostly comes last."""


def num_chunked(prompt_length: int) -> int:
    """Tokens of a prompt that are read in chunks, if it is: all but the last."""
    return max(0, prompt_length - NUM_LAST)


# Rows that go through a layer at once. A GPU is busy only with more.
_PART_ROWS = {"cpu": 512}
MANY_ROWS = 4096
"""The same on any other device."""


@torch.no_grad()
def read_with_prompts(
    model: Any,
    input_ids: Tensor | None,
    attention_mask: Tensor | PreparedAttention | None,
    position_ids: Tensor | None,
    rows: Tensor | None,
    cache: PromptCache,
) -> Tensor:
    """What the head reads for each row, (num_rows, d_model); fills the cache, or reads windows.

    Args:
        model: a `LLaDAForMaskedLM`.
        input_ids: int64 (batch, seq), whole sequences with padding on the right, or windows.
        attention_mask: as of `LLaDAForMaskedLM.forward`.
        position_ids: int64 (batch, seq) of windows; None for whole sequences.
        rows: int64 (num_rows, 2).
        cache: empty or filled.

    Raises:
        ValueError: if anything of this is given in another form.
    """
    if input_ids is None or rows is None or isinstance(attention_mask, PreparedAttention):
        raise ValueError("A PromptCache needs input_ids and rows; got other inputs of a model.")
    batch_size, seq_length = input_ids.shape
    key_length = cache.key_length if cache.is_filled else seq_length
    lengths = _lengths(attention_mask, batch_size, key_length)
    if (position_ids is None) == cache.is_filled:
        raise ValueError(
            "A PromptCache is filled by whole sequences, without position_ids, and read by windows "
            "with them."
        )
    if position_ids is None:
        return _read_prompts(model, input_ids, lengths, rows, cache)
    texts = [cache.texts[index] for index in cache.chosen]
    first = position_ids[:, 0].tolist()
    if first != [text.num_kept for text in texts]:
        raise ValueError(
            f"Windows start at {first}, and prompts are kept up to "
            f"{[text.num_kept for text in texts]}; they must follow each other."
        )
    sizes = [min(seq_length, n - start) for n, start in zip(lengths, first, strict=True)]
    inside = torch.stack([rows[:, 0], rows[:, 1] - position_ids[rows[:, 0], 0]], dim=1)
    reader = WindowReader(cache, texts, sizes, inside, model.config.n_layers)
    output = _run_blocks(model, input_ids, position_ids, reader)
    cache.is_looking = False
    return output


def _read_prompts(
    model: Any, input_ids: Tensor, lengths: Sequence[int], rows: Tensor, cache: PromptCache
) -> Tensor:
    """The pass that fills a cache, sequence by sequence, so that they share no memory."""
    output: Tensor | None = None
    texts = []
    for index, length in enumerate(lengths):
        mine = (rows[:, 0] == index).nonzero()[:, 0]
        text = KeptText(min(cache.kept_lengths[index], length), length)
        reader = PromptReader(cache, text, rows[mine, 1], model.config.n_layers)
        states = _run_blocks(model, input_ids[index : index + 1, :length], None, reader)
        output = states.new_empty(len(rows), states.shape[1]) if output is None else output
        output[mine.to(output.device)] = states
        texts.append(text)
    cache.texts, cache.is_looking = texts, False
    assert output is not None
    return output


class PromptReader:
    """Runs layers over one whole sequence and keeps the keys and values of its prompt."""

    def __init__(
        self, cache: PromptCache, text: KeptText, positions: Tensor, num_layers: int
    ) -> None:
        """For one sequence.

        Args:
            cache: says how to read and what to keep.
            text: filled.
            positions: int64 (num_rows,), the rows that the last layer goes on with.
            num_layers: of the model.
        """
        self._reading, self._text = cache.reading, text
        self._positions, self._last = positions, num_layers - 1
        self._dtype_beside = cache.dtype_beside
        self._looking = range(0)
        if cache.is_looking:
            self._looking = range(
                *(text.num_kept + n for n in (cache.block.start, cache.block.stop))
            )

    def run(
        self,
        block: LLaDABlock,
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        query_scale: Tensor | None,
    ) -> Tensor:
        """The stream after a block, (1, seq, d_model) in place; after the last one, of the rows."""
        stream, cos, sin = hidden_states[0], cos[0], sin[0]
        scale = None if query_scale is None else query_scale[0]
        both = self._read_keys(block, stream, cos, sin, scale)
        if block.layer_idx == self._last:
            # What a row sees does not depend on where it is: those asked for attend to everything.
            at = self._positions.to(stream.device)
            query = _queries(block, stream, at, cos, sin, scale)
            return block.advance(stream[at], attend_all(query, both[0], both[1], block.scaling))
        for part in self._parts(len(stream), stream.device.type):
            some = stream[part]
            query = _queries(block, stream, part, cos, sin, scale)
            stream[part] = block.advance(some, self._attended(block, query, both, part.start))
        return hidden_states

    def _read_keys(
        self, block: LLaDABlock, stream: Tensor, cos: Tensor, sin: Tensor, scale: Tensor | None
    ) -> Tensor:
        """Keys and values of all positions, (2, kv_heads, seq, head_dim), kept as far as asked."""
        text, both = self._text, None
        size = _part_rows(stream.device.type)
        for start in range(0, len(stream), size):
            part = slice(start, start + size)
            key, value = block.keys_values(block.attn_norm(stream[part]), cos[part], sin[part])
            if both is None:
                dtype = self._dtype_beside(key.dtype)
                layer = KeptLayer(key, text.num_kept, text.length, dtype)
                both = layer.buffers(key, text.length)
            both[0, :, part], both[1, :, part] = key.transpose(0, 1), value.transpose(0, 1)
        assert both is not None
        layer.store(both)
        text.layers[block.layer_idx] = layer
        if self._looking and layer.is_choosing(self._reading.keep):
            at = slice(self._looking.start, self._looking.stop)
            query = _queries(block, stream, at, cos, sin, scale)
            _select(block, layer, query, both, self._reading.keep)
        return both

    def _parts(self, length: int, device_type: str) -> Iterator[slice]:
        """Rows to take at once: whole chunks, then those that attend to everything."""
        size, start = _part_rows(device_type), 0
        if (chunk := self._reading.chunk) is not None:
            end = num_chunked(self._text.num_kept)
            step = max(1, size // chunk) * chunk
            yield from (slice(at, min(at + step, end)) for at in range(0, end, step))
            start = end
        yield from (slice(at, min(at + size, length)) for at in range(start, length, size))

    def _attended(self, block: LLaDABlock, query: Tensor, both: Tensor, start: int) -> Tensor:
        chunk, keys, values = self._reading.chunk, *both
        end = num_chunked(self._text.num_kept)
        if chunk is None or start >= end:
            return attend_all(query, keys, values, block.scaling)
        parts = [
            attend_band(query[at : at + chunk], keys, values, block.scaling, start + at, chunk, end)
            for at in range(0, len(query), chunk)
        ]
        return torch.cat(parts)


class WindowReader:
    """Runs layers over windows, each beside the prompt that is kept of its sequence."""

    def __init__(
        self,
        cache: PromptCache,
        texts: Sequence[KeptText],
        sizes: Sequence[int],
        rows: Tensor,
        num_layers: int,
    ) -> None:
        """For the windows of a batch.

        Args:
            cache: says whether to look at whole prompts.
            texts: what is kept for each window.
            sizes: positions of each window that are not padding.
            rows: int64 (num_rows, 2) of (window, position in it), for the last layer.
            num_layers: of the model.
        """
        self._texts, self._sizes, self._rows, self._last = texts, sizes, rows, num_layers - 1
        self._block, self._is_looking, self._keep = (
            cache.block,
            cache.is_looking,
            cache.reading.keep,
        )
        owners = rows[:, 0].tolist()
        self._of_window = [[i for i, at in enumerate(owners) if at == n] for n in range(len(texts))]

    def run(
        self,
        block: LLaDABlock,
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        query_scale: Tensor | None,
    ) -> Tensor:
        """The residual stream after a block, (batch, window, d_model); rows after the last one."""
        normed = block.attn_norm(hidden_states)
        key, value = block.keys_values(normed, cos, sin)
        is_last = block.layer_idx == self._last
        rows = self._rows.to(normed.device)
        # The last layer goes on with the rows alone.
        at = (rows[:, 0], rows[:, 1]) if is_last else (slice(None), slice(None))
        query = block.queries(normed[at], cos[at], sin[at], _picked(query_scale, at))
        output = query.new_empty(*query.shape[:-2], query.shape[-2] * query.shape[-1])
        for window, text in enumerate(self._texts):
            layer, size = text.layers[block.layer_idx], self._sizes[window]
            own = (key[window, :size], value[window, :size])
            both = layer.with_window(*own, whole=self._is_looking)
            if self._is_looking and layer.is_choosing(self._keep):
                part = (window, slice(self._block.start, self._block.stop))
                looking = block.queries(
                    normed[part], cos[part], sin[part], _picked(query_scale, part)
                )
                _select(block, layer, looking, both, self._keep)
            mine = self._of_window[window] if is_last else window
            output[mine] = attend_all(query[mine], both[0], both[1], block.scaling)
        return block.advance(hidden_states[at], output)


def _queries(
    block: LLaDABlock,
    stream: Tensor,
    at: slice | Tensor,
    cos: Tensor,
    sin: Tensor,
    scale: Tensor | None,
) -> Tensor:
    """Queries of some places of one sequence."""
    return block.queries(block.attn_norm(stream[at]), cos[at], sin[at], _picked(scale, at))


def _picked(scale: Tensor | None, at: Any) -> Tensor | None:
    """The factors on these queries, where this model has any."""
    return None if scale is None else scale[at]


def _select(
    block: LLaDABlock, layer: KeptLayer, query: Tensor, both: Tensor, keep: float | None
) -> None:
    assert keep is not None
    shares = page_shares(query, both[0], block.scaling, layer.num_pages)
    layer.select(shares, keep, both)


def _run_blocks(
    model: Any, input_ids: Tensor, position_ids: Tensor | None, reader: LayerReader
) -> Tensor:
    """Embedding, all layers by a reader, and the final norm of the rows, (num_rows, d_model)."""
    transformer = model.model.transformer
    hidden_states = transformer["wte"](input_ids)
    cos, sin = model.rotary(input_ids.shape[1], hidden_states.device, position_ids)
    if not model.config.rope_full_precision:
        cos, sin = cos.to(hidden_states.dtype), sin.to(hidden_states.dtype)
    scale = model.rotary.query_scale(input_ids.shape[1], hidden_states.device, position_ids)
    for block in transformer["blocks"]:
        hidden_states, _ = block(hidden_states, cos, sin, query_scale=scale, reader=reader)
    return transformer["ln_f"](hidden_states)


def _lengths(attention_mask: Tensor | None, batch_size: int, length: int) -> list[int]:
    """Tokens of each sequence.

    Raises:
        ValueError: if padding is elsewhere than on the right.
    """
    if attention_mask is None:
        return [length] * batch_size
    real = attention_mask.bool()
    counts = real.sum(dim=1)
    if bool((real != (torch.arange(length, device=real.device) < counts[:, None])).any()):
        raise ValueError("A PromptCache takes padding on the right only; attention_mask has other.")
    return counts.tolist()


def _part_rows(device_type: str) -> int:
    return _PART_ROWS.get(device_type, MANY_ROWS)
