#!/usr/bin/env bash
# transformers: under longrope a short prompt's logits change with the longest row in its batch.
#
# Version: transformers 5.23.0, rope_type longrope, trained context 32, random weights.
# Expected: a row's logits do not depend on other rows, to rounding.
# Seen: alone the short row has the short factors; beside a row of 48 tokens it has the long ones, its
#   logits move by 16, where a companion of 24 or 30 tokens moves them by nothing.
# Why it matters: Phi-3-like baselines score differently with batch size and with sorting by length.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 transformers==5.23.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=97,
        max_position_embeddings=128, initializer_range=0.5,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 32,
            "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
        },
    )
).eval()
short = torch.randint(97, (1, 24))


@torch.no_grad()
def beside(length):
    """The short row's logits in a batch with a row of this length, padded on the right."""
    ids, mask = torch.zeros(2, length, dtype=torch.long), torch.ones(2, length, dtype=torch.long)
    ids[0, :24], mask[0, 24:] = short[0], 0
    return model(ids, attention_mask=mask).logits[0, :24]


alone = model(short).logits[0]
moved = {length: (beside(length) - alone).abs().max().item() for length in (24, 30, 48)}
print("largest change of the short row's logits by the companion's length:", moved)
assert moved[24] < 1e-4 and moved[30] < 1e-4 and moved[48] > 1e-2
PY
