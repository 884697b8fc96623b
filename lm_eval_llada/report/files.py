"""Which files of some folders a report can use, and why it leaves the others.

Used are results of lm-eval (``results_*.json``), its samples (``samples_*.jsonl``) and perplexity
curves (any other ``.jsonl``). Files with other endings are nobody's business here; of the JSON ones
each is either used or named with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ANSWERS = "answers-"  # kept for going on with a run; nothing to show
_SAMPLES = "samples_"


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, whole or in part.

    Attributes:
        path: The file, or the folder that is not there.
        reason: What is wrong with it, to stand after its name.
    """

    path: Path
    reason: str

    def __str__(self) -> str:
        """One line for a person."""
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class ResultFile:
    """Results of one run of lm-eval.

    Attributes:
        path: Where they were read.
        content: What the file holds, checked to have the parts that reports read.
    """

    path: Path
    content: Mapping[str, Any]

    @property
    def stamp(self) -> str:
        """Time of the run in the file's name, which its samples carry too."""
        return self.path.stem.rpartition("_")[2]


@dataclass(frozen=True)
class SampleFile:
    """Where the samples of one task of one run are.

    Attributes:
        path: The file.
        task: Name of the task.
        stamp: Time of the run.
    """

    path: Path
    task: str
    stamp: str


@dataclass(frozen=True)
class Found:
    """What some folders hold.

    Attributes:
        results: Oldest first.
        samples: By name.
        curves: Files that may be perplexity curves, by name.
        skipped: Files that cannot be used, folders that are not there.
    """

    results: tuple[ResultFile, ...]
    samples: tuple[SampleFile, ...]
    curves: tuple[Path, ...]
    skipped: tuple[Skipped, ...]


def find_files(paths: Sequence[str | Path]) -> Found:
    """What a report can use of some files and folders.

    Args:
        paths: Files, or folders that are searched at every level. One found twice counts once.
    """
    skipped: list[Skipped] = []
    results: list[ResultFile] = []
    samples: list[SampleFile] = []
    curves: list[Path] = []
    for path in _json_files(paths, skipped):
        if path.suffix == ".json":
            _keep_readable(path, read_results, results, skipped)
        elif path.name.startswith(_SAMPLES):
            _keep_readable(path, _sample_file, samples, skipped)
        elif not path.name.startswith(_ANSWERS):
            curves.append(path)
    results.sort(key=lambda result: (result.stamp, str(result.path)))
    return Found(tuple(results), tuple(samples), tuple(curves), tuple(skipped))


def read_results(path: Path) -> ResultFile:
    """The results in one file.

    Raises:
        ValueError: If it is not a whole file of lm-eval's results; the message does not name it.
        OSError: If it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"is not whole JSON, cut off or damaged ({error})") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply to be results") from error
    problem = _shape_problem(content)
    if problem:
        raise ValueError(f"is not a results file of lm-eval: {problem}")
    return ResultFile(path, content)


def _json_files(paths: Iterable[str | Path], skipped: list[Skipped]) -> list[Path]:
    found: dict[Path, Path] = {}
    for root in map(Path, paths):
        if root.is_dir():
            inside = sorted(path for end in ("*.json", "*.jsonl") for path in root.rglob(end))
        elif root.exists():
            inside = [root]
        else:
            skipped.append(Skipped(root, "does not exist"))
            continue
        for path in inside:
            if path.suffix not in (".json", ".jsonl"):
                skipped.append(Skipped(path, "is neither .json nor .jsonl"))
            else:
                found.setdefault(path.resolve(), path)
    return list(found.values())


def _keep_readable(
    path: Path, read: Callable[[Path], Any], kept: list[Any], skipped: list[Skipped]
) -> None:
    """Append what ``read`` makes of a file, or the reason why it makes nothing."""
    try:
        kept.append(read(path))
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        skipped.append(Skipped(path, f"cannot be read: {reason}" if reason else str(error)))


def _sample_file(path: Path) -> SampleFile:
    task, _, stamp = path.stem.removeprefix(_SAMPLES).rpartition("_")
    if not task:
        raise ValueError("has no name of the form samples_<task>_<time>.jsonl")
    return SampleFile(path, task, stamp)


def _shape_problem(content: Any) -> str | None:
    """What is missing of the parts that reports read, or None."""
    if not isinstance(content, dict):
        return f"it holds a {type(content).__name__}, not an object"
    for name in ("results", "configs"):
        part = content.get(name)
        if not isinstance(part, dict):
            return f"it has no {name!r}"
        if not all(isinstance(value, dict) for value in part.values()):
            return f"an entry of {name!r} is no object"
    for name in ("config", "n-samples"):
        if not isinstance(content.get(name, {}), dict):
            return f"{name!r} is no object"
    return None
