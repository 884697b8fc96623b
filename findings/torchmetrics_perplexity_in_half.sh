#!/usr/bin/env bash
# torchmetrics' Perplexity takes fp16 logits and is infinite for a long text, or for a single unlikely token.
#
# Version: torchmetrics 1.9.0, torch 2.13.0.
# Expected: the type of the logits rounds the third digit at most. 10 equal logits have perplexity 10 at any length; half
#   precision is accepted without a word, and the documentation names no limit.
# Seen: fp16 has 10.0 for 16,384 tokens and infinity for 32,768 of the same: their log probabilities are added up in the
#   type of the logits, which ends at 65,504. One token of probability 1.5e-8 among 1,000 makes it infinite
#   too (it is 1.018), for the probability rounds to 0 before its logarithm is taken. bf16 has 9.94 for 10.
# Why it matters: models are loaded in half precision and hand out logits in it, and perplexity at 32K and beyond
#   is how RoPE extrapolation is judged. An infinity there reads as a model that broke down at that length.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check --no-deps torchmetrics==1.9.0
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 lightning-utilities==0.15.3
cd "$work"
"$work/venv/bin/python" - <<'PY'
import math

import torch
from torchmetrics.text import Perplexity

types = (torch.float32, torch.bfloat16, torch.float16)


def perplexity(logits, target, dtype):
    metric = Perplexity()
    metric.update(logits.to(dtype), target)
    return round(metric.compute().item(), 3)


def even(length):
    return torch.zeros(1, length, 10), torch.zeros(1, length, dtype=torch.long)


short, long = [[perplexity(*even(length), dtype) for dtype in types] for length in (16384, 32768)]
logits, target = torch.zeros(1, 1000, 10), torch.zeros(1, 1000, dtype=torch.long)
logits[..., 0], target[0, 0] = 18.0, 1
unlikely = [perplexity(logits, target, dtype) for dtype in types]
plain = [
    math.exp(torch.nn.functional.cross_entropy(logits[0].to(dtype).float(), target[0]).item()) for dtype in types
]
print("float32, bfloat16, float16")
print("16,384 tokens of 1 in 10:", short)
print("32,768 tokens of 1 in 10:", long)
print("one token of 1.5e-8 in 1,000:", unlikely, "by cross entropy:", [round(p, 3) for p in plain])
assert short[0] == long[0] == 10 and abs(short[2] - 10) < 0.01
assert math.isinf(long[2]) and math.isinf(unlikely[2])
assert 9.9 < long[1] < 9.96
assert all(1.01 < p < 1.03 for p in plain + unlikely[:2])
PY
