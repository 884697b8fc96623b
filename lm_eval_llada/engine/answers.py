"""Finished answers on disk as they come, so that a killed run goes on where it stopped.

A folder holds one file for each rank, `answers-00000.jsonl` and so on: a first line that says what
it is, then one line for each answer, under a checksum. Every rank reads all files, however many
ranks wrote them, and appends to its own.

    owner = answer_fingerprint(arguments, location)  # everything but the job
    with AnswerStore("results/answers", ranks.rank, ranks.world_size) as store:
        todo = [job for job in jobs if store.get(job.key) is None]  # keys are from answer_key
        for batch in runner.answers(kind, todo, progress):
            store.put_many((job.key, answer) for job, answer in batch)
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import logging
import math
import os
import re
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lm_eval_llada import __version__
from lm_eval_llada.engine.keys import plain_settings
from lm_eval_llada.errors import require_whole

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

ANSWERS_DIR = "LM_EVAL_LLADA_ANSWERS_DIR"
"""Environment variable by which the command line says where `answers_dir=auto` is.

Not a model argument: the harness writes those into the results, as settings of the run."""

Answer = str | float | tuple[str | float | bool | None, ...]
"""A text, a number, or several values; None stands for a number that is not known."""

_FORMAT = 1
_KIND = "lm_eval_llada answers"
_HEADER = json.dumps({"kind": _KIND, "format": _FORMAT, "version": __version__}).encode() + b"\n"
_MARK = json.dumps({"kind": _KIND}).encode()[:-1]  # how headers of every format and version begin
_LINE = re.compile(rb'\{"sum": "([0-9a-f]{16})", (.*)\n', re.DOTALL)
_KEY = re.compile(r"[0-9a-f]{64}")
_FILE_OF_RANK = re.compile(r"answers-(\d{5,})\.jsonl")
_MOST_LINES_NAMED = 6
_logger = logging.getLogger("lm_eval_llada")


def answer_key(owner: str, kind: str, content: Sequence[Any]) -> str:
    """The key of an answer: a digest of everything that can change it.

    Args:
        owner: Digest of settings, checkpoint and package version (`fingerprints.fingerprint`).
        kind: Of request, such as `generate_until`.
        content: The rest: prompt, target, seed, options of this request. Texts, numbers, dataclass
            instances, and lists or mappings of these.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: If a part has no content of its own that could be written down.
    """
    parts = [owner, kind, list(content)]
    try:
        text = json.dumps(
            parts, default=_fields, sort_keys=True, ensure_ascii=False, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"The content of a {kind} request makes no key: {error}.") from error
    return hashlib.sha256(_to_bytes(text)).hexdigest()


class AnswerStore:
    """Answers by key, in memory and in a folder.

    Answers are never changed: where a key comes twice, the first answer counts.

    Attributes:
        folder: The folder.
        path: The file that this rank writes.
    """

    def __init__(self, folder: str | os.PathLike[str], rank: int = 0, world_size: int = 1) -> None:
        """Reads all answers of a folder and takes hold of the file of this rank.

        What an interrupted write has left, and lines that are not as they were written, are left
        out, with one warning for each such file from the rank that writes it, or from rank 0 where
        there is no such rank any more.

        Args:
            folder: Made if it is not there.
            rank: Index of this process over all nodes.
            world_size: Number of processes over all nodes.

        Raises:
            ValueError: If the folder cannot be written, another run is writing to it, or one of its
                files is of another kind or format.
        """
        require_whole("rank", rank, 0)
        require_whole("world_size", world_size, rank + 1)
        self.folder = Path(folder).expanduser()
        self._answers: dict[str, Answer] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.path, self._file = _take_file(self.folder, rank)
            try:
                self._num_valid = self._read_all(rank, world_size)
            except (OSError, ValueError):
                self._file.close()
                raise
        except OSError as error:
            reason = "it is no folder" if self.folder.is_file() else (error.strerror or str(error))
            raise ValueError(
                f"Answers cannot be kept in {self.folder}: {reason}. Give a folder that can be "
                f"read and written."
            ) from error

    def _read_all(self, rank: int, world_size: int) -> int:
        """Bytes of the valid part of this rank's file, once all answers are read."""
        num_valid = 0
        for path in sorted(self.folder.glob("answers-*.jsonl")):
            found = _read_file(path)
            for key, answer in found.answers:
                self._answers.setdefault(key, answer)
            if path == self.path:
                num_valid = found.num_valid_bytes
            # The last line of another rank's file may be unfinished because that rank is writing.
            if found.notice and rank == _warner(path, world_size):
                _logger.warning(found.notice)
        return num_valid

    def get(self, key: str) -> Answer | None:
        """The answer under a key (from `answer_key`), None where there is none yet."""
        return self._answers.get(key)

    @property
    def num_answers(self) -> int:
        """Number of answers, of all owners."""
        return len(self._answers)

    def put_many(self, items: Iterable[tuple[str, Answer]]) -> None:
        """Writes a batch of answers; when this returns, they survive a kill and a loss of power.

        Args:
            items: Keys with their answers. A key that has an answer keeps that one.

        Raises:
            ValueError: If a key or an answer cannot be stored; nothing is written then.
            OSError: If the disk is full or fails; what was written before is kept.
        """
        new: dict[str, Answer] = {}
        lines = []
        for key, answer in items:
            line = _encode(key, answer)
            if key not in self._answers and key not in new:
                new[key] = answer
                lines.append(line)
        if lines:
            self._append(b"".join(lines))
            self._answers.update(new)

    def _append(self, lines: bytes) -> None:
        data = lines if self._num_valid else _HEADER + lines
        try:
            # Anything behind the valid part was left by an interrupted write, maybe just now.
            if os.fstat(self._file.fileno()).st_size > self._num_valid:
                self._file.truncate(self._num_valid)
            rest = memoryview(data)
            while rest:  # a disk that is nearly full takes a part
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OSError(
                f"Answers could not be written to {self.path}: {error.strerror}. Those written "
                f"before are kept: make room and run again with the same folder."
            ) from error
        self._num_valid += len(data)

    def close(self) -> None:
        """Lets go of the file; answers can still be read, not written."""
        self._file.close()

    def __enter__(self) -> AnswerStore:  # noqa: D105
        return self

    def __exit__(self, *error: object) -> None:  # noqa: D105
        self.close()


@dataclasses.dataclass(frozen=True)
class _Contents:
    """What one file holds: answers, the bytes up to its last whole line, what was left out."""

    answers: list[tuple[str, Answer]]
    num_valid_bytes: int
    notice: str


def _take_file(folder: Path, rank: int) -> tuple[Path, io.FileIO]:
    """The file of a rank, open for appending and locked until it is closed."""
    path = folder / f"answers-{rank:05d}.jsonl"
    file = _open(path)
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "this system has no flock")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ValueError(
            f"Another run, or a process that one has left behind, is writing to {path}. Wait for "
            f"it or end it, or give another folder than {folder}."
        ) from error
    except OSError as error:
        # Not every file system locks. A file that nobody else knows of needs no lock.
        file.close()
        path = path.with_name(f"{path.stem}-{uuid.uuid4().hex[:12]}.jsonl")
        _logger.warning(
            f"{folder} has no file locks ({error.strerror}), so that nothing tells when two runs "
            f"work on the same answers at once; this one writes to a new file, {path.name}."
        )
        file = _open(path)
    _sync_folder(folder)
    return path, file


def _open(path: Path) -> io.FileIO:
    return path.open("ab", buffering=0)


def _sync_folder(folder: Path) -> None:
    """Has the name of a new file survive a loss of power, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _warner(path: Path, world_size: int) -> int:
    """The rank that reports what is wrong with a file: the one that writes it, else rank 0."""
    match = _FILE_OF_RANK.fullmatch(path.name)
    number = int(match[1]) if match else 0
    return number if number < world_size else 0


def _read_file(path: Path) -> _Contents:
    answers: list[tuple[str, Answer]] = []
    damaged: list[int] = []
    num_valid, num_torn = 0, 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                _check_header(path, line)
            if not line.endswith(b"\n"):
                num_torn = len(line)
                break
            num_valid += len(line)
            if number > 1:
                entry = _decode(line)
                if entry is None:
                    damaged.append(number)
                else:
                    answers.append(entry)
    return _Contents(answers, num_valid, _notice(path, damaged, num_torn))


def _notice(path: Path, damaged: Sequence[int], num_torn: int) -> str:
    parts = []
    if damaged:
        named = ", ".join(map(str, damaged[:_MOST_LINES_NAMED]))
        more = ", …" if len(damaged) > _MOST_LINES_NAMED else ""
        parts.append(f"{len(damaged)} lines that are not as they were written ({named}{more})")
    if num_torn:
        parts.append(f"the last line, {num_torn} bytes that an interrupted run left unfinished")
    if not parts:
        return ""
    return f"{path}: dropped {' and '.join(parts)}; these answers are computed again."


def _check_header(path: Path, line: bytes) -> None:
    """Refuses a file that is not ours, or not of our format; half a header is ours."""
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        # A loss of power can leave NULs in place of what was not on disk yet.
        begun = line.rstrip(b"\0")[: len(_MARK)]
        if not line.endswith(b"\n") and _MARK.startswith(begun):
            return
        header = None
    if not isinstance(header, dict) or header.get("kind") != _KIND:
        raise ValueError(
            f"{path} is no file of answers, or its first line is damaged. Move it out of the "
            f"folder, or give another folder."
        )
    if header.get("format") != _FORMAT:
        raise ValueError(
            f"{path} has format {header.get('format')!r}, written by lm_eval_llada "
            f"{header.get('version')}; this is {__version__}, which reads format {_FORMAT}. Use "
            f"that version, or give another folder."
        )


def _encode(key: str, answer: Answer) -> bytes:
    if not _KEY.fullmatch(key):
        raise ValueError(f"A key must be 64 hexadecimal digits, as of answer_key; got {key!r:.80}.")
    values = answer if isinstance(answer, tuple) else (answer,)
    if answer is None or not all(map(_is_storable, values)):
        raise ValueError(
            f"An answer must be text, a finite number, or a tuple of these, booleans and None; got "
            f"{answer!r:.80}."
        )
    row = json.dumps({"key": key, "answer": answer}, ensure_ascii=False)
    body = _to_bytes(row.removeprefix("{"))
    return b'{"sum": "%s", %s\n' % (_checksum(body), body)


def _decode(line: bytes) -> tuple[str, Answer] | None:
    """The key and answer of a line, None where a byte of it is not as it was written."""
    match = _LINE.fullmatch(line)
    if match is None or _checksum(match[2]) != match[1]:
        return None
    row = json.loads("{" + match[2].decode("utf-8", "surrogatepass"))
    answer = row["answer"]
    return row["key"], tuple(answer) if isinstance(answer, list) else answer


def _is_storable(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (str, int))


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=8).hexdigest().encode()


def _to_bytes(text: str) -> bytes:
    # JSON's own escapes would turn two lone surrogates in a row into one character.
    return text.encode("utf-8", "surrogatepass")


def _fields(value: object) -> Any:
    """A dataclass instance in plain values, for JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain_settings(value)
    raise TypeError(f"{type(value).__name__} is neither text, number, list nor dataclass")
