#!/usr/bin/env bash
# torch.topk breaks ties neither by the lower index nor by the higher one.
#
# Version: torch 2.13.0 on CPU (the same with one thread and two).
# Expected: of equal values the lowest indices, as argmax and a stable sort give them.
# Seen: topk(8) of 64 equal values takes 40 to 47, topk(4) of 16 takes 9 to 12, topk(8) of 1,000 takes 0
#   to 7; which ones depends on the row's length. argmax takes 0.
# Why it matters: a diffusion sampler reveals the top k positions by confidence. Where confidences tie (and
#   in bf16 they do), which words are written first depends on how many positions the row has.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import torch


def taken(n, k):
    return sorted(torch.topk(torch.zeros(n), k).indices.tolist())


rows = {(64, 8): taken(64, 8), (16, 4): taken(16, 4), (1000, 8): taken(1000, 8)}
for (n, k), indices in rows.items():
    print(f"topk({k}) of {n} equal values:", indices)
stable = torch.sort(torch.zeros(64), descending=True, stable=True).indices[:8].tolist()
print("argmax:", torch.zeros(64).argmax().item(), "stable sort:", stable)
assert rows[64, 8] == list(range(40, 48))
assert rows[16, 4] == list(range(9, 13))
assert rows[1000, 8] == list(range(8)) == stable
PY
