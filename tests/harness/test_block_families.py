"""Each block-causal family through the model that the harness calls, against the plain loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lm_eval.api.instance import Instance

from lm_eval_llada.diffusion.sampler import SamplingOptions
from lm_eval_llada.harness.llada import LLaDALM
from lm_eval_llada.modeling import load_model
from tests.helpers.block_loops import plain_block_generate
from tests.helpers.family_checkpoints import (
    CONFIGS,
    FAMILY_IDS,
    family_of,
    make_family_checkpoint,
)
from tests.helpers.family_tokenizers import write_toy_tokenizer

CONTEXTS = ("The key is", "Rain falls on the hills.")
THRESHOLDS = {
    "SDAR": 0.95,
    "SDAR-MoE": 0.95,
    "DreamReasoner": None,
    "Fast-dLLM v2": 0.9,
    "Nemotron-Labs-Diffusion": 0.9,
    "LLaDA2": 0.95,
}


def test_every_block_causal_row_is_here():
    assert set(THRESHOLDS) == {name for name in FAMILY_IDS if family_of(name).is_block_causal}


@pytest.mark.parametrize("family", THRESHOLDS)
def test_a_run_decodes_by_the_rules_and_the_settings_of_the_release(tmp_path: Path, family) -> None:
    row = family_of(family)
    name = (*row.mask_tokens, "<SPECIAL_100>")[0]
    tokenizer = write_toy_tokenizer(tmp_path, name)
    mask, eos = tokenizer.convert_tokens_to_ids(name), tokenizer.eos_token_id
    ids = {"eos_token_id": eos, "pad_token_id": eos, row.own_key("block_length"): 4}
    # Of the others the tokenizer has the last word.
    if "mask_token_id" in CONFIGS[family]:
        ids["mask_token_id"] = mask
    make_family_checkpoint(family, tmp_path, vocab_size=len(tokenizer), **ids)
    lm = LLaDALM(pretrained=str(tmp_path), device="cpu", gen_length=6)
    until = {"until": [], "ignore_eos": True}
    requests = [Instance("generate_until", {}, (text, until), 0) for text in CONTEXTS]
    found = lm.generate_until(requests, disable_tqdm=True)
    model = load_model(tmp_path, device="cpu")
    options = SamplingOptions(gen_length=6, block_length=4, threshold=THRESHOLDS[family])
    for text, answer in zip(CONTEXTS, found, strict=True):
        prompt = torch.tensor(tokenizer.encode(text))
        rules = model.config.blocks
        assert rules is not None and rules.reveal == row.blocks.reveal
        expected = plain_block_generate(model, rules, prompt, options, mask)
        assert answer == tokenizer.decode(expected, skip_special_tokens=True)
