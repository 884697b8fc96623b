"""Keys and values of finished tokens, for models that are causal between blocks: an exact cache.

What is kept of a finished block depends on nothing behind it, so it is what a pass over the whole
text would compute. A pass reads tokens of several texts in one packed row; those that are not to
be kept are written behind the kept ones all the same, where attention finds both in one piece, and
the next pass writes over them. So no pass copies what is kept, and memory is linear in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lm_eval_llada.diffusion.denoiser import Part
from lm_eval_llada.modeling.attention import call_attention
from lm_eval_llada.modeling.packing import PreparedAttention, Rows
from lm_eval_llada.modeling.pairwise import PAIRWISE_IMPLEMENTATIONS, pairwise_mask

# By how much room grows where more is needed than was asked for.
_GROWTH = 1.5


class BlockCache:
    """Keys and values of every layer, (texts, room, kv_heads, head_dim) each."""

    def __init__(self, model: nn.Module, num_texts: int, num_tokens: int) -> None:
        """An empty cache.

        Args:
            model: A `LLaDAForMaskedLM`, wrapped or not.
            num_texts: Texts to keep tokens of.
            num_tokens: Of the longest of them, as far as that is known; more make it grow.

        Raises:
            ValueError: If angles of the model depend on the length of a sequence, or its attention
                takes no mask of pairs.
        """
        inner: Any = model
        implementation = inner.config._attn_implementation
        if implementation not in PAIRWISE_IMPLEMENTATIONS:
            raise ValueError(
                f"attn_implementation={implementation} takes no mask of single pairs, by which a "
                f"model that is causal between blocks reads a prompt; use "
                f"{' or '.join(PAIRWISE_IMPLEMENTATIONS)}."
            )
        if inner.rotary.depends_on_length:
            raise ValueError(
                f"rope type {inner.rotary.rope_type!r} rotates by the length of a sequence, which "
                f"grows block by block here; use rope_method=ntk."
            )
        self._model = inner
        self._kept = [0] * num_texts
        self._num_texts, self._room = num_texts, num_tokens
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def num_kept(self, text: int) -> int:
        """Slots of a text that are in use."""
        return self._kept[text]

    @torch.inference_mode()
    def read(self, parts: Sequence[Part]) -> Tensor:
        """One pass over parts of texts; keeps those that ask for it.

        Args:
            parts: Those of one text follow each other.

        Returns:
            Logits of their rows in order, (num_rows, embedding_size), in float32.
        """
        device = self._model.device
        ids = torch.cat([part.ids for part in parts])[None]
        positions = [torch.arange(part.start, part.start + len(part.ids)) for part in parts]
        rows, first = [], 0
        for part in parts:
            rows.append(part.rows + first)
            first += len(part.ids)
        row = torch.cat(rows)
        prepared = _Prepared(self, self._groups(parts))
        logits = self._model(
            ids.to(device),
            position_ids=torch.cat(positions)[None].to(device),
            rows=torch.stack([torch.zeros_like(row), row], dim=1).to(device),
            attention_mask=prepared,
        ).logits
        for part in parts:
            if part.keep:
                self._kept[part.text] += len(part.ids)
        return logits.float()

    def write(
        self, layer_idx: int, key: Tensor, value: Tensor, group: _Group
    ) -> tuple[Tensor, Tensor]:
        """Puts a group's own keys and values behind those it keeps; returns both together.

        Args:
            layer_idx: Number of the layer.
            key: Of the group's tokens, (texts * tokens, kv_heads, head_dim), rotated.
            value: Like `key`.
            group: Whose they are.

        Returns:
            Views (texts, kept + tokens, kv_heads, head_dim).
        """
        end = group.num_kept + group.num_tokens
        if layer_idx not in self._layers or self._layers[layer_idx][0].shape[1] < end:
            self._grow(layer_idx, key, end)
        texts = slice(group.text, group.text + group.num_texts)
        seen = []
        for room, own in zip(self._layers[layer_idx], (key, value), strict=True):
            room[texts, group.num_kept : end] = own.view(group.num_texts, -1, *own.shape[1:])
            seen.append(room[texts, :end])
        return seen[0], seen[1]

    def _grow(self, layer_idx: int, like: Tensor, end: int) -> None:
        old = self._layers.pop(layer_idx, None)
        if end > self._room:
            self._room = int(_GROWTH * end) if old is not None else end
        shape = (self._num_texts, self._room, *like.shape[1:])
        new = like.new_empty(shape), like.new_empty(shape)
        for states, kept in zip(new, old or (), strict=False):
            states[:, : kept.shape[1]] = kept
        self._layers[layer_idx] = new

    def _groups(self, parts: Sequence[Part]) -> list[_Group]:
        """Texts that one call of attention serves: neighbours alike, or one with a mask."""
        groups: list[_Group] = []
        first = 0
        for text, members in groupby(parts, key=lambda part: part.text):
            own = list(members)
            num_tokens = sum(len(part.ids) for part in own)
            kept = self._kept[text]
            mask = _mask(own, kept)
            last = groups[-1] if groups else None
            if (
                mask is None
                and last is not None
                and last.mask is None
                and (last.num_kept, last.num_tokens) == (kept, num_tokens)
                and last.text + last.num_texts == text
            ):
                groups[-1] = last._replace(num_texts=last.num_texts + 1)
            else:
                groups.append(_Group(text, 1, kept, first, num_tokens, mask))
            first += num_tokens
        return groups


class _Group(NamedTuple):
    """Neighbouring texts that keep equally many tokens and read equally many.

    Attributes:
        text: The first of them.
        num_texts: How many.
        num_kept: Tokens that each of them keeps.
        first: Where their own tokens begin in the pass.
        num_tokens: Own tokens of each.
        mask: What each of these sees, bool (num_tokens, num_kept + num_tokens); None for
            everything, and of one text alone where it is not None.
    """

    text: int
    num_texts: int
    num_kept: int
    first: int
    num_tokens: int
    mask: Tensor | None


class _Prepared(PreparedAttention):
    """Attention of one pass, see `PreparedAttention`."""

    def __init__(self, cache: BlockCache, groups: Sequence[_Group]) -> None:
        self._cache = cache
        self._groups = groups
        self._masks: dict[tuple[int, torch.device], Tensor] = {}

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, rows: Rows | None
    ) -> Tensor:
        if rows is not None:
            return self._attend_rows(module, query, key[0], value[0], rows.position)
        outputs = []
        for group in self._groups:
            own = slice(group.first, group.first + group.num_texts * group.num_tokens)
            queries = query[0, own].unflatten(0, (group.num_texts, -1))
            outputs.append(self._call(module, queries, key[0, own], value[0, own], group, None))
        return torch.cat(outputs)[None].flatten(2)

    def _attend_rows(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, position: Tensor
    ) -> Tensor:
        """The same for some of the tokens, (num_rows, heads, head_dim), in their order."""
        output = torch.zeros_like(query)
        for group in self._groups:
            end = group.first + group.num_texts * group.num_tokens
            own = slice(group.first, end)
            chosen = ((position >= group.first) & (position < end)).nonzero()[:, 0]
            place = position[chosen] - group.first
            if not len(chosen):
                layer: Any = module
                self._cache.write(layer.layer_idx, key[own], value[own], group)
            elif group.num_texts == 1:
                queries = query[chosen][None]
                output[chosen] = self._call(module, queries, key[own], value[own], group, place)
            else:
                # Texts may ask for unequally many rows; a few that nobody asked for cost little.
                shape = (group.num_texts * group.num_tokens, *query.shape[1:])
                every = query.new_zeros(shape).index_put((place,), query[chosen])
                queries = every.unflatten(0, (group.num_texts, -1))
                found = self._call(module, queries, key[own], value[own], group, None)
                output[chosen] = found[place]
        return output.flatten(1)

    def _call(
        self,
        module: nn.Module,
        queries: Tensor,
        key: Tensor,
        value: Tensor,
        group: _Group,
        rows: Tensor | None,
    ) -> Tensor:
        """Attention of one group, (texts * queries, heads, head_dim)."""
        layer: Any = module
        keys, values = self._cache.write(layer.layer_idx, key, value, group)
        if group.mask is None:
            return _attend_all(layer, queries, keys, values).flatten(0, 1)
        mask = self._mask_on(group, layer.config._attn_implementation, queries)
        mask = mask if rows is None else mask[:, :, rows]
        output, _ = call_attention(module, queries, keys, values, mask, False)
        return output.flatten(0, 1)

    def _mask_on(self, group: _Group, implementation: str, like: Tensor) -> Tensor:
        """A group's mask as attention reads it on a device, made once for all of its layers."""
        key = group.first, like.device
        if key not in self._masks and group.mask is not None:
            allowed = group.mask[None, None].to(like.device)
            self._masks[key] = pairwise_mask(implementation, allowed, like.dtype, 1, None)
        return self._masks[key]


def _attend_all(layer: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention to all keys, (texts, queries, heads, head_dim).

    Query heads that share a key head stand beside each other as rows of one, so that a long
    prefix is read once for all of them.
    """
    shared = queries.shape[2] // keys.shape[2]
    if shared == 1:
        return call_attention(layer, queries, keys, values, None, False)[0]
    one_each = SimpleNamespace(config=layer.config, scaling=layer.scaling, num_key_value_groups=1)
    rows = queries.unflatten(2, (-1, shared)).transpose(2, 3).flatten(1, 2)
    output, _ = call_attention(one_each, rows, keys, values, None, False)
    return output.unflatten(1, (-1, shared)).transpose(2, 3).flatten(2, 3)


def _mask(parts: Sequence[Part], num_kept: int) -> Tensor | None:
    """What each token of a text's parts sees, bool (tokens, kept + tokens); None for everything."""
    only = parts[0]
    sees_kept = sum(map(len, only.seen)) == num_kept
    if len(parts) == 1 and sees_kept and bool((only.numbers == only.numbers[0]).all()):
        return None
    num_tokens = sum(len(part.ids) for part in parts)
    mask = torch.zeros(num_tokens, num_kept + num_tokens, dtype=torch.bool)
    first = 0
    for part in parts:
        own = slice(first, first + len(part.ids))
        for slots in part.seen:
            mask[own, slots.start : slots.stop] = True
        first = own.stop
        mask[own, num_kept + own.start : num_kept + own.stop] = (
            part.numbers <= part.numbers[:, None]
        )
    return mask
