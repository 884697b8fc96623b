"""The folder with heads of the official corpora, which tests may use and never need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "data"


def official_data(pattern: str) -> Path:
    """The folder, if it holds a file of this pattern; else the test is skipped, saying why."""
    folder = Path(os.environ.get("LM_EVAL_LLADA_DATA", _DEFAULT))
    if not any(folder.glob(pattern)):
        pytest.skip(f"needs {pattern}: set LM_EVAL_LLADA_DATA to the folder it lies in")
    return folder
