"""Ctrl-C and SIGTERM, once and twice, alone and from a launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from lm_eval_llada.engine import preemption
from tests.helpers.command_line import call

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")

WAITING = """
import sys, time
from lm_eval_llada.engine import preemption
preemption.watch()
print("ready", flush=True)
end = time.monotonic() + 60
while time.monotonic() < end:
    time.sleep(0.01)
    if sys.argv[1] == "check":
        try:
            preemption.check()
        except preemption.Preempted as stop:
            print(stop, flush=True)
            sys.exit(preemption.EXIT_CODE)
"""


def start(mode: str, **environment: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_during_the_imports_ends_in_a_sentence(number, code) -> None:
    late = (
        "import builtins, time\n"
        "real = builtins.__import__\n"
        "def slow(name, *rest):\n"
        "    if name == 'lm_eval_llada.cli.main':\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "    return real(name, *rest)\n"
        "import lm_eval_llada.__main__ as command\n"
        "builtins.__import__ = slow\n"
        "command.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", late], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    word = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert err.strip() == f"lm-eval-llada: stopped by {word} before anything began."


@pytest.mark.parametrize(
    ("number", "word"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")]
)
def test_the_first_signal_ends_in_a_sentence_and_75(number: signal.Signals, word: str) -> None:
    process = start("check")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == preemption.EXIT_CODE
    assert out.startswith(f"stopped by {word} after the current batch")
    assert "Traceback" not in err
    assert ("Ctrl-C again stops at once" in err) == (number == signal.SIGINT)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_second_signal_ends_at_once(number: signal.Signals, code: int) -> None:
    process = start("wait")
    process.send_signal(number)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("code", [0, preemption.EXIT_CODE])
def test_a_signal_on_the_last_way_changes_no_code(number: signal.Signals, code: int) -> None:
    # Modules are taken down after the interpreter has set its handlers back.
    late = (
        "import os, sys\n"
        "from lm_eval_llada.engine import preemption\n"
        "class Late:\n"
        "    def __del__(self, kill=os.kill, pid=os.getpid(), write=os.write):\n"
        f"        kill(pid, {int(number)})\n"
        "        write(1, b'still here')\n"
        "preemption.watch()\n"
        "late = Late()\n"
        f"sys.exit({code})\n"
    )
    done = subprocess.run([sys.executable, "-c", late], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (code, "still here"), done.stderr


def test_a_rank_takes_the_launchers_signal_for_the_same_word() -> None:
    process = start("wait", RANK="1")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")


def test_ctrl_c_before_a_run_is_a_sentence(monkeypatch, capsys) -> None:
    def interrupted(arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lm_eval_llada.cli.main.run", interrupted)
    assert call(monkeypatch, "--tasks", "niah_tiny") == 130
    assert capsys.readouterr().err == "lm-eval-llada: stopped by Ctrl-C.\n"
