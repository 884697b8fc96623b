"""Files of the real corpora: from a local folder, as downloaded, or from the hub."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Source:
    """Where a file of a corpus comes from.

    Attributes:
        folder: Folder inside ``data_dir`` that holds the corpus, such as ``longbench``.
        name: The file's official name.
        repository: Data set on the hub that holds the file.
        revision: Revision of that repository.
        hub_name: Path of the file in the repository; None means ``name``.
        also: Other names that a release gives the same content, or paths it unpacks to.
    """

    folder: str
    name: str
    repository: str
    revision: str
    hub_name: str | None = None
    also: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Paths inside of a folder that hold the file, the one that counts first in front."""
        hub = () if self.hub_name is None else (self.hub_name,)
        return (self.name, *self.also, *hub)

    def two_ways(self) -> str:
        """Say how to have the file: from the hub, or by ``data_dir``."""
        # Where the hub has an archive of many files, the archive does as well.
        file = self.hub_name or self.name
        return (
            f"Either let the machine reach the hub, where {self.repository} holds the file, or "
            f"download it there and pass data_dir=<folder> with <folder>/{self.folder}/{file}."
        )


def find_file(
    source: Source,
    data_dir: str | Path | None,
    is_of_form: Callable[[Path], bool] | None = None,
) -> Path:
    """Return the path of a corpus' file, fetched from the hub where there is no local folder.

    Args:
        source: What is wanted.
        data_dir: Folder that holds ``<source.folder>/<name>`` or ``<name>`` itself, where the name
            is any of ``source.names``; None reads the hub.
        is_of_form: Tells whether another ``*.json`` or ``*.jsonl`` of the local folder holds the
            same kind of data; the first by name is taken where the official files are missing.
            None accepts official names only.

    Raises:
        FileNotFoundError: If the file is neither there nor to be had from the hub.
    """
    if data_dir is None:
        return _from_hub(source)
    folder = folder_of(data_dir)
    places = (folder / source.folder, folder)
    for name in source.names:
        for place in places:
            if (place / name).is_file():
                return place / name
    if is_of_form is not None:
        for path in (path for place in places for path in _json_files(place)):
            if is_of_form(path):
                return path
    raise FileNotFoundError(
        f"data_dir={str(data_dir)!r} holds neither {source.folder}/{source.name} nor "
        f"{source.name}. {source.two_ways()}"
    )


def folder_of(data_dir: str | Path) -> Path:
    """Return the folder that a `data_dir` names, `~` expanded.

    Raises:
        ValueError: If it is no text or no folder can have that name.
    """
    try:
        return Path(data_dir).expanduser()
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"data_dir must be a folder; got {data_dir!r} ({error}).") from error


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file with one JSON object a line; empty lines are passed over.

    Raises:
        ValueError: If a line is not a JSON object in UTF-8; the message names file and line.
    """
    rows = []
    for place, line in numbered_lines(path):
        row = parse_json(place, line)
        if not isinstance(row, dict):
            raise ValueError(f"{place}: expected an object, got {line[:40]!r}.")
        rows.append(row)
    return rows


def numbered_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield each line of a file with its place, for messages; empty lines are passed over."""
    # Not splitlines(), which also breaks at separators that may stand inside a JSON string.
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield f"{path}, line {number}", line


def parse_json(place: str, data: bytes) -> Any:
    """Return what a file or a line holds.

    Args:
        place: Its name, for the message.
        data: JSON.

    Raises:
        ValueError: If it is not JSON in UTF-8, or has half of a character.
    """
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: not JSON ({error}).") from error
    # Escapes can say what UTF-8 cannot, and tokenizers and tables would fail on it later.
    if b"\\ud" in data.lower():
        try:
            json.dumps(content, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start : error.end])
            raise ValueError(
                f"{place}: {half} is half of a character; write both halves, or drop it."
            ) from error
    return content


def _json_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.glob("*.json*")):
        if path.suffix in (".json", ".jsonl") and path.is_file():
            yield path


def _from_hub(source: Source) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name = source.hub_name or source.name
    try:
        path = hf_hub_download(
            source.repository, name, repo_type="dataset", revision=source.revision
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{name} could not be read from the hub ({type(error).__name__}). {source.two_ways()}"
        ) from error
    return Path(path)
