"""A stand-in for GPT-4's tokens, whose vocabulary is not shipped: pieces of two letters."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_PIECE = re.compile(r"\s?\w{1,2}|\s|[^\w\s]")


@dataclass
class StandIn:
    """Has of tiktoken's `Encoding` what the package uses."""

    pieces: list[str] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)

    def encode_ordinary(self, text: str) -> list[int]:
        """Ids of the pieces, which are made as they come up."""
        found = []
        for piece in _PIECE.findall(text):
            if piece not in self.ids:
                self.ids[piece] = len(self.pieces)
                self.pieces.append(piece)
            found.append(self.ids[piece])
        return found

    def decode(self, ids: list[int]) -> str:
        """The text of ids."""
        return "".join(self.pieces[i] for i in ids)

    def decode_with_offsets(self, ids: list[int]) -> tuple[str, list[int]]:
        """The text of ids, and where in it each begins."""
        starts, end = [], 0
        for i in ids:
            starts.append(end)
            end += len(self.pieces[i])
        return self.decode(ids), starts
