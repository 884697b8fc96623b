"""What a run reads from the hub, fetched ahead of it for a machine without a network."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
from huggingface_hub import constants
from lm_eval.tasks import TaskManager

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.errors import nearest
from lm_eval_llada.plan.task_names import matches, single_tasks

_TIKTOKEN_CACHE = "TIKTOKEN_CACHE_DIR"
# What tokenizers and configs are made of on the hub, whatever the model.
_TOKENIZER_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
_WEIGHT_FILES = ("*.safetensors",)
_NLTK_RESOURCES = ("tokenizers/punkt_tab", "tokenizers/punkt", "corpora/stopwords")


@dataclass(frozen=True)
class Item:
    """Something that a run reads.

    Attributes:
        what: What it is.
        path: Where it is now; None where there is no file, or none could be had.
        num_bytes: Size of the file or of all files of the folder.
        error: Why it could not be had; None where all is well.
    """

    what: str
    path: Path | None = None
    num_bytes: int = 0
    error: str | None = None


def prefetch_checkpoint(name: str, revision: str | None, *, weights: bool) -> Item:
    """Fetch config and tokenizer of a checkpoint, and its weights if they are asked for.

    Args:
        name: Shipped model, folder or hub id.
        revision: Branch, tag or commit on the hub.
        weights: Whether to fetch the weights as well.

    Raises:
        ValueError: If no such checkpoint can exist.
    """
    kind = "config, tokenizer and weights" if weights else "config and tokenizer"
    what, location = f"{kind} of {name}", resolve_checkpoint(name)
    if Path(location).is_dir():
        return on_disk(f"{what} (no download)", Path(location))
    patterns = [*_TOKENIZER_FILES, *(_WEIGHT_FILES if weights else ())]
    try:
        folder = huggingface_hub.snapshot_download(
            location, revision=revision, allow_patterns=patterns
        )
    # Whatever the hub, the network or the disk may raise, the other items are to be tried.
    except Exception as error:
        return Item(what, error=_reason(error))
    return on_disk(what, Path(folder))


class TaskFiles:
    """The files that tasks read, found by building the tasks as a run does.

    Members of a group are built one by one, so that a failure leaves the others, but for groups
    that change their members' settings, which are built whole.

    Attributes:
        names: The tasks, each once.
    """

    def __init__(
        self, names: Sequence[str], metadata: Mapping[str, Any], include_path: Sequence[str]
    ) -> None:
        """Find the tasks, without building any.

        Args:
            names: Tasks, groups, tags, patterns of them, task files or folders of these.
            metadata: What tasks read: the model arguments.
            include_path: Folders with task files beside the harness' own.

        Raises:
            ValueError: If a name is unknown.
        """
        self._manager = TaskManager(include_path=list(include_path), metadata=dict(metadata))
        found = [match for name in names for match in self._matches(name)]
        self.names = single_tasks(self._manager, found)
        self._seen: set[Path] = set()

    def fetch(self) -> Iterator[Item]:
        """Build the tasks, which fetches what they read; yields what that was, as it comes.

        A task that reads no file, or none but those of tasks before it, has no path.
        """
        # GPT-4's vocabulary would go to a folder for temporary files, which nobody copies to a
        # node.
        os.environ.setdefault(_TIKTOKEN_CACHE, str(Path(constants.HF_HOME).absolute() / "tiktoken"))
        for name in self.names:
            items = list(self._build(name))
            yield from items or [Item(f"task {name}")]
        if (tiktoken := _tiktoken_folder()) is not None:
            yield on_disk("vocabulary of tiktoken", tiktoken)
        for path in _nltk_resources():
            yield on_disk("resource of nltk", path)

    def _matches(self, name: str) -> list[str]:
        """What a name stands for; a name that stands for nothing is an error."""
        if found := matches(self._manager, name):
            return found
        guess = nearest(name, self._manager.all_tasks)
        hint = "" if guess is None else f" Did you mean {guess!r}?"
        raise ValueError(
            f"There is no task, group, tag or task file {name!r}.{hint} `lm-eval-llada ls "
            "tasks` lists all."
        )

    def _build(self, name: str) -> Iterator[Item]:
        """Build a task; yields what it read that no task before it did."""
        what = f"task {name}"
        try:
            with _watched_downloads() as downloads:
                tasks = self._manager.load([name])["tasks"].values()
        # Tasks are code of many authors, which reads and fails in its own ways.
        except Exception as error:
            yield Item(what, error=_reason(error))
            return
        files = [*downloads, *(file for task in tasks for file in _dataset_folders(task))]
        for path in dict.fromkeys(files):
            if path not in self._seen:
                self._seen.add(path)
                yield on_disk(what, path)


def offline_variables() -> dict[str, str]:
    """The environment variables that a machine needs to find what has been fetched."""
    home = Path(constants.HF_HOME).absolute()
    variables = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HOME": str(home),
    }
    for name, value in (
        ("HF_HUB_CACHE", constants.HF_HUB_CACHE),
        ("HF_DATASETS_CACHE", datasets.config.HF_DATASETS_CACHE),
    ):
        if home not in Path(value).absolute().parents:
            variables[name] = str(Path(value).absolute())
    # Only some tasks load these.
    if "evaluate" in sys.modules:
        variables["HF_EVALUATE_OFFLINE"] = "1"
    if (tiktoken := _tiktoken_folder()) is not None:
        variables[_TIKTOKEN_CACHE] = str(tiktoken.absolute())
    if folders := [str(path.parents[1]) for path in _nltk_resources()]:
        variables["NLTK_DATA"] = os.pathsep.join(dict.fromkeys(folders))
    return variables


@contextlib.contextmanager
def _watched_downloads() -> Iterator[list[Path]]:
    """Collect the files that our corpora fetch while the block runs.

    They do so deep inside the functions that make samples, which return samples and nothing else.
    """
    original, paths = huggingface_hub.hf_hub_download, list[Path]()

    def download(*args: Any, **kwargs: Any) -> str:
        path = original(*args, **kwargs)
        paths.append(Path(path))
        return path

    huggingface_hub.hf_hub_download = download  # type: ignore[assignment]
    try:
        yield paths
    finally:
        huggingface_hub.hf_hub_download = original


def _dataset_folders(task: Any) -> list[Path]:
    """Where the data set of a harness task is on disk; nowhere if it is made in memory."""
    splits = getattr(task, "dataset", None) or {}
    files = [file for split in splits.values() for file in getattr(split, "cache_files", ())]
    return list(dict.fromkeys(Path(file["filename"]).parent for file in files))


def _tiktoken_folder() -> Path | None:
    """Where GPT-4's vocabulary is, once a task has fetched it."""
    folder = os.environ.get(_TIKTOKEN_CACHE)
    return Path(folder) if folder and Path(folder).is_dir() else None


def _nltk_resources() -> list[Path]:
    """Resources of nltk that are here, each two levels below a data folder.

    None unless a task has loaded nltk, which our own do not.
    """
    if "nltk" not in sys.modules:
        return []
    import nltk

    found = []
    for resource in _NLTK_RESOURCES:
        with contextlib.suppress(LookupError):
            found.append(Path(str(nltk.data.find(resource))))
    return found


def on_disk(what: str, path: Path) -> Item:
    """The item of a file or of a folder with all that is in it."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return Item(what, path, sum(file.stat().st_size for file in files))


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])}"
