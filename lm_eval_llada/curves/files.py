"""The file of a curve: settings first, then one JSON line for each score, written as they come."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lm_eval_llada.curves.scores import Chunk
from lm_eval_llada.diffusion.estimates import Estimate
from lm_eval_llada.report.curves import FORMAT, read_curve_file

_LONGEST_SHOWN = 80


class CurveFile:
    """A file of scores that can be gone on with.

    Attributes:
        path: The file.
        done: (document, length, estimator) of each score in it.
        notice: What had to be dropped from the file, for the user; empty in most cases.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        """Check a file against the settings of this run; nothing is written yet.

        Args:
            path: An earlier file of these settings, or one that does not exist yet.
            settings: Everything that scores depend on, or which of them there are; JSON values.

        Raises:
            ValueError: If the file was written under other settings (each difference is named), or
                is no file of a curve.
        """
        self.path = Path(path)
        self.settings = json.loads(json.dumps({"kind": "settings", "format": FORMAT, **settings}))
        self.done: set[tuple[str, int, str]] = set()
        self.notice = ""
        self._num_valid = 0
        if self.path.exists():
            self._resume()

    def append(self, chunk: Chunk, estimator: str, estimate: Estimate) -> None:
        """Write one score and flush it; the first one of a new file follows the settings."""
        is_known = not math.isnan(estimate.stderr)
        row = {
            "kind": "score",
            "document": chunk.document,
            "length": chunk.end,
            "estimator": estimator,
            "nats_per_token": estimate.value,
            "stderr": estimate.stderr if is_known else None,
            "num_tokens": chunk.num_tokens,
            "num_bytes": chunk.num_bytes,
            "num_passes": estimate.num_passes,
        }
        self._write([row] if self._num_valid else [self.settings, row])
        self.done.add((chunk.document, chunk.end, estimator))

    def _resume(self) -> None:
        found = read_curve_file(self.path)
        if found.num_torn_bytes:
            self.notice = (
                f"{self.path}: dropped the last line, {found.num_torn_bytes} bytes that an "
                f"interrupted run left unfinished."
            )
        self._num_valid = found.num_valid_bytes
        if not found.settings:
            return
        if differences := describe_differences(found.settings, self.settings):
            raise ValueError(
                f"{self.path} was written under other settings: {'; '.join(differences)}. Give "
                f"another --output, or the settings of the file."
            )
        self.done = {(row["document"], row["length"], row["estimator"]) for row in found.scores}

    def _write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            # Where a torn line was dropped, the next one takes its place.
            file.truncate(self._num_valid)
            file.seek(self._num_valid)
            file.write(text)
        self._num_valid += len(text)


def describe_differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Return a phrase for each setting that differs, nested ones by their path."""
    there, here = dict(_flat(theirs)), dict(_flat(ours))
    return [
        f"{name} is {_shown(there, name)} there and {_shown(here, name)} now"
        for name in dict.fromkeys([*there, *here])
        if there.get(name) != here.get(name)
    ]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _shown(values: Mapping[str, Any], name: str) -> str:
    text = json.dumps(values[name], ensure_ascii=False) if name in values else "missing"
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…"
