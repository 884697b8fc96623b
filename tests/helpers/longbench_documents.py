"""Made documents of LongBench's official form."""

from __future__ import annotations

from lm_eval_llada.tasks.longbench.scores import DATASETS
from lm_eval_llada.tasks.text.haystacks import noise_sentences

ANSWERS = {
    "passage_count": "7",
    "passage_retrieval_en": "Paragraph 7",
    "passage_retrieval_zh": "段落7",
}


def document(dataset: str, **changes: object) -> dict[str, object]:
    """A document of the official form, about 600 tokens long."""
    filler = "长文本。" * 60 if DATASETS[dataset].language == "zh" else " ".join(noise_sentences())
    return {
        "input": "Which city?",
        "context": filler,
        "answers": [ANSWERS.get(dataset, "Red Band")],
        "all_classes": ["Red Band", "Blue Band"] if dataset in ("trec", "lsht") else None,
        "dataset": dataset,
        "_id": "d0",
        **changes,
    }
