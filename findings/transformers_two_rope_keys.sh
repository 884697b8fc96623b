#!/usr/bin/env bash
# transformers: a rope_scaling added beside rope_parameters drops the model's own base, without a word.
#
# Version: transformers 5.23.0, LlamaConfig.
# Expected: the added key scales what the config has, rope_theta 500,000, or the two are refused.
# Seen: rope_scaling replaces rope_parameters whole and the base falls to the class's 10,000; a top-level
#   rope_theta beside rope_parameters is passed over. Added to a finished config, rope_scaling leaves no
#   base at all and the model cannot be built.
# Why it matters: "add rope_scaling to config.json" is the standing advice for longer contexts. With a file
#   saved by transformers 5 it swaps the rotation of the trained model for another; scores sink at every
#   length, which looks like a weak extrapolation.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 transformers==5.23.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import warnings

from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

warnings.simplefilter("ignore")
own = {"rope_type": "default", "rope_theta": 500000.0}
linear = {"rope_type": "linear", "factor": 4.0}


def base(config):
    """The base that the built rotation has, its linear factor taken out again."""
    frequencies = LlamaRotaryEmbedding(config).inv_freq
    return round((frequencies[0] / frequencies[1]).item() ** 8)


def config(**keys):
    return LlamaConfig(hidden_size=64, num_attention_heads=4, **keys)


seen = {
    "rope_parameters": base(config(rope_parameters=dict(own))),
    "rope_theta, rope_scaling": base(config(rope_theta=500000.0, rope_scaling=dict(linear))),
    "rope_parameters, rope_scaling": base(config(rope_parameters=dict(own), rope_scaling=dict(linear))),
    "rope_parameters, rope_theta": base(config(rope_parameters=dict(own), rope_theta=7e6)),
}
print(seen)
assert [round(value, -2) for value in seen.values()] == [500000, 500000, 10000, 500000], seen
late = config(rope_theta=500000.0)
late.rope_scaling = dict(linear)
print("set afterwards:", late.rope_parameters)
assert late.rope_parameters.get("rope_theta") is None
PY
