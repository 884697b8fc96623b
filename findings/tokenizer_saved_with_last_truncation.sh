#!/usr/bin/env bash
# A tokenizer saved after one truncated call cuts every text, unless transformers reads it.
#
# Versions: transformers 5.23.0, tokenizers 0.23.3.
# Expected: truncation=True, max_length=3 concerns one call.
# Seen: the fast tokenizer keeps it as state. The next plain call of transformers resets it, but a save in
#   between writes it to tokenizer.json; the tokenizers library, used by itself from
#   Python or Rust, then cuts all texts to three tokens. transformers reads
#   the same folder and cuts nothing.
# Why it matters: a training script truncates, then saves. Evaluated with transformers the model is fine; behind
#   a server that reads tokenizer.json it sees the first max_length tokens of every long prompt.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3
cd "$work"
"$work/venv/bin/python" - <<'PY'
import json

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

words = Tokenizer(models.WordLevel({word: i for i, word in enumerate("?abcde")}, "?"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
text = "a b c d e"
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")
tokenizer(text, truncation=True, max_length=3)
tokenizer.save_pretrained("saved")
lengths = {
    "transformers, read again": len(AutoTokenizer.from_pretrained("saved")(text).input_ids),
    "tokenizers, same folder": len(Tokenizer.from_file("saved/tokenizer.json").encode(text).ids),
    "transformers, next call": len(tokenizer(text).input_ids),
}
print(json.load(open("saved/tokenizer.json"))["truncation"])
print(lengths)
assert list(lengths.values()) == [5, 3, 5], lengths
PY
