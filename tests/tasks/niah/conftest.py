"""What tests of NIAH share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.official_data import official_data


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder above NeedleBench's official files."""
    return official_data("needlebench/needles.jsonl")
