#!/usr/bin/env bash
# A softmax in bf16 makes six of 64 confidences near one; the logits it came from tell more apart.
#
# Version: torch 2.13.0 on CPU.
# Expected: distinct bf16 logits keep distinct probabilities, or nearly so.
# Seen: 64 confidences from 0.98 to 0.9999, two candidates: 6 distinct values after a bf16 softmax, 57
#   after an fp32 softmax of the same bf16 logits. With 1,000 candidates 6 and 39.
# Why it matters: low-confidence remasking sorts by this number. Taken in the model's own dtype, as much
#   public sampler code does, most of the order is a tie, decided by topk's habits.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import torch

confidence = torch.linspace(0.98, 0.9999, 64)
distinct = {}
for candidates in (2, 1000):
    logits = torch.zeros(64, candidates)
    logits[:, 0] = torch.log(confidence / (1 - confidence) * (candidates - 1))
    logits = logits.bfloat16()
    distinct[candidates] = tuple(
        probabilities[:, 0].unique().numel()
        for probabilities in (logits.softmax(-1), logits.float().softmax(-1))
    )
print("candidates: (bf16 softmax, fp32 softmax) distinct of 64:", distinct)
assert distinct == {2: (6, 57), 1000: (6, 39)}
PY
