"""What approximations of decoding cost in score, by kind of task and context length.

    python -m benchmarks.price --kinds values vt qa --lengths 512 --samples 100

The kinds are those of RULER in miniature (`lm_eval_llada.tiny.ruler_evaluation`), with the words of
evaluation. A cell is a mode, a kind and a length; beyond the trained context the model runs under
NTK for that length. Every mode answers the same samples in the same batches, so that scores differ
by the mode alone. The verdict is that of `report --against`: `equal` only if every text is that of
exact decoding, `worse by x ± y`, or `better`, if the 95 % interval of the paired differences leaves
out nought, and `not told apart` else, which is no proof of anything.

Time is CPU seconds of decoding, as a ratio to the exact run of the same samples. Cells are appended
to the output as they end, and a kind is run again only if one of the modes asked for is not there;
of a cell that is there twice the newest counts. Rows do not say the dtype, so give another
`--output` for another one than theirs.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from benchmarks.json_lines import append_record, read_records
from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.modeling import LLaDAForMaskedLM, load_config, load_model
from lm_eval_llada.report.kinds import Difference
from lm_eval_llada.report.verdicts import judged, paired_half
from lm_eval_llada.rope import RopeChoice
from lm_eval_llada.tasks.ruler.scores import string_match_all
from lm_eval_llada.tasks.statistics import clustered_stderr
from lm_eval_llada.tiny.ruler_evaluation import CELLS, build_samples, make_answerer

EXACT = "exact"
MODES: Mapping[str, Mapping[str, Any]] = {
    EXACT: {},
    "prefix": {"cache": "prefix"},
    "dual": {"cache": "dual"},
    "dual, blocks of 8": {"cache": "dual", "block_length": 8},
    "dual, refreshed every 4": {"cache": "dual", "refresh_every": 4},
    "prefix, delayed": {"cache": "prefix", "entry": "delayed"},
    "dual, delayed": {"cache": "dual", "entry": "delayed"},
    "prompt": {"cache": "prompt"},
    "prompt, chunks": {"cache": "prompt", "prompt_chunk": 256},
    "prompt, pages": {"cache": "prompt", "keep": 0.125},
    "prompt, both": {"cache": "prompt", "prompt_chunk": 256, "keep": 0.125},
    "prompt, both, fp8": {
        "cache": "prompt",
        "prompt_chunk": 256,
        "keep": 0.125,
        "cache_dtype": "float8_e4m3fn",
    },
    "threshold=0.9": {"threshold": 0.9},
    "factor=1": {"factor": 1.0},
}


def verdict(exact: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What two records of the same samples allow to say, by the rule of reports.

    Args:
        exact: with `texts` and `scores`, one for each sample.
        other: the same of another mode.
    """
    pairs = list(zip(exact["scores"], other["scores"], strict=True))
    changes = [after - before for before, after in pairs]
    samples = range(len(changes))
    same = fmean(a == b for a, b in zip(exact["texts"], other["texts"], strict=True))
    change = Difference(
        fmean(before for before, _ in pairs),
        fmean(after for _, after in pairs),
        clustered_stderr(changes, samples),
        "paired by sample",
    )
    return judged(change, paired_half(changes, samples), same).text


def run_cells(
    model: LLaDAForMaskedLM, tokenizer: Any, kind: str, length: int, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """The records of a kind at a length, one for each mode."""
    samples = build_samples(tokenizer, kind, length, arguments.samples)
    gen_length = CELLS[kind].gen_length
    records = []
    for mode in arguments.modes:
        answer = make_answerer(model, tokenizer, length, **MODES[mode])
        start = time.process_time()
        texts = answer([sample["prompt"] for sample in samples], gen_length)
        seconds = time.process_time() - start
        pairs = zip(texts, samples, strict=True)
        scores = [string_match_all(text, sample["references"]) for text, sample in pairs]
        identity = {"pretrained": arguments.pretrained, "kind": kind, "length": length}
        records.append(
            {**identity, "mode": mode, "scores": scores, "texts": texts, "cpu": round(seconds, 2)}
        )
    return records


def extended(folder: str, length: int, dtype: str) -> LLaDAForMaskedLM:
    """The model for a length: as it is inside its trained context, beyond it under NTK."""
    trained = load_config(folder).train_length
    choice = RopeChoice()
    if length > trained:
        choice = RopeChoice(method="ntk", target_length=length)
    return load_model(folder, rope=choice, dtype=dtype)


def measure(arguments: argparse.Namespace) -> None:
    """Runs the kinds and lengths that are not there yet."""
    torch.set_num_threads(arguments.threads)
    folder = resolve_checkpoint(arguments.pretrained)
    tokenizer = load_tokenizer(folder)
    there = {_cell(record) for record in read_records(arguments.output)}
    for length in arguments.lengths:
        model = None
        for kind in arguments.kinds:
            wanted = {(arguments.pretrained, kind, length, mode) for mode in arguments.modes}
            if wanted <= there:
                continue
            model = model or extended(folder, length, arguments.dtype)
            with torch.inference_mode():
                for record in run_cells(model, tokenizer, kind, length, arguments):
                    append_record(arguments.output, record)
            print(f"{kind} at {length:,} tokens", flush=True)


def _cell(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(record[name] for name in ("pretrained", "kind", "length", "mode"))


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row a cell, exact first."""
    newest = {_cell(record): record for record in records}
    lines = [
        "| model | kind | tokens | mode | samples | score | texts as exact | time | verdict |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (pretrained, kind, length, mode), record in newest.items():
        exact = newest.get((pretrained, kind, length, EXACT))
        cells = [pretrained, kind, f"{length:,}", mode, str(len(record["scores"]))]
        cells.append(_score(record["scores"]))
        if exact is None or len(exact["texts"]) != len(record["texts"]):
            cells += ["", "", "no exact run of these samples"]
        elif mode == EXACT:
            cells += ["", "1", ""]
        else:
            pairs = list(zip(exact["texts"], record["texts"], strict=True))
            cells.append(f"{100 * fmean(a == b for a, b in pairs):.0f} %")
            cells += [f"{record['cpu'] / exact['cpu']:.2f}", verdict(exact, record)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _score(scores: Sequence[float]) -> str:
    error = stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else math.nan
    return f"{fmean(scores):.1f} ± {error:.1f}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pretrained", default="tiny-ruler")
    parser.add_argument("--kinds", nargs="+", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 1024, 2048])
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--samples", type=int, default=30)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/price.jsonl"))
    parser.add_argument("--table", action="store_true", help="print what is there and run nothing")
    arguments = parser.parse_args()
    if not arguments.table:
        measure(arguments)
    print(table(read_records(arguments.output)))


if __name__ == "__main__":
    main()
