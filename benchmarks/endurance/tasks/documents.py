"""Documents of many lengths, all different, from text that ships with the package."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from lm_eval_llada.tasks.text.haystacks import heldout_text

_NUM_CHOICES = 4
# Words of a context: the lengths come in turn, so that twice the documents are twice the work.
_LENGTHS = (8, 40, 16, 80, 24, 60)


def documents(num_documents: int = 12, **settings: Any) -> dict[str, Dataset]:
    """Makes the data set; lm-eval calls this with `--metadata` and the model arguments."""
    words = heldout_text().split()
    return {"test": Dataset.from_list([_document(words, i) for i in range(num_documents)])}


def _document(words: list[str], number: int) -> dict[str, Any]:
    length = _LENGTHS[number % len(_LENGTHS)]
    start = 37 * number % (len(words) - 200)
    choices = [
        " " + " ".join(words[start + length + 11 * i :][: 2 + i]) for i in range(_NUM_CHOICES)
    ]
    context = f"{number}. " + " ".join(words[start : start + length])
    return {"context": context, "continuation": choices[0], "choices": choices}
