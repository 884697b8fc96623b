#!/usr/bin/env bash
# peft loads the adapter of a deeper model on a shallower one and says nothing.
#
# Version: peft 0.21.2, transformers 5.23.0, a LoRA trained on two layers.
# Expected: another number of layers is refused, or warned of, either way round.
# Seen: on three layers a warning names the missing keys. On one layer there is none: the second layer's
#   weights are left out, and the model answers as if it had its adapter.
# Why it matters: base and adapter of one family differ in depth between sizes and pruned drafts. The
#   evaluation runs, and reports the wrong pair. Compare the adapter file's keys with the loaded ones.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 transformers==5.23.0 peft==0.21.2
cd "$work"
"$work/venv/bin/python" - <<'PY'
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM


def base(layers):
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=64, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4, vocab_size=97
        )
    )


get_peft_model(base(2), LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained("adapter")


def complaints(layers):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        PeftModel.from_pretrained(base(layers), "adapter")
    return [str(item.message) for item in caught if "adapter" in str(item.message)]


seen = {layers: len(complaints(layers)) for layers in (1, 2, 3)}
print("layers: warnings", seen)
assert seen == {1: 0, 2: 0, 3: 1}, seen
PY
