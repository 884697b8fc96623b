#!/usr/bin/env bash
# keras-hub: rope_type "dynamic" slows every RoPE frequency by one factor, at every length.
#
# Version: keras-hub 0.32.0, keras 3.15.1 with its jax backend on CPU; head size 64, scaling factor 4.
# Expected: dynamic NTK as elsewhere: nothing changes within the trained length, beyond it the base grows
#   with the length; the fastest frequency always stays 1 and the slowest falls to 1/5 at twice the length.
# Seen: at 2, 1,024, 4,096 and 8,192 tokens alike each of the 32 frequencies is 0.239 of the original
#   (4 to the power -64/62). That is position interpolation by 4.18, more than "linear" does with 4.
#   "linear" is 0.25 throughout; "yarn" leaves the fastest as it is and has the slowest at 0.25.
# Why it matters: a table of linear against dynamic NTK made with this layer compares linear scaling with a
#   little more of itself, and short contexts, which dynamic scaling is meant to spare, pay for it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check numpy==2.4.6 scipy==1.17.1 keras==3.15.1 jax==0.10.2 regex==2026.11.15 tokenizers==0.23.3
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check --no-deps keras-hub==0.32.0
cd "$work"
KERAS_BACKEND=jax "$work/venv/bin/python" - <<'PY'
import keras_hub
import numpy as np

plain = 10000.0 ** (-np.arange(0, 64, 2) / 64)


def frequencies(length, **kinds):
    ones = np.zeros((1, length, 1, 64), "float32")
    ones[..., :32] = 1
    second = np.asarray(keras_hub.layers.RotaryEmbedding(**kinds)(ones))[0, 1, 0]
    return np.arctan2(second[32:], second[:32]) / plain


for length in (2, 1024, 4096, 8192):
    ratio = frequencies(length, rope_type="dynamic", scaling_factor=4.0)
    grown = max(4 * length / 4096 - 3, 1) ** (64 / 62)
    ntk = (10000.0 * grown) ** (-np.arange(0, 64, 2) / 64) / plain
    print(length, "tokens, over the original, fastest and slowest:", ratio[[0, -1]].round(4), "dynamic NTK:", ntk[[0, -1]].round(4))
    assert np.allclose(ratio, 4 ** (-64 / 62), rtol=1e-4) and ntk[0] == 1
linear, yarn = (frequencies(8, rope_type=kind, scaling_factor=4.0)[[0, -1]].round(4) for kind in ("linear", "yarn"))
print("linear:", linear, "yarn:", yarn)
assert linear.tolist() == [0.25, 0.25] and yarn.tolist() == [1.0, 0.25]
PY
