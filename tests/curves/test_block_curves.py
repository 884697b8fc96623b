"""A curve of a model that is causal between blocks: one pass over a text serves all its chunks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.curves.block_scores import BlockScorer
from lm_eval_llada.curves.run import CurveOptions, CurveRun, run_curve
from lm_eval_llada.curves.scores import Chunk
from lm_eval_llada.diffusion.estimates import LikelihoodOptions
from lm_eval_llada.diffusion.likelihood import log_likelihoods
from lm_eval_llada.modeling import as_denoiser
from tests.helpers.block_checkpoints import with_blocks
from tests.helpers.llada_models import make_model, tokens

MASK = 50


def test_chunks_are_scored_as_pairs_are_from_one_pass():
    text = tokens(32)
    chunks = [Chunk("toy", text, end - 6, end, 6, end) for end in (12, 20, 32)]
    denoiser = as_denoiser(make_model(block_length=4), mask_token_id=MASK)
    found = {chunk.end: one for chunk, _, one in BlockScorer(denoiser, 15).score(chunks, ["elbo"])}
    num_tokens = denoiser.stats.num_tokens
    options = LikelihoodOptions(mc_num=15)
    seeds = [chunk.seed for chunk in chunks]
    expected = log_likelihoods(denoiser, [chunk.pair for chunk in chunks], options, seeds=seeds)
    for chunk, one in zip(chunks, expected, strict=True):
        assert found[chunk.end].value == pytest.approx(-one.value / 6, abs=1e-5)
    # The text once up to its last block, then rows of the blocks alone.
    reads = num_tokens - 28
    assert denoiser.stats.num_tokens - num_tokens == reads + 8 + 16 + 28
    lengths = BlockScorer(denoiser, 15).pass_lengths(chunks, ["elbo"])
    assert lengths[0] == 32 and sum(lengths[1:]) >= reads
    assert BlockScorer(denoiser).seconds(torch.arange(8)) > 0


def test_a_curve_runs_and_other_estimators_are_refused(tmp_path):
    folder = with_blocks(Path(resolve_checkpoint("tiny-llada")), tmp_path / "model", 8)

    def run(*estimators: str, **model_args: str) -> CurveRun:
        options = CurveOptions(128, mc_num=1, estimators=estimators)
        given = {"pretrained": str(folder), "device": "cpu", **model_args}
        return CurveRun("llada", given, "heldout", options, tmp_path / "curve.jsonl")

    path = run_curve(run("elbo"), lambda line: None, is_bar_shown=False)
    scores = [json.loads(line) for line in path.read_text().splitlines()][1:]
    assert [one["estimator"] for one in scores] == ["elbo"]
    with pytest.raises(ValueError, match="duel reveals a whole chunk in one go.*--estimator elbo"):
        run_curve(run("elbo", "duel"), print)
    with pytest.raises(ValueError, match="likelihood_cache=context is an approximation"):
        run_curve(run("elbo", likelihood_cache="context"), print)
