#!/usr/bin/env bash
# transformers: under dynamic RoPE a prompt's numbers depend on the longest prompt before it.
#
# Version: transformers 5.23.0, rope_type dynamic, factor 4, trained context 512.
# Expected: a prompt of 512 or 513 tokens gets the frequencies of its own length, whatever ran before.
# Seen: after one pass of 1,024 tokens a pass of 513, and of 512, keeps the base of 1,024 (62,925 for
#   10,000); a pass of 511 sets it back. The trained length itself does not.
# Why it matters: scores depend on the order of samples and on how they fall on ranks; a run that
#   was resumed differs from one that was not. Samples cut to exactly the trained length are the worst case.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 transformers==5.23.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

rope = LlamaRotaryEmbedding(
    LlamaConfig(
        hidden_size=64,
        num_attention_heads=4,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    )
)


def base_after(length):
    rope(torch.zeros(1, 1, 64), torch.arange(length)[None])
    return round((1 / rope.inv_freq[1].item()) ** 8, -2)


seen = [(length, base_after(length)) for length in (512, 513, 1024, 513, 512, 511, 512)]
print(seen)
assert [base for _, base in seen] == [10000, 10100, 62900, 62900, 62900, 10000, 10000]
PY
