"""Contexts as OpenCompass' NeedleBench builds them: whole tokens, exact places, its own order.

A context has a fixed number of tokens, needles included, and leaves a buffer for everything else.
The haystack is cut between tokens, and so is the place of a needle, be it within a word. The clean
tasks, by contrast, measure the whole prompt and put needles between sentences (``data.placing``).

Source: OpenCompass 0.4.2, ``datasets/needlebench/origin.py`` and ``parallel.py``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lm_eval_llada.tasks import token_counts as counting
from lm_eval_llada.tasks.text.haystacks import HUB_REVISION, read_needlebench

FIXED_HAYSTACKS = {"needlebench": "en_un_asr.jsonl", "essays": "PaulGrahamEssays.jsonl"}
"""Haystacks that are documents in a fixed order, and the files they are in."""


def raw_documents(
    haystack: str, data_dir: str | Path | None = None, revision: str = HUB_REVISION
) -> list[str]:
    """Return the texts of a haystack as they are in its file, which may have empty ones.

    Args:
        haystack: One of ``FIXED_HAYSTACKS``.
        data_dir: Folder that holds ``needlebench/<file>``; the hub where it is None.
        revision: Revision of the hub repository.

    Raises:
        FileNotFoundError: If the file is neither there nor to be had from the hub.
    """
    rows = read_needlebench(FIXED_HAYSTACKS[haystack], data_dir, revision)
    return [str(row.get("text", "")) for row in rows]


def shuffled_for(repeat: int, documents: Sequence[str]) -> list[str]:
    """Return the documents in the order that NeedleBench gives them in a repeat.

    Each repeat shuffles what the one before has left, with its own number as seed.
    """
    order = list(documents)
    for seed in range(repeat + 1):
        random.Random(seed).shuffle(order)
    return order


class TokenCutter:
    """Cuts texts into the strings of their tokens, and remembers what it has cut."""

    def __init__(self, tokenizer: Any, length_unit: str) -> None:
        """Prepare for a unit of length.

        Args:
            tokenizer: A fast transformers tokenizer; not used where ``length_unit`` is ``cl100k``.
            length_unit: One of ``counting.LENGTH_UNITS``.

        Raises:
            ValueError: If the tokenizer cannot say where its tokens are in a text, or tiktoken's
                vocabulary cannot be had.
            ImportError: If tiktoken is needed and missing.
        """
        if length_unit == "cl100k":
            self._starts = _cl100k_starts()
        elif getattr(tokenizer, "is_fast", False):
            self._starts = _fast_starts(tokenizer)
        else:
            raise ValueError(
                "A haystack that is cut between tokens (buffer=...) needs a fast tokenizer, which "
                f"knows where tokens are in a text; got {type(tokenizer).__name__}. Use "
                "length_unit='cl100k', or leave out buffer."
            )
        self._known: dict[str, list[str]] = {}

    def cut(self, text: str) -> list[str]:
        """Return one string a token; joined they are the text.

        Differs from OpenCompass where a token is part of a character: the character stays whole,
        with its last token, in place of a replacement sign on either side of a cut.
        """
        if text not in self._known:
            starts = self._starts(text)
            ends = [*starts[1:], len(text)][: len(starts)]
            # From 0, as some tokenizers leave out white space at the beginning.
            starts = [0, *starts[1:]][: len(starts)]
            self._known[text] = [text[a:b] for a, b in zip(starts, ends, strict=True)]
        return self._known[text]


def fixed_context(
    documents: Sequence[str],
    num_tokens: int,
    statements: Sequence[tuple[float, str]],
    cutter: TokenCutter,
) -> tuple[str, list[float]]:
    """Return a context of so many tokens with sentences at exact depths.

    Documents follow each other with nothing in between. A sentence stands between two newlines,
    which count as its own, after ``int(depth * tokens of the haystack)`` tokens.

    Args:
        documents: Texts of the haystack, in order; as many as needed are used.
        num_tokens: Tokens of haystack and sentences together.
        statements: Depth (0 to 1, ascending) and sentence of each.
        cutter: Cuts texts into tokens.

    Returns:
        The context, and for each sentence the share of the haystack before it, 0 to 1.

    Raises:
        ValueError: If the sentences leave no room, or the documents have too few tokens.
    """
    lines = [f"\n{text}\n" for _, text in statements]
    room = num_tokens - sum(len(cutter.cut(line)) for line in lines)
    if room < 1:
        # Differs from OpenCompass, which then asks about needles without any haystack.
        raise ValueError(
            f"The needles take {num_tokens - room} tokens, but length - buffer is {num_tokens}; "
            "use a greater length or a smaller buffer."
        )
    pieces: list[str] = []
    for document in documents:
        if len(pieces) >= room:
            break
        pieces += cutter.cut(document)
    if len(pieces) < room:
        # Differs from OpenCompass, where the context then is shorter than its name says.
        raise ValueError(
            f"The haystack's documents have {len(pieces)} tokens, but {room} are needed; use "
            "the whole file of NeedleBench, or a shorter length."
        )
    places = [int(room * depth) for depth, _ in statements]
    parts, start = [], 0
    for place, line in zip(places, lines, strict=True):
        parts += [*pieces[start:place], line]
        start = place
    return "".join([*parts, *pieces[start:room]]), [place / room for place in places]


def _cl100k_starts() -> Callable[[str], list[int]]:
    encoding = counting.cl100k_encoding()

    def starts(text: str) -> list[int]:
        return list(encoding.decode_with_offsets(encoding.encode_ordinary(text))[1])

    return starts


def _fast_starts(tokenizer: Any) -> Callable[[str], list[int]]:
    def starts(text: str) -> list[int]:
        encoded = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        return [start for start, _ in encoded["offset_mapping"]]

    return starts
