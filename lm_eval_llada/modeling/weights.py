"""What the weight files of a checkpoint declare, read from their headers alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from lm_eval_llada.modeling.configuration import LLaDAConfig
from lm_eval_llada.modeling.families import twins_of
from lm_eval_llada.modeling.model import LLaDAForMaskedLM

_MAX_NAMES = 6
_FLOAT_TYPES = ("F64", "F32", "F16", "BF16")
_HEAD, _EMBEDDING = "model.transformer.ff_out.weight", "model.transformer.wte.weight"
_ROWS_AT_ONCE = 4096


def tensor_names(folder: Path) -> list[str]:
    """Names of the tensors in a checkpoint's weight files; none where there are no files yet.

    Raises:
        ValueError: if a file is missing or cannot be read.
    """
    if not any((folder / name).is_file() for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)):
        return []
    return [name for file in _weight_files(folder) for name in _read_header(file)]


def check_weights(folder: str | os.PathLike[str], config: LLaDAConfig) -> None:
    """Compares the tensors that the files declare with those that the config asks for.

    Only the headers of the files are read, so this takes milliseconds at any size; but a tied LM
    head that is stored all the same is compared with the embedding.

    Args:
        folder: holds model.safetensors, or model.safetensors.index.json and its shards.
        config: what the weights must fit.

    Raises:
        ValueError: naming the missing, surplus and misshapen tensors and the family, or the
            unreadable file.
    """
    row = config.row
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    places: dict[str, Path] = {}
    for file in _weight_files(Path(folder)):
        header = _read_header(file)
        found |= header
        places |= dict.fromkeys(header, file)
    try:
        with torch.device("meta"):
            model = LLaDAForMaskedLM(config)
    except RuntimeError as error:
        # torch counts the bytes of a tensor in 64 bits.
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{folder}: no model has the sizes of its config.json: {reason}"
        ) from error
    expected = {
        row.own_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()
    }
    head, embedding = row.own_name(_HEAD), row.own_name(_EMBEDDING)
    if config.weight_tying and found.get(head) == found.get(embedding) is not None:
        _check_tied_head(places, head, embedding)
        del found[head]
    lines = _misfits(found, expected)
    if lines:
        twins = twins_of(row, found)
        hint = f" The tensors are those of {' or '.join(twins)}." if twins else ""
        raise ValueError(
            f"The weights in {folder} do not fit its config.json, that of a {row.name} checkpoint. "
            f"{'. '.join(lines)}.{hint}"
        )


def _misfits(
    found: Mapping[str, tuple[tuple[int, ...], str]], expected: Mapping[str, tuple[int, ...]]
) -> list[str]:
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "surplus": sorted(found.keys() - expected.keys()),
        "misshapen": [
            f"{name} {found[name][0]} instead of {shape}"
            for name, shape in expected.items()
            if name in found and found[name][0] != shape
        ],
        "not floating point": [
            f"{name} {found[name][1]}"
            for name in expected
            if name in found and found[name][1] not in _FLOAT_TYPES
        ],
    }
    return [f"{len(names)} {kind}: {_listed(names)}" for kind, names in problems.items() if names]


def _check_tied_head(places: Mapping[str, Path], head: str, embedding: str) -> None:
    """Stops if a stored LM head is not the embedding that the config says it is."""
    with (
        safe_open(places[head], framework="pt") as one,
        safe_open(places[embedding], framework="pt") as other,
    ):
        first, second = one.get_slice(head), other.get_slice(embedding)
        differences = [
            (first[start : start + _ROWS_AT_ONCE].float() - second[start : start + _ROWS_AT_ONCE])
            .abs()
            .max()
            for start in range(0, first.get_shape()[0], _ROWS_AT_ONCE)
        ]
    largest = float(max(differences))
    # Not "> 0", which no NaN is.
    if not largest == 0:
        raise ValueError(
            f"The config ties the LM head to the embedding, but {head} differs from {embedding} by "
            f"up to {largest:g}; correct config.json, or delete the tensor."
        )


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
            f"{index} names what is no file of its folder: {_listed(sorted(elsewhere))}."
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
        raise ValueError(f"{index} names {len(absent)} missing files: {_listed(absent)}.")
    return files


def _read_header(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
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


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more
