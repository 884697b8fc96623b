"""Copies of the installed harness' task folders, to be edited as a later release might be."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lm_eval_llada.tasks import harness_texts


@pytest.fixture
def copied_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of lm-eval's two task folders, which the package reads instead of the real ones."""
    for name in ("longbench", "ruler"):
        shutil.copytree(
            harness_texts.tasks_folder() / name,
            tmp_path / name,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    monkeypatch.setattr(harness_texts, "tasks_folder", lambda: tmp_path)
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
