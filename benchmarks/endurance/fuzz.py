"""Feeds generated inputs of every kind to the package and counts what becomes of them.

    python -m benchmarks.endurance.fuzz --examples 1000
    python -m benchmarks.endurance.fuzz --families configs indices --examples 5000 --seed 7

Inputs come from the strategies of `tests/helpers/fuzz_settings.py` and `fuzz_files.py`, of which
the test suite runs a few. An input is accepted, and its result satisfies what has to hold; or
refused, by an error of a declared class whose message is the package's own and names the input;
anything else is a failure. Each distinct failure is shown once, with its shortest input.
`--examples` is the number for a family of weight 1. What limits the time are files: a checkpoint
is written for each input of some families. An input that takes more than `--seconds` ends the run
with a traceback. A
table comes first, one JSON line last; the exit code is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402

from tests.helpers.fuzz_files import FAMILIES as FILES  # noqa: E402
from tests.helpers.fuzz_oracle import Family, is_accepted  # noqa: E402
from tests.helpers.fuzz_settings import FAMILIES as SETTINGS  # noqa: E402

FAMILIES = {family.name: family for family in (*SETTINGS, *FILES)}
_PACKAGE = "lm_eval_llada"


@dataclass
class Counts:
    """What became of the inputs of a family.

    Attributes:
        accepted: Inputs with a right result.
        refused: Inputs with a proper error.
        failed: For each distinct failure, its number and its shortest input.
        seconds: Time for all.
    """

    accepted: int = 0
    refused: int = 0
    failed: dict[str, tuple[int, str]] = field(default_factory=dict)
    seconds: float = 0.0

    def saw_failure(self, error: BaseException, value: Any) -> None:
        """Note a failure under the place in the package that it came from."""
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if f"/{_PACKAGE}/" in frame.filename] or list(frames)
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        first_line = ascii((str(error).splitlines() or [""])[0][:300])
        # Numbers and quoted values differ from input to input.
        kind = f"{place} {type(error).__name__}"
        name = f"{kind}: {first_line}" if not self._known(kind) else self._known(kind)
        number, shortest = self.failed.get(name, (0, ascii(value)))
        self.failed[name] = (number + 1, min(shortest, ascii(value), key=len))

    def _known(self, kind: str) -> str:
        return next((name for name in self.failed if name.startswith(f"{kind}: ")), "")


def run(family: Family, num_examples: int, seed_value: int, seconds: float) -> Counts:
    """Generate that many inputs of a family and count what becomes of them."""
    counts = Counts()

    @seed(seed_value)
    @settings(
        max_examples=num_examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(family.inputs)
    def feed(value: Any) -> None:
        faulthandler.dump_traceback_later(seconds, exit=True)
        try:
            if is_accepted(family, value):
                counts.accepted += 1
            else:
                counts.refused += 1
        except Exception as error:
            counts.saw_failure(error, value)
        finally:
            faulthandler.cancel_dump_traceback_later()

    begin = time.perf_counter()
    feed()
    counts.seconds = time.perf_counter() - begin
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the families; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--families", nargs="+", choices=sorted(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--seed", type=int, default=2025)
    parser.add_argument("--seconds", type=float, default=300, help="the most for one input")
    parsed = parser.parse_args(arguments)
    results = {}
    print(
        f"{'family':12} {'inputs':>7} {'accepted':>9} {'refused':>8} {'failed':>7} {'seconds':>8}"
    )
    for name in parsed.families:
        number = max(1, round(parsed.examples * FAMILIES[name].weight))
        counts = results[name] = run(FAMILIES[name], number, parsed.seed, parsed.seconds)
        num_failed = sum(count for count, _ in counts.failed.values())
        total = counts.accepted + counts.refused + num_failed
        print(
            f"{name:12} {total:7} {counts.accepted:9} {counts.refused:8} {num_failed:7} "
            f"{counts.seconds:8.1f}",
            flush=True,
        )
        for failure, (count, value) in counts.failed.items():
            print(f"    {count}x {failure}\n        {value[:400]}", flush=True)
    print(
        json.dumps(
            {
                name: {**vars(counts), "failed": {k: n for k, (n, _) in counts.failed.items()}}
                for name, counts in results.items()
            }
        )
    )
    return 1 if any(counts.failed for counts in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
