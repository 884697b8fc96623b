"""Measures what UltraLLaDA's parts do on the shipped model: rotation, masking strategy, d_crit.

    python -m benchmarks.posttrain_ablation                                  # what is missing
    python -m benchmarks.posttrain_ablation --only ntk-free none-eod-seed0
    python -m benchmarks.posttrain_ablation --table                          # runs nothing

A cell is tiny-llada under a rotation made for 4,096 tokens, eight times its trained context: {none,
ntk, diffusion_ntk} without training, and post-trained on 72 samples of 4,096 tokens under each of
{adaptive, concat, eod}, all with the settings of `configs/tiny_ultra.yaml` but 18 steps. Further
cells repeat some with another seed of documents and masks (the start is the same), put other
critical dimensions in place of the computed one, or train under LLaDA's own loss (`plain`:
`block_share` 0). Each is measured at 512, 1,024, 2,048 and 4,096 tokens, all on the same samples:

- Needles: `--samples` at each of five depths. Decoded in bfloat16 with the prompt's keys and values
  kept after the first of eight steps, an eighth of the work. At twice the trained context without
  scaling, where most is at stake, that finds 66 of 100 where the exact loop in float32 finds 65.
- Perplexity (LLaDA's bound, Eq. 14) of 64 tokens of held-out prose given the 448, 960, ... tokens
  before them. The scored tokens and their masks are the same at every length and in every cell, so
  that differences are far surer than the values themselves.
- Loss at the trained length: the same bound on whole windows of 512 tokens, nats per token.

Finished cells are lines of `--results` and are never run again; trained models go to `--runs`.
What limits it: a model of 2.9 million parameters, minutes of training where the paper has 600 steps
of four million tokens, one starting point, and 100 needles a length, whose 95 % interval is up to
ten points to either side. Time is that of full attention at 4,096 tokens: 3 to 4 seconds of a core
a sample in training, 0.8 a forward pass.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.ablation_cells import Cell, chosen
from benchmarks.ablation_tables import tables
from benchmarks.json_lines import append_record, read_records
from benchmarks.niah_evidence import count_right
from lm_eval_llada import __version__
from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.diffusion.likelihood import LikelihoodOptions, log_likelihoods
from lm_eval_llada.diffusion.sampler import SamplingOptions
from lm_eval_llada.engine.requests import content_seed
from lm_eval_llada.modeling import LLaDAForMaskedLM, as_denoiser, load_model
from lm_eval_llada.tasks.niah.single import build_niah
from lm_eval_llada.tasks.text.haystacks import heldout_text

LENGTHS = (512, 1024, 2048, 4096)
DEPTHS = (0, 25, 50, 75, 100)
CHUNK_LENGTH = 64
SAMPLING = SamplingOptions(steps=8, gen_length=8, cache="prefix")
TOKENS_PER_BATCH = 4096
"""Of a forward pass; on one core longer batches are no faster."""

PRETRAINED = "tiny-llada"


@dataclass(frozen=True)
class Measurement:
    """What every cell is measured on.

    Attributes:
        samples: needles at each depth of a length.
        num_chunks: chunks of held-out text whose perplexity is measured, one mask each.
        num_masks: of each window of the trained length.
    """

    samples: int = 20
    num_chunks: int = 40
    num_masks: int = 6

    @cached_property
    def tokenizer(self) -> Any:
        """Of the shipped model."""
        return load_tokenizer(PRETRAINED)

    @cached_property
    def text(self) -> Tensor:
        """The held-out prose, int64 (tokens,)."""
        return torch.tensor(self.tokenizer(heldout_text(), verbose=False)["input_ids"])

    @cached_property
    def needles(self) -> dict[int, list[dict[str, Any]]]:
        """Samples by length, as `build_niah` makes them."""
        return {
            length: build_niah(
                self.tokenizer,
                length=length,
                gen_length=SAMPLING.gen_length,
                depths=DEPTHS,
                repeats=self.samples,
            )
            for length in LENGTHS
        }

    @cached_property
    def ends(self) -> list[int]:
        """Where the chunks end, spread evenly over what has the longest context before it."""
        last = len(self.text)
        places = torch.linspace(max(LENGTHS), last, self.num_chunks, dtype=torch.float64)
        return places.round().long().tolist()

    def found(self, model: LLaDAForMaskedLM) -> dict[str, dict[str, int]]:
        """Needles found by length and depth."""
        found = {}
        for length, samples in self.needles.items():
            right = count_right(model, self.tokenizer, samples, SAMPLING, TOKENS_PER_BATCH)
            found[str(length)] = {str(depth): count for depth, count in right.items()}
        return found

    def chunk_nats(self, model: LLaDAForMaskedLM) -> dict[str, list[float]]:
        """Cross entropy of each chunk, nats per token, by length of its context and itself."""
        nats = {}
        for length in LENGTHS:
            pairs = [
                (self.text[end - length : end - CHUNK_LENGTH], self.text[end - CHUNK_LENGTH : end])
                for end in self.ends
            ]
            nats[str(length)] = _nats(model, pairs, 1)
        return nats

    def window_nats(self, model: LLaDAForMaskedLM) -> list[float]:
        """Cross entropy of windows of the trained length, nats per token."""
        windows = self.text.split(LENGTHS[0])[: len(self.text) // LENGTHS[0]]
        pairs = [(window[:0], window) for window in windows]
        return _nats(model, pairs, self.num_masks)


def _nats(
    model: LLaDAForMaskedLM, pairs: Sequence[tuple[Tensor, Tensor]], num_masks: int
) -> list[float]:
    """Minus the bound on log p of each target, per token; its masks depend on its place alone."""
    size = max(1, TOKENS_PER_BATCH // sum(map(len, pairs[0])))
    estimates = log_likelihoods(
        as_denoiser(model),
        pairs,
        LikelihoodOptions(mc_num=num_masks, method="mc", batch_size=size),
        seeds=[content_seed(0, "ablation", str(place)) for place in range(len(pairs))],
    )
    return [
        round(-estimate.value / len(target), 4)
        for estimate, (_, target) in zip(estimates, pairs, strict=True)
    ]


def run_cell(
    cell: Cell, runs: Path, measurement: Measurement, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Trains a cell where there is anything to train, and measures it.

    Returns:
        A record: the cell, λ, needles found, cross entropies, and seconds of processor time.
    """
    record: dict[str, Any] = {"cell": cell.name, "setting": cell.setting, **asdict(cell)}
    start = time.process_time()
    if cell.is_trained:
        # Here, since the other cells need none of it.
        from lm_eval_llada.posttrain.trainer import run

        log = run(cell.training(runs, overrides))
        record["losses"] = [round(entry["loss"], 4) for entry in log if "loss" in entry]
    trained = time.process_time()
    needle_model, text_model = (_load(cell, runs, dtype) for dtype in ("bfloat16", "float32"))
    return {
        **record,
        "rope_scale": round(text_model.config.rope_scale, 4),
        "samples": measurement.samples,
        "found": measurement.found(needle_model),
        "chunk_nats": measurement.chunk_nats(text_model),
        "window_nats": measurement.window_nats(text_model),
        "train_seconds": round(trained - start, 1) if cell.is_trained else 0,
        "eval_seconds": round(time.process_time() - trained, 1),
        "versions": {"lm_eval_llada": __version__, "torch": torch.__version__},
    }


def _load(cell: Cell, runs: Path, dtype: str) -> LLaDAForMaskedLM:
    if cell.is_trained:
        return load_model(runs / cell.name, dtype=dtype)
    return load_model(resolve_checkpoint(PRETRAINED), rope=cell.rope, dtype=dtype)


def run_missing(
    cells: Sequence[Cell], results: Path, measure: Callable[[Cell], dict[str, Any]]
) -> None:
    """Runs the cells that a file does not hold yet, and adds each as it ends.

    Args:
        cells: in order.
        results: JSON lines; read again before each cell, since another process may share it.
        measure: from a cell to its record.
    """
    for cell in cells:
        if cell.name in {record["cell"] for record in read_records(results)}:
            continue
        record = measure(cell)
        append_record(results, record)
        seconds = f"{record['train_seconds']:.0f} s of training, {record['eval_seconds']:.0f} s"
        print(f"{cell.name}: {seconds} of measuring", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 1 after one sentence on what is wrong."""
    arguments = _parser().parse_args(argv)
    try:
        cells = chosen(arguments.only)
        if not arguments.table:
            torch.set_num_threads(arguments.threads)
            measurement = Measurement(arguments.samples)
            run_missing(
                cells,
                arguments.results,
                lambda cell: run_cell(cell, arguments.runs, measurement),
            )
        print(tables(read_records(arguments.results)))
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", metavar="CELL", help="names of cells (all)")
    add("--samples", type=int, default=20, help="needles at each depth of a length (20)")
    add("--threads", type=int, default=1, help="of torch (1)")
    add("--runs", type=Path, default=Path("runs/ablation"), help="folder for trained models")
    default = Path("benchmarks/results/ablation.jsonl")
    add("--results", type=Path, default=default, help=f"finished cells ({default})")
    add("--table", action="store_true", help="print what is there and run nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
