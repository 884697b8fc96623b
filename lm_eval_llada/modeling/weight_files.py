"""The weight files of a checkpoint: which they are, what they declare, and a head kept twice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

HEAD, EMBEDDING = "model.transformer.ff_out.weight", "model.transformer.wte.weight"
"""Native names of the LM head and of the embedding that stands in for it where they are tied."""
_MAX_NAMES = 6
_ROWS_AT_ONCE = 4096
_QUIET = [f"_raise_exceptions_for_{what}" for what in ("missing_entries", "connection_errors")]

Header = dict[str, tuple[tuple[int, ...], str]]
"""Shape and dtype of each tensor."""


def tensor_names(folder: Path) -> list[str]:
    """Names of the tensors in a checkpoint's weight files; none where there are no files yet.

    Raises:
        ValueError: if a file is missing or cannot be read.
    """
    if not any((folder / name).is_file() for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)):
        return []
    return [name for name in read_headers(folder)[0]]


def read_headers(folder: Path) -> tuple[Header, dict[str, Path]]:
    """Shape and dtype of each tensor in a checkpoint, and the file that it is in.

    Raises:
        ValueError: if a file is missing or cannot be read.
    """
    found: Header = {}
    places: dict[str, Path] = {}
    for file in _weight_files(folder):
        header = _read_header(file)
        found |= header
        places |= dict.fromkeys(header, file)
    return found, places


def check_tied_head(places: Mapping[str, Path], head: str, embedding: str) -> None:
    """Stops if a stored LM head is not the embedding that the config says it is.

    Args:
        places: file of each tensor.
        head: name of the LM head there.
        embedding: name of the token embedding.

    Raises:
        ValueError: naming both and how far they are apart.
    """
    with (
        safe_open(places[head], framework="pt") as one,
        safe_open(places[embedding], framework="pt") as other,
    ):
        first, second = one.get_slice(head), other.get_slice(embedding)
        shapes = first.get_shape(), second.get_shape()
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"The config ties the LM head to the embedding, but {head} is {shapes[0]} and "
                f"{embedding} is {shapes[1]}; correct config.json, or delete the tensor."
            )
        differences = [
            (first[start : start + _ROWS_AT_ONCE].float() - second[start : start + _ROWS_AT_ONCE])
            .abs()
            .max()
            for start in range(0, shapes[0][0], _ROWS_AT_ONCE)
        ]
    largest = float(max(differences))
    # Not "> 0", which no NaN is.
    if not largest == 0:
        raise ValueError(
            f"The config ties the LM head to the embedding, but {head} differs from {embedding} by "
            f"up to {largest:g}; correct config.json, or delete the tensor."
        )


def check_loaded_head(checkpoint: Any, head: str, embedding: str, **named: Any) -> None:
    """As `check_tied_head`, of a checkpoint that transformers has just read; others pass.

    Args:
        checkpoint: a folder or a hub id; None has no files.
        head: name of the LM head there.
        embedding: name of the token embedding.
        named: revision, subfolder and cache_dir, where they were given.
    """
    for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME) if checkpoint is not None else ():
        path = cached_file(
            checkpoint, name, **named, **dict.fromkeys(_QUIET, False), local_files_only=True
        )
        if path is not None:
            _, places = read_headers(Path(path).parent)
            if head in places and embedding in places:
                check_tied_head(places, head, embedding)
            return


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: if it holds no JSON, or no object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object; got {type(values).__name__}.")
    return values


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers will read: the single file, else those of the index.

    A folder that holds both, complete, is refused: one of the two is left from an earlier save, and
    nothing says which.
    """
    single, index = folder / SAFE_WEIGHTS_NAME, folder / SAFE_WEIGHTS_INDEX_NAME
    if not index.is_file():
        if not single.is_file():
            raise ValueError(f"{folder} has neither {single.name} nor {index.name}.")
        return [single]
    content = read_json(index)
    weight_map = content.get("weight_map")
    # transformers asks for the metadata, too.
    if not isinstance(weight_map, dict) or not isinstance(content.get("metadata"), dict):
        raise ValueError(f"{index} has no weight_map or no metadata; copy or download it again.")
    elsewhere = {
        repr(name)
        for name in weight_map.values()
        if not isinstance(name, str) or Path(name).name != name
    }
    if elsewhere:
        raise ValueError(
            f"{index} names what is no file of its folder: {listed(sorted(elsewhere))}."
        )
    files = sorted({folder / name for name in weight_map.values()})
    absent = [file.name for file in files if not file.is_file()]
    if single.is_file():
        if not absent and single not in files:
            raise ValueError(
                f"{folder} holds {single.name} and the shards of {index.name}; delete whichever is "
                f"older."
            )
        return [single]
    if absent:
        raise ValueError(f"{index} names {len(absent)} missing files: {listed(absent)}.")
    return files


def _read_header(path: Path) -> Header:
    """Shape and dtype of each tensor; safetensors checks that the file is as long as it says."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is truncated or corrupt ({error}); copy or download it again."
        ) from error


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more
