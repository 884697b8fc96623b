"""Long documents for post-training a shipped model: text, and needles with questions at the end."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm_eval_llada.errors import require_number, require_whole
from lm_eval_llada.tiny.samples import SampleMaker

MIN_LENGTH = 64
"""Tokens of the shortest document; fewer have no room for a needle and its question."""

MAX_NEEDLES = 8
"""As in the last stage of the curriculum."""


class TinyDocuments:
    """An endless stream of documents of the training text and words, none of them evaluated on.

    Documents come in groups that fill one training sample each. Packing then cuts none of them: a
    question whose needle is in another sample teaches a model to make up an answer. Each group is a
    function of the seed and its number, so group and document are the place.
    """

    def __init__(
        self,
        maker: SampleMaker,
        *,
        seed: int,
        max_length: int,
        needle_share: float = 0.5,
        separator_length: int = 0,
    ) -> None:
        """A stream at its beginning.

        Args:
            maker: of samples; its own place in its random numbers is not kept.
            seed: of the documents.
            max_length: tokens of a training sample, and of the longest documents. Lengths are drawn
                from `MIN_LENGTH` to what is left of the sample, evenly by their logarithm, so that
                every scale has its share of documents.
            needle_share: share of documents with needles, 0 to 1; the others are running text.
            separator_length: tokens that packing puts behind each document.

        Raises:
            ValueError: if a value is out of range.
        """
        require_whole("separator_length", separator_length, 0)
        require_whole("max_length", max_length, MIN_LENGTH + separator_length)
        require_number("needle_share", needle_share, 0, inclusive=True)
        if needle_share > 1:
            raise ValueError(f"needle_share must be at most 1; got {needle_share!r}.")
        self._identity = {
            "seed": seed,
            "max_length": max_length,
            "needle_share": needle_share,
            "separator_length": separator_length,
        }
        self._seed, self._max_length, self._needle_share = seed, max_length, needle_share
        self._separator_length = separator_length
        self._maker = maker
        self._group, self._document = 0, 0

    def __iter__(self) -> Iterator[Tensor]:
        """Documents from the place on, int64 (tokens,)."""
        while True:
            lengths = self._lengths(self._group)
            while self._document < len(lengths):
                group, document = self._group, self._document
                # Moved on first: the place is that of the document after the one given out.
                self._document += 1
                yield torch.from_numpy(self._make(group, document, lengths[document]))
            self._group, self._document = self._group + 1, 0

    def _lengths(self, group: int) -> list[int]:
        """Tokens of the documents of a group, separators aside."""
        rng = random.Random(f"{self._seed} {group}")
        lengths: list[int] = []
        room = self._max_length
        while room:
            most = room - self._separator_length
            length = round(math.exp(rng.uniform(math.log(MIN_LENGTH), math.log(most))))
            left = most - length
            if left < MIN_LENGTH + self._separator_length:
                length, left = most, 0  # no room for another one
            lengths.append(length)
            room = left
        return lengths

    def _make(self, group: int, document: int, length: int) -> np.ndarray:
        maker = self._maker
        maker.rng = random.Random(f"{self._seed} {group} {document}")
        maker.array_rng = np.random.default_rng((self._seed, group, document))
        if maker.rng.random() < self._needle_share:
            return maker.needles(length, MAX_NEEDLES).input_ids
        return maker.plain_text(length).input_ids

    def state_dict(self) -> dict[str, Any]:
        """The place, in what JSON can hold."""
        return {**self._identity, "group": self._group, "document": self._document}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Moves to a place; takes effect with the next `iter`.

        Raises:
            ValueError: if the place belongs to other documents.
        """
        for name, ours in self._identity.items():
            if state[name] != ours:
                raise ValueError(
                    f"The saved documents have {name}={state[name]}, these {ours}; resume with the "
                    "same, or start anew."
                )
        self._group, self._document = state["group"], state["document"]
