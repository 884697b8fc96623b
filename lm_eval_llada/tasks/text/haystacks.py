"""Text to hide needles in, and held-out text: built in, from a local folder, or from the hub."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from lm_eval_llada.errors import unknown_choice
from lm_eval_llada.tasks.text.sources import (
    Source,
    find_file,
    parse_json,
    read_json_lines,
)

HAYSTACKS: tuple[str, ...] = ("noise", "needlebench", "essays")
"""Built-in noise sentences, NeedleBench's English news texts, and Paul Graham's essays."""

HUB_REPOSITORY = "opencompass/NeedleBench"
"""Data set on the hub that holds the needles and both corpora."""

HUB_REVISION = "main"
"""Revision that is read where none is named. The repository has no releases to pin."""

_FOLDER = Path(__file__).resolve().parent
_CORPUS_FILES: Mapping[str, str] = {
    "needlebench": "en_un_asr.jsonl",
    "essays": "PaulGrahamEssays.jsonl",
}
# What RULER's scripts collect, one text of all essays, wherever its users keep it.
_RULER_ESSAYS = ("PaulGrahamEssays.json", "ruler/PaulGrahamEssays.json")
# White space belongs to the word behind it: joining the pieces gives the text back.
_PIECE = re.compile(r"\s*\S+")


def heldout_text() -> str:
    """Return the package's own prose about programming, about 4,000 words of ASCII.

    It serves to measure perplexity on text that no model has been trained on.
    """
    return (_FOLDER / "heldout.txt").read_text(encoding="ascii")


def noise_sentences() -> tuple[str, ...]:
    """Return the sentences of the built-in haystack, free of digits and of evaluation words."""
    return tuple((_FOLDER / "noise.txt").read_text(encoding="ascii").splitlines())


@lru_cache(maxsize=4)
def corpus(
    haystack: str,
    data_dir: str | Path | None = None,
    revision: str = HUB_REVISION,
) -> tuple[str, ...]:
    """Return the documents of a haystack, in the order of their file.

    Args:
        haystack: One of ``HAYSTACKS``, a text file, or a folder of ``*.txt``, a document each. For
            ``noise`` a document is a sentence.
        data_dir: Folder that holds ``needlebench/<file>``, or for the essays RULER's
            ``PaulGrahamEssays.json``, in ``ruler/``, ``needlebench/`` or itself, which is a single
            document; the hub where it is None.
        revision: Revision of the hub repository.

    Returns:
        The documents' texts, empty ones left out.

    Raises:
        ValueError: If ``haystack`` is unknown, or its file has a line of another form or no text.
        FileNotFoundError: If the file is neither there nor to be had from the hub.
    """
    check_haystack(haystack)
    if haystack not in HAYSTACKS:
        return _own_documents(Path(haystack).expanduser())
    if haystack == "noise":
        return noise_sentences()
    also = _RULER_ESSAYS if haystack == "essays" else ()
    path = _find_needlebench(_CORPUS_FILES[haystack], data_dir, revision, also)
    # Only lines can hold several objects; RULER's file is one.
    rows = read_json_lines(path) if path.suffix == ".jsonl" else [_read_object(path)]
    texts = [str(row.get("text", "")).strip() for row in rows]
    documents = tuple(text for text in texts if text)
    if not documents:
        raise ValueError(f"{path} has no 'text'; download it again.")
    return documents


def check_haystack(haystack: object) -> None:
    """Raise a ``ValueError`` unless this is one of ``HAYSTACKS``, a text file, or a folder."""
    if haystack in HAYSTACKS:
        return
    path = Path(haystack).expanduser() if isinstance(haystack, str | Path) and haystack else None
    if path is None or not path.exists():
        error = unknown_choice("haystack", haystack, HAYSTACKS)
        raise ValueError(f"{error} Else it is a text file or a folder of *.txt, and neither is.")
    if path.is_dir() and not any(path.glob("*.txt")):
        raise ValueError(f"haystack={str(haystack)!r} is a folder without any *.txt.")


def _own_documents(path: Path) -> tuple[str, ...]:
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    try:
        texts = [file.read_text(encoding="utf-8-sig").strip() for file in files]
    except UnicodeDecodeError as error:
        raise ValueError(f"The haystack {path} is not text in UTF-8: {error}") from error
    documents = tuple(text for text in texts if text)
    if not documents:
        raise ValueError(f"The haystack {path} holds no text.")
    return documents


def haystack_pieces(
    haystack: str,
    num_pieces: int,
    seed: str,
    data_dir: str | Path | None = None,
    revision: str = HUB_REVISION,
) -> list[str]:
    """Draw words of running text: the corpus' documents in random order, over again when used up.

    The order depends on ``seed`` alone, so a shorter haystack is the beginning of a longer one.

    Args:
        haystack: One of ``HAYSTACKS``.
        num_pieces: How many words to return.
        seed: Seed of the order of documents.
        data_dir: Folder of local files, as in ``corpus``.
        revision: Revision of the hub repository.

    Returns:
        ``num_pieces`` words, each with the white space in front of it; joined they are the text.

    Raises:
        ValueError: As ``corpus`` does.
        FileNotFoundError: As ``corpus`` does.
    """
    documents = _split_corpus(haystack, data_dir, revision)
    separator = " " if haystack == "noise" else "\n\n"
    pieces: list[str] = []
    for document in _forever(documents, random.Random(seed)):
        if len(pieces) >= num_pieces:
            break
        pieces.append(document[0] if not pieces else separator + document[0])
        pieces.extend(document[1:])
    return pieces[:num_pieces]


def read_needlebench(
    name: str, data_dir: str | Path | None, revision: str = HUB_REVISION
) -> list[dict[str, Any]]:
    """Read a JSON-lines file of NeedleBench.

    Args:
        name: File name, such as ``needles.jsonl``.
        data_dir: Folder that holds ``needlebench/<name>`` or ``<name>`` itself; None for the hub.
        revision: Revision of the hub repository.

    Returns:
        One dict a line, in order.

    Raises:
        ValueError: If a line is not a JSON object.
        FileNotFoundError: If the file is neither there nor to be had from the hub.
    """
    return read_json_lines(_find_needlebench(name, data_dir, revision))


def _find_needlebench(
    name: str, data_dir: str | Path | None, revision: str, also: tuple[str, ...] = ()
) -> Path:
    source = Source("needlebench", name, HUB_REPOSITORY, revision, also=also)
    try:
        return find_file(source, data_dir)
    except FileNotFoundError as error:
        does_too = f" RULER's {also[0]} does as well." if also else ""
        raise FileNotFoundError(
            f"{error}{does_too} The haystack 'noise' needs no files."
        ) from error


def _read_object(path: Path) -> dict[str, Any]:
    content = parse_json(str(path), path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object with a 'text', got {str(content)[:40]!r}.")
    return content


@lru_cache(maxsize=4)
def _split_corpus(
    haystack: str, data_dir: str | Path | None, revision: str
) -> tuple[list[str], ...]:
    return tuple(_PIECE.findall(text) for text in corpus(haystack, data_dir, revision))


def _forever(documents: tuple[list[str], ...], rng: random.Random) -> Iterator[list[str]]:
    """Yield every document once in random order, then all of them again in another order."""
    order = list(range(len(documents)))
    while True:
        rng.shuffle(order)
        for index in order:
            yield documents[index]
