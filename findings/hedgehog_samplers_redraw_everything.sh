#!/usr/bin/env bash
# hedgehog-dlm's samplers redraw every token at every step, and write texts the model holds impossible.
#
# Version: hedgehog-dlm 0.2.0, on a two-token model whose tokens must be equal (once one stands, the other is sure).
# Expected: an ancestral sampler reveals tokens step by step and keeps them: all pairs are equal.
# Seen: as shipped each of the five samplers ends in an error on this model (no vocab_size; a view of a
#   strided tensor). With vocab_size set by hand the ancestral one runs 8 steps of 500 pairs, and about
#   half the pairs are unequal, as with no step at all: both tokens are drawn anew, at once, each time.
# Why it matters: perplexity of a model and texts from this sampler are of two distributions. More steps change
#   nothing, so a sweep of steps is flat, which can be taken for a model that needs few.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps hedgehog-dlm==0.2.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
from types import SimpleNamespace

import torch
from hedgehog.samplers import create_sampler


def twins(ids, timesteps):
    """Logits of two tokens that must agree: token 2 is the mask, 0 and 1 are words."""
    other = ids.flip(1)
    free = torch.tensor([0.0, 0.0, -1e9]).expand(*ids.shape, 3)
    sure = torch.full((*ids.shape, 3), -1e9).scatter(-1, other.unsqueeze(-1), 0.0)
    return torch.where((other == 2).unsqueeze(-1), free, sure)


def sampler(name):
    return create_sampler(name, SimpleNamespace(num_timesteps=8, vocab_size=3), twins, 2)


failing = []
for name in ("ddpm", "ddpm_cache", "analytic", "semi_ar", "blockwise"):
    try:
        sampler(name).sample(500, 2, torch.device("cpu"))
    except (AttributeError, RuntimeError) as error:
        failing.append(name)
        print(name, type(error).__name__, str(error)[:60])
torch.manual_seed(0)
ancestral = sampler("ddpm")
ancestral.vocab_size = 3
pairs = ancestral.sample(500, 2, torch.device("cpu"))
equal = (pairs[:, 0] == pairs[:, 1]).float().mean().item()
print("equal pairs after 8 steps:", round(equal, 3))
assert len(failing) == 5 and 0.4 < equal < 0.6, (failing, equal)
PY
