"""Long documents to measure perplexity on, as tokens that know which bytes of the text they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from lm_eval_llada.errors import nearest, require_whole
from lm_eval_llada.tasks.longbench.samples import longbench_documents
from lm_eval_llada.tasks.text.haystacks import heldout_text
from lm_eval_llada.tasks.text.sources import (
    Source,
    find_file,
    folder_of,
)

_FOLDER = "ppl"


@dataclass(frozen=True)
class _Corpus:
    """A corpus on the hub: its file and the column with the documents."""

    source: Source
    column: str


# The test splits, as one parquet file each.
_CORPORA: Mapping[str, _Corpus] = {
    "gov_report": _Corpus(
        Source(
            _FOLDER,
            "test-00000-of-00001.parquet",
            "ccdv/govreport-summarization",
            "4e21184e01ae8017e2c036e180fe5e541fef60a0",
            hub_name="document/test-00000-of-00001.parquet",
        ),
        "report",
    ),
    "pg19": _Corpus(
        Source(
            _FOLDER,
            "test-00000-of-00001-29a571947c0b5ccc.parquet",
            "emozilla/pg19-test",
            "c5e39bf32e33f9111323aa68d7d9000d22722035",
            hub_name="data/test-00000-of-00001-29a571947c0b5ccc.parquet",
        ),
        "text",
    ),
}

# A document of a dataset of LongBench, by its number from 0. This one has the name that LongLLaDA
# (arXiv 2506.14429) gave its file, of 81,966 characters, when it released its perplexity script.
_LONGBENCH: Mapping[str, tuple[str, int]] = {"gov_report_001": ("gov_report", 1)}

TEXTS: tuple[str, ...] = ("heldout", *_CORPORA, *_LONGBENCH)
"""Texts with a name: the package's own, reports of U.S. agencies, books up to 1919, and the one
report that LongLLaDA reads."""


@dataclass(frozen=True)
class Document:
    """A text and what to call it. A byte-order mark at its beginning is none of it."""

    name: str
    text: str

    def __post_init__(self) -> None:  # noqa: D105
        # Releases have it inside of rows of tables, too.
        object.__setattr__(self, "text", self.text.removeprefix("\ufeff"))


@dataclass(frozen=True)
class TokenText:
    """A document in tokens.

    Attributes:
        document: The document.
        ids: Its tokens, those included that the tokenizer puts in front of every text.
        cuts: ``cuts[k]`` characters of the text belong to the first k tokens, for k from 0 to
            their number. A character spread over several tokens belongs to the first of them, so
            that every character is counted once wherever the tokens are parted.
    """

    document: Document
    ids: tuple[int, ...]
    cuts: tuple[int, ...]

    def text_of(self, start: int, end: int) -> str:
        """Return the text of the tokens from ``start`` to before ``end``."""
        return self.document.text[self.cuts[start] : self.cuts[end]]

    def num_bytes(self, start: int, end: int) -> int:
        """Return the UTF-8 bytes of the text of the tokens from ``start`` to before ``end``."""
        return len(self.text_of(start, end).encode())

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole document."""
        return len(self.ids)


def read_documents(text: str, data_dir: str | Path | None = None) -> list[Document]:
    """Read the documents of a text, in the order of its files or lines.

    Args:
        text: One of ``TEXTS``, a text file, or a folder of ``*.txt``. A name comes before a path of
            the same name, which is reached as ``./name``.
        data_dir: Where the named corpora are: in ``<data_dir>/ppl`` or ``<data_dir>`` itself, as
            ``<name>*.txt``, as a folder ``<name>`` of ``*.txt``, or as the hub's parquet file;
            ``gov_report_001`` also in LongBench's own files. None reads the hub.

    Raises:
        ValueError: If ``text`` is neither a name nor a path, or a file is empty or not UTF-8.
        FileNotFoundError: If a corpus is neither there nor to be had from the hub.
        OSError: If a file cannot be read.
    """
    if not isinstance(text, str | Path):
        raise ValueError(f"text must be {', '.join(TEXTS)}, or a path; got {text!r}.")
    if text == "heldout":
        return [Document("heldout", heldout_text())]
    if text in _CORPORA:
        return _read_corpus(text, data_dir)
    if text in _LONGBENCH:
        return [_read_longbench(str(text), data_dir)]
    path = Path(text).expanduser()
    if path.is_file():
        return [_read_file(path)]
    files = sorted(path.glob("*.txt")) if path.is_dir() else []
    if not files:
        guess = nearest(text, TEXTS)
        hint = "" if guess is None else f" Did you mean {guess!r}?"
        raise ValueError(
            f"text must be {', '.join(TEXTS)}, a text file, or a folder with *.txt files; "
            f"got {text!r}.{hint}"
        )
    return [_read_file(file) for file in files]


def tokenize(document: Document, tokenizer: Any, add_bos_token: bool | None = None) -> TokenText:
    """Return a document in the model's tokens.

    Args:
        document: What to encode.
        tokenizer: A fast tokenizer of transformers, which tells where in the text a token is.
        add_bos_token: Whether the text starts with the BOS token; None leaves it to the tokenizer.

    Raises:
        ValueError: If the tokenizer does not tell where tokens are, or has no BOS token to add.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ValueError(
            f"Bits per byte need a tokenizer that tells where in the text a token is; "
            f"{type(tokenizer).__name__} does not. Use its fast variant (tokenizer.json)."
        )
    encoded = tokenizer(
        document.text,
        add_special_tokens=add_bos_token is not False,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    ids, ends = list(encoded["input_ids"]), [end for _, end in encoded["offset_mapping"]]
    specials = list(encoded["special_tokens_mask"])
    # What a tokenizer puts behind a text ends it, and here the text goes on.
    while add_bos_token is not False and specials and specials[-1] and ends[-1] == 0:
        ids, ends, specials = ids[:-1], ends[:-1], specials[:-1]
    if add_bos_token and ids[:1] != [tokenizer.bos_token_id]:
        if tokenizer.bos_token_id is None:
            raise ValueError("add_bos_token=true, but the tokenizer has no BOS token.")
        ids, ends = [tokenizer.bos_token_id, *ids], [0, *ends]
    cuts = tuple(accumulate([0, *ends], max))
    return TokenText(document, tuple(ids), cuts)


def long_texts(
    documents: Iterable[Document],
    encode: Callable[[Document], TokenText],
    *,
    num_tokens: int,
    num_documents: int = 1,
) -> tuple[list[TokenText], int]:
    """Return the first documents that are long enough, and how many shorter ones came before.

    Args:
        documents: In the order to take them.
        encode: Puts a document into tokens.
        num_tokens: The least that a document must have.
        num_documents: How many to take.

    Raises:
        ValueError: If there are not that many; the message says how long the longest is.
    """
    require_whole("num_documents", num_documents, 1)
    found: list[TokenText] = []
    shorter: list[int] = []
    for text in map(encode, documents):
        if text.num_tokens >= num_tokens:
            found.append(text)
        else:
            shorter.append(text.num_tokens)
        if len(found) == num_documents:
            return found, len(shorter)
    longest = f"; the longest of the others has {max(shorter)}" if shorter else ""
    raise ValueError(
        f"num_documents={num_documents} documents of {num_tokens} tokens are needed, and the text "
        f"has {len(found)}{longest}. Use fewer documents, a shorter context, or another text."
    )


def _read_corpus(name: str, data_dir: str | Path | None) -> list[Document]:
    corpus = _CORPORA[name]
    files = [] if data_dir is None else _local_files(name, folder_of(data_dir))
    if files:
        return [_read_file(file) for file in files]
    try:
        path = find_file(corpus.source, data_dir)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} Plain text does as well: {_FOLDER}/{name}*.txt in data_dir, or any text file."
        ) from error
    return [
        Document(f"{name}_{row:04d}", text)
        for row, text in enumerate(_read_column(path, corpus.column))
        if text.strip()
    ]


def _read_longbench(name: str, data_dir: str | Path | None) -> Document:
    files = [] if data_dir is None else _local_files(name, folder_of(data_dir))
    if files:
        return _read_file(files[0])
    dataset, number = _LONGBENCH[name]
    try:
        documents = longbench_documents(dataset, data_dir)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} Plain text does as well: {_FOLDER}/{name}.txt in data_dir."
        ) from error
    if number >= len(documents):
        raise ValueError(
            f"{name} is document {number} of LongBench's {dataset}, counted from 0, but the file "
            f"has {len(documents)}; download it again."
        )
    return Document(name, documents[number]["context"])


def _local_files(name: str, folder: Path) -> list[Path]:
    for place in (folder / _FOLDER, folder):
        for pattern in (f"{name}*.txt", f"{name}/*.txt"):
            if files := sorted(place.glob(pattern)):
                return files
    return []


def _read_column(path: Path, column: str) -> list[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path, columns=[column])[column].to_pylist()
    except (pyarrow.ArrowException, KeyError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); download it again.") from error


def _read_file(path: Path) -> Document:
    try:
        # Not read_text(), which would turn \r\n into \n and so change the number of bytes.
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}.") from error
    if not text.strip():
        raise ValueError(f"{path} holds no text.")
    return Document(path.stem, text)
