#!/usr/bin/env bash
# omgformers' tokenizer takes the first five words of a wrapped vocabulary for special ones, and decodes without them.
#
# Version: omgformers 2.0.6, its wrapper around a byte-level vocabulary in GPT-2's order (the quick start wraps GPT-2).
# Expected: the five special tokens are added beside the vocabulary; decoding an encoded text gives that text.
# Seen: the special tokens are added at 256 to 260, and yet decoding drops the ids 0 to 4, which in this order are
#   ! " # $ and %. "It costs $18, 50% off!" comes back as "It costs 18, 50 off"; the wrapped tokenizer alone
#   returns the text.
# Why it matters: answers are compared as text. Dollar and per cent signs, quotation marks, headings and
#   exclamation marks are gone from every answer, with no warning; the same ids are never masked in training.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0 numpy==2.4.6
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check --no-deps omgformers==2.0.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
from omgformers import OMGTokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

# the 256 bytes as GPT-2 numbers them: printable ones first, from "!" on, then the rest under stand-ins
plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
rest = [byte for byte in range(256) if byte not in plain]
letters = [chr(byte) for byte in plain] + [chr(256 + n) for n in range(len(rest))]
core = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(letters)}, merges=[]))
core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
core.decoder = decoders.ByteLevel()
PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained("bytes")
alone = PreTrainedTokenizerFast.from_pretrained("bytes")
wrapped = OMGTokenizer.from_pretrained("bytes")

added = sorted(getattr(wrapped, f"{name}_token_id") for name in ("pad", "unk", "bos", "eos", "mask"))
text = "It costs $18, 50% off!"
back = wrapped.decode(wrapped.encode(text))
lost = [chr(c) for c in range(33, 127) if chr(c) not in wrapped.decode(wrapped.encode(f"a{chr(c)}a"))]
masked = wrapped.mask_tokens(wrapped.encode(text * 200), mask_prob=0.5)[1]
never = sorted({c for c in text if c not in alone.decode([n for n in masked if n != -100])})
print("special tokens were added at", added)
print(repr(text), "->", repr(back), "| wrapped tokenizer alone:", repr(alone.decode(alone.encode(text))))
print("printable characters lost:", lost, "| never chosen for masking:", never)
assert alone.decode(alone.encode(text)) == text
assert added == [256, 257, 258, 259, 260] and back == "It costs 18, 50 off", (added, back)
assert lost == list('!"#$%') and never == ["!", "$", "%"], (lost, never)
PY
