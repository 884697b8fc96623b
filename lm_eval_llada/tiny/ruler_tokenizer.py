"""A tokenizer that holds RULER's tasks in fewer tokens: the words they ask in, digits in groups."""

from __future__ import annotations

import json
import re
import string
from itertools import product

from tokenizers import Tokenizer

from lm_eval_llada.tasks.prompts import RULER_KINDS, RULER_TEXTS, ruler_template, ruler_text
from lm_eval_llada.tasks.ruler.made_up_people import FACTS

_WORD = re.compile(r"[A-Za-z][a-z]+")
_DIGITS_BY_THREE = {
    "type": "Split",
    "pattern": {"Regex": r"\d{1,3}"},
    "behavior": "Isolated",
    "invert": False,
}
_SPACE = "\u0120"
"""How byte-level tokens write a space."""


def add_ruler_words(tokenizer: Tokenizer) -> Tokenizer:
    """The same byte-level tokenizer with the words of RULER's wording behind its own tokens.

    Digits come by three from the left, so that a value of seven is three tokens behind its space.
    Words that are asked for are spelled in pieces, as before: those of wonderwords, which
    evaluation draws from, are not looked at. Ids of the tokens that were there stay, so that a
    model's embeddings need new rows only.
    """
    content = json.loads(tokenizer.to_str())
    vocabulary: dict[str, int] = content["model"]["vocab"]
    groups = ["".join(group) for size in (2, 3) for group in product(string.digits, repeat=size)]
    for token in [*_wording(), *groups]:
        vocabulary.setdefault(token, len(vocabulary))
    # The new tokens have no merges that lead to them: a piece that is one is taken as it stands.
    content["model"]["ignore_merges"] = True
    content["pre_tokenizer"]["pretokenizers"][0] = _DIGITS_BY_THREE
    return Tokenizer.from_str(json.dumps(content))


def _wording() -> list[str]:
    templates = [ruler_template(kind) for kind in RULER_KINDS]
    texts = [part for text in templates for part in (text.template, text.answer_prefix)]
    texts += [ruler_text(name) for name in RULER_TEXTS]
    texts += [part for fact in FACTS for part in fact]
    words = [
        *dict.fromkeys(word for text in texts for word in _WORD.findall(text)),
        "numbers",
        "VAR",
        "...",
    ]
    return [_SPACE + word for word in words] + [word for word in words if not word.islower()]
