#!/usr/bin/env bash
# evalscope puts a beginning-of-text token in the middle of the haystack, and its 1,000 tokens are 850.
#
# Version: evalscope 1.14.1 (needle_haystack), tokenizers 0.23.3; a word-level tokenizer that prepends <s>,
#   as LLaMA's does. (The default, Qwen's, has no such token.)
# Expected: a context of 1,000 tokens holds 1,000, or says how many it holds; the needle stands in running text.
# Seen: 850 tokens for a nominal 1,000 (150 are kept back at every length), and "<s>" right before the
#   needle at every depth, since the needle is encoded with special tokens and the haystack without. Text
#   without full stops puts a needle for 50 % at 0 %, and the recorded depth says 50.
# Why it matters: the needle is marked by a token that occurs nowhere else, which makes the task easier, for
#   models with such a tokenizer only. "8K" is 7,850, and depth is where the last full stop before it was.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check --no-deps evalscope==1.14.1
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check aiohttp==3.14.5 colorlog==6.12.0 datasets==5.2.0 docstring-parser==0.18.0 editdistance==0.8.1 filetype==1.2.0 jieba==0.42.1 Jinja2==3.1.6 json5==0.17.3 jsonlines==4.0.0 jsonschema==4.26.0 Markdown==3.11.3 matplotlib==3.11.2 more-itertools==11.2.1 nltk==3.10.4 openai==3.57.0 overrides==7.7.0 pandas==3.1.1 plotly==7.1.0 pydantic==2.14.4 python-dotenv==1.2.4 PyYAML==6.0.4 requests==2.34.2 rich==15.0.0 rouge-score==0.1.2 rouge-chinese==1.0.3 sacrebleu==2.6.0 seaborn==0.13.2 shortuuid==1.0.13 tabulate==0.10.0 tokenizers==0.23.3 tqdm==4.70.1 zhconv==1.4.3
cd "$work"
"$work/venv/bin/python" - <<'PY'
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from evalscope.benchmarks.needle_haystack.needle_haystack_adapter import NeedleHaystackAdapter

needle = "The vault code is 4711 ."
words = ["<s>", "?", "。", *(f"w{i}" for i in range(50)), *needle.split()]
words_tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "?"))
words_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
words_tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])


class HubStyle:
    def encode(self, text, add_special_tokens=True):
        return words_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids):
        return words_tokenizer.decode(ids, skip_special_tokens=False)


adapter = NeedleHaystackAdapter.__new__(NeedleHaystackAdapter)
adapter.tokenizer, adapter.needles, adapter.context_lengths = HubStyle(), [needle], [1000]
prose = " ".join(f"w{i % 50}" + (" ." if i % 10 == 9 else "") for i in range(3000))


def place(text, depth):
    tokens = adapter._get_context_tokens(text)
    out = adapter._insert_needles(tokens, depth, 1000).split()
    at = out.index("vault") - 2
    return len(out), out[at], at


for depth in (0, 50, 100):
    length, before, at = place(prose, depth)
    print(f"depth {depth}: {length} tokens, {before!r} before the needle, needle at {at}")
    assert (length, before) == (850, "<s>")
_, _, at = place(prose.replace(" .", ""), 50)
print("depth 50 without full stops: needle at", at)
assert at == 0
PY
