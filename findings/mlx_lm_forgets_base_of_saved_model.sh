#!/usr/bin/env bash
# mlx-lm loads a model saved by the transformers it requires with another RoPE base, and without its scaling.
#
# Version: mlx-lm 0.32.2 (requires transformers 5.7 or later), mlx 0.32.4 on CPU, transformers 5.23.0.
# Expected: save_pretrained, then mlx_lm.utils.load_model: the same model, logits to rounding, or an error.
# Seen: transformers 5 writes the base into rope_parameters. The Qwen3 class reads it there (logits equal
#   to 1e-4), the Llama, Mistral, Qwen2, Phi-3 and Gemma classes do not: base 500,000 becomes 10,000 (Qwen2:
#   1,000,000), llama3 scaling is gone, and nothing is said. Logits of 300 tokens are apart by 12 to 18
#   where they go to 12.
# Why it matters: fine-tuning, merging or resizing with transformers and scoring with mlx-lm measures another
#   rotation. Short prompts still look sensible; long contexts fail, and the model is blamed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 transformers==5.23.0 "mlx[cpu]==0.32.4"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "mlx-lm==0.32.2"
cd "$work"
"$work/venv/bin/python" - <<'PY' 2>stderr.txt || { cat stderr.txt; exit 1; }
from pathlib import Path

import mlx.core as mx
import numpy as np
import torch
from mlx_lm.utils import load_model
from transformers import AutoConfig, AutoModelForCausalLM

mx.set_default_device(mx.cpu)
size = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2)
size |= dict(vocab_size=64, head_dim=32, max_position_embeddings=131072, pad_token_id=0, bos_token_id=1, eos_token_id=2)
plain = dict(rope_type="default", rope_theta=5e5)
llama3 = dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
llama3["original_max_position_embeddings"] = 8192
cases = [(kind, plain) for kind in ("qwen3", "llama", "mistral", "qwen2", "phi3", "gemma")] + [("llama", llama3)]
tokens = np.random.default_rng(0).integers(3, 64, (1, 300))
for kind, rope in cases:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **size, rope_parameters=dict(rope))).eval()
    for weight in model.parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=0.3)
    folder = Path(f"{kind}-{rope['rope_type']}")
    model.save_pretrained(folder)
    loaded, _ = load_model(folder)
    with torch.no_grad():
        here = model(torch.tensor(tokens)).logits.numpy()
    apart = np.abs(here - np.array(loaded(mx.array(tokens)).astype(mx.float32))).max()
    base, scaling = loaded.args.rope_theta, getattr(loaded.args, "rope_scaling", None)
    print(folder, "base", base, "scaling", scaling, "logits to", round(float(np.abs(here).max()), 1), "apart", round(float(apart), 5))
    if kind == "qwen3":
        assert base == 5e5 and apart < 1e-3, apart
    else:
        assert base == (1e6 if kind == "qwen2" else 1e4) and not scaling and apart > 1, (base, apart)
PY
! grep -i "rope\|theta" "$work/stderr.txt"
