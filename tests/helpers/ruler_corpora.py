"""Small files of the official forms, so that every RULER task can be made without a download."""

from __future__ import annotations

import json
from pathlib import Path

from lm_eval_llada.tasks.text.haystacks import heldout_text

NUM_QUESTIONS = 12


def write_corpora(folder: Path) -> Path:
    """Write essays, SQuAD's file and HotpotQA's into a folder for ``data_dir``, and return it."""
    essays = folder / "needlebench" / "PaulGrahamEssays.jsonl"
    squad = folder / "ruler" / "dev-v2.0.json"
    hotpotqa = folder / "ruler" / "hotpot_dev_distractor_v1.json"
    for path in (essays, squad):
        path.parent.mkdir(parents=True)
    essays.write_text(json.dumps({"title": "", "text": heldout_text()}))
    squad.write_text(json.dumps({"version": "v2.0", "data": [_article(i) for i in range(4)]}))
    hotpotqa.write_text(json.dumps([_puzzle(i) for i in range(NUM_QUESTIONS)]))
    return folder


def _article(number: int) -> dict[str, object]:
    paragraphs = []
    for part in range(3):
        place = f"Town {number}-{part}"
        question = {
            "question": f"What is the river of {place}?",
            "id": place,
            "answers": [{"text": f"River {number}{part}", "answer_start": 0}],
            "is_impossible": False,
        }
        context = f"River {number}{part} runs through {place} and then to the sea."
        paragraphs.append({"context": context, "qas": [question]})
    return {"title": f"Towns {number}", "paragraphs": paragraphs}


def _puzzle(number: int) -> dict[str, object]:
    names = [f"Person {number}-{other}" for other in range(10)]
    return {
        "_id": str(number),
        "question": f"Who taught the teacher of {names[0]}?",
        "answer": names[2],
        "supporting_facts": [[names[0], 0], [names[1], 0]],
        "context": [
            [name, [f"{name} was taught by {teacher}."]]
            for name, teacher in zip(names, [*names[1:], names[0]], strict=True)
        ],
    }
