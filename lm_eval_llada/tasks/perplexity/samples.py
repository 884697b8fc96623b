"""Samples of the perplexity tasks: a chunk of a long document, given all text before it."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval_llada.errors import require_whole
from lm_eval_llada.tasks.dataset import make_dataset
from lm_eval_llada.tasks.text.long_texts import (
    TokenText,
    long_texts,
    read_documents,
    tokenize,
)


@dataclass(frozen=True)
class PerplexityOptions:
    """What a set of samples is made of.

    Attributes:
        lengths: Context lengths in the model's tokens, ascending. The chunks of a length end there.
        text: One of ``data.texts.TEXTS``, a text file or a folder of them.
        chunk_length: The most tokens of a chunk.
        num_chunks: Chunks of each length, one after the other and the last one ending there; fewer
            where they would reach back to the length before or to the first chunk of the text.
        num_documents: Documents to take, the first that have the greatest length.
        add_bos_token: Whether the model puts a beginning-of-sequence token before each text; None
            leaves it to the tokenizer.
        data_dir: Folder with ``ppl/``; None reads the hub.
    """

    lengths: tuple[int, ...]
    text: str = "heldout"
    chunk_length: int = 64
    num_chunks: int = 1
    num_documents: int = 1
    add_bos_token: bool | None = None
    data_dir: str | Path | None = None

    def __post_init__(self) -> None:
        """Refuse values of a wrong kind or out of range.

        Raises:
            ValueError: Naming the option, what it may be, and what it was.
        """
        for name in ("chunk_length", "num_chunks", "num_documents"):
            require_whole(name, getattr(self, name), 1)
        for length in self.lengths:
            # The first chunk is context only.
            require_whole("Each of lengths", length, 2 * self.chunk_length)
        if not self.lengths or list(self.lengths) != sorted(set(self.lengths)):
            raise ValueError(f"lengths must be whole numbers that ascend; got {self.lengths}.")


def build_perplexity(tokenizer: Any, **options: Any) -> list[dict[str, Any]]:
    """Make the samples of a perplexity task.

    A chunk begins and ends where the text can be parted without changing its tokens: at its nominal
    place, whole chunks before a context length, or up to half a chunk before that. The harness
    encodes context and continuation together, counts as context what the context alone encodes to,
    and moves white space from its end to the continuation. Parted in such places, what it scores
    are the document's own tokens.

    Args:
        tokenizer: A fast tokenizer of transformers: the model's.
        **options: The fields of ``PerplexityOptions``.

    Returns:
        The samples, those of a document together and shortest first. Each has the keys context,
        continuation, document, length (the context length it belongs to), lengths (all of them),
        num_context (tokens), num_tokens and num_bytes (of the continuation).

    Raises:
        ValueError: If an option is wrong, too few documents are long enough, or a document cannot
            be parted near a place.
        FileNotFoundError: If the corpus is neither there nor to be had from the hub.
    """
    checked = PerplexityOptions(**options)
    texts, _ = long_texts(
        read_documents(checked.text, checked.data_dir),
        lambda document: tokenize(document, tokenizer, checked.add_bos_token),
        num_tokens=checked.lengths[-1],
        num_documents=checked.num_documents,
    )
    samples = []
    for text in texts:
        splitter = _Splitter(text, tokenizer, checked.chunk_length // 2)
        for length, end in chunk_ends(checked):
            start = splitter.place(end - checked.chunk_length)
            samples.append(_sample(checked, text, length, start, splitter.place(end)))
    return samples


def perplexity_dataset(*, lengths: Any = None, **given: Any) -> dict[str, Any]:
    """Make the data set of a task file; see ``make_dataset``, whose ``given`` lm-eval hands over.

    Args:
        lengths: Context lengths in tokens.
        **given: The other fields of ``PerplexityOptions``, among others.

    Raises:
        ValueError: If a setting is missing, misspelt or wrong, or as ``build_perplexity`` does.
        FileNotFoundError: As ``build_perplexity`` does.
    """
    if lengths is not None:
        if not isinstance(lengths, list | tuple):
            raise ValueError(f"lengths must be a list of whole numbers; got {lengths!r}.")
        given["lengths"] = tuple(lengths)
    return make_dataset(
        "a perplexity task", build_perplexity, PerplexityOptions, given, required=("lengths",)
    )


@dataclass
class _Splitter:
    """Finds where a document can be parted into strings that keep its tokens.

    Attributes:
        text: The document in tokens.
        tokenizer: The model's.
        reach: How many tokens before the wanted place to look.
    """

    text: TokenText
    tokenizer: Any
    reach: int
    _found: dict[int, int] = field(default_factory=dict)

    def place(self, wanted: int) -> int:
        """Return a number of tokens, at most ``wanted``, after which the text can be parted.

        Raises:
            ValueError: If there is none within reach.
        """
        if wanted not in self._found:
            self._found[wanted] = self._search(wanted)
        return self._found[wanted]

    def _search(self, wanted: int) -> int:
        candidates = range(wanted, max(0, wanted - self.reach - 1), -1)
        # Before white space it nearly always works, so each further attempt is a rare one; encoding
        # a long text takes time.
        for num_tokens in sorted(candidates, key=self._is_inside_word):
            if self._keeps_tokens(num_tokens):
                return num_tokens
        raise ValueError(
            f"{self.text.document.name} cannot be parted within {self.reach} tokens before token "
            f"{wanted} without changing its tokens; use another text or a longer chunk_length."
        )

    def _is_inside_word(self, num_tokens: int) -> bool:
        cut = self.text.cuts[num_tokens]
        return not self.text.document.text[cut : cut + 1].isspace()

    def _keeps_tokens(self, num_tokens: int) -> bool:
        before = self.text.document.text[: self.text.cuts[num_tokens]]
        if not before or before[-1].isspace():
            return False
        ids = tuple(self.tokenizer(before, add_special_tokens=False, verbose=False)["input_ids"])
        # Tokens in front that are none of the text's characters, such as a BOS.
        num_special = bisect_right(self.text.cuts, 0) - 1
        return ids == self.text.ids[num_special:num_tokens]


def chunk_ends(options: PerplexityOptions) -> list[tuple[int, int]]:
    """Each chunk's context length and nominal end, in tokens."""
    ends = []
    for before, length in zip(
        (options.chunk_length, *options.lengths), options.lengths, strict=False
    ):
        count = min(options.num_chunks, (length - before) // options.chunk_length)
        # Lengths closer together than a chunk still get one each.
        steps = range(max(count, 1) - 1, -1, -1)
        ends += [(length, length - step * options.chunk_length) for step in steps]
    return ends


def _sample(
    options: PerplexityOptions, text: TokenText, length: int, start: int, end: int
) -> dict[str, Any]:
    if end <= start:
        raise ValueError(
            f"{text.document.name} cannot be parted within {options.chunk_length} tokens after "
            f"token {start}; use a longer chunk_length."
        )
    return {
        "context": text.text_of(0, start),
        "continuation": text.text_of(start, end),
        "document": text.document.name,
        "length": length,
        "lengths": list(options.lengths),
        "num_context": start,
        "num_tokens": end - start,
        "num_bytes": text.num_bytes(start, end),
    }
