#!/usr/bin/env bash
# transformers: model.to(bfloat16) rounds the rotation's frequencies, from_pretrained(dtype=bfloat16) does not.
#
# Version: transformers 5.23.0, torch 2.13.0, LlamaForCausalLM with rope_theta 500,000 and head_dim 128.
# Expected: two ways to the same weights in the same dtype give the same model.
# Seen: inv_freq stays float32 in one and becomes bfloat16 in the other. By position 32,767 the angles
#   are apart by tens of radians: cosines differ by up to 2.0, and by 0.2 on average.
# Why it matters: short prompts hardly notice; long ones lose retrieval, which reads as a limit of the model.
#   Check inv_freq.dtype before a long-context run, after every .to() and .bfloat16().
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 transformers==5.23.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

LlamaForCausalLM(
    LlamaConfig(
        hidden_size=256, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=64,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    )
).save_pretrained("model")
loaded = LlamaForCausalLM.from_pretrained("model", dtype=torch.bfloat16)
moved = LlamaForCausalLM.from_pretrained("model").to(torch.bfloat16)
weights_equal = all(torch.equal(a, b) for a, b in zip(loaded.parameters(), moved.parameters()))
ropes = [model.model.rotary_emb for model in (loaded, moved)]
cosines = [rope(torch.zeros(1), torch.arange(32768)[None])[0] for rope in ropes]
apart = (cosines[0] - cosines[1]).abs()
print("weights equal:", weights_equal, [rope.inv_freq.dtype for rope in ropes])
print("cosines apart: most", apart.max().item(), "mean", round(apart.mean().item(), 3))
assert weights_equal and [rope.inv_freq.dtype for rope in ropes] == [torch.float32, torch.bfloat16]
assert apart.max() > 1.9 and apart.mean() > 0.1
PY
