"""The harness' own long-context tasks run with `llada`, over a few made-up documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

FOLDER = Path(lm_eval.tasks.__file__).parent
LONG = "The rain fell on the old roof all night. " * 150
GRAPHS = [
    {"prompt": f"a -> b\n{text}Find the parents of b.", "answer_nodes": ["a"]}
    for text in ("", LONG)
]
FACTS = [{"input": f"{text}Ann went to the shop.", "question": "Where is Ann?", "target": "shop"}
         for text in ("", LONG)]  # fmt: skip
CHOICES = [
    {"context": text, "question": "Where?", "choices": ["a", "b", "c", "d"], "answer": 0}
    for text in ("Rain.", LONG)
]


def evaluated(monkeypatch, lm: Any, file: str, rows: list[dict[str, Any]], **options: Any) -> Any:
    def load_dataset(*args: Any, split: str | None = None, **kwargs: Any) -> Any:
        data = datasets.Dataset.from_list(rows)
        return data if split else datasets.DatasetDict({"train": data})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    manager = TaskManager(include_defaults=False, metadata={"pretrained": "tiny-llada"})
    return simple_evaluate(
        lm, tasks=[str(FOLDER / file)], task_manager=manager, bootstrap_iters=0, **options
    )


@pytest.mark.parametrize(
    ("file", "rows", "metric", "options"),
    [
        ("graphwalks/graphwalks_128k.yaml", GRAPHS, "f1,none",
         {"gen_kwargs": {"gen_length": 16, "steps": 4, "block_length": 16}}),
        ("babilong/babilong_qa1.yaml", FACTS, "acc,none", {}),
        ("longbench2/academic_single.yaml", CHOICES, "acc,none", {}),
    ],
)  # fmt: skip
def test_they_run_and_leave_out_what_is_too_long(
    monkeypatch, make, file, rows, metric, options
) -> None:
    lm = make(truncation="skip", max_length=900, mc_num=1)
    found = evaluated(monkeypatch, lm, file, rows, **options)
    ((name, result),) = found["results"].items()
    assert 0 <= result[metric] <= 1
    assert found["n-samples"][name] == {"original": 2, "effective": 1}
    assert lm.get_model_info()["llada"]["left_out"][name]["samples"] == [1]


def test_thousands_of_output_tokens_are_said_before_they_cost(monkeypatch, make, caplog) -> None:
    lm = make()
    monkeypatch.setattr(type(lm), "_answers", lambda self, kind, jobs: [""] * len(jobs))
    evaluated(monkeypatch, lm, "graphwalks/graphwalks_128k.yaml", GRAPHS)
    (line,) = [record.message for record in caplog.records if "tokens of output" in record.message]
    assert line.startswith("graphwalks_128k asks for 16,384 tokens of output: up to 16,384 passes")
    assert "gen_length=512,steps=512,block_length=32 caps them" in line
