"""Documents to training sequences of one length, under UltraLLaDA's three masking strategies.

Documents follow one another without a gap: short ones share a sequence, and what does not fit
into one goes on in the next. The strategies differ in what else a sequence says of its documents:

- `concat`: nothing. Every token attends to the whole sequence.
- `adaptive`: where they are, so that attention stays inside a document.
- `eod`: a separator token behind each of them; attention over the whole sequence.

Source: arXiv 2510.10481, the comparison of masking strategies. That a cut document goes on in the
next sequence, and that nothing is padded, is our reading of "packed or cut to 64K".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from lm_eval_llada.errors import require_whole, unknown_choice

STRATEGIES = ("concat", "adaptive", "eod")

PADDING_DOCUMENT = -1
"""Document id of padding."""

MAX_SHORT_RUN = 100_000
"""So many documents in a row that are too short are an error: a stream without end would hang."""


@dataclass(frozen=True)
class PackingOptions:
    """How documents become sequences.

    Attributes:
        strategy: one of `STRATEGIES`.
        length: tokens of a sequence.
        eod_token_id: what `eod` puts behind each document; the other strategies do not read it.
        min_document_length: documents of fewer tokens are left out, and counted.
        pad_token_id: what fills the last sequence up; None drops its tokens, and counts them.
    """

    strategy: str = "adaptive"
    length: int = 4096
    eod_token_id: int | None = None
    min_document_length: int = 1
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        """Checks each value.

        Raises:
            ValueError: if one is out of range, or `eod` has no separator.
        """
        if self.strategy not in STRATEGIES:
            raise unknown_choice("strategy", self.strategy, STRATEGIES)
        require_whole("length", self.length, 1)
        require_whole("min_document_length", self.min_document_length, 1)
        for name in ("eod_token_id", "pad_token_id"):
            if getattr(self, name) is not None:
                require_whole(name, getattr(self, name), 0)
        if self.strategy == "eod" and self.eod_token_id is None:
            raise ValueError(
                "strategy='eod' needs eod_token_id, the token between documents; give the "
                "tokenizer's eos_token_id, or use strategy='concat'."
            )


class Packed(NamedTuple):
    """One training sequence.

    Attributes:
        input_ids: int64 (length,), unmasked.
        document_ids: int64 (length,), 0, 1, 2, ... in the order of documents; attention stays
            inside equal ids. None is full attention. Given under `adaptive`, and for a sequence
            filled up with padding, whose id is `PADDING_DOCUMENT` and which is not to be trained
            on; such a sequence's real tokens share id 0 under the other strategies.
        position_ids: None: positions run on through the sequence. Rotary embeddings see only
            differences of positions, which are the same inside a document wherever it starts.
    """

    input_ids: Tensor
    document_ids: Tensor | None
    position_ids: Tensor | None = None


@dataclass
class PackingStatistics:
    """What packing did, counted from the first document on, over interruptions too.

    Attributes:
        sequences: given out.
        documents: begun. One that is read again in a later epoch counts again.
        cuts: documents parted by the end of a sequence; a long one is parted several times.
        separators: tokens put behind documents.
        tokens: of documents and separators, in the sequences given out.
        padding: tokens of padding, in the sequences given out.
        short_documents: left out for their length.
        dropped_tokens: at the end, too few to fill a sequence.
    """

    sequences: int = 0
    documents: int = 0
    cuts: int = 0
    separators: int = 0
    tokens: int = 0
    padding: int = 0
    short_documents: int = 0
    dropped_tokens: int = 0

    @property
    def padding_share(self) -> float:
        """Padding in the sequences given out, 0 to 1; 0 before the first."""
        return self.padding / max(1, self.tokens + self.padding)

    def lines(self) -> list[str]:
        """The counts in words, for a log."""
        return [
            f"{self.sequences:,} sequences of {self.tokens:,} tokens in all; "
            f"padding {self.padding:,} tokens, {self.padding_share:.2%}",
            f"{self.documents:,} documents, cut {self.cuts:,} times; "
            f"{self.separators:,} separators",
            f"left out: {self.short_documents:,} documents for their length, "
            f"{self.dropped_tokens:,} tokens at the end",
        ]


@runtime_checkable
class Resumable(Protocol):
    """Documents that know their place: iterating goes on from it."""

    def __iter__(self) -> Iterator[Sequence[int] | Tensor]:
        """Documents from the place on, which moves past each before it is given out."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The place, in what JSON can hold."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Moves to a place."""
        ...


class _Counted:
    """Gives any documents a place, their number; going to it takes them one by one."""

    def __init__(self, documents: Iterable[Sequence[int] | Tensor]) -> None:
        self._documents = documents
        self._taken = 0

    def __iter__(self) -> Iterator[Sequence[int] | Tensor]:
        for document in islice(self._documents, self._taken, None):
            self._taken += 1
            yield document

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._taken and iter(self._documents) is self._documents:
            raise ValueError(
                f"The documents are an iterator of which {self._taken} are used up; load a state "
                "into a new Packer with a new iterator, or pack a list."
            )
        self._taken = state["taken"]


class Packer(Iterator[Packed]):
    """Sequences made of documents, one at a time.

    Between two sequences nothing is held but the rest of one document, so that its place and an
    offset are the whole state. Iterating again goes on where it stopped.

    Attributes:
        options: how documents are packed.
        statistics: what has been packed so far.
    """

    def __init__(
        self, options: PackingOptions, documents: Iterable[Sequence[int] | Tensor]
    ) -> None:
        """Packs from the first document on, or from the place that `Resumable` documents have.

        Args:
            options: how to pack.
            documents: token ids of one document each, int64 (tokens,) or a list.
        """
        self.options = options
        self.statistics = PackingStatistics()
        self._documents = documents if isinstance(documents, Resumable) else _Counted(documents)
        self._start()

    def _start(self) -> None:
        self._incoming = iter(self._documents)
        self._place = self._documents.state_dict()  # of the document in hand
        self._document = torch.empty(0, dtype=torch.int64)  # its tokens, separator included
        self._offset = 0  # how many of them are given out

    def __iter__(self) -> Packer:
        """The packer itself."""
        return self

    def __next__(self) -> Packed:
        """The next sequence.

        Raises:
            StopIteration: if the documents are used up.
            ValueError: if `MAX_SHORT_RUN` documents in a row are too short.
        """
        pieces: list[Tensor] = []
        missing = self.options.length
        while missing:
            if self._offset == len(self._document) and not self._take_document():
                return self._last(pieces)
            piece = self._document[self._offset : self._offset + missing]
            self._offset += len(piece)
            missing -= len(piece)
            pieces.append(piece)
        # A separator that opens the next sequence leaves its document whole.
        separator = self.options.strategy == "eod"
        self.statistics.cuts += self._offset < len(self._document) - separator
        return self._packed(pieces)

    def state_dict(self) -> dict[str, Any]:
        """Where the next sequence begins, in what JSON can hold."""
        return {
            "options": asdict(self.options),
            "place": self._place,
            "offset": self._offset,
            "statistics": asdict(self.statistics),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where another packer of the same documents stood, to the token.

        Raises:
            ValueError: if the state belongs to other options, or to other documents.
        """
        if state["options"] != asdict(self.options):
            raise ValueError(
                f"The saved packing has {state['options']}, this one {asdict(self.options)}; "
                "resume with the same options, or start anew."
            )
        self._documents.load_state_dict(state["place"])
        self._start()
        if state["offset"]:
            self._take_document()
            if len(self._document) < state["offset"]:
                raise ValueError(
                    f"The saved packing stands at token {state['offset']} of a document that has "
                    f"{len(self._document)}: the documents or the tokenizer have changed."
                )
        self._offset = state["offset"]
        self.statistics = PackingStatistics(**state["statistics"])

    def _take_document(self) -> bool:
        """Takes the next document in hand; False if there is none."""
        for _ in range(MAX_SHORT_RUN):
            # The place is asked for first: going back to it gives this document again.
            self._place, self._offset = self._documents.state_dict(), 0
            self._document = self._document[:0]
            try:
                document = torch.as_tensor(next(self._incoming), dtype=torch.int64)
            except StopIteration:
                return False
            if len(document) >= self.options.min_document_length:
                self._document = self._with_separator(document)
                self.statistics.documents += 1
                return True
            self.statistics.short_documents += 1
        raise ValueError(
            f"{MAX_SHORT_RUN:,} documents in a row have fewer than min_document_length="
            f"{self.options.min_document_length} tokens; use a smaller one, or longer documents."
        )

    def _with_separator(self, document: Tensor) -> Tensor:
        if self.options.strategy != "eod":
            return document
        self.statistics.separators += 1
        return torch.cat([document, torch.tensor([self.options.eod_token_id])])

    def _last(self, pieces: list[Tensor]) -> Packed:
        """What is left when documents end, filled up or dropped."""
        num_tokens = sum(map(len, pieces))
        if num_tokens == 0 or self.options.pad_token_id is None:
            self.statistics.dropped_tokens += num_tokens
            raise StopIteration
        return self._packed(pieces)

    def _packed(self, pieces: list[Tensor]) -> Packed:
        """A sequence of pieces, one of each document, filled up where they are too few."""
        is_adaptive = self.options.strategy == "adaptive"
        numbers = list(range(len(pieces))) if is_adaptive else [0] * len(pieces)
        num_padding = self.options.length - sum(map(len, pieces))
        if num_padding:
            assert self.options.pad_token_id is not None
            pieces = [*pieces, torch.full((num_padding,), self.options.pad_token_id)]
            numbers.append(PADDING_DOCUMENT)
        document_ids = None
        if is_adaptive or num_padding:
            lengths = torch.tensor([len(piece) for piece in pieces])
            document_ids = torch.tensor(numbers).repeat_interleave(lengths)
        self.statistics.sequences += 1
        self.statistics.tokens += self.options.length - num_padding
        self.statistics.padding += num_padding
        return Packed(torch.cat(pieces), document_ids)
