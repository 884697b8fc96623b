"""The command ``curve``: perplexity against context length, for a diffusion or a causal model.

    lm-eval-llada curve --model_args pretrained=tiny-llada --text heldout \
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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_llada.cli.arguments import add_model_args, model_args_of

if TYPE_CHECKING:
    from lm_eval_llada.curves.run import CurveRun


def add_parser(subparsers: Any) -> None:
    """Add the command to what ``add_subparsers`` returned."""
    parser = subparsers.add_parser(
        "curve",
        help="Measure perplexity against context length",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_args(parser, "checkpoint, dtype, device, position embeddings")
    add = parser.add_argument
    add("--model", default="llada", help="llada, also as mdlm, or hf_rope, a causal model (llada)")
    add(
        "--text", default="heldout", help="heldout, gov_report[_001], pg19, a text file or a folder"
    )
    add("--data_dir", help="folder with ppl/ (<text>*.txt or the hub's files) and longbench/")
    add("--num_documents", type=int, default=1, help="the first that are long enough (1)")
    add("--context", type=int, default=4096, help="longest context in tokens (4096)")
    add("--chunk_length", type=int, default=64, help="tokens scored at a time (64)")
    add("--points", type=int, help="chunks of a text to score (all)")
    add("--spacing", default="geometric", help="of --points: geometric or even (geometric)")
    add("--estimator", nargs="+", help="some of elbo, masked_mean, duel (elbo duel)")
    add("--mc_num", type=int, default=8, help="masks drawn for a chunk by elbo, masked_mean (8)")
    add("--seed", type=int, default=2025, help="of the masks (2025)")
    add("--batch_size", type=_batch_size, help="sequences in a pass, or auto (auto)")
    add("--output", type=Path, required=True, help="JSON-lines file to write or go on with")
    parser.set_defaults(func=_run)


def _run(namespace: argparse.Namespace) -> None:
    # Imported here, as it takes seconds: other commands share this command line.
    from lm_eval_llada.curves.run import run_curve
    from lm_eval_llada.engine import preemption
    from lm_eval_llada.report.curves import curve_table, read_curves

    preemption.watch()
    path = run_curve(_curve_of(namespace), lambda line: print(line, file=sys.stderr, flush=True))
    for series in read_curves([path]):
        print(f"\n{curve_table(series)}")
    print(f"\nScores: {path}   Picture: lm-eval-llada plot {path} --output curve.png")


def _curve_of(namespace: argparse.Namespace) -> CurveRun:
    from lm_eval_llada.curves.run import CurveOptions, CurveRun
    from lm_eval_llada.curves.scores import CAUSAL_ESTIMATOR

    is_causal = namespace.model == "hf_rope"
    options = CurveOptions(
        context=namespace.context,
        chunk_length=namespace.chunk_length,
        num_points=namespace.points,
        spacing=namespace.spacing,
        estimators=tuple(
            namespace.estimator or ((CAUSAL_ESTIMATOR,) if is_causal else ("elbo", "duel"))
        ),
        mc_num=namespace.mc_num,
        seed=namespace.seed,
    )
    return CurveRun(
        model=namespace.model,
        # A causal model has no default.
        model_args=namespace.model_args or {} if is_causal else model_args_of(namespace),
        text=namespace.text,
        options=options,
        output=namespace.output,
        data_dir=namespace.data_dir,
        num_documents=namespace.num_documents,
        batch_size=namespace.batch_size,
    )


def _batch_size(text: str) -> int | None:
    return None if text == "auto" else int(text)
