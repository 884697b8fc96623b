"""A checkpoint is known by its content, the package by its commit."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from lm_eval_llada.checkpoints import provenance
from lm_eval_llada.checkpoints.provenance import (
    checkpoint_digest,
    machine,
    package_commit,
)
from lm_eval_llada.engine import fingerprints as cache_keys
from lm_eval_llada.engine.fingerprints import fingerprint

CONTENT = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b"[]",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    return folder


def test_the_digest_is_that_of_names_and_contents(folder) -> None:
    rows = [f"{name}\0{hashlib.sha256(data).hexdigest()}\n" for name, data in CONTENT.items()]
    expected = hashlib.sha256("".join(rows).encode()).hexdigest()
    assert checkpoint_digest(str(folder)) == f"sha256:{expected}"


def test_a_copy_has_the_same_digest_and_fingerprint(folder, tmp_path) -> None:
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    os.utime(tmp_path / "copy" / "model.safetensors", (1, 1))
    (tmp_path / "copy" / "README.md").write_text("says nothing about answers")
    assert checkpoint_digest(str(tmp_path / "copy")) == checkpoint_digest(str(folder))
    values = {"seed": 1}
    assert fingerprint(values, str(tmp_path / "copy")) == fingerprint(values, str(folder))


@pytest.mark.parametrize("name", CONTENT)
def test_a_changed_file_changes_digest_and_fingerprint(folder, name) -> None:
    before = checkpoint_digest(str(folder)), fingerprint({}, str(folder))
    (folder / name).write_bytes(CONTENT[name][::-1])  # of the same size
    os.utime(folder / name, (1, 1))
    after = checkpoint_digest(str(folder)), fingerprint({}, str(folder))
    assert before[0] != after[0] and before[1] != after[1]


def test_a_file_that_moves_to_another_name_changes_the_digest(folder) -> None:
    before = checkpoint_digest(str(folder))
    (folder / "tokenizer.json").rename(folder / "tokens.json")
    assert checkpoint_digest(str(folder)) != before


def test_settings_and_package_version_change_the_fingerprint(folder, monkeypatch) -> None:
    before = fingerprint({"seed": 1}, str(folder))
    assert fingerprint({"seed": 2}, str(folder)) != before
    monkeypatch.setattr(cache_keys, "__version__", "another")
    assert fingerprint({"seed": 1}, str(folder)) != before


def test_files_are_read_once_in_a_process(folder, monkeypatch) -> None:
    before = checkpoint_digest(str(folder))
    monkeypatch.setattr("builtins.open", None)
    assert checkpoint_digest(str(folder)) == before


def test_weights_that_are_not_read_count_by_size_and_time(folder) -> None:
    def digest() -> str:
        return checkpoint_digest(str(folder), read_weights=False)

    os.utime(folder / "model.safetensors", (1, 1))
    before = digest()
    assert before.startswith("stat:")
    os.utime(folder / "tokenizer.json", (1, 1))
    assert digest() == before
    os.utime(folder / "model.safetensors", (2, 2))
    assert digest() != before


def test_a_folder_without_a_checkpoint_has_no_digest(tmp_path) -> None:
    with pytest.raises(ValueError, match="no checkpoint"):
        checkpoint_digest(str(tmp_path))


def test_a_hub_id_is_known_by_the_commit_in_the_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    name = "organisation/name"
    assert checkpoint_digest(name) == f"{name}@main"
    assert checkpoint_digest(name, revision="v1") == f"{name}@v1"
    commit, repository = "0123456789" * 4, tmp_path / "models--organisation--name"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert checkpoint_digest(name) == f"{name}@{commit}"
    assert checkpoint_digest(name, revision=commit) == f"{name}@{commit}"
    assert checkpoint_digest(name, revision="v1") == f"{name}@v1"
    assert fingerprint({}, name) != fingerprint({}, name, revision="v1")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stand-in for provenance.py that the functions take for their own file."""
    file = tmp_path / "repository" / "package" / "provenance.py"
    file.parent.mkdir(parents=True)
    file.write_text("first\n")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(provenance, "__file__", str(file))
    package_commit.cache_clear()
    yield file
    package_commit.cache_clear()


def git(folder: Path, *command: str) -> str:
    identity = ("-c", "user.name=name", "-c", "user.email=name@example.org")
    done = subprocess.run(
        ["git", *identity, *command], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_a_checkout_and_says_if_files_differ(package) -> None:
    def commit_now() -> str | None:
        package_commit.cache_clear()
        return package_commit()

    folder = package.parent
    assert commit_now() is None
    git(folder.parent, "init")
    (folder.parent / "other.txt").write_text("")
    git(folder.parent, "add", "other.txt")
    git(folder.parent, "commit", "-m", "other")
    assert commit_now() is None, "inside of a checkout, but no part of it"
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")
    head = git(folder, "rev-parse", "HEAD")
    assert commit_now() == head and len(head) == 40
    git(folder, "tag", "-a", "v1", "-m", "a tag")
    (folder / "untracked.py").write_text("")
    assert commit_now() == head
    package.write_text("second\n")
    assert commit_now() == f"{head}-dirty"


def test_there_is_no_commit_without_git(package, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(package.parent))
    assert package_commit() is None


def test_the_machine_is_told_in_plain_values() -> None:
    told = machine()
    assert json.loads(json.dumps(told)) == told
    assert told["torch"] == torch.__version__
    assert told["num_cpus"] >= 1 and told["processor"]
    assert len(told["gpus"]) == torch.cuda.device_count()
    assert {"python", "transformers", "lm_eval"} <= set(told)
