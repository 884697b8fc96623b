#!/usr/bin/env bash
# A row that may attend to nothing gets zeros, the mean of everything, or NaN: by how "nothing" is written.
#
# Version: torch 2.13.0 on CPU, scaled_dot_product_attention and the softmax written out.
# Expected: one answer for a fully masked row, NaN, whichever mask says it.
# Seen: a boolean mask and one of -inf give zeros; one of finfo.min, as most modelling code builds it, gives
#   the mean over all positions, masked ones too; softmax written out with -inf gives NaN.
# Why it matters: with bidirectional attention the rows of left padding are such rows. Their output is read by
#   nobody only while the mask of every later layer is right; change attn_implementation and a padded batch
#   moves, or turns NaN.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import torch
import torch.nn.functional as F

torch.manual_seed(0)
query, key, value = (torch.randn(1, 1, 4, 8) for _ in range(3))
allowed = torch.ones(4, 4, dtype=torch.bool)
allowed[0] = False
minimum = torch.finfo(torch.float32).min
masks = {
    "bool": allowed,
    "-inf": torch.zeros(4, 4).masked_fill(~allowed, float("-inf")),
    "finfo.min": torch.zeros(4, 4).masked_fill(~allowed, minimum),
}
rows = {
    name: F.scaled_dot_product_attention(query, key, value, attn_mask=mask)[0, 0, 0]
    for name, mask in masks.items()
}
scores = query @ key.transpose(-1, -2) / 8**0.5 + masks["-inf"]
rows["written out, -inf"] = (scores.softmax(-1) @ value)[0, 0, 0]
for name, row in rows.items():
    print(name, [round(number, 3) for number in row[:3].tolist()])
assert not rows["bool"].any() and not rows["-inf"].any()
assert torch.allclose(rows["finfo.min"], value[0, 0].mean(0))
assert rows["written out, -inf"].isnan().all()
PY
