"""Real runs for the endurance benchmarks: started over ranks, killed whole, and read back."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TASKS = ("endurance_texts", "endurance_choices", "endurance_rolling")
NUM_ANSWERS = 6
"""Answers that a document takes: a text, four choices, a rolling likelihood."""


@dataclass(frozen=True)
class Setting:
    """What all runs of a comparison have in common.

    Attributes:
        num_documents: Documents of each task.
        model_args: Beside the device and the folder of answers.
        threads: Threads of a rank.
        entry: The script that a rank runs.
    """

    num_documents: int = 24
    model_args: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    entry: Path = HERE / "traced_run.py"


def start(
    setting: Setting, output: Path, num_ranks: int, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a run; what it prints goes to a file in `output`.

    Args:
        setting: What to run.
        output: Folder of results, answers and what is printed; a later run goes on in it.
        num_ranks: Processes that share the run, by torchrun if there are several.
        environment: Further variables.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_ranks}"]
    model_args = {"device": "cpu", "mc_num": 16, "batch_size": 4, **setting.model_args}
    command = [
        *(sys.executable, *(launcher if num_ranks > 1 else []), str(setting.entry)),
        *("--include_path", str(HERE / "tasks"), "--tasks", ",".join(TASKS)),
        *("--model_args", ",".join(f"{name}={value}" for name, value in model_args.items())),
        *("--metadata", json.dumps({"num_documents": setting.num_documents})),
        *("--log_samples", "--output_path", str(output)),
    ]
    output.mkdir(parents=True, exist_ok=True)
    with printed(output).open("a") as file:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "HF_HUB_OFFLINE": "1",
                "TOKENIZERS_PARALLELISM": "false",
                "OMP_NUM_THREADS": str(setting.threads),
                **(environment or {}),
            },
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
        )


def printed(output: Path) -> Path:
    """The file of what the runs of a folder have printed."""
    return output / "printed.txt"


def kill(process: subprocess.Popen[str]) -> None:
    """End a run and all of its ranks at once, as a loss of power would."""
    launcher = psutil.Process(process.pid)
    # torchrun puts each rank into a session of its own, out of reach of a signal to its group.
    ranks = launcher.children(recursive=True)
    for each in (launcher, *ranks):
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(ranks)
    process.wait()


def finish(process: subprocess.Popen[str], output: Path) -> None:
    """Wait for a run to end.

    Raises:
        RuntimeError: If it failed, with the end of what it printed.
    """
    if process.wait() != 0:
        text = printed(output).read_text(encoding="utf-8", errors="replace")
        raise RuntimeError(f"The run in {output} ended with {process.returncode}:\n{text[-4000:]}")


def run_whole(setting: Setting, output: Path, num_ranks: int) -> dict[str, list[Any]]:
    """Run to the end and return the answers."""
    finish(start(setting, output, num_ranks), output)
    return answers(output)


def num_kept(output: Path) -> int:
    """Whole lines of answers on disk."""
    files = (output / "answers").glob("answers-*.jsonl")
    # The first line of each file says what it is.
    return sum(max(file.read_bytes().count(b"\n") - 1, 0) for file in files)


def answers(output: Path) -> dict[str, list[Any]]:
    """What the last run of a folder answered: for each task the answers in order of documents."""
    found = {}
    for task in TASKS:
        file = max(output.rglob(f"samples_{task}_*.jsonl"))
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        rows.sort(key=lambda row: row["doc_id"])
        found[task] = [row["filtered_resps"] for row in rows]
    return found


def work(output: Path) -> dict[str, Any]:
    """What the last run of a folder says about its work, and the number of its ranks."""
    info = json.loads(max(output.rglob("results_*.json")).read_text())["config"]["llada"]
    return {**info["work"], "num_ranks": info["num_ranks"]}


def largest_difference(one: Any, other: Any) -> float:
    """How far apart the numbers of two equal structures are at most, relative to their size.

    Raises:
        ValueError: If anything but a number differs.
    """
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((largest_difference(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(largest_difference, one, other), default=0.0)
    numbers = [_number(value) for value in (one, other)]
    if one != other and None in numbers:
        raise ValueError(f"Answers differ: {one!r} and {other!r}.")
    if one == other:
        return 0.0
    first, second = (number or 0.0 for number in numbers)
    return abs(first - second) / max(abs(first), abs(second), 1e-9)


def _number(value: Any) -> float | None:
    """A log-likelihood, which the harness writes as a text; None for everything else."""
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
