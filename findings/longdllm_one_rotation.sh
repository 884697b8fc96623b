#!/usr/bin/env bash
# longdllm rotates by the same angles for every target length; only a loudness changes with it.
#
# Version: longdllm 0.1.5, its LLaDA factors, on a model of the same layout with random weights.
# Expected: adapting to 16K and to 128K gives two sets of RoPE frequencies, the first near the original.
# Seen: the same 64 frequencies for 4,096 (the trained length) to 131,072; the target moves the factor on
#   cosine and sine alone (1.0 to 1.190, so attention scores to 1.417 times).
# Why it matters: a sweep of target_length is a sweep of attention temperature. A result "at 16K" and one
#   "at 128K" share one extrapolation, and adapting to the trained length is no identity.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check --no-deps longdllm==0.1.5
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==4.57.6 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
from types import SimpleNamespace

import torch
from longdllm.core import adapt_for_long_context

layer = torch.nn.Module()


def adapted(target):
    model = torch.nn.Linear(1, 1)
    model.config = SimpleNamespace(
        _name_or_path="GSAI-ML/LLaDA-8B-Instruct",
        architectures=["LLaDAModelLM"],
        hidden_size=4096,
        num_attention_heads=32,
        rope_theta=500000.0,
    )
    block = torch.nn.Module()
    block.rotary_emb = torch.nn.Identity()
    model.model = torch.nn.Module()
    model.model.transformer = torch.nn.Module()
    model.model.transformer.blocks = torch.nn.ModuleList([block])
    import longdllm.core as core

    core.patch_llada_forward_methods = core.patch_llada_diffusion_generate = lambda model: None
    adapt_for_long_context(model, target_length=target)
    return block.rotary_emb


plain = 500000.0 ** -(torch.arange(0, 128, 2) / 128)
ropes = {target: adapted(target) for target in (4096, 16384, 131072)}
angles = {target: rope._calc_inv_freq(target, "cpu") for target, rope in ropes.items()}
loudness = {target: round(rope.mscale, 3) for target, rope in ropes.items()}
print("slowest frequency over the original:", {t: round((a / plain)[-1].item(), 4) for t, a in angles.items()})
print("factor on cosine and sine:", loudness)
assert torch.equal(angles[4096], angles[131072]) and torch.equal(angles[16384], angles[131072])
assert not torch.allclose(angles[4096], plain)
assert loudness == {4096: 1.0, 16384: 1.08, 131072: 1.19}, loudness
PY
