"""What the weight files of a checkpoint declare, read from their headers alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from lm_eval_llada.modeling.configuration import LLaDAConfig
from lm_eval_llada.modeling.families import twins_of
from lm_eval_llada.modeling.model import LLaDAForMaskedLM
from lm_eval_llada.modeling.weight_files import (
    EMBEDDING,
    HEAD,
    check_tied_head,
    listed,
    read_headers,
)

_FLOAT_TYPES = ("F64", "F32", "F16", "BF16")


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
    found, places = read_headers(Path(folder))
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
    head, embedding = row.own_name(HEAD), row.own_name(EMBEDDING)
    if config.weight_tying and found.get(head) == found.get(embedding) is not None:
        check_tied_head(places, head, embedding)
        del found[head]
    lines = _misfits(found, expected)
    if lines:
        twins = twins_of(row, found)
        hint = f" The tensors are those of {' or '.join(twins)}." if twins else ""
        raise ValueError(
            f"The weights in {folder} do not fit its config.json, of a checkpoint of {row.name}. "
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
    return [f"{len(names)} {kind}: {listed(names)}" for kind, names in problems.items() if names]
