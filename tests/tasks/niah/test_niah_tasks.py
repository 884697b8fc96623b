"""The NIAH tasks, as lm-eval loads and runs them."""

from __future__ import annotations

import json
import logging
import math
import re

import pytest
from lm_eval import evaluator
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import make_table

from lm_eval_llada.tasks.grid import (
    GROUP_LIMIT,
    niah_group,
    niah_lengths,
    tasks_path,
    write_configs,
)
from tests.helpers.toy_tokenizer import toy_tokenizer

FOLDER = tasks_path() / "niah"
NIAH_LENGTHS = [512 * 2**step for step in range(9)]
LEAVES = [FOLDER / f"{name}.yaml" for name in ["niah_tiny", *(f"niah_{n}" for n in NIAH_LENGTHS)]]
DEPTH_KEYS = [f"depth_{depth:03d}" for depth in range(0, 101, 10)]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    toy_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def small_run(tokenizer_folder) -> dict[str, object]:
    """Metadata as a run passes it, with samples few enough to make every task at once."""
    return {"pretrained": tokenizer_folder, "repeats": 1, "depths": [0, 100]}


@pytest.fixture(scope="session")
def manager(small_run) -> TaskManager:
    return TaskManager(include_path=str(tasks_path()), include_defaults=False, metadata=small_run)


class Reader(LM):
    """Looks the asked key up in the last part of the prompt, as a model of short reach would."""

    def __init__(self, reach: int = 10**9) -> None:
        super().__init__()
        self.reach = reach
        self.requests: list[tuple] = []

    def generate_until(self, requests, disable_tqdm=False):
        self.requests = [request.args for request in requests]
        return [self.answer(prompt) for prompt, _ in self.requests]

    def answer(self, prompt: str) -> str:
        context, question = prompt[-self.reach :].split("\n\nQuestion: ")
        key = re.search(r"for (\S+)\?", question).group(1)
        found = re.search(rf"for {key} is (\d+)\.", context)
        return f" {found.group(1)}." if found else " I do not know."

    def loglikelihood(self, requests, disable_tqdm=False):
        raise NotImplementedError

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise NotImplementedError


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
def test_task_files_agree_with_their_name_and_reserve_what_they_generate(path):
    config = load_yaml(path, resolve_func=True)
    generation, metadata = config["generation_kwargs"], config["metadata"]
    assert config["task"] == path.stem
    assert metadata["length"] == (512 if path.stem == "niah_tiny" else int(path.stem[5:]))
    assert metadata["version"] == 1
    assert generation["until"] == ["\n"] and generation["do_sample"] is False
    expected = 8 if path.stem == "niah_tiny" else 16
    assert {generation[name] for name in ("gen_length", "block_length", "steps")} == {expected}
    assert config["num_fewshot"] == 0
    assert [m["metric"] for m in config["metric_list"][3:]] == DEPTH_KEYS
    assert callable(config["custom_dataset"]) and callable(config["process_results"])


@pytest.mark.parametrize("length", [length for length in NIAH_LENGTHS if length <= 4096])
def test_lengths_load_by_name_and_fill_their_length(manager, length):
    (task,) = manager.load([f"niah_{length}"])["tasks"].values()
    for doc in task.test_docs():
        assert doc["num_tokens"] + 16 <= length <= doc["num_tokens"] + 16 + 8


def test_bare_path_works_without_an_include_path(small_run):
    path = FOLDER / "niah_tiny.yaml"
    manager = TaskManager(include_defaults=False, metadata=small_run)
    # lm-eval's Python interface takes the path, its command line reads the file beforehand.
    for spec in (str(path), load_yaml(path, resolve_func=True)):
        (task,) = manager.load([spec])["tasks"].values()
        assert task.task_name == "niah_tiny"
        assert len(task.test_docs()) == 2


def test_copied_and_edited_file_works_from_anywhere(tmp_path, small_run):
    text = (FOLDER / "niah_512.yaml").read_text()
    edited = (
        text.replace("task: niah_512", "task: my_niah")
        .replace("gen_length: 16", "gen_length: 30")
        .replace("length: 512", "length: 600\n  num_distractors: 2")
    )
    (tmp_path / "mine.yaml").write_text(edited)
    (task,) = (
        TaskManager(include_defaults=False, metadata=small_run)
        .load([str(tmp_path / "mine.yaml")])["tasks"]
        .values()
    )
    assert task.get_config("generation_kwargs")["gen_length"] == 30
    for doc in task.test_docs():
        assert doc["num_tokens"] + 30 <= 600 <= doc["num_tokens"] + 30 + 8
        assert len(re.findall(r" is \d{5}\.", doc["prompt"])) == 3


# --- groups -------------------------------------------------------------------------------------


def test_group_file_is_the_group_of_the_default_limit():
    config = load_yaml(FOLDER / "niah.yaml", resolve_func=False)
    assert config == niah_group()
    assert config["task"][0] == "niah_512"
    assert config["task"][-1] == f"niah_{GROUP_LIMIT}" == "niah_32768"


def test_lengths_stop_at_the_limit():
    assert niah_lengths(2047) == [512, 1024]
    assert niah_lengths(2048) == [512, 1024, 2048]
    assert niah_lengths(10**9) == list(NIAH_LENGTHS)
    with pytest.raises(ValueError, match="shortest NIAH task has 512 tokens, more than .* 511"):
        niah_lengths(511)


# --- runs ---------------------------------------------------------------------------------------


def run(model: LM, tasks: list[str], metadata: dict, **options) -> dict:
    manager = TaskManager(include_path=str(tasks_path()), include_defaults=False, metadata=metadata)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return evaluator.simple_evaluate(model=model, tasks=tasks, task_manager=manager, **options)


def test_results_hold_scores_of_every_depth_as_numbers(tokenizer_folder):
    # The end of a prompt of 512 tokens reaches about half of its needles.
    results = run(Reader(reach=500), ["niah_tiny"], {"pretrained": tokenizer_folder})
    scores = results["results"]["niah_tiny"]
    by_depth = [scores[f"{key},none"] for key in DEPTH_KEYS]
    assert by_depth[-1] == 100
    assert by_depth[0] < 20
    assert by_depth == sorted(by_depth)
    assert scores["score,none"] == pytest.approx(sum(by_depth) / 11)
    assert 0 < scores["exact,none"] < scores["score,none"] < 100
    assert isinstance(scores["score_stderr,none"], float)
    assert scores["score_clustered_se,none"] >= 0
    assert results["n-samples"]["niah_tiny"] == {"original": 22, "effective": 22}
    numbers = [
        value for key, value in scores.items() if key.startswith(("depth", "score", "exact"))
    ]
    assert "NaN" not in json.dumps(numbers)


def test_depth_without_samples_is_null_rather_than_nought(tokenizer_folder):
    results = run(Reader(), ["niah_tiny"], {"pretrained": tokenizer_folder}, limit=3)
    scores = results["results"]["niah_tiny"]
    assert [scores[f"{key},none"] for key in DEPTH_KEYS] == [100.0] * 3 + [None] * 8
    assert scores["score_clustered_se,none"] is None  # three samples of one needle
    assert scores["exact,none"] == 100


def test_printed_errors_are_clustered_by_needle(tokenizer_folder):
    class Forgetful(Reader):
        """Finds every second needle, at all of its depths."""

        def answer(self, prompt: str) -> str:
            found = super().answer(prompt)
            return found if int(found.strip(" .")) % 2 else " I do not know."

    metadata = {"pretrained": tokenizer_folder, "repeats": 8}
    results = run(Forgetful(), ["niah_tiny"], metadata, bootstrap_iters=0)
    scores = results["results"]["niah_tiny"]
    share = scores["exact,none"] / 100
    assert 0 < share < 1
    # Eight needles are eight values, however many depths each of them has.
    assert scores["exact_stderr,none"] == pytest.approx(100 * math.sqrt(share * (1 - share) / 7))
    assert scores["score_stderr,none"] == scores["score_clustered_se,none"]
    rows = {
        cells[5]: cells[9]
        for line in make_table(results).splitlines()
        if len(cells := [cell.strip() for cell in line.split("|")]) > 9
    }
    for metric in ("exact", "score"):
        assert rows[metric] == f"{scores[f'{metric}_stderr,none']:.4f}"
    assert not [metric for metric in rows if "stderr" in metric]


def test_one_needle_has_no_error_to_print(tokenizer_folder):
    results = run(Reader(), ["niah_tiny"], {"pretrained": tokenizer_folder}, limit=3)
    assert results["results"]["niah_tiny"]["score_stderr,none"] == "N/A"
    assert "N/A" in make_table(results)


def test_generation_gets_the_settings_of_the_task(tokenizer_folder):
    model = Reader()
    run(model, ["niah_tiny"], {"pretrained": tokenizer_folder}, limit=1)
    expected = {"until": ["\n"], "do_sample": False, "gen_length": 8, "block_length": 8, "steps": 8}
    assert model.requests[0][1] == expected


def test_group_averages_its_lengths(tmp_path, small_run):
    write_configs(tmp_path, {"niah": niah_group(1024)}, "a test")
    manager = TaskManager(
        include_path=[str(tasks_path()), str(tmp_path)], include_defaults=False, metadata=small_run
    )
    results = evaluator.simple_evaluate(
        model=Reader(reach=1500), tasks=["niah"], task_manager=manager, bootstrap_iters=10
    )
    leaves = [results["results"][f"niah_{length}"]["score,none"] for length in (512, 1024)]
    assert results["results"]["niah"]["score,none"] == pytest.approx(sum(leaves) / 2)
    assert "exact,none" in results["groups"]["niah"]
    assert results["groups"]["niah"]["score_stderr,none"] == "N/A"  # one needle a length


def test_gathering_two_ranks_gives_the_results_of_one(tokenizer_folder):
    """The sums of lm-eval's gather, done by hand: values of all ranks, one list a metric."""
    loaded = TaskManager(include_defaults=False, metadata={"pretrained": tokenizer_folder}).load(
        [str(FOLDER / "niah_tiny.yaml")]
    )
    (task,) = loaded["tasks"].values()
    model = Reader(reach=500)

    def metrics_of(rank: int, world_size: int) -> dict[str, list]:
        gathered: dict[str, list] = {}
        for _, doc in task.doc_iterator(rank=rank, world_size=world_size):
            values = task.process_results(doc, [model.answer(doc["prompt"])])
            for name, value in values.items():
                gathered.setdefault(name, []).append(value)
        return gathered

    alone = metrics_of(0, 1)
    first, second = metrics_of(0, 2), metrics_of(1, 2)
    assert list(first) == list(second) == list(alone)
    for name, aggregate in task.aggregation().items():
        joined = aggregate(first[name] + second[name])
        assert joined == pytest.approx(aggregate(alone[name]))
