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

    Each document is a function of the seed and its number, so its number is the place.
    """

    def __init__(
        self, maker: SampleMaker, *, seed: int, max_length: int, needle_share: float = 0.5
    ) -> None:
        """A stream at its beginning.

        Args:
            maker: of samples; its own place in its random numbers is not kept.
            seed: of the documents.
            max_length: tokens of the longest ones. Lengths are drawn from `MIN_LENGTH` on, evenly
                by their logarithm, so that every scale has its share of documents.
            needle_share: share of documents with needles, 0 to 1; the others are running text.

        Raises:
            ValueError: if a value is out of range.
        """
        require_whole("max_length", max_length, MIN_LENGTH)
        require_number("needle_share", needle_share, 0, inclusive=True)
        if needle_share > 1:
            raise ValueError(f"needle_share must be at most 1; got {needle_share!r}.")
        self._identity = {"seed": seed, "max_length": max_length, "needle_share": needle_share}
        self._seed, self._max_length, self._needle_share = seed, max_length, needle_share
        self._maker = maker
        self._number = 0

    def __iter__(self) -> Iterator[Tensor]:
        """Documents from the place on, int64 (tokens,)."""
        while True:
            number = self._number
            # Moved on first: the place is that of the document after the one given out.
            self._number += 1
            yield torch.from_numpy(self._document(number))

    def _document(self, number: int) -> np.ndarray:
        maker = self._maker
        maker.rng = random.Random(f"{self._seed} {number}")
        maker.array_rng = np.random.default_rng((self._seed, number))
        low, high = math.log(MIN_LENGTH), math.log(self._max_length)
        length = round(math.exp(maker.rng.uniform(low, high)))
        if maker.rng.random() < self._needle_share:
            return maker.needles(length, MAX_NEEDLES).input_ids
        return maker.plain_text(length).input_ids

    def state_dict(self) -> dict[str, Any]:
        """The place, in what JSON can hold."""
        return {**self._identity, "number": self._number}

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
        self._number = state["number"]
