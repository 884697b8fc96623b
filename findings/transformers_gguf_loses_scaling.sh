#!/usr/bin/env bash
# transformers: a GGUF file's context extension (YaRN, linear, llama3) is dropped on loading, its length kept.
#
# Version: transformers 5.23.0, gguf 0.19.0, a one-layer model of arch "llama" with random weights.
# Expected: loading with gguf_file= gives the model that the file describes: its rope.scaling keys, and
#   the divisors of the tensor rope_freqs.weight (how Llama 3.1 files carry their scaling), or a warning.
# Seen: base 500,000 arrives and so does the length 131,072, but the rope type is "default" for all four
#   files, with one set of frequencies and equal logits; no key is reported missing, unexpected or unused.
#   Against the YaRN that the file asks for, logits of 300 tokens are apart by 0.68 where they go to 2.28.
# Why it matters: the same GGUF scored by llama.cpp and by an evaluation that loads it here is two models
#   at long contexts, and the config says 131,072 tokens while nothing extrapolates to them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0
cd "$work"
"$work/venv/bin/python" - <<'PY' 2>stderr.txt || { cat stderr.txt; exit 1; }
import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM

scaled = {"add_rope_scaling_factor": 4.0, "add_rope_scaling_orig_ctx_len": 32768}
files = {
    "plain": {},
    "yarn": {"add_rope_scaling_type": gguf.RopeScalingType.YARN, **scaled},
    "linear": {"add_rope_scaling_type": gguf.RopeScalingType.LINEAR, **scaled},
    "llama3": {},
}
sizes = dict(attn_q=(64, 64), attn_k=(64, 64), attn_v=(64, 64), attn_output=(64, 64))
sizes |= dict(ffn_gate=(64, 64), ffn_up=(64, 64), ffn_down=(64, 64), attn_norm=(64,), ffn_norm=(64,))
sizes = {f"blk.0.{name}": size for name, size in sizes.items()}
sizes |= dict(token_embd=(32, 64), output=(32, 64), output_norm=(64,))
tokens = torch.tensor([np.random.default_rng(1).integers(0, 32, 300).tolist()])
logits, models = {}, {}
for name, keys in files.items():
    file, random = gguf.GGUFWriter(f"{name}.gguf", "llama"), np.random.default_rng(0)
    shape = dict(block_count=1, context_length=131072, embedding_length=64, feed_forward_length=64, vocab_size=32)
    shape |= dict(head_count=2, head_count_kv=2, rope_dimension_count=32, rope_freq_base=5e5, layer_norm_rms_eps=1e-5)
    for method, value in {**{f"add_{key}": value for key, value in shape.items()}, **keys}.items():
        getattr(file, method)(value)
    for tensor, size in sizes.items():
        file.add_tensor(f"{tensor}.weight", random.normal(0, 0.3, size).astype(np.float32))
    if name == "llama3":
        file.add_tensor("rope_freqs.weight", np.linspace(1, 8, 16).astype(np.float32))
    file.write_header_to_file(), file.write_kv_data_to_file(), file.write_tensors_to_file(), file.close()
    model, info = AutoModelForCausalLM.from_pretrained(".", gguf_file=f"{name}.gguf", output_loading_info=True)
    with torch.no_grad():
        logits[name], models[name] = model(tokens).logits, model
    print(name, model.config.rope_parameters, model.config.max_position_embeddings, "reports:", any(info.values()))
    assert model.config.rope_parameters == {"rope_theta": 5e5, "rope_type": "default"}
    assert model.config.max_position_embeddings == 131072 and not any(info.values())
    assert torch.equal(logits[name], logits["plain"])

config = models["plain"].config.__class__.from_dict(models["plain"].config.to_dict())
yarn = dict(rope_type="yarn", rope_theta=5e5, factor=4.0, original_max_position_embeddings=32768)
config.rope_parameters = yarn
asked = AutoModelForCausalLM.from_config(config)
asked.load_state_dict(models["yarn"].state_dict())
with torch.no_grad():
    apart = (asked.eval()(tokens).logits - logits["yarn"]).abs().max().item()
print("logits: largest", round(logits["yarn"].abs().max().item(), 2), "apart from the YaRN of the file by", round(apart, 2))
assert apart > 0.3
PY
! grep -i "rope\|scaling\|unused" "$work/stderr.txt"
