#!/usr/bin/env bash
# rotary-embedding-torch counts positions in the dtype of the queries: in bf16 neighbours share a place.
#
# Version: rotary-embedding-torch 0.9.1, torch 2.13.0.
# Expected: bf16 queries cost the accuracy of bf16 values; positions and angles stay exact.
# Seen: positions themselves are bf16 numbers, so from 256 on tokens fall together: of 2,048 positions 641
#   are left, 256 and 257 are one place, 1,407 neighbours are rotated alike.
# Why it matters: a model built on this package whose queries are bf16 cannot tell the order of
#   neighbours past 256 tokens, and its long contexts say nothing about extrapolation.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 einops==0.8.1
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps rotary-embedding-torch==0.9.1
cd "$work"
"$work/venv/bin/python" - <<'PY'
import torch
from rotary_embedding_torch import RotaryEmbedding

queries = torch.ones(1, 1, 2048, 64)
places = {}
for dtype in (torch.float32, torch.bfloat16):
    rotated = RotaryEmbedding(dim=64).rotate_queries_or_keys(queries.to(dtype))[0, 0]
    alike = [i for i in range(2047) if torch.equal(rotated[i], rotated[i + 1])]
    places[dtype] = len({tuple(row) for row in rotated.tolist()}), len(alike), alike[:1]
    print(dtype, "distinct rotations, neighbours alike, first:", places[dtype])
assert places[torch.float32] == (2048, 0, [])
assert places[torch.bfloat16] == (641, 1407, [256])
PY
