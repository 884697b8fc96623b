"""SIGTERM and Ctrl-C during a curve: nothing that is scored is lost, and the command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lm_eval_llada.engine import preemption

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")


def start(checkpoint: Path, output: Path) -> subprocess.Popen[str]:
    command = [
        *(sys.executable, "-m", "lm_eval_llada", "curve", "--text", "heldout", "--context", "1024"),
        *("--model_args", f"pretrained={checkpoint}", "--estimator", "elbo", "duel"),
        *("--mc_num", "16", "--output", str(output)),
    ]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def num_scores(output: Path) -> int:
    return output.read_text().count('"kind": "score"') if output.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_curve_that_is_told_to_stop_goes_on_later(random_checkpoint, tmp_path, number) -> None:
    output = tmp_path / "curve.jsonl"
    process = start(random_checkpoint, output)
    end = time.monotonic() + 120
    while num_scores(output) < 1 and time.monotonic() < end and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == preemption.EXIT_CODE, err
    assert f"stopped by {'SIGTERM' if number == signal.SIGTERM else 'Ctrl-C'} after a score" in err
    assert "Traceback" not in err
    before = output.read_text()
    assert 1 <= num_scores(output) < 30
    process = start(random_checkpoint, output)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert output.read_text().startswith(before)
    assert num_scores(output) == 30
