#!/usr/bin/env bash
# With one seed torch.rand of 15 numbers begins as torch.rand of 32 does; torch.randn does not.
#
# Version: torch 2.13.0 on CPU.
# Expected: a seed fixes a stream, and a shorter draw is the beginning of a longer one, for both.
# Seen: rand is a stream at every length. randn of 15 and of 17 numbers shares no beginning with randn of 32,
#   randn of 16 does: under 16 it draws one by one, from 16 on in lots, and the last lot again.
#   float64 and float32 draws of one seed are two streams too.
# Why it matters: noise of a sampler seeded alike changes with answer length or vocabulary if it comes from
#   randn, and a test on eight tokens may say nothing about sixteen. Draw Gumbel noise from rand.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import torch


def draw(kind, n, **options):
    torch.manual_seed(0)
    return kind(n, **options)


def is_prefix(kind, n):
    return torch.equal(draw(kind, n), draw(kind, 32)[:n])


seen = {kind.__name__: {n: is_prefix(kind, n) for n in (8, 15, 16, 17)} for kind in (torch.rand, torch.randn)}
print("the beginning of 32:", seen)
wide = draw(torch.rand, 8, dtype=torch.float64)
print("float64:", wide[:2].tolist(), "float32:", draw(torch.rand, 8)[:2].tolist())
assert all(seen["rand"].values())
assert seen["randn"] == {8: False, 15: False, 16: True, 17: False}, seen
assert not torch.allclose(wide.float(), draw(torch.rand, 8))
PY
