#!/usr/bin/env bash
# transformers: resize_token_embeddings to the same size throws away a checkpoint's own output head.
#
# Version: transformers 5.23.0; a Llama whose config says tied and whose file holds another lm_head.
# Expected: the head is read and kept, or ignored from the start; a resize to the present size does nothing.
# Seen: it is read and left untied (a warning says so), then resize_token_embeddings(same size) ties
#   it to the embeddings: the trained head is gone, without a word.
# Why it matters: adding a mask token and resizing is a usual first step of diffusion post-training on a
#   causal checkpoint. Untie the config first, or compare lm_head before and after.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 transformers==5.23.0 safetensors==0.8.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
LlamaForCausalLM(
    LlamaConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=97,
        tie_word_embeddings=True,
    )
).save_pretrained("model")
tensors = load_file("model/model.safetensors")
tensors["lm_head.weight"] = head = torch.randn(97, 64)
save_file(tensors, "model/model.safetensors", metadata={"format": "pt"})

model = LlamaForCausalLM.from_pretrained("model")
read = torch.equal(model.lm_head.weight, head)
model.resize_token_embeddings(97)
kept = torch.equal(model.lm_head.weight, head)
tied = model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
print("own head read:", read, "kept after a resize to the same size:", kept, "tied then:", tied)
assert (read, kept, tied) == (True, False, True)
PY
