"""Measures retrieval of a checkpoint by context length, depth and RoPE method, with intervals.

    python -m benchmarks.niah_evidence --pretrained tiny-llada --label seed0

Each cell is a context length, a RoPE setting and a number of distractors: needles of other keys
that differ from the one asked for in nothing else. A cell has `--samples` samples at each of eleven
depths. A sample is right if the number asked for is in the output. Nothing but the
keyword counts, and the intervals are Wilson's at 95 %.

Cells are appended to `<output>/<label>.jsonl` as they end; those already there are not run again,
so an interrupted run goes on where it was. `--table` prints the table of all files.
Time is that of the forward passes: `steps` of them for each sample, each over the
whole sequence.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.json_lines import append_record, read_records
from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.diffusion.sampler import CACHES, SamplingOptions, generate
from lm_eval_llada.modeling import LLaDAForMaskedLM, as_denoiser, load_model
from lm_eval_llada.rope import RopeChoice
from lm_eval_llada.tasks.niah.scores import niah_exact
from lm_eval_llada.tasks.niah.single import build_niah
from lm_eval_llada.tasks.statistics import wilson_interval

DEPTHS = tuple(range(0, 101, 10))
TOKENS_PER_BATCH = 8192
"""Sequences of one forward pass, in tokens: what keeps two cores and their caches busy."""


@dataclass(frozen=True)
class Cell:
    """One row of the table.

    Attributes:
        length: prompt and output, in the model's tokens.
        method: a `rope_method`.
        target: its target length; the trained context for `none`.
        distractors: needles of other keys.
        samples: at each depth.
        steps: forward passes of a sample.
        gen_length: tokens of the output.
        cache: of keys and values: `none` is exact, `prefix` and `dual` are not, and far cheaper.
    """

    length: int
    method: str
    target: int
    distractors: int
    samples: int
    steps: int
    gen_length: int
    cache: str = "none"


def plan(names: Iterable[str], **settings: Any) -> list[Cell]:
    """Cells from names such as `1024:ntk:1024:0` (length, method, target, distractors)."""
    cells = []
    for name in names:
        length, method, target, distractors = name.split(":")
        cells.append(Cell(int(length), method, int(target), int(distractors), **settings))
    return cells


def run_cell(model: LLaDAForMaskedLM, tokenizer: Any, cell: Cell) -> dict[str, Any]:
    """Right answers by depth, as counts."""
    samples = build_niah(
        tokenizer,
        length=cell.length,
        gen_length=cell.gen_length,
        depths=DEPTHS,
        repeats=cell.samples,
        num_distractors=cell.distractors,
    )
    options = SamplingOptions(steps=cell.steps, gen_length=cell.gen_length, cache=cell.cache)
    start = time.perf_counter()
    right = count_right(model, tokenizer, samples, options)
    return {
        **asdict(cell),
        "right": {str(depth): count for depth, count in right.items()},
        "seconds": round(time.perf_counter() - start, 1),
    }


def count_right(
    model: LLaDAForMaskedLM,
    tokenizer: Any,
    samples: Sequence[dict[str, Any]],
    options: SamplingOptions,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> dict[int, int]:
    """Right answers by depth, ascending.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        samples: of one length, as `build_niah` makes them.
        options: how to decode.
        tokens_per_batch: tokens of a forward pass.
    """
    right = {int(depth): 0 for depth in sorted(sample["depth"] for sample in samples)}
    batch_size = max(1, tokens_per_batch // samples[0]["length"])
    for first in range(0, len(samples), batch_size):
        batch = samples[first : first + batch_size]
        outputs = generate(
            as_denoiser(model),
            [torch.tensor(tokenizer(s["prompt"])["input_ids"]) for s in batch],
            options,
        )
        for sample, output in zip(batch, outputs, strict=True):
            right[int(sample["depth"])] += is_found(sample, output, tokenizer)
    return right


def is_found(sample: dict[str, Any], output: Any, tokenizer: Any) -> bool:
    """Whether the number that a sample asks for is in the output, tokens of its tokenizer."""
    text = tokenizer.decode(output, skip_special_tokens=True)
    return niah_exact(text, sample["answer"]) == 100


def measure(arguments: argparse.Namespace) -> None:
    """Runs the cells that are not there yet."""
    torch.set_num_threads(arguments.threads)
    path = arguments.output / f"{arguments.label}.jsonl"
    finished = {_name(record) for record in read_records(path)}
    folder = resolve_checkpoint(arguments.pretrained)
    tokenizer = load_tokenizer(folder)
    names = ("samples", "steps", "gen_length", "cache")
    for cell in plan(arguments.cells, **{name: getattr(arguments, name) for name in names}):
        if _name(asdict(cell)) in finished:
            continue
        choice = RopeChoice(
            method=cell.method, target_length=None if cell.method == "none" else cell.target
        )
        model = load_model(folder, rope=choice, dtype=arguments.dtype)
        result = run_cell(model, tokenizer, cell) | {"dtype": arguments.dtype}
        append_record(path, result)
        print(describe(result), flush=True)


def _name(cell: dict[str, Any]) -> tuple[Any, ...]:
    """What tells cells of a file apart."""
    values = (cell[name] for name in ("length", "method", "target", "distractors"))
    return (*values, cell.get("cache", "none"))


def pooled(result: dict[str, Any], depths: Sequence[int] = DEPTHS) -> tuple[int, int]:
    """Right answers and samples over some depths."""
    return sum(result["right"][str(d)] for d in depths), result["samples"] * len(depths)


def describe(result: dict[str, Any]) -> str:
    """One line: setting, share by depth, pooled share with its interval."""
    right, total = pooled(result)
    low, high = wilson_interval(right, total)
    shares = " ".join(f"{result['right'][str(d)] / result['samples']:4.2f}" for d in DEPTHS)
    cache = result.get("cache", "none")
    setting = f"{result['length']:5d} {result['method']:>12s} {result['target']:5d}"
    setting += "" if cache == "none" else f" cache={cache}"
    return (
        f"{setting} +{result['distractors']}  n={result['samples']:3d}  {shares}  "
        f"pooled {right / total:.3f} [{low:.3f}, {high:.3f}]"
    )


def table(folder: Path) -> str:
    """All files of a folder, cell by cell."""
    lines = []
    for path in sorted(folder.glob("*.jsonl")):
        lines.append(
            f"{path.stem}: length, method, target, distractors; share right at depth 0-100 %"
        )
        order = sorted(
            read_records(path),
            key=lambda r: (r["distractors"], r["length"], r["method"], r["target"]),
        )
        lines += [describe(result) for result in order]
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pretrained", default="tiny-llada")
    parser.add_argument("--label", default="tiny-llada")
    parser.add_argument("--cells", nargs="+", default=["256:none:512:0", "512:none:512:0"])
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--gen-length", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--cache", default="none", choices=CACHES)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/niah"))
    parser.add_argument("--table", action="store_true", help="print what is there and run nothing")
    arguments = parser.parse_args()
    if not arguments.table:
        measure(arguments)
    print(table(arguments.output))


if __name__ == "__main__":
    main()
