"""What an interrupted run goes on from: the last checkpoint that was written to its end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

PLACE_NAME = "stream.json"


def write_place(folder: Path, place: dict[str, Any], identity: dict[str, Any], ranks: int) -> None:
    """Writes the place in the data into a checkpoint, before transformers writes the rest.

    Args:
        folder: of the checkpoint, made as needed.
        place: from `SampleStream.state_dict`.
        identity: settings that a resumed run must share.
        ranks: processes that save a state of their own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{PLACE_NAME}.partial"
    content = {"place": place, "identity": identity, "ranks": ranks}
    partial.write_text(json.dumps(content), encoding="utf-8")
    os.replace(partial, folder / PLACE_NAME)


def last_whole_checkpoint(output: Path) -> Path | None:
    """The newest checkpoint of a folder that a kill has not left half written; None without one.

    transformers writes its own state last, so a checkpoint is whole once that state is and each
    rank has saved its random numbers.
    """
    prefix = f"{PREFIX_CHECKPOINT_DIR}-"
    folders = [
        path for path in output.glob(f"{prefix}*") if path.name.removeprefix(prefix).isdigit()
    ]
    folders.sort(key=lambda path: int(path.name.removeprefix(prefix)), reverse=True)
    return next((path for path in folders if _is_whole(path)), None)


def read_place(folder: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The place in the data that a checkpoint holds.

    Args:
        folder: of the checkpoint.
        identity: settings of the run that goes on.

    Raises:
        ValueError: if the checkpoint belongs to other settings; all that differ are named.
    """
    saved = json.loads((folder / PLACE_NAME).read_text(encoding="utf-8"))
    # Through JSON, which knows no tuples.
    ours = json.loads(json.dumps(identity))
    theirs = saved["identity"]
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    if names:
        lines = "; ".join(f"{n}: {theirs.get(n)} there, {ours.get(n)} here" for n in names)
        raise ValueError(
            f"{folder} was saved under other settings ({lines}). Give the same, or another output."
        )
    return saved["place"]


def _is_whole(folder: Path) -> bool:
    try:
        place = json.loads((folder / PLACE_NAME).read_text(encoding="utf-8"))
        json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return len(list(folder.glob("rng_state*.pth"))) == place["ranks"]
