"""Perplexity against context: the files of the command ``curve``, as series and as text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval_llada.report.frontier import rope_label
from lm_eval_llada.tasks.perplexity.scores import ChunkScore, CurvePoint, curve_points

FORMAT = 1
"""Version of the files; another one is an error."""


@dataclass(frozen=True)
class CurveContents:
    """What a file of a curve holds.

    Attributes:
        settings: The first line; empty where even that is unfinished.
        scores: The other lines, in their order.
        num_valid_bytes: Length of the file up to the end of its last whole line.
        num_torn_bytes: Length of an unfinished last line, 0 in most cases.
    """

    settings: dict[str, Any]
    scores: list[dict[str, Any]]
    num_valid_bytes: int
    num_torn_bytes: int


@dataclass(frozen=True)
class Series:
    """One line of a picture: a model under one estimator.

    Attributes:
        label: How the picture calls it.
        source: File it comes from; lines of one source share their colour.
        estimator: elbo, masked_mean, duel or causal.
        points: Ascending by length.
        train_length: Trained context in tokens, None where unknown.
        target_length: Context that the positions were stretched for, in tokens; None where not.
        num_missing: Scores that the run has not come to yet.
    """

    label: str
    source: str
    estimator: str
    points: tuple[CurvePoint, ...]
    train_length: int | None = None
    target_length: int | None = None
    num_missing: int = 0

    def around(self, length: int) -> float:
        """Cross entropy around a length, nats per token: mean of the chunks that end close by.

        Single chunks of 64 tokens differ more by what they say than by the context they have, so
        this takes all that end in the last quarter before the length.

        Raises:
            ValueError: If no scored chunk ends there.
        """
        close = [p.local.nats for p in self.points if 0.75 * length < p.length <= length]
        if not close:
            raise ValueError(
                f"{self.label} has no score between {0.75 * length:g} and {length} tokens."
            )
        return math.fsum(close) / len(close)

    def up_to(self, length: int) -> float:
        """Cross entropy of all text up to a length, nats per token: LongLLaDA's measure.

        It is the cumulative value of the last point there; see `curve_points`.

        Raises:
            ValueError: If no scored chunk ends there.
        """
        values = [p.cumulative for p in self.points if p.length <= length and p.cumulative]
        if not values:
            raise ValueError(f"{self.label} has no score of all text up to {length} tokens.")
        return values[-1].nats


def read_curve_file(path: str | Path) -> CurveContents:
    """Read a file of a curve; an unfinished last line is left out and counted.

    Raises:
        ValueError: If another line is no JSON object of the kind expected there.
        OSError: If the file cannot be read.
    """
    data = Path(path).read_bytes()
    whole, newline, torn = data.rpartition(b"\n")
    lines = whole.split(b"\n") if newline else []
    rows = [_parse(path, number, line) for number, line in enumerate(lines, start=1)]
    if rows:
        _check_settings(path, rows[0])
    for number, row in enumerate(rows[1:], start=2):
        if row.get("kind") != "score":
            raise ValueError(f"{path}, line {number}: expected a score; got {row!r:.80}.")
    return CurveContents(rows[0] if rows else {}, rows[1:], len(data) - len(torn), len(torn))


def read_curves(paths: Iterable[str | Path]) -> list[Series]:
    """Read the lines of a picture: one for each estimator of each file, in order.

    Args:
        paths: Files that `lm-eval-llada curve` has written, finished or not.

    Raises:
        ValueError: If a file is none of these, or holds no score.
    """
    result = []
    for path in map(Path, paths):
        found = read_curve_file(path)
        if not found.scores:
            raise ValueError(
                f"{path} holds no score yet; run the command curve with it as --output."
            )
        try:
            result += _series_of(path, found)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} lacks {error}, or it is of another type there.") from error
    return result


def curve_table(series: Series, most: int = 12) -> str:
    """Return a series as text: some of its lengths, spread over all, with both kinds of value."""
    points = series.points
    step = max(1, math.ceil(len(points) / most))
    shown = points[::-1][::step][::-1]
    head = f"{'tokens':>8} {'perplexity':>11} {'± s.e.':>9} {'so far':>11} {'bits/byte':>10}"
    lines = [f"{series.label} (perplexity of the chunk, and of all chunks so far)", head]
    for point in shown:
        local, so_far = point.local, point.cumulative
        # exp's slope turns an error in nats into one of the perplexity.
        stderr = None if local.stderr is None else local.perplexity * local.stderr
        cells = (local.perplexity, stderr, so_far and so_far.perplexity, local.bits_per_byte)
        widths = (11, 9, 11, 10)
        numbers = " ".join(
            f"{'-' if cell is None else f'{cell:.3f}':>{width}}"
            for cell, width in zip(cells, widths, strict=True)
        )
        lines.append(f"{point.length:>8} {numbers}")
    if series.num_missing:
        lines.append(f"unfinished: {series.num_missing} scores are still to come")
    return "\n".join(lines)


def _series_of(path: Path, found: CurveContents) -> list[Series]:
    settings = found.settings
    rope, lengths = settings["rope"], settings["lengths"]
    name = f"{Path(settings['pretrained']).name}, {rope_label(rope)}"
    result = []
    for estimator in settings["estimators"]:
        rows = [row for row in found.scores if row["estimator"] == estimator]
        scores = [
            ChunkScore(
                row["document"],
                row["length"],
                row["nats_per_token"],
                row["stderr"],
                row["num_tokens"],
                row["num_bytes"],
            )
            for row in rows
        ]
        result.append(
            Series(
                label=f"{name}, {estimator}",
                source=str(path),
                estimator=estimator,
                points=tuple(curve_points(scores, lengths, settings["chunk_length"])),
                train_length=rope["train_length"],
                target_length=rope["target_length"],
                num_missing=len(lengths) * len(settings["documents"]) - len(rows),
            )
        )
    return [series for series in result if series.points]


def _parse(path: str | Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: not JSON ({error}).") from error
    if not isinstance(row, dict):
        raise ValueError(f"{path}, line {number}: expected an object; got {line[:40]!r}.")
    return row


def _check_settings(path: str | Path, row: Mapping[str, Any]) -> None:
    if row.get("kind") != "settings":
        raise ValueError(f"{path} does not begin with the settings of a curve; it is another file.")
    if row.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {row.get('format')!r}; this version reads format {FORMAT}."
        )
