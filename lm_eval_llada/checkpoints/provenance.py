"""What a number came from: the content of a checkpoint, the commit of this package, the machine.

For the results of a run:

    info |= origin(location, arguments.loading.revision)
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache

from lm_eval_llada import __version__

# Config, tokenizer, weights; a README or the state of an optimizer changes no answer.
_SMALL_FILES = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
_WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")
_PACKAGES = ("torch", "transformers", "lm_eval")
_CHUNK = 1 << 20
_MOST_THREADS = 8


def origin(location: str, revision: str | None, adapter: str | None = None) -> dict[str, Any]:
    """Version and commit of this package, content of the checkpoint, and the machine.

    Args:
        location: Folder or hub id of the checkpoint.
        revision: Branch, tag or commit of a hub id.
        adapter: Folder of what was merged into it; None for nothing.
    """
    merged = {} if adapter is None else {"adapter": checkpoint_digest(adapter)}
    return {
        "version": __version__,
        "commit": package_commit(),
        "checkpoint": checkpoint_digest(location, revision=revision),
        **merged,
        "machine": machine(),
    }


def checkpoint_digest(
    location: str, *, revision: str | None = None, read_weights: bool = True
) -> str:
    """What tells the content of a checkpoint from that of another one.

    A folder is read once in a process, its files side by side, at one to two GB/s for each core
    where the disk keeps up. Copying it elsewhere keeps its digest.

    Args:
        location: Folder or hub id, as of `checkpoints.resolve_checkpoint`.
        revision: Branch, tag or commit of a hub id.
        read_weights: False takes the size and time of change of each weight file for its content,
            which takes no time, but a copy has another digest then.

    Returns:
        `sha256:` and 64 hexadecimal digits for a folder (`stat:` unless weights are read). For a
        hub id `name@commit`, the commit being that of the local cache; `name@revision` where the
        cache has none. Nothing is asked of the hub.

    Raises:
        ValueError: If a folder holds none of the files of a checkpoint.
    """
    folder = Path(location)
    if not folder.is_dir():
        return f"{location}@{_cached_commit(location, revision) or revision or 'main'}"
    small = _matching(folder, _SMALL_FILES)
    weights = _matching(folder, _WEIGHT_FILES)
    if not small and not weights:
        raise ValueError(f"{folder} holds neither a config nor weights, so it is no checkpoint.")
    hashed = small + (weights if read_weights else [])
    with ThreadPoolExecutor(_MOST_THREADS) as pool:  # hashing lets go of the interpreter's lock
        states = list(pool.map(_content, hashed))
    if not read_weights:
        states += [f"{file.stat().st_size} {file.stat().st_mtime_ns}" for file in weights]
    rows = sorted(zip([file.name for file in small + weights], states, strict=True))
    text = "".join(f"{name}\0{state}\n" for name, state in rows)
    kind = "sha256" if read_weights else "stat"
    return f"{kind}:{hashlib.sha256(text.encode()).hexdigest()}"


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [file for pattern in patterns for file in folder.glob(pattern) if file.is_file()]


def _content(file: Path) -> str:
    state = file.stat()
    return _sha256(str(file.resolve()), state.st_size, state.st_mtime_ns)


@cache
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    """SHA-256 of a file; its size and time are there for the memory of this function alone."""
    digest, chunk = hashlib.sha256(), bytearray(_CHUNK)
    with open(path, "rb", buffering=0) as file:
        while num_read := file.readinto(chunk):
            digest.update(memoryview(chunk)[:num_read])
    return digest.hexdigest()


def _cached_commit(name: str, revision: str | None) -> str | None:
    """The commit whose config.json the hub's local cache holds for a revision."""
    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None


@cache
def package_commit() -> str | None:
    """The commit of the source tree that this package runs from, 40 hexadecimal digits.

    Returns:
        With `-dirty` behind where tracked files differ from it; None where the package is not part
        of a git checkout (one that is only installed inside of a checkout is not), or git is not
        there.
    """
    folder = Path(__file__).resolve().parent
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *command: str) -> str | None:
    """What a git command prints, None if it fails."""
    try:
        # Without locks, several ranks and a user's own git can look at the same time.
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *command],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def machine() -> dict[str, Any]:
    """Processor, graphics cards and versions of this machine, in plain values."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "num_cpus": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "gpus": gpus,
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
    }


def _processor() -> str:
    """The processor's name; Linux tells it in a file, other systems through `platform`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
