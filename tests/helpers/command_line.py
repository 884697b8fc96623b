"""The command line, called in this process."""

from __future__ import annotations

import argparse
import re
import sys

import pytest

from lm_eval_llada.cli import main as cli


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lm-eval-llada", *arguments])
    return cli.main()


def parsed(*arguments: str) -> argparse.Namespace:
    return cli.CommandLine().parse(arguments)


def check_one_sentence(code: int, printed: str, message: str) -> None:
    assert code == 1
    *_, last = printed.strip().splitlines()
    assert last.startswith("lm-eval-llada: error: ")
    assert re.search(message, last), last
    assert "Traceback" not in printed
