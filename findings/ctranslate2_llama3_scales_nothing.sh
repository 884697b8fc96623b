#!/usr/bin/env bash
# ctranslate2 accepts Llama 3.1's RoPE scaling by name and then rotates by the unscaled frequencies.
#
# Version: ctranslate2 4.8.5 on CPU in float32, transformers 5.23.0, a one-layer Llama with random weights.
# Expected: "llama3" is among the scaling types that the converter names as supported (YaRN is refused as
#   not implemented), so logits equal those of transformers to rounding.
# Seen: they equal those of transformers with NO scaling (apart by less than 0.001) at 50, 1,000 and 3,000
#   tokens, and are apart from the scaled ones by 0.3, 9 and 14 where logits go to 13. "linear" is right.
# Why it matters: Llama 3.1 to 3.3 all carry this scaling. Their short answers look right, and a needle or
#   perplexity test at long contexts measures a model that was never trained so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6 transformers==5.23.0 ctranslate2==4.8.5
cd "$work"
"$work/venv/bin/python" - <<'PY' 2>stderr.txt || { cat stderr.txt; exit 1; }
import ctranslate2
import numpy as np
import torch
from ctranslate2.converters import TransformersConverter
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, 64)}}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
special = dict(unk_token="<unk>", bos_token="<s>", eos_token="</s>")
llama3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)
ropes = {
    "default": dict(rope_type="default"),
    "linear": dict(rope_type="linear", factor=8.0),
    "llama3": dict(llama3, original_max_position_embeddings=8192),
}
size = dict(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2)
size |= dict(vocab_size=64, head_dim=32, max_position_embeddings=131072)
here, there, state = {}, {}, None
for name, rope in ropes.items():
    torch.manual_seed(0)
    here[name] = LlamaForCausalLM(LlamaConfig(**size, rope_parameters=dict(rope, rope_theta=5e5))).eval()
    for weight in here[name].parameters():
        if weight.dim() == 2:
            torch.nn.init.normal_(weight, std=0.3)
    here[name].save_pretrained(name)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(name)
    there[name] = ctranslate2.Generator(TransformersConverter(name).convert(f"{name}-ct2"), compute_type="float32")
for length in (50, 1000, 3000):
    tokens = np.random.default_rng(0).integers(3, 64, length).tolist()
    with torch.no_grad():
        a = {name: model(torch.tensor([tokens])).logits[0].numpy() for name, model in here.items()}
    b = {name: np.array(model.forward_batch([[f"w{i}" for i in tokens]]))[0] for name, model in there.items()}
    pairs = (("default", "default"), ("linear", "linear"), ("llama3", "llama3"), ("default", "llama3"))
    apart = {f"{x} here, {y} there": round(float(np.abs(a[x] - b[y]).max()), 4) for x, y in pairs}
    print(length, "tokens, logits to", round(float(np.abs(a["llama3"]).max()), 1), apart)
    wrong = apart.pop("llama3 here, llama3 there")
    assert max(apart.values()) < 0.001 and wrong > 0.1, (apart, wrong)
PY
