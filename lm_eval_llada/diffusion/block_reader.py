"""Finished tokens into a cache, and rows of blocks beside it, in passes of a bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.diffusion.denoiser import BlockCache, Denoiser, Part

# Tokens of one text in a pass, each beside a row of a mask as long as the text; and of all texts.
TOKENS_OF_A_TEXT = 512
_TOKENS_OF_A_PASS = 2048


class Clean(NamedTuple):
    """Finished tokens to keep.

    Attributes:
        text: which text they go on with.
        ids: int64 (length,); may be empty.
        start: position of the first.
        seen: slots that they see besides themselves.
        prompt_length: tokens before those that are generated, which a grid may begin at.
        rows: int64 (num_rows,), ascending, which of them to give logits of.
    """

    text: int
    ids: Tensor
    start: int
    seen: tuple[range, ...]
    prompt_length: int
    rows: Tensor


@dataclass(frozen=True)
class BlockReader:
    """A cache for some texts, and how it is read.

    Attributes:
        denoiser: the model.
        rules: how blocks lie.
        cache: empty at first.
    """

    denoiser: Denoiser
    rules: BlockRules
    cache: BlockCache

    @classmethod
    def of(
        cls, denoiser: Denoiser, rules: BlockRules, num_texts: int, num_tokens: int
    ) -> BlockReader:
        """One with an empty cache.

        Args:
            denoiser: the model.
            rules: how blocks lie.
            num_texts: texts that are read together.
            num_tokens: of the longest.

        Raises:
            ValueError: if the denoiser makes no such cache.
        """
        if denoiser.new_block_cache is None:
            raise ValueError("A denoiser with blocks needs new_block_cache; got None.")
        # Rows that are not kept need room as well.
        room = num_tokens + max(TOKENS_OF_A_TEXT, rules.block_length)
        return cls(denoiser, rules, denoiser.new_block_cache(num_texts, room))

    def kept(self, text: int) -> range:
        """Slots of a text that are in use."""
        return range(self.cache.num_kept(text))

    def logits(self, parts: Sequence[Part]) -> Tensor:
        """Logits of the rows of parts in order, (num_rows, vocab), at least fp32.

        Parts of one text share a pass as far as it has room; the others wait for the next.
        """
        found = [self._pass(some) for some in _passes(parts)]
        return torch.cat(found) if len(found) != 1 else found[0]

    def keep(
        self, clean: Sequence[Clean], shorten: Callable[[int, Tensor, Tensor], Tensor] | None = None
    ) -> tuple[list[tuple[range, ...]], list[Tensor]]:
        """Reads finished tokens in chunks of whole blocks, and keeps them.

        Args:
            clean: those of one text follow each other.
            shorten: from the number of one of `clean`, some of its rows and their logits to what
                is returned of them, so that logits of a whole text are never held.

        Returns:
            For each of them the slots that they are kept in, and the logits of its rows.
        """
        slots: list[tuple[range, ...]] = [() for _ in clean]
        logits: list[list[Tensor]] = [[] for _ in clean]
        waiting = {i: self._chunks(one) for i, one in enumerate(clean) if len(one.ids)}
        while waiting:
            # One chunk of each, since the next one sees it.
            parts: list[Part] = []
            owners = []
            for i, chunks in list(waiting.items()):
                part = next(chunks, None)
                if part is None:
                    del waiting[i]
                    continue
                parts.append(part._replace(seen=(*clean[i].seen, *slots[i])))
                owners.append(i)
            order = sorted(range(len(parts)), key=lambda k: parts[k].text)
            for some in _passes([parts[k] for k in order]):
                found = self._pass(some)
                of_parts = found.split([len(part.rows) for part in some])
                ends: dict[int, int] = {}
                for part, rows in zip(some, of_parts, strict=True):
                    i = owners[order.pop(0)]
                    num_kept = self.cache.num_kept(part.text)
                    total = sum(len(p.ids) for p in some if p.text == part.text)
                    start = ends.setdefault(part.text, num_kept - total)
                    ends[part.text] += len(part.ids)
                    slots[i] = _joined(slots[i], range(start, ends[part.text]))
                    if len(rows):
                        at = part.rows + part.start - clean[i].start
                        logits[i].append(rows if shorten is None else shorten(i, at, rows))
        empty = torch.empty(0)
        return slots, [torch.cat(some) if some else empty for some in logits]

    def _chunks(self, clean: Clean) -> Iterator[Part]:
        """Parts of at most so many tokens that end with a block; what they see is left open."""
        length = len(clean.ids)
        numbers = self.rules.clean_ids(clean.start + length, clean.prompt_length)[clean.start :]
        begin = 0
        while begin < length:
            end = min(begin + TOKENS_OF_A_TEXT, length)
            while begin < end < length and numbers[end] == numbers[end - 1]:
                end -= 1
            if end == begin:  # a block that is longer than a chunk
                later = (numbers[begin:] != numbers[begin]).nonzero()
                end = begin + int(later[0]) if len(later) else length
            here = clean.rows[(clean.rows >= begin) & (clean.rows < end)] - begin
            ids = clean.ids[begin:end]
            yield Part(
                clean.text, ids, clean.start + begin, (), numbers[begin:end], here, keep=True
            )
            begin = end

    def _pass(self, parts: Sequence[Part]) -> Tensor:
        num_rows = sum(len(part.rows) for part in parts)
        logits = self.cache.read(parts)
        if len(logits) != num_rows:
            raise ValueError(
                f"The denoiser was asked for {num_rows} rows and returned logits of shape "
                f"{tuple(logits.shape)}; expected ({num_rows}, vocab)."
            )
        texts = {part.text for part in parts}
        num_tokens = sum(len(part.ids) for part in parts)
        self.denoiser.stats.record(len(texts), num_tokens, num_rows)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _joined(slots: tuple[range, ...], new: range) -> tuple[range, ...]:
    if slots and slots[-1].stop == new.start:
        return (*slots[:-1], range(slots[-1].start, new.stop))
    return (*slots, new)


def _passes(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Parts in their order, cut into passes that are no larger than need be."""
    some: list[Part] = []
    of_text = of_all = 0
    for part in parts:
        length = len(part.ids)
        of_text = of_text + length if some and some[-1].text == part.text else length
        of_all += length
        if some and (of_text > TOKENS_OF_A_TEXT or of_all > _TOKENS_OF_A_PASS):
            yield some
            some, of_text, of_all = [], length, length
        some.append(part)
    if some:
        yield some
