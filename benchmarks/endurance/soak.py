"""Sends many requests through one process and watches how much memory it holds.

    python -m benchmarks.endurance.soak

Rounds of short generations and multiple-choice questions, no two of them equal, go through
`LLaDALM` with its answers on disk. Resident memory is read whenever a request is answered. Growth
shows as a last quarter above the second one: the first is left out, in which libraries set
themselves up and caches fill. The bound is 5 %. What limits the time are the model's passes. A
table comes first, one JSON line last; the exit code is 1 where the bound does not hold.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import psutil
from lm_eval.api.instance import Instance

from lm_eval_llada.harness.llada import LLaDALM
from lm_eval_llada.tasks.text.haystacks import heldout_text

MOST_GROWTH = 0.05
_ROUND = 100
_NUM_CHOICES = 4
_LENGTHS = (6, 30, 12, 60, 20)


class MemoryWatch:
    """Stands in for the harness' cache of answers, and reads memory with each answer.

    Attributes:
        resident: Bytes, one value for each answer.
    """

    dbdict = None

    def __init__(self) -> None:
        """Watch this process."""
        self.resident: list[int] = []
        self._process = psutil.Process()

    def add_partial(self, kind: str, args: Any, answer: Any) -> None:
        """Called by the model as each answer comes."""
        self.resident.append(self._process.memory_info().rss)


def requests(first: int, number: int) -> tuple[list[Instance], list[Instance]]:
    """Texts to generate and options to score, half of the number each, from that document on."""
    words = heldout_text().split()
    texts, options = [], []
    for document in range(first, first + number // 2):
        begin, length = 13 * document % (len(words) - 100), _LENGTHS[document % len(_LENGTHS)]
        # The number makes contexts differ where the words come again.
        context = f"{document}: " + " ".join(words[begin : begin + length])
        arguments = (context, {"until": [], "gen_length": 8, "temperature": 0.5})
        texts.append(Instance("generate_until", {}, arguments, 0, ("soak", document, 1)))
        option = document % _NUM_CHOICES
        question = f"{document - option}: " + " ".join(words[begin : begin + length])
        pair = (question, " " + " ".join(words[begin + length :][: 2 + option]))
        options.append(Instance("loglikelihood", {}, pair, option, ("soak", document, 1)))
    return texts, options


def soak(pretrained: str, num_requests: int) -> dict[str, Any]:
    """Send the requests and return what is to be reported."""
    watch = MemoryWatch()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="soak_") as folder:
        lm = LLaDALM(
            pretrained=pretrained, device="cpu", mc_num=4, batch_size=4, answers_dir=folder
        )
        lm.set_cache_hook(watch)  # type: ignore[arg-type]
        for first in range(0, num_requests // 2, _ROUND // 2):
            texts, options = requests(first, _ROUND)
            lm.generate_until(texts, disable_tqdm=True)
            lm.loglikelihood(options, disable_tqdm=True)
    quarter = len(watch.resident) // 4
    means = [fmean(watch.resident[i * quarter : (i + 1) * quarter]) for i in range(4)]
    return {
        "pretrained": pretrained,
        "num_requests": num_requests,
        "num_answers": len(watch.resident),
        "quarters_mb": [round(mean / 2**20, 2) for mean in means],
        "peak_mb": round(max(watch.resident) / 2**20, 2),
        "growth": means[3] / means[1] - 1,
        "seconds": round(time.perf_counter() - begin, 1),
        "holds": means[3] <= (1 + MOST_GROWTH) * means[1] and len(watch.resident) == num_requests,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=2000, help=f"in whole rounds of {_ROUND}")
    parser.add_argument("--pretrained", default="tiny-llada")
    given = parser.parse_args(arguments)
    report = soak(given.pretrained, given.requests)
    print("quarter  mean resident MiB")
    for number, mean in enumerate(report["quarters_mb"], start=1):
        print(f"{number:7}  {mean:17.1f}")
    print(
        f"{report['num_answers']} answers in {report['seconds']} s, at most {report['peak_mb']} "
        f"MiB; last quarter against the second: {report['growth']:+.2%}, at most {MOST_GROWTH:.0%}"
    )
    print(json.dumps({"platform": platform.platform(), **report}))
    return 0 if report["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
