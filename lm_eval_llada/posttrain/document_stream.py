"""Training documents as a stream of tokens: read as they are needed, shuffled, exactly resumable.

A source is read from its beginning in every epoch. Its documents are shuffled inside blocks of
`buffer_size`, each block by a seed of its own, so that two numbers, epoch and document, are the
place in the stream and all that is needed to go on from it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lm_eval_llada.errors import nearest, require_whole
from lm_eval_llada.tasks.text.long_texts import TEXTS, read_documents
from lm_eval_llada.tasks.text.sources import (
    Source,
    numbered_lines,
    parse_json,
)

SOURCES = ("pg19", "python")
"""Sources with a name: books up to 1919, and the text that every Python carries, less what is kept
for evaluation (`lm_eval_llada.tiny.corpus`)."""

SUFFIXES = (".txt", ".jsonl", ".parquet")
"""Kinds of files: one document each or one before each separator, one a line, and one a row."""

MAX_DOCUMENT_BYTES = 2**28
"""Longest text file that is one document; a document is held in memory as a whole."""

# The training split: `ppl/pg19*`, which perplexity is measured on, is the test split.
_PG19 = Source("pg19", "data/train-*.parquet", "emozilla/pg19", "main")
_PG19_FILES = ("data/train-*.parquet", "train-*.parquet", "train/*.txt")

_Read = Callable[[int], Iterator[str]]
"""Texts of a source from the document of that number on."""


@dataclass(frozen=True)
class StreamOptions:
    """In which order documents come, and to whom.

    Attributes:
        seed: of the order.
        buffer_size: documents shuffled together, whose texts are held in memory; 1 keeps the
            order of the source.
        epochs: how often the source is read; None goes on without end.
        shard: which of the shards this is. It takes every `num_shards`-th document of the common
            order, so that all shards together have each document once an epoch.
        num_shards: ranks, or ranks times workers.
        text_field: of JSON lines and parquet files, what holds the text.
        separator: a line of a text file that ends a document; None makes the file one document.
    """

    seed: int = 0
    buffer_size: int = 256
    epochs: int | None = None
    shard: int = 0
    num_shards: int = 1
    text_field: str = "text"
    separator: str | None = None

    def __post_init__(self) -> None:
        """Checks each value.

        Raises:
            ValueError: if one is out of range.
        """
        require_whole("seed", self.seed, 0)
        require_whole("buffer_size", self.buffer_size, 1)
        require_whole("num_shards", self.num_shards, 1)
        require_whole("shard", self.shard, 0)
        if self.epochs is not None:
            require_whole("epochs", self.epochs, 1)
        if self.shard >= self.num_shards:
            raise ValueError(
                f"shard={self.shard} of num_shards={self.num_shards}: shards count from 0 to "
                f"{self.num_shards - 1}."
            )


class DocumentStream:
    """Documents in tokens, without special ones. Iterating goes on from the place.

    Attributes:
        options: order and share.
        name: of the source.
    """

    def __init__(self, read: _Read, tokenizer: Any, options: StreamOptions, name: str) -> None:
        """A stream at its beginning; see `open_documents`."""
        self.options = options
        self.name = name
        self._read = read
        self._tokenizer = tokenizer
        self._epoch = 0
        self._document = 0  # of the epoch, over all shards

    def __iter__(self) -> Iterator[Tensor]:
        """Documents from the place on, int64 (tokens,).

        Raises:
            ValueError: if a file is not of its form, or has no document for this shard.
        """
        while self.options.epochs is None or self._epoch < self.options.epochs:
            yield from self._rest_of_epoch()
            if self._document <= self.options.shard:
                # Nothing would ever come, and a stream without end would hang.
                raise ValueError(
                    f"{self.name} holds {self._document} documents, none for shard="
                    f"{self.options.shard} of num_shards={self.options.num_shards}."
                )
            self._epoch, self._document = self._epoch + 1, 0

    def _rest_of_epoch(self) -> Iterator[Tensor]:
        options = self.options
        block, done = divmod(self._document, options.buffer_size)
        texts = self._read(block * options.buffer_size)
        while together := list(islice(texts, options.buffer_size)):
            random.Random(f"{options.seed} {self._epoch} {block}").shuffle(together)
            for text in together[done:]:
                number = self._document
                # Moved on first: the place is that of the document after the one given out.
                self._document += 1
                if number % options.num_shards == options.shard:
                    # A byte-order mark, of a file or inside of a row, is no text.
                    yield self._encode(text.removeprefix("\ufeff"))
            block, done = block + 1, 0

    def _encode(self, text: str) -> Tensor:
        encoded = self._tokenizer(text, add_special_tokens=False, verbose=False)
        return torch.tensor(encoded["input_ids"], dtype=torch.int64)

    def state_dict(self) -> dict[str, Any]:
        """The place, in what JSON can hold."""
        return {
            "source": self.name,
            "options": asdict(self.options),
            "epoch": self._epoch,
            "document": self._document,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Moves to a place; takes effect with the next `iter`.

        Raises:
            ValueError: if the place belongs to another source, order or share.
        """
        for name, ours in (("source", self.name), ("options", asdict(self.options))):
            if state[name] != ours:
                raise ValueError(
                    f"The saved stream has {name}={state[name]}, this one {ours}; resume with the "
                    "same, or start anew."
                )
        self._epoch, self._document = state["epoch"], state["document"]


def open_documents(
    source: str | Path,
    tokenizer: Any,
    data_dir: str | Path | None = None,
    options: StreamOptions | None = None,
) -> DocumentStream:
    """Opens a stream of training documents.

    Args:
        source: one of `SOURCES`, a file with one of `SUFFIXES`, or a folder of files of one such
            kind, taken in the order of their names. A name comes before a path of the same name,
            which is reached as `./name`.
        tokenizer: of the model, from transformers.
        data_dir: where `pg19` is, in `<data_dir>/pg19` or `<data_dir>` itself: parquet files as on
            the hub, `data/train-*.parquet`, or text files as released, `train/*.txt`. None streams
            it from the hub.
        options: order and share.

    Raises:
        ValueError: if the source is neither a name nor such a path, or is kept for evaluation.
        FileNotFoundError: if `pg19` is neither there nor to be had from the hub.
    """
    options = options or StreamOptions()
    if source == "python":
        # Read only where it is wanted: it parses the whole standard library.
        from lm_eval_llada.tiny.corpus import read_corpus

        read: _Read = partial(_from_list, read_corpus().documents)
    elif source == "pg19":
        read = _open_pg19(data_dir)
    else:
        read = _open_files(_files_of(source), options)
    # A folder may move between two runs; its name says enough.
    return DocumentStream(read, tokenizer, options, Path(source).name)


def read_json_texts(path: Path, text_field: str) -> Iterator[Callable[[], str]]:
    """Yields, for each line with something on it, a function that parses it into its text.

    Lines that are passed over on the way to a place are never parsed.

    Raises:
        ValueError: by the functions, if a line is not a JSON object with a text in that field;
            the message names file and line.
    """
    for place, line in numbered_lines(path):
        yield partial(_text_of_line, place, line, text_field)


def _text_of_line(place: str, line: bytes, text_field: str) -> str:
    row = parse_json(place, line)
    text = row.get(text_field) if isinstance(row, dict) else None
    if not isinstance(text, str):
        found = ", ".join(row) if isinstance(row, dict) else type(row).__name__
        raise ValueError(
            f"{place}: expected an object with a text in {text_field!r}, found {found}; name the "
            "field with text_field."
        )
    return text


def _from_list(texts: Sequence[str], start: int) -> Iterator[str]:
    return iter(texts[start:])


def _open_files(files: Sequence[Path], options: StreamOptions) -> _Read:
    if files[0].suffix == ".parquet":
        return partial(_from_parquet, files, options.text_field)
    if files[0].suffix == ".jsonl":
        return partial(_from_json_lines, files, options.text_field)
    if options.separator is not None:
        return partial(_from_separated, files, options.separator)
    for file in files:
        if file.stat().st_size > MAX_DOCUMENT_BYTES:
            raise ValueError(
                f"{file} has {file.stat().st_size:,} bytes, too many for one document, which is "
                f"held in memory: give the separator that ends a document in it, or cut it into "
                f"files of at most {MAX_DOCUMENT_BYTES:,} bytes."
            )
    return partial(_from_text_files, files)


def _from_text_files(files: Sequence[Path], start: int) -> Iterator[str]:
    for file in files[start:]:
        yield from (document.text for document in read_documents(str(file)))


def _from_separated(files: Sequence[Path], separator: str, start: int) -> Iterator[str]:
    texts = (text for file in files for text in _separated(file, separator))
    return islice(texts, start, None)


def _separated(file: Path, separator: str) -> Iterator[str]:
    """Documents of a file: what stands between separators and is not blank."""
    held: list[str] = []
    # Newlines are kept as they are, as in a file that is one document.
    with file.open(encoding="utf-8-sig", newline="") as lines:
        try:
            for line in lines:
                if line.rstrip("\r\n") != separator:
                    held.append(line)
                    continue
                if text := "".join(held).strip("\r\n"):
                    yield text
                held = []
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8 text: {error}.") from error
    if text := "".join(held).strip("\r\n"):
        yield text


def _from_json_lines(files: Sequence[Path], text_field: str, start: int) -> Iterator[str]:
    lines = (line for file in files for line in read_json_texts(file, text_field))
    return (parse() for parse in islice(lines, start, None))


def _from_parquet(files: Sequence[Path], text_field: str, start: int) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    for file in files:
        try:
            with pyarrow.parquet.ParquetFile(file) as table:
                for group in range(table.num_row_groups):
                    # Groups before the place are not read.
                    num_rows = table.metadata.row_group(group).num_rows
                    if start < num_rows:
                        yield from islice(_from_row_group(table, group, text_field), start, None)
                    start = max(0, start - num_rows)
        except (pyarrow.ArrowException, KeyError, TypeError, OSError) as error:
            raise ValueError(f"{file} has no texts in a column {text_field!r}: {error}.") from error


def _from_row_group(table: Any, group: int, text_field: str) -> Iterator[str]:
    # Some rows at a time: a group of books can hold gigabytes.
    for batch in table.iter_batches(16, row_groups=[group], columns=[text_field]):
        for value in batch[text_field]:
            text = value.as_py()
            if not isinstance(text, str):
                raise TypeError(f"found {text!r}")
            yield text


def _files_of(source: str | Path) -> list[Path]:
    """Files of a path, of one kind, in the order of their names."""
    path = Path(source).expanduser()
    if path.is_file() and path.suffix in SUFFIXES:
        return [path]
    files = [file for file in sorted(path.glob("*")) if file.suffix in SUFFIXES]
    kinds = sorted({file.suffix for file in files})
    if len(kinds) > 1:
        raise ValueError(
            f"{path} has files of several kinds, {', '.join(kinds)}; keep the documents to train "
            "on in a folder of their own."
        )
    if files:
        return files
    if str(source) in TEXTS:
        raise ValueError(f"source={str(source)!r} is for evaluation, and not to be trained on.")
    guess = nearest(str(source), SOURCES)
    hint = "" if guess is None else f" Did you mean {guess!r}?"
    raise ValueError(
        f"source must be {', '.join(SOURCES)}, a file ({', '.join(SUFFIXES)}), or a folder with "
        f"such files; got {str(source)!r}.{hint}"
    )


def _open_pg19(data_dir: str | Path | None) -> _Read:
    if data_dir is None:
        return partial(_from_rows, _open_hub())
    folder = Path(data_dir).expanduser()
    for place in (folder / _PG19.folder, folder):
        for pattern in _PG19_FILES:
            if files := sorted(place.glob(pattern)):
                return _open_files(files, StreamOptions())
    raise FileNotFoundError(
        f"data_dir={str(data_dir)!r} has none of {', '.join(_PG19_FILES)}, in pg19/ or itself. "
        f"{_PG19.two_ways()}"
    )


def _open_hub() -> Any:
    from datasets import load_dataset

    try:
        return load_dataset(
            _PG19.repository, split="train", streaming=True, revision=_PG19.revision
        ).select_columns(["text"])
    except OSError as error:
        raise FileNotFoundError(
            f"{_PG19.repository} could not be read from the hub ({type(error).__name__}). "
            f"{_PG19.two_ways()}"
        ) from error


def _from_rows(rows: Any, start: int) -> Iterator[str]:
    return (row["text"] for row in rows.skip(start))
