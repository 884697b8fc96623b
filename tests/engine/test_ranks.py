"""Two processes share a run and give what one gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.helpers.block_checkpoints import with_blocks

QUICK_START = Path(__file__).parents[1] / "helpers" / "quick_start.py"
ROOT = Path(__file__).resolve().parents[2]
KEPT = ",cache=prompt,prompt_chunk=2,keep=0.5,likelihood_cache=context"
NUM_DOCUMENTS = 5  # odd, so that the second rank has one less and repeats its last request

TASK_FUNCTIONS = f"""
import datasets


def documents(**settings):
    texts = ["The rain fell on the old roof.", "Nobody spoke.", "A b c", "One two", "The end."]
    rows = [{{"text": text, "answer": " and so on"}} for text in texts]
    return {{"test": datasets.Dataset.from_list(rows[:{NUM_DOCUMENTS}])}}
"""
COMMON = {
    "custom_dataset": "FUNCTION",
    "test_split": "test",
    "doc_to_text": "{{text}}",
    "doc_to_target": "{{answer}}",
}
TASKS = {
    "toy_texts": {
        "output_type": "generate_until",
        "generation_kwargs": {"until": [], "gen_length": 6, "temperature": 0.8, "do_sample": True},
        "metric_list": [{"metric": "bypass", "aggregation": "bypass"}],
    },
    "toy_scores": {
        "output_type": "loglikelihood",
        "target_delimiter": "",
        "metric_list": [{"metric": "perplexity"}],
    },
    "toy_rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}],
    },
}


@pytest.fixture
def tasks(tmp_path: Path) -> list[str]:
    (tmp_path / "functions.py").write_text(TASK_FUNCTIONS)
    paths = []
    for name, settings in TASKS.items():
        text = yaml.safe_dump({"task": name, **COMMON, **settings})
        path = tmp_path / f"{name}.yaml"
        path.write_text(text.replace("FUNCTION", "!function functions.documents"))
        paths.append(str(path))
    return paths


def start(
    output: Path, tasks: list[str], checkpoint: Path, *launcher: str, more: str = ""
) -> subprocess.Popen[str]:
    model_args = f"pretrained={checkpoint},device=cpu,mc_num=8,max_length=12,batch_size=2{more}"
    return subprocess.Popen(
        [
            *(sys.executable, *launcher, str(QUICK_START), "--tasks", ",".join(tasks)),
            *("--model_args", model_args, "--log_samples", "--output_path", str(output)),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def answers(output: Path) -> dict[str, list[object]]:
    found = {}
    for file in output.rglob("samples_*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows.sort(key=lambda row: row["doc_id"])
        task = next(name for name in TASKS if name in file.name)
        found[task] = [row["resps"][0][0] for row in rows]
    return found


@pytest.mark.parametrize(
    ("num_ranks", "both", "more", "block_length"),
    [
        pytest.param(2, "", "", None, id="two_ranks"),
        pytest.param(2, "", "", 4, id="two_ranks_by_blocks", marks=pytest.mark.slow),
        pytest.param(2, KEPT, "", None, id="two_ranks_that_keep_prompts", marks=pytest.mark.slow),
        pytest.param(4, "", ",tp=2", None, id="two_copies_of_two_ranks", marks=pytest.mark.slow),
    ],
)
def test_two_give_the_texts_and_numbers_of_one(
    tasks, random_checkpoint, tmp_path, num_ranks, both, more, block_length
) -> None:
    if block_length is not None:
        random_checkpoint = with_blocks(random_checkpoint, tmp_path / "blocks", block_length)
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_ranks}")
    runs = {
        "one": start(tmp_path / "one", tasks, random_checkpoint, more=both),
        "two": start(tmp_path / "two", tasks, random_checkpoint, *launcher, more=both + more),
    }
    for process in runs.values():
        printed, _ = process.communicate(timeout=600)
        assert process.returncode == 0, printed
    one, two = answers(tmp_path / "one"), answers(tmp_path / "two")
    assert set(one) == set(two) == set(TASKS)
    assert all(len(found) == NUM_DOCUMENTS for found in one.values())
    assert one["toy_texts"] == two["toy_texts"]
    for task in ("toy_scores", "toy_rolling"):
        numbers = [[float(_number(answer)) for answer in run[task]] for run in (one, two)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-5)
    infos = []
    for output in ("one", "two"):
        (file,) = (tmp_path / output).rglob("results_*.json")
        infos.append(json.loads(file.read_text())["config"]["llada"])
    assert [info["num_ranks"] for info in infos] == [1, 2]
    assert infos[0]["truncation"] == infos[1]["truncation"]
    assert infos[0]["truncation"]["toy_texts"]["requests"] == NUM_DOCUMENTS
    # Both did about half of the work, be they ranks or copies of a model.
    passes = [info["work"]["forward_passes"] for info in infos]
    assert passes[1] < 1.5 * passes[0]


def _number(answer: object) -> object:
    return answer[0] if isinstance(answer, list) else answer
