#!/usr/bin/env bash
# ppllm leaves out one token per window step and divides by all of them: the smaller the window, the better.
#
# Version: ppllm 0.2.3, its Python interface, with torch 2.13.0 and transformers 5.23.0.
# Expected: a model that gives each of 50 tokens the same probability has perplexity 50 with every window, for
#   what it says does not depend on the context. The README describes a window that moves on by half its size,
#   as in the usual sliding-window picture, where every token is scored once.
# Seen: for a text of 2,000 tokens 50.0 without a window; 49.80, 47.15, 44.38, 39.23 and 30.72 with windows of 1,024,
#   128, 64 (the README's example), 32 and 16. Each step leaves one token unscored (1,939 of 2,000 at 64); the
#   sum is divided by all of them. Surprisal and bits per character come from the same sum.
# Why it matters: perplexity by window is how long-context models are compared ("does more context help?").
#   Here a shorter context looks better by construction, against the very effect one looks for.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0 datasets==5.2.0 pandas==3.1.1 jsonargparse==4.44.0
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check --no-deps ppllm==0.2.3
cd "$work"
"$work/venv/bin/python" - <<'PY'
import torch
from ppllm.ppl import LoaderKwargs, compute_metrics, compute_ppl
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

vocabulary = {word: number for number, word in enumerate(["<pad>", "<unk>", "<s>", "</s>"] + [f"w{i}" for i in range(46)])}
words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
)
tokenizer.padding_side = "right"
model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=2048, n_embd=8, n_layer=1, n_head=1)).eval()
with torch.no_grad():
    for weight in model.parameters():
        weight.zero_()
text = " ".join(f"w{i % 46}" for i in range(2000))


def perplexity(window):
    result = compute_ppl(
        [{"text": text}], model, tokenizer, loader_kwargs=LoaderKwargs(batch_size=1, num_workers=0), window=window
    )
    counted = int(result["total_tokens"][0])
    scored = (result["total_losses"].sum() / torch.tensor(50.0).log()).round().int().item()
    ppl = compute_metrics(**{key: result[key] for key in ("total_losses", "total_chars", "total_tokens")})["ppl"]
    return round(ppl, 2), scored, counted


seen = {window: perplexity(window) for window in (None, 1024, 128, 64, 32, 16)}
for window, numbers in seen.items():
    print("window, perplexity, tokens scored, tokens counted:", window, *numbers)
assert seen[None] == (50.0, 2000, 2000) and seen[1024] == (49.8, 1998, 2000)
assert seen[64] == (44.38, 1939, 2000) and seen[16] == (30.72, 1751, 2000)
PY
