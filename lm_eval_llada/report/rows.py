"""Rows of a report: what lm-eval wrote about needle tasks, one cell for each length and depth.

Lengths are tokens, depths are per cent of the context above the needle, scores are 0-100.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval_llada.rope import predicted_frontier

_DEPTH_KEY = re.compile(r"depth_(\d{3})")


@dataclass(frozen=True)
class RopeFacts:
    """What the predicted frontier depends on.

    Attributes:
        rope_theta: Base of the checkpoint, before λ.
        head_dim: Dimensions of one attention head.
        train_length: Trained context in tokens.
        rope_scale: λ, 1 when unscaled.
        bidirectional: Whether λ was chosen by diffusion-aware NTK.
        d_crit: Critical dimension λ was chosen with; None means the one of the formula.
    """

    rope_theta: float
    head_dim: int
    train_length: int
    rope_scale: float = 1.0
    bidirectional: bool = False
    d_crit: float | None = None

    def frontier(self, length: int) -> float:
        """Shallowest depth in per cent predicted to be retrieved at a context of ``length`` tokens.

        A heuristic; see ``lm_eval_llada.rope.predicted_frontier``.
        """
        frontier = predicted_frontier(
            length,
            self.rope_theta,
            self.head_dim,
            self.train_length,
            self.rope_scale,
            bidirectional=self.bidirectional,
            d_crit=self.d_crit,
        )
        # λ and reach invert each other up to the last bits; without this a λ made for `length`
        # could leave depth 0 just outside.
        return round(100 * frontier, 6)


@dataclass(frozen=True)
class Cell:
    """Score of one length at one depth.

    Attributes:
        length: Context length in tokens, prompt and output together.
        depth: Position of the needle in per cent; 0 is the start of the context.
        score: Mean over the samples, 0-100.
    """

    length: int
    depth: int
    score: float

    def __post_init__(self) -> None:
        """Reject what no needle task can produce.

        Raises:
            ValueError: If a value is out of range.
        """
        if self.length < 1 or not 0 <= self.depth <= 100 or not 0 <= self.score <= 100:
            raise ValueError(
                "A cell needs a length >= 1 and a depth and score in 0-100; got "
                f"length={self.length}, depth={self.depth}, score={self.score}."
            )


@dataclass(frozen=True)
class Run:
    """One evaluation: a model under one setting, at one or more lengths.

    Attributes:
        label: How tables and pictures call it.
        cells: One for each length and depth, in ascending order.
        samples: Number of samples behind a whole length, by length.
        rope: What the frontier is predicted from; None where no prediction is made.
        planned: Number of samples that a whole length has, by length; lengths where that is not
            known are left out.
        planned_depths: Depths that were to be measured at each length; those measured if empty.
    """

    label: str
    cells: tuple[Cell, ...]
    samples: Mapping[int, int]
    rope: RopeFacts | None = None
    planned: Mapping[int, int] = field(default_factory=dict)
    planned_depths: tuple[int, ...] = ()

    @property
    def lengths(self) -> list[int]:
        """Context lengths in tokens, ascending."""
        return sorted({cell.length for cell in self.cells})

    @property
    def depths(self) -> list[int]:
        """Depths in per cent that were measured or planned, ascending."""
        return sorted({*self.planned_depths, *(cell.depth for cell in self.cells)})

    @property
    def missing(self) -> str | None:
        """What an unfinished run lacks, for captions; None where nothing is known to be missing."""
        cells = len(self.lengths) * len(self.depths)
        parts = []
        if len(self.cells) < cells:
            parts.append(f"{len(self.cells)} of {cells} cells")
        planned = {n: count for n, count in self.planned.items() if self.samples[n] < count}
        if planned:
            measured = sum(self.samples[length] for length in self.planned)
            parts.append(f"{measured} of {sum(self.planned.values())} samples")
        return f"partial: {', '.join(parts)}" if parts else None

    def score(self, length: int, depth: int) -> float | None:
        """Score of one cell, 0-100, or None where nothing was measured."""
        return next((c.score for c in self.cells if (c.length, c.depth) == (length, depth)), None)

    def mean(self, length: int, low: float = 0, high: float = 100) -> float:
        """Mean score, 0-100, over the depths of one length that lie in [low, high] per cent.

        Raises:
            ValueError: If nothing was measured there.
        """
        scores = [c.score for c in self.cells if c.length == length and low <= c.depth <= high]
        if not scores:
            raise ValueError(f"No score of {self.label} at length {length}, depths {low}-{high} %.")
        return math.fsum(scores) / len(scores)

    def predicted_mean(self, length: int) -> float | None:
        """Mean score, 0-100, if exactly the depths from the frontier on were retrieved.

        None where no frontier is predicted.
        """
        if self.rope is None:
            return None
        frontier = self.rope.frontier(length)
        depths = [cell.depth for cell in self.cells if cell.length == length]
        return 100 * sum(depth >= frontier for depth in depths) / len(depths)


def find_results(path: str | Path) -> list[Path]:
    """Result files under a path, oldest first.

    Args:
        path: A ``results_*.json`` of lm-eval, or a folder that holds some at any level.

    Raises:
        ValueError: If there is none.
    """
    root = Path(path)
    files = [root] if root.is_file() else sorted(root.rglob("results_*.json"), key=lambda p: p.name)
    if not files:
        raise ValueError(
            f"No results_*.json under {str(root)!r}. "
            "Give the folder that --output_path of an evaluation named."
        )
    return files


def read_run(path: str | Path, label: str | None = None) -> Run:
    """The needle results of one file.

    Args:
        path: A ``results_*.json`` as lm-eval writes it with ``--output_path``.
        label: Name for tables and pictures; by default made from the run's rope arguments.

    Raises:
        ValueError: If the file cannot be read as such results.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(f"Cannot read results from {str(path)!r}: {error}") from error
    return run_from_results(results, label)


def run_from_results(results: Mapping[str, Any], label: str | None = None) -> Run:
    """The needle results of one evaluation, from the dictionary that lm-eval returns or writes.

    Every task that has ``depth_...`` metrics and a ``length`` in its metadata counts; a length
    measured by two tasks is an error, since a table has one place for it.

    Args:
        results: Keys ``results``, ``configs``, ``n-samples`` and ``config`` are read.
        label: Name for tables and pictures; by default made from the run's rope arguments.

    Raises:
        ValueError: If no task, or two tasks of one length, hold needle scores.
    """
    cells: list[Cell] = []
    samples: dict[int, int] = {}
    for task, metrics in results.get("results", {}).items():
        metadata = results.get("configs", {}).get(task, {}).get("metadata", {})
        # Groups carry the averages of their tasks under the same keys, and no length of their own.
        if not _depth_scores(metrics) or "length" not in metadata:
            continue
        length = int(metadata["length"])
        if length in samples:
            raise ValueError(f"Two tasks of length {length} in one run: report them apart.")
        samples[length] = int(results["n-samples"][task]["effective"])
        cells += needle_cells(length, metrics)
    if not cells:
        raise ValueError("These results hold no needle task: no metric is called depth_000 or so.")
    config = results.get("config", {})
    ordered = tuple(sorted(cells, key=lambda cell: (cell.length, cell.depth)))
    return Run(label or default_label(config), ordered, samples, rope_facts(config))


def default_label(config: Mapping[str, Any]) -> str:
    """Name of a run by what distinguishes it: its rope arguments.

    Args:
        config: The ``config`` entry of lm-eval's results.
    """
    arguments = model_arguments(config)
    names = ("rope_method", "rope_scale", "target_length", "d_crit")
    given = [f"{name}={arguments[name]}" for name in names if name in arguments]
    return ", ".join(given) if given else "unscaled"


def model_arguments(config: Mapping[str, Any]) -> dict[str, str]:
    """The model arguments of a run as texts by name; those that are None are left out.

    Args:
        config: The ``config`` entry of lm-eval's results, which has them as a mapping or as
            ``name=value,name=value``.
    """
    arguments = config.get("model_args") or {}
    if isinstance(arguments, str):
        pairs = (item.partition("=") for item in arguments.split(","))
        arguments = {key.strip(): value.strip() for key, _, value in pairs}
    return {str(name): str(value) for name, value in arguments.items() if value is not None}


def rope_facts(config: Mapping[str, Any]) -> RopeFacts | None:
    """What the model adapter wrote about its rope, as far as a frontier can be predicted from it.

    Args:
        config: The ``config`` entry of lm-eval's results, to which our adapter adds ``rope``, the
            fields of ``lm_eval_llada.rope.ResolvedRope``.

    Returns:
        The facts, or None for other models and for methods that have no critical dimension.
    """
    rope = config.get("rope")
    if not rope or rope["d_crit"] is None:
        return None
    return RopeFacts(
        rope_theta=rope["rope_theta"] / rope["rope_scale"],
        head_dim=rope["head_dim"],
        train_length=rope["train_length"],
        rope_scale=rope["rope_scale"],
        bidirectional=rope["method"] == "diffusion_ntk",
        d_crit=rope["d_crit"],
    )


def needle_cells(length: int, metrics: Mapping[str, Any]) -> list[Cell]:
    """The cells of one task, a score for each depth that has one.

    Args:
        length: Context length in tokens.
        metrics: Values by keys such as ``depth_070,none`` or ``depth_070``; other keys are passed
            over.
    """
    return [Cell(length, depth, score) for depth, score in _depth_scores(metrics).items()]


def _depth_scores(metrics: Mapping[str, Any]) -> dict[int, float]:
    """Scores by depth, from keys such as ``depth_070,none``; other metrics are left out."""
    scores: dict[int, float] = {}
    for key, value in metrics.items():
        match = _DEPTH_KEY.fullmatch(key.split(",")[0])
        # A depth without a sample (a run cut by --limit) is NaN or "N/A": nothing was measured.
        if match and isinstance(value, int | float) and not math.isnan(value):
            scores[int(match[1])] = float(value)
    return scores
