"""Perplexity against context length, for a diffusion or a causal model.

    python ppl/curve.py --model llada --model_args pretrained=tiny-llada --text heldout \
        --context 4096 --points 16 --output results/tiny-llada.jsonl

Each scored chunk of 64 tokens is given all text before it and none after, as in LongLLaDA (arXiv
2506.14429). A diffusion model is scored by the ELBO, by LongLLaDA's masked mean (the same number,
computed its way) and by DUEL, an exact probability and the proper counterpart of a causal model's.
Scores go to the output one JSON line each as they come; the same command goes on where it stopped.
The work grows with the square of the context: every chunk reads all before it again. --points
scores fewer chunks, with unchanged values.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lm_eval.utils import simple_parse_args_string

from lm_eval_llada.curves.run import (
    MODELS,
    SPACINGS,
    CurveOptions,
    CurveRun,
    run_curve,
)
from lm_eval_llada.curves.scores import CAUSAL_ESTIMATOR, MASKED_ESTIMATORS
from lm_eval_llada.report.curves import curve_table, read_curves
from lm_eval_llada.tasks.text.long_texts import TEXTS


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 1 after one sentence on what went wrong.

    Args:
        argv: Arguments; those of the process if None.
    """
    arguments = _parser().parse_args(argv)
    try:
        path = run_curve(_run_of(arguments), lambda line: print(line, file=sys.stderr, flush=True))
        for series in read_curves([path]):
            print(f"\n{curve_table(series)}")
    except (ValueError, OSError, ImportError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\nScores: {path}   Picture: python ppl/plot.py {path} --output curve.png")
    return 0


def _run_of(arguments: argparse.Namespace) -> CurveRun:
    default = (CAUSAL_ESTIMATOR,) if arguments.model == "hf_rope" else ("elbo", "duel")
    options = CurveOptions(
        context=arguments.context,
        chunk_length=arguments.chunk_length,
        num_points=arguments.points,
        spacing=arguments.spacing,
        estimators=tuple(arguments.estimator or default),
        mc_num=arguments.mc_num,
        seed=arguments.seed,
    )
    return CurveRun(
        model=arguments.model,
        model_args=simple_parse_args_string(arguments.model_args),
        text=arguments.text,
        options=options,
        output=arguments.output,
        data_dir=arguments.data_dir,
        num_documents=arguments.num_documents,
        batch_size=arguments.batch_size,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="llada", help=f"{' or '.join(MODELS)} (llada)")
    add("--model_args", default="", help="name=value,... as in the harness: checkpoint and rope")
    add("--text", default="heldout", help=f"{', '.join(TEXTS)}, a text file or a folder (heldout)")
    add("--data_dir", help="folder with ppl/: gov_report*.txt, pg19*.txt or the hub's files")
    add("--num_documents", type=int, default=1, help="the first that are long enough (1)")
    add("--context", type=int, default=4096, help="longest context in tokens (4096)")
    add("--chunk_length", type=int, default=64, help="tokens scored at a time (64)")
    add("--points", type=int, help="chunks of a text to score (all)")
    add("--spacing", default="geometric", help=f"of --points: {' or '.join(SPACINGS)} (geometric)")
    add("--estimator", nargs="+", help=f"some of {', '.join(MASKED_ESTIMATORS)} (elbo duel)")
    add("--mc_num", type=int, default=8, help="masks drawn for a chunk by elbo, masked_mean (8)")
    add("--seed", type=int, default=2025, help="of the masks (2025)")
    add("--batch_size", type=_batch_size, help="sequences in a pass, or auto (auto)")
    add("--output", type=Path, required=True, help="JSON-lines file to write or go on with")
    return parser


def _batch_size(text: str) -> int | None:
    return None if text == "auto" else int(text)


if __name__ == "__main__":
    sys.exit(main())
