#!/usr/bin/env bash
# A boolean 4-D mask is a mask under sdpa; under eager its zeros and ones are added to the scores. A boolean
# 3-D mask is dropped by both, and the model stays causal.
#
# Version: transformers 5.23.0, torch 2.13.0.
# Expected: True is seen and False is not, whatever the attention function; a mask of another shape is an error.
# Seen: with a mask in blocks of four, Qwen3's logits under sdpa are those of a mask of 0 and -inf under either
#   function. Under eager the boolean one changes little: a token in the first block moves with the last token
#   of the text, which its mask hides. With (batch, seq, seq) both give the plain causal model's logits.
# Why it matters: block-diffusion models are checked and trained by such masks, and eager is what one falls back
#   to for attention weights or on a machine without kernels. Nothing warns, and logits stay finite.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 transformers==5.23.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

torch.manual_seed(0)
config = Qwen3Config(
    vocab_size=64, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=96, head_dim=16, initializer_range=0.2,
)
model = Qwen3ForCausalLM(config).eval()
ids = torch.arange(12)[None] * 5 % 64
other = ids.clone()
other[0, -1] += 1
block = torch.arange(12) // 4
seen = (block[None] <= block[:, None])[None, None]
numbers = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)


@torch.no_grad()
def logits(function, mask, tokens=ids):
    model.set_attn_implementation(function)
    return model(tokens, attention_mask=mask, use_cache=False).logits[0]


right = logits("sdpa", seen)
for name, found in {
    "sdpa, numbers": logits("sdpa", numbers),
    "eager, numbers": logits("eager", numbers),
    "eager, boolean": logits("eager", seen),
}.items():
    print(f"{name:15}: largest difference to sdpa under the boolean mask {float((found - right).abs().max()):.2g}")
moved = {f: float((logits(f, seen, other)[0] - logits(f, seen)[0]).abs().max()) for f in ("sdpa", "eager")}
print("first token, when the hidden last one changes:", moved)
flat = {f: float((logits(f, seen[0]) - logits(f, None)).abs().max()) for f in ("sdpa", "eager")}
print("three dimensions against no mask at all:", flat)
assert torch.allclose(logits("eager", numbers), right, atol=1e-4)
assert (logits("eager", seen) - right).abs().max() > 0.1
assert moved["sdpa"] == 0 and moved["eager"] > 0.01
assert flat == {"sdpa": 0.0, "eager": 0.0}
PY
