"""Samples of a run as a report needs them: scores for paired comparisons, excerpts to read.

Prompts may have hundreds of thousands of characters, so a file is read line by line and of each
sample only a shortened text stays.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval_llada.report.files import Skipped

FAILED_BELOW = 50.0
"""Samples that score less, of 100, count as failed."""

_BEFORE_NEEDLE = 160
_AFTER_NEEDLE = 120
_END_OF_PROMPT = 240
_LONGEST_ANSWER = 400
_GAP = " […] "
# A page may hold none of these, and a terminal would obey some.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Sample:
    """One sample of a task, shortened.

    Attributes:
        task: Name of the task.
        doc_id: Its number in the data set.
        doc_hash: Of its whole content: equal in two runs that asked the same.
        score: 0-100; None where the task has no ``score``.
        cluster: What makes samples depend on each other, such as the needle they share.
        length: Context in tokens, where the sample says.
        depths: (depth in per cent, score) of each of its needles.
        prompt: Around the needle, and its end.
        target: What a right answer holds.
        answer: What the model wrote.
        targets: Right answers, or the whole needle, as far as the prompt holds them.
        said: Digest of all that the model wrote, unshortened: equal for equal texts.
    """

    task: str
    doc_id: int
    doc_hash: str
    score: float | None
    cluster: str
    length: int | None
    depths: tuple[tuple[int, float], ...]
    prompt: str
    target: str
    answer: str
    targets: tuple[str, ...] = ()
    said: str = ""

    @property
    def failed(self) -> bool:
        """Whether the score is known and low."""
        return self.score is not None and self.score < FAILED_BELOW

    @property
    def title(self) -> str:
        """One line that says which sample it is and how it scored."""
        parts = [f"{self.task} sample {self.doc_id}"]
        if self.length is not None:
            parts.append(f"{self.length:,} tokens")
        if self.depths:
            parts.append(f"needle at {', '.join(f'{depth} %' for depth, _ in self.depths)}")
        parts.append("no score" if self.score is None else f"score {self.score:.1f}")
        return ", ".join(parts)


def read_samples(path: Path, task: str) -> tuple[tuple[Sample, ...], Skipped | None]:
    """The samples of one file, and what of it could not be read.

    Lines from the first damaged one on are left out: a run that is killed while it writes leaves a
    last line that is cut off.

    Args:
        path: A ``samples_*.jsonl`` of lm-eval.
        task: Name of its task.
    """
    samples: list[Sample] = []
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for line in lines:
                if line.strip():
                    samples.append(_sample(json.loads(line), task))
    except OSError as error:
        return (), Skipped(path, f"cannot be read: {error.strerror}")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        where = f"line {len(samples) + 1} is cut off or no sample of lm-eval"
        rest = f"; the {len(samples)} before it are used" if samples else ""
        return tuple(samples), Skipped(path, where + rest)
    if not samples:
        return (), Skipped(path, "holds no sample")
    return tuple(samples), None


def spread(samples: Sequence[Sample], limit: int) -> list[Sample]:
    """At most ``limit`` samples, at even distances from the first to the last.

    Args:
        samples: In any order, which is kept.
        limit: At least 0.
    """
    if len(samples) <= limit:
        return list(samples)
    if limit < 2:
        return list(samples[:limit])
    return [samples[round(i * (len(samples) - 1) / (limit - 1))] for i in range(limit)]


def shortened(text: str, limit: int) -> str:
    """A text without its middle if it has more than ``limit`` characters, with the number left out.

    Args:
        text: Any text.
        limit: Characters to keep, at least 2.
    """
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} [… {len(text) - 2 * half:,} characters …] {text[-half:]}"


def prompt_excerpt(prompt: str, needles: Sequence[str]) -> str:
    """What of a prompt to show: where the first of some texts stands, and its end.

    Args:
        prompt: The whole prompt.
        needles: Texts to look for; the first one found is shown. None may be found.
    """
    end = max(0, len(prompt) - _END_OF_PROMPT)
    place = next((at for needle in needles if needle and (at := prompt.find(needle)) >= 0), None)
    if place is None:
        return prompt if end == 0 else _GAP.lstrip() + prompt[end:]
    start, stop = max(0, place - _BEFORE_NEEDLE), place + _AFTER_NEEDLE
    head = _GAP.lstrip() if start else ""
    if stop >= end:
        return head + prompt[start:]
    return head + prompt[start:stop] + _GAP + prompt[end:]


def _sample(line: Mapping[str, Any], task: str) -> Sample:
    doc = line["doc"] if isinstance(line["doc"], dict) else {}
    targets = _targets(doc, line.get("target"))
    score = line.get("score")
    cluster = line.get("score_clustered_se")
    length = doc.get("length")
    # A whole needle is found where it stands; its keyword alone may occur elsewhere, too.
    needles = [needle for needle in (doc.get("reference", ""), *targets) if needle]
    prompt = _clean(prompt_excerpt(_prompt(line, doc), needles))
    return Sample(
        task=task,
        doc_id=int(line["doc_id"]),
        doc_hash=str(line.get("doc_hash", "")),
        score=float(score) if isinstance(score, int | float) else None,
        cluster=str(cluster[1]) if isinstance(cluster, list) else str(line["doc_id"]),
        length=length if isinstance(length, int) else None,
        depths=tuple(_depths(line)),
        prompt=prompt,
        target=_clean(shortened("; ".join(targets), _LONGEST_ANSWER)),
        answer=_clean(shortened(_answer(line), _LONGEST_ANSWER)),
        targets=tuple(needle for needle in needles if needle in prompt),
        said=_digest(line.get("resps") or line.get("filtered_resps")),
    )


def _depths(line: Mapping[str, Any]) -> Iterator[tuple[int, float]]:
    """Depth and score of each needle, from (score, weight) pairs such as ``depth_030``."""
    for name, value in line.items():
        if name.startswith("depth_") and isinstance(value, list) and value[1]:
            yield int(name.removeprefix("depth_")), float(value[0])


def _prompt(line: Mapping[str, Any], doc: Mapping[str, Any]) -> str:
    """What the model read, or the sample's text where the file does not say."""
    arguments = line.get("arguments") or {}
    first = arguments.get("gen_args_0") if isinstance(arguments, dict) else None
    text = first.get("arg_0") if isinstance(first, dict) else None
    return str(text if text is not None else doc.get("prompt", doc.get("input", "")))


def _targets(doc: Mapping[str, Any], target: Any) -> list[str]:
    for name in ("answer", "answers", "outputs"):
        value = doc.get(name)
        if value:
            return [str(item) for item in value] if isinstance(value, list) else [str(value)]
    return [str(target)]


def _answer(line: Mapping[str, Any]) -> str:
    """The text that was scored; lm-eval wraps it in lists of different depth."""
    answer = line.get("filtered_resps")
    while isinstance(answer, list) and answer:
        answer = answer[0]
    return str(answer)


def _digest(answers: Any) -> str:
    """Empty where there is no answer to speak of."""
    if not answers:
        return ""
    return hashlib.sha256(json.dumps(answers, sort_keys=True).encode()).hexdigest()[:16]


def _clean(text: str) -> str:
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
