"""Answers survive kills, torn files and damage: at worst one is computed again, never wrong."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lm_eval_llada.diffusion.sampler import SamplingOptions
from lm_eval_llada.engine import answers
from lm_eval_llada.engine.answers import AnswerStore, answer_key

FILE = "answers-00000.jsonl"
BATCHES = [
    [(answer_key("owner", "loglikelihood", [0]), (-1.25, True, 0.1))],
    [(answer_key("owner", "generate_until", [i]), f"text {i} ü\n\u2028") for i in range(3)],
    [(answer_key("owner", "rolling", [i]), (-0.1 * i, None)) for i in range(2)],
]
PUT = dict(item for batch in BATCHES for item in batch)

floats = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters())  # lone surrogates among them
values = st.one_of(floats, texts, st.booleans(), st.none())
stored = st.one_of(texts, floats, st.lists(values, min_size=1).map(tuple))


def fill(folder: Path, rank: int = 0, world_size: int = 1) -> bytes:
    with AnswerStore(folder, rank, world_size) as store:
        for batch in BATCHES:
            store.put_many(batch)
        return store.path.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file that holds `PUT`."""
    return fill(tmp_path_factory.mktemp("whole"))


def read(folder: Path) -> dict[str, Any]:
    """What a run finds of `PUT`; fails where an answer is not the one that was put."""
    with AnswerStore(folder) as store:
        found = {key: store.get(key) for key in PUT if store.get(key) is not None}
        assert store.num_answers == len(found)
    assert found == {key: PUT[key] for key in found}
    return found


@given(st.lists(stored, max_size=5))
@example(["\ud83d\ude00", "😀"])
def test_answers_come_back_as_they_were(tmp_path_factory, given_answers) -> None:
    folder = tmp_path_factory.mktemp("answers")
    keys = [answer_key("owner", "kind", [i]) for i in range(len(given_answers))]
    with AnswerStore(folder) as store:
        store.put_many(zip(keys, given_answers, strict=True))
        kept = [store.get(key) for key in keys]
    with AnswerStore(folder) as store:
        # repr tells -0.0 from 0.0 and True from 1
        assert [repr(store.get(key)) for key in keys] == list(map(repr, given_answers))
        assert repr(kept) == repr(given_answers)


@given(st.data())
def test_a_file_cut_anywhere_loses_only_what_was_behind_the_cut(
    tmp_path_factory, whole, data
) -> None:
    folder = tmp_path_factory.mktemp("answers")
    cut = data.draw(st.integers(0, len(whole)))
    (folder / FILE).write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n") - 1
    assert list(read(folder)) == list(PUT)[: max(kept, 0)]
    # and the folder can be gone on with, from a fresh line
    assert fill(folder).startswith(whole[:cut][: whole[:cut].rfind(b"\n") + 1])
    assert read(folder) == PUT


def test_a_torn_line_is_cut_off_and_told_once_with_file_and_size(tmp_path, caplog) -> None:
    whole = fill(tmp_path)
    (tmp_path / FILE).write_bytes(whole[:-3])
    torn = len(whole.splitlines(keepends=True)[-1]) - 3
    with caplog.at_level(logging.WARNING):
        fill(tmp_path)
    (message,) = caplog.messages
    assert FILE in message and f"{torn} bytes" in message and "computed again" in message
    assert (tmp_path / FILE).read_bytes() == whole


@given(st.data())
def test_flipped_bits_never_give_a_wrong_answer(tmp_path_factory, whole, data) -> None:
    folder = tmp_path_factory.mktemp("answers")
    damaged = bytearray(whole)
    start = whole.index(b"\n") + 1
    flips = st.tuples(st.integers(start, len(whole) - 1), st.integers(1, 255))
    for place, mask in data.draw(st.lists(flips, min_size=1, max_size=3)):
        damaged[place] ^= mask
    (folder / FILE).write_bytes(damaged)
    read(folder)


def test_a_damaged_line_is_left_out_and_named(tmp_path, caplog) -> None:
    whole = fill(tmp_path)
    (tmp_path / FILE).write_bytes(whole.replace(b"text 1", b"text 7"))
    with caplog.at_level(logging.WARNING):
        found = read(tmp_path)
    assert found.keys() == PUT.keys() - {BATCHES[1][1][0]}
    (message,) = caplog.messages
    assert FILE in message and "(4)" in message
    assert fill(tmp_path).startswith(whole.replace(b"text 1", b"text 7"))
    assert read(tmp_path) == PUT


def numbered(i: int) -> tuple[str, str]:
    return answer_key("owner", "generate_until", [i]), f"answer {i} " + "x" * (i % 50)


def write_until_killed(folder: Path, sender: Any) -> None:
    with AnswerStore(folder, 0, 2) as store:
        for start in range(0, 10**9, 8):
            store.put_many(map(numbered, range(start, start + 8)))
            sender.send(start + 8)


def checked(folder: Path, rank: int, world_size: int) -> int:
    """Number of answers that a rank finds; fails unless they are the first ones, and right."""
    with AnswerStore(folder, rank, world_size) as store:
        number = store.num_answers
        assert all(store.get(key) == text for key, text in map(numbered, range(number)))
    return number


@pytest.mark.skipif(os.name != "posix", reason="forks")
@pytest.mark.parametrize("seed", range(5))
def test_a_kill_loses_at_most_one_batch_and_hides_none_from_readers(tmp_path, seed) -> None:
    generator = random.Random(seed)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    writer = context.Process(target=write_until_killed, args=(tmp_path, sender))
    writer.start()
    written = 0
    try:
        for _ in range(generator.randrange(1, 20)):
            written = receiver.recv()
            assert checked(tmp_path, 1, 2) >= written
        with pytest.raises(ValueError, match="Another run"):
            AnswerStore(tmp_path)
        time.sleep(generator.random() / 200)
    finally:
        writer.kill()
        writer.join()
    while receiver.poll():
        written = receiver.recv()
    assert written <= checked(tmp_path, 0, 1) <= written + 8


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_any_number_of_ranks_finds_what_any_other_number_wrote(tmp_path, world_size) -> None:
    for rank, batch in enumerate(BATCHES):
        with AnswerStore(tmp_path, rank, len(BATCHES)) as store:
            store.put_many(batch)
    for rank in range(world_size):
        with AnswerStore(tmp_path, rank, world_size) as store:
            assert {key: store.get(key) for key in PUT} == PUT


@pytest.mark.parametrize(("world_size", "teller"), [(1, 0), (2, 1)])
def test_a_torn_file_is_told_by_its_rank_or_by_rank_0(tmp_path, caplog, world_size, teller) -> None:
    whole = fill(tmp_path, rank=1, world_size=2)
    (tmp_path / "answers-00001.jsonl").write_bytes(whole[:-1])
    for rank in range(world_size):
        caplog.clear()
        with caplog.at_level(logging.WARNING), AnswerStore(tmp_path, rank, world_size):
            assert len(caplog.messages) == (rank == teller)


def test_the_first_answer_counts(tmp_path) -> None:
    key = answer_key("owner", "kind", [])
    with AnswerStore(tmp_path) as store:
        store.put_many([(key, "first"), (key, "second")])
        store.put_many([(key, "third")])
        assert store.get(key) == "first"
    with AnswerStore(tmp_path) as store:
        assert store.get(key) == "first"
    assert (tmp_path / FILE).read_bytes().count(b"\n") == 2


def test_of_the_answers_of_two_ranks_every_reader_takes_the_same(tmp_path) -> None:
    key = answer_key("owner", "kind", [])
    with AnswerStore(tmp_path, 0, 2) as zero, AnswerStore(tmp_path, 1, 2) as one:
        one.put_many([(key, "one")])
        zero.put_many([(key, "zero")])
    for rank in range(2):
        with AnswerStore(tmp_path, rank, 2) as store:
            assert store.get(key) == "zero"


def test_a_folder_that_another_run_writes_to_is_refused(tmp_path) -> None:
    with AnswerStore(tmp_path), pytest.raises(ValueError, match="Another run") as error:
        AnswerStore(tmp_path)
    assert str(tmp_path) in str(error.value)
    AnswerStore(tmp_path).close()


@pytest.mark.parametrize("has_flock", [True, False])
def test_without_locks_each_run_writes_a_file_of_its_own(
    tmp_path, monkeypatch, caplog, has_flock
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    if has_flock:
        monkeypatch.setattr(answers.fcntl, "flock", refuse)
    else:
        monkeypatch.setattr(answers, "fcntl", None)
    with caplog.at_level(logging.WARNING), AnswerStore(tmp_path) as one:
        assert "no file locks" in caplog.text
        with AnswerStore(tmp_path) as other:
            one.put_many(BATCHES[0])
            other.put_many(BATCHES[1] + BATCHES[2])
    assert one.path != other.path
    assert read(tmp_path) == PUT


def test_a_file_in_place_of_the_folder_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="Answers cannot be kept in"):
            AnswerStore(folder)


def test_a_read_only_folder_is_refused(tmp_path, monkeypatch) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)  # permissions do not hold back root
    with pytest.raises(ValueError, match="Permission denied. Give a folder"):
        AnswerStore(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="needs limits of file sizes")
def test_a_full_disk_loses_nothing_that_was_written(tmp_path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with AnswerStore(tmp_path) as store:
        store.put_many(BATCHES[0])
        written = store.path.read_bytes()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(written) + 20, limits[1]))
            with pytest.raises(OSError, match=r"could not be written to .* run again"):
                store.put_many(BATCHES[1])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert store.get(BATCHES[1][0][0]) is None
        assert len(store.path.read_bytes()) == len(written) + 20
        store.put_many(BATCHES[2])  # over the part that was written
    assert read(tmp_path) == dict(BATCHES[0] + BATCHES[2])


@pytest.mark.parametrize(
    ("first_line", "reason"),
    [
        ('{"question": "?"}\n', "no file of answers"),
        ("some notes", "no file of answers"),
        ("[" * 100_000, "no file of answers"),
        (json.dumps({"kind": "lm_eval_llada answers", "format": 2}) + "\n", "reads format 1"),
    ],
)
def test_a_foreign_file_and_another_format_are_refused_and_left_alone(
    tmp_path, first_line, reason
) -> None:
    (tmp_path / FILE).write_text(first_line)
    with pytest.raises(ValueError, match=reason):
        AnswerStore(tmp_path)
    assert (tmp_path / FILE).read_text() == first_line


@pytest.mark.parametrize("answer", [math.nan, (1.0, math.inf), None, [1.0], {"a": 1}, ((1,),)])
def test_what_would_not_come_back_is_refused_before_anything_is_written(tmp_path, answer) -> None:
    with AnswerStore(tmp_path) as store:
        with pytest.raises(ValueError, match="An answer must be"):
            store.put_many([*BATCHES[0], (BATCHES[1][0][0], answer)])
        with pytest.raises(ValueError, match="64 hexadecimal"):
            store.put_many([*BATCHES[0], ("key", "text")])
        assert store.num_answers == 0 and store.path.read_bytes() == b""


def test_a_rank_is_one_of_the_run(tmp_path) -> None:
    with pytest.raises(ValueError, match="world_size must be a whole number >= 3"):
        AnswerStore(tmp_path, 2, 2)


def test_keys_differ_with_each_part_and_only_then() -> None:
    options = SamplingOptions(gen_length=8)
    parts = [
        ("a", "b", [[1, 2], options]),
        ("a", "b", [[1], 2, options]),
        ("a", "b", [[1, 2], SamplingOptions(gen_length=16)]),
        ("ab", "", [[1, 2], options]),
        ("b", "b", [[1, 2], options]),
        ("a", "b", ["😀"]),
        ("a", "b", ["\ud83d\ude00"]),
    ]
    keys = [answer_key(*part) for part in parts]
    assert len(set(keys)) == len(parts)
    assert keys[0] == answer_key("a", "b", ((1, 2), SamplingOptions(gen_length=8)))


@pytest.mark.parametrize("part", [object(), math.nan, {1, 2}])
def test_what_has_no_content_makes_no_key(part) -> None:
    with pytest.raises(ValueError, match="makes no key"):
        answer_key("owner", "kind", [part])
