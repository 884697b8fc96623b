"""The commands that `signals` ends: what each writes, how far it is, and what came of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.endurance.runs import ROOT

_NUMBER = re.compile(r"\d+(\.\d+)?")
# A bar, the estimate of a time, whose unit depends on the machine, and that a run goes on.
_BAR = re.compile(r"\d%\||\d/\d+ \[|Expected time|answered by an earlier run|left unfinished")


@dataclass
class Subject:
    """A command that goes on where it was stopped.

    Attributes:
        folder: Takes the whole run, and what the command reads.
        whole: What the whole run gave.
        seconds: That the whole run took.
        said: Its lines on stderr, without numbers.
    """

    folder: Path
    whole: Any = None
    seconds: float = 0.0
    said: set[str] = field(default_factory=set)
    name = ""
    total = 0

    def command(self, output: Path) -> list[str]:
        """Arguments of `lm-eval-llada`."""
        raise NotImplementedError

    def progress(self, output: Path) -> int:
        """How much work is on disk, at most `total`."""
        raise NotImplementedError

    def result(self, output: Path) -> Any:
        """What a run that came to its end gave."""
        raise NotImplementedError

    def run_whole(self) -> None:
        """Run to the end and keep what came of it.

        Raises:
            RuntimeError: If it fails.
        """
        output = self.folder / "whole"
        if start(self, output).wait() != 0:
            raise RuntimeError(f"{self.name} failed: {ended(output)}")
        self.whole, self.said = self.result(output), set(map(_bare, _lines(output)))


class Evaluation(Subject):
    """A run of `niah_tiny`, a request a batch, its answers kept."""

    name, total = "run", 22

    def command(self, output: Path) -> list[str]:  # noqa: D102
        model_args = "pretrained=tiny-llada,device=cpu,batch_size=1"
        return [
            *("--tasks", "niah_tiny", "--model_args", model_args),
            *("--log_samples", "--output_path", str(output)),
        ]

    def progress(self, output: Path) -> int:  # noqa: D102
        files = (output / "answers").glob("answers-*.jsonl")
        return sum(max(file.read_bytes().count(b"\n") - 1, 0) for file in files)

    def result(self, output: Path) -> Any:  # noqa: D102
        (samples,) = output.rglob("samples_*.jsonl")
        (results,) = output.rglob("results_*.json")
        rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
        rows.sort(key=lambda row: row["doc_id"])
        texts = [(row["doc_id"], row["filtered_resps"], row["score"]) for row in rows]
        return texts, json.loads(results.read_text(encoding="utf-8"))["results"]


class Curve(Subject):
    """A perplexity curve of two estimators to 1,024 tokens."""

    name, total = "curve", 30

    def command(self, output: Path) -> list[str]:  # noqa: D102
        return [
            *("curve", "--text", "heldout", "--context", "1024", "--mc_num", "4"),
            *("--estimator", "elbo", "masked_mean"),
            *("--model_args", "pretrained=tiny-llada,device=cpu"),
            *("--output", str(output / "curve.jsonl")),
        ]

    def progress(self, output: Path) -> int:  # noqa: D102
        file = output / "curve.jsonl"
        return file.read_bytes().count(b'"kind": "score"') if file.exists() else 0

    def result(self, output: Path) -> Any:  # noqa: D102
        lines = (output / "curve.jsonl").read_text(encoding="utf-8").splitlines()
        return lines[0], sorted(lines[1:])


class PostTraining(Subject):
    """Twenty steps of the shipped configuration at 512 tokens, a checkpoint every fourth."""

    name, total = "posttrain", 20

    def command(self, output: Path) -> list[str]:  # noqa: D102
        return [
            *("posttrain", "tiny_ultra.yaml", f"output={output}", f"data.source={self._source()}"),
            *("data.needle_share=null", "data.length=512", "evaluation.every=null"),
            *(f"training.max_steps={self.total}", "training.save_steps=4"),
            *("training.gradient_accumulation_steps=1", "training.logging_steps=1"),
        ]

    def _source(self) -> Path:
        path = self.folder / "documents.jsonl"
        if not path.exists():
            texts = [file.read_text(encoding="utf-8") for file in sorted(ROOT.glob("docs/*.md"))]
            lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
            path.write_text(lines, encoding="utf-8")
        return path

    def progress(self, output: Path) -> int:  # noqa: D102
        # transformers writes this file last.
        files = output.glob("checkpoint-*/trainer_state.json")
        return max((int(file.parent.name.rpartition("-")[2]) for file in files), default=0)

    def result(self, output: Path) -> Any:  # noqa: D102
        record = json.loads((output / "posttrain.json").read_text(encoding="utf-8"))
        losses = {line["step"]: line["loss"] for line in record["log"] if "loss" in line}
        weights = hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest()
        return losses, weights, record["samples"]


SUBJECTS = {subject.name: subject for subject in (Evaluation, Curve, PostTraining)}
"""By name."""


def start(subject: Subject, output: Path) -> subprocess.Popen[bytes]:
    """Start a command; what it says on stderr is in a file of its output folder."""
    output.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
    }
    with _stderr(output).open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "lm_eval_llada", *subject.command(output)],
            cwd=subject.folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=file,
        )


def send(process: subprocess.Popen[bytes], way: str, between: float) -> None:
    """Tell a process to stop.

    Args:
        process: Which; it may have ended.
        way: One of `signals.WAYS`.
        between: Seconds before a second signal.
    """
    number = signal.SIGTERM if way == "SIGTERM" else signal.SIGINT
    process.send_signal(number)
    if way.endswith("twice"):
        time.sleep(between)
        process.send_signal(number)


def new_lines(subject: Subject, output: Path) -> list[str]:
    """Lines on stderr that the whole run did not say, bars apart."""
    return [line for line in _lines(output) if _bare(line) not in subject.said]


def ended(output: Path) -> str:
    """The end of what the last run of a folder said on stderr."""
    return _stderr(output).read_text(encoding="utf-8", errors="replace")[-2000:]


def _stderr(output: Path) -> Path:
    return output / "stderr.txt"


def _lines(output: Path) -> list[str]:
    text = _stderr(output).read_text(encoding="utf-8", errors="replace")
    lines = (line.strip() for line in re.split(r"[\r\n]+|\x1b\[A", text))
    return [line for line in lines if line and not _BAR.search(line)]


def _bare(line: str) -> str:
    return _NUMBER.sub("#", line)
