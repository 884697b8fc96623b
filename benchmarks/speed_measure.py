"""What a comparison is; how its sides are timed, judged and described."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lm_eval_llada.diffusion.denoiser import DenoiserStats
from lm_eval_llada.modeling import LLaDAForMaskedLM

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Outcome:
    """What one run of a side gave.

    Attributes:
        outputs: One for each request.
        num_tokens: Tokens of the answers, generated or scored.
        stats: Of the forward passes.
    """

    outputs: Sequence[Any]
    num_tokens: int
    stats: DenoiserStats


@dataclass(frozen=True, eq=False)
class Side:
    """One of two ways to do the same work.

    Attributes:
        label: In the table.
        run: Does all of it.
        brief: Passes of the same shapes, but fewer: warms up, and shows the peak of memory.
    """

    label: str
    run: Callable[[], Outcome]
    brief: Callable[[], object]


@dataclass(frozen=True)
class Verdict:
    """What the outputs of two sides say.

    Attributes:
        text: In words.
        is_shown: Whether a speed-up may be told beside it.
        is_good: Whether outputs are what is asked of them, such as scores that are near enough.
    """

    text: str
    is_shown: bool
    is_good: bool = True


@dataclass(frozen=True)
class Case:
    """Two sides, and what is expected of them.

    Attributes:
        name: For `--only`.
        what: The work, in words.
        model: Behind both sides.
        baseline: What is compared against.
        ours: What is compared.
        judge: From the outcomes of baseline and ours.
        target: Least speed-up; None where there is no expectation.
        most_memory: Most peak memory, as a share of the baseline's; None as above.
    """

    name: str
    what: str
    model: LLaDAForMaskedLM
    baseline: Side
    ours: Side
    judge: Callable[[Outcome, Outcome], Verdict]
    target: float | None = None
    most_memory: float | None = None


@dataclass(frozen=True)
class Timing:
    """Runs of one side: their seconds, and the outcome of the last."""

    seconds: Sequence[float]
    outcome: Outcome

    @property
    def median(self) -> float:
        """Of the repeats, in seconds."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """Slowest less fastest repeat, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


@dataclass
class Stopwatch:
    """Times sides, each of them once even if several cases share it.

    Attributes:
        repeats: Runs of a side.
        patience: A side that has run for so many seconds in all is not repeated.
        clock: Seconds since some moment.
        done: What was timed.
    """

    repeats: int
    patience: float
    clock: Callable[[], float]
    done: dict[Side, Timing] = field(default_factory=dict)

    def time(self, *sides: Side) -> list[Timing]:
        """Time sides in turns, so that a machine that slows down slows all of them."""
        seconds: dict[Side, list[float]] = {side: [] for side in sides if side not in self.done}
        outcomes = {}
        for side in seconds:
            side.brief()
        for _ in range(self.repeats):
            for side, spent in seconds.items():
                if spent and sum(spent) > self.patience:
                    continue
                start = self.clock()
                outcomes[side] = side.run()
                spent.append(self.clock() - start)
        self.done |= {side: Timing(spent, outcomes[side]) for side, spent in seconds.items()}
        return [self.done[side] for side in sides]


# --- verdicts -------------------------------------------------------------------------------------


def equal_outputs(baseline: Outcome, ours: Outcome) -> Verdict:
    """Whether tokens or texts are the same, one by one."""
    pairs = list(zip(baseline.outputs, ours.outputs, strict=True))
    different = [i for i, (one, other) in enumerate(pairs) if one != other]
    if different:
        return Verdict(
            f"DIFFERENT: {len(different)} of {len(pairs)} outputs, first number {different[0]}",
            is_shown=False,
            is_good=False,
        )
    return Verdict("equal", is_shown=True)


def equal_values(tolerance: float) -> Callable[[Outcome, Outcome], Verdict]:
    """Whether (value, standard error) pairs have the same values.

    Args:
        tolerance: Relative to the larger value, or to 1 if both are smaller.
    """

    def judge(baseline: Outcome, ours: Outcome) -> Verdict:
        gaps = [
            abs(one - other) / max(1.0, abs(one), abs(other))
            for (one, _), (other, _) in zip(baseline.outputs, ours.outputs, strict=True)
        ]
        worst = math.nan if any(map(math.isnan, gaps)) else max(gaps)
        if worst <= tolerance:
            return Verdict(f"equal to {worst:.0e}", is_shown=True)
        return Verdict(f"DIFFERENT by {worst:.1e}", is_shown=False, is_good=False)

    return judge


def rms_deviation(baseline: Outcome, ours: Outcome) -> float:
    """How far the baseline's estimates are from ours, root mean square of their standard errors."""
    squares = [
        ((one - other) / stderr) ** 2
        for (one, stderr), (other, _) in zip(baseline.outputs, ours.outputs, strict=True)
    ]
    return math.sqrt(math.fsum(squares) / len(squares))


def shared_tokens(baseline: Outcome, ours: Outcome) -> Verdict:
    """How many tokens an approximation has in common with the exact ones.

    Of a random model this says little: what approximations score is in the needle cases.
    """
    pairs = [
        pair
        for one, other in zip(baseline.outputs, ours.outputs, strict=True)
        for pair in zip(one, other, strict=True)
    ]
    share = sum(one == other for one, other in pairs) / len(pairs)
    return Verdict(f"{share:.0%} of the tokens; scores: niah_*", is_shown=True)


def scores(
    score: Callable[[Sequence[Any]], float], allowance: float | None
) -> Callable[[Outcome, Outcome], Verdict]:
    """What an approximation's outputs score beside the exact ones.

    Args:
        score: Of all outputs, 0-100.
        allowance: The most points that may be lost; None says the loss and judges nothing.
    """

    def judge(baseline: Outcome, ours: Outcome) -> Verdict:
        exact, own = score(baseline.outputs), score(ours.outputs)
        is_good = allowance is None or own >= exact - allowance
        return Verdict(f"score {own:.1f}, exact {exact:.1f}", is_shown=True, is_good=is_good)

    return judge


# --- memory ---------------------------------------------------------------------------------------


def added_peak(model: LLaDAForMaskedLM, run: Callable[[], object]) -> int:
    """Bytes that a run adds to the resident set at its peak.

    The weights are there before. A process measures once: what an allocator holds from earlier
    runs would hide a part.
    """
    with torch.inference_mode():
        model(torch.zeros(1, 8, dtype=torch.int64))  # reads the weights, loads kernels
    return peak_growth(run)


def peak_growth(run: Callable[[], object]) -> int:
    """Bytes that the resident set grows by at its peak during a run, which is the first to count.

    Linux tells the peak and lets it be reset.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is held now
    before = _status_bytes("VmRSS")
    run()
    return _status_bytes("VmHWM") - before


def peak_apart(script: Path, arguments: Sequence[str]) -> int:
    """What a fresh process of a script prints: a number of bytes."""
    command = [sys.executable, str(script), *arguments]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(result.stdout.split()[-1])


def _status_bytes(key: str) -> int:
    """A line of this process' status, in bytes: VmRSS is what it holds, VmHWM the peak of that."""
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) * 1024


# --- rows -----------------------------------------------------------------------------------------


def make_row(case: Case, timings: Sequence[Timing], peaks: Sequence[int]) -> dict[str, Any]:
    """What is known of a case, in plain values.

    Args:
        case: The comparison.
        timings: Of the baseline and of ours.
        peaks: Bytes beyond the weights, of both.
    """
    baseline, ours = timings
    verdict = case.judge(baseline.outcome, ours.outcome)
    speed_up = baseline.median / ours.median if verdict.is_shown else None
    memory = peaks[1] / peaks[0]
    is_met = None
    if case.target is not None:
        is_fast = speed_up is not None and speed_up >= case.target
        is_small = case.most_memory is None or memory <= case.most_memory
        is_met = is_fast and is_small and verdict.is_good
    return {
        "name": case.name,
        "what": case.what,
        "speed_up": speed_up,
        "target": case.target,
        "most_memory": case.most_memory,
        "is_met": is_met,
        "outputs": verdict.text,
        "are_outputs_good": verdict.is_good,
        "peak_memory_share": memory,
        "sides": [
            _side_row(case.baseline, baseline, peaks[0]),
            _side_row(case.ours, ours, peaks[1]),
        ],
    }


def _side_row(side: Side, timing: Timing, peak: int) -> dict[str, Any]:
    outcome, stats = timing.outcome, timing.outcome.stats
    return {
        "label": side.label,
        "seconds": timing.median,
        "spread": timing.spread,
        "repeats": len(timing.seconds),
        "num_forwards": stats.num_passes,
        "num_sequences": stats.num_sequences,
        "num_tokens": outcome.num_tokens,
        "tokens_per_second": outcome.num_tokens / timing.median,
        "tokens_per_forward": outcome.num_tokens / stats.num_passes,
        "peak_bytes": peak,
    }
