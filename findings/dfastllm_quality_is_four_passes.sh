#!/usr/bin/env bash
# dfastllm answers mode="quality" with four passes, as for every other mode named there, and drops what is still masked.
#
# Version: dfastllm 0.0.4, DiffusionEngine.generate(prompt, mode=...) as in its class's example; a small model
#   with random weights, deterministic decoding.
# Expected: "quality" makes the most passes, "lightning" the fewest, and max_tokens=64 yields 64 tokens.
# Seen: quality, balanced, fast, turbo and lightning all make 4 passes and give one and the same text of 22 of 64
#   tokens; the other 42 are still masks, which decoding without special tokens removes. With the mode in
#   the engine's own configuration it is 64, 32, 16, 8 and 4 passes, and 64 to 22 tokens; at max_tokens=128
#   "quality" yields 64, and so it does for a model that is 99 % sure of every token.
# Why it matters: a comparison of modes compares one run with itself. The holes lie wherever the model was least
#   sure, not at the end, so a text reads as complete; long answers lose half their tokens without a word.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0 numpy==2.4.6
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check --no-deps dfastllm==0.0.4
cd "$work"
"$work/venv/bin/python" - <<'PY'
from types import SimpleNamespace

import torch
from dfastllm.engine.diffusion import DiffusionConfig, DiffusionEngine, GenerationMode

MASK, WORDS = 10, 10


class Words:
    """A tokenizer of ten words, 0 to 9, and a mask that is special."""

    def encode(self, text, return_tensors=None):
        return torch.tensor([[int(word) for word in text.split()]])

    def decode(self, ids, skip_special_tokens=False):
        return " ".join(str(int(i)) for i in ids if not (skip_special_tokens and int(i) == MASK))


class Model(torch.nn.Module):
    """Every word from its neighbours by random weights, or the word 0 with 99 %."""

    def __init__(self, sure=False):
        super().__init__()
        draw = torch.Generator().manual_seed(3)
        shapes = (WORDS + 1, 16), (256, 16), (16, 16), (16, WORDS)
        self.weights = torch.nn.ParameterList([torch.randn(shape, generator=draw) for shape in shapes])
        self.passes, self.sure, self.config = 0, sure, SimpleNamespace()

    def forward(self, ids):
        self.passes += 1
        word, place, mix, out = self.weights
        at = torch.arange(ids.shape[1])
        near = torch.exp(-(at[:, None] - at).abs() / 3.0)
        logits = 1.5 * torch.tanh(near @ (word[ids] + place[at]) @ mix) @ out
        if self.sure:
            logits = torch.tensor([0.99] + [0.01 / 9] * 9).log().expand(*ids.shape, WORDS)
        return SimpleNamespace(logits=torch.cat([logits, torch.full_like(logits[..., :1], -1e4)], dim=-1))


def run(mode, named, length=64, sure=False):
    model = Model(sure)
    own = GenerationMode.BALANCED if named else GenerationMode(mode)
    engine = DiffusionEngine(model, Words(), DiffusionConfig(mode=own, mask_token_id=MASK))
    text = engine.generate("1 2 3 4", max_tokens=length, **({"mode": mode} if named else {}))
    return model.passes, len(text.split()), text


modes = ("quality", "balanced", "fast", "turbo", "lightning")
named = {mode: run(mode, True) for mode in modes}
own = {mode: run(mode, False)[:2] for mode in modes}
long = {sure: run("quality", False, 128, sure)[:2] for sure in (False, True)}
print("mode= in the call, (passes, tokens of 64):", {mode: seen[:2] for mode, seen in named.items()})
print("one text for all five:", len({text for *_, text in named.values()}) == 1)
print("mode in the configuration:", own)
print("128 tokens, quality in the configuration: random weights", long[False], "| 99 % sure", long[True])
assert len(set(named.values())) == 1 and named["quality"][0] == 4 and named["quality"][1] < 40
assert [passes for passes, _ in own.values()] == [64, 32, 16, 8, 4] and own["quality"][1] == 64
assert own["lightning"][1] < own["quality"][1] and long[True] == (64, 64) and long[False][1] <= 64
PY
