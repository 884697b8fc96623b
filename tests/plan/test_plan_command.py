"""The command `plan`: requests from task files alone, known costs, and what fits a GPU."""

from __future__ import annotations

import argparse
import functools
import json
import re
from pathlib import Path

import pytest
import yaml
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import TaskIndex

from lm_eval_llada.cli import plan as command
from lm_eval_llada.cli import run as cli
from lm_eval_llada.diffusion.sampler import SamplingOptions
from lm_eval_llada.engine.arguments import parse_model_args, with_run_settings
from lm_eval_llada.modeling import LLaDAConfig, find_config
from lm_eval_llada.modeling.cost import generation_work, likelihood_work
from lm_eval_llada.plan.costs import CostModel
from lm_eval_llada.plan.hardware import Hardware
from lm_eval_llada.plan.requests import Request, RunPlan, _built, plan_run
from lm_eval_llada.plan.text import describe
from lm_eval_llada.tasks.grid import tasks_path
from lm_eval_llada.tasks.prompts import LONGBENCH_DATASETS

LLADA = "GSAI-ML/LLaDA-8B-Base"
LLADA_8B = LLaDAConfig(mlp_hidden_size=12288)


@functools.cache
def our_tasks() -> dict[str, object]:
    return TaskIndex.build([tasks_path()])


@pytest.fixture(autouse=True)
def quick_and_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read our task files once, the harness' thousands never, and forbid weights."""
    build, make = TaskIndex.build, TaskManager.__init__
    our_tasks()

    def build_once(paths: list[Path]) -> dict[str, object]:
        known = {tasks_path(): our_tasks()}
        parts = (known.get(path) or build([path]) for path in paths)
        return {name: entry for part in parts for name, entry in part.items()}

    def make_short(self: TaskManager, **given: object) -> None:
        make(self, **{**given, "include_defaults": False})

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(TaskIndex, "build", staticmethod(build_once))
    monkeypatch.setattr(TaskManager, "__init__", make_short)
    monkeypatch.setattr("lm_eval_llada.engine.loading.load_model", refuse)


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(dest="command"))
    return parser.parse_args(["plan", *arguments])


@pytest.fixture
def text_of(tmp_path: Path):
    """What the command prints, once the arguments are completed as those of a run."""

    def call(*arguments: str) -> str:
        namespace = parsed(*arguments)
        cli.fill_in(namespace, tmp_path)
        return describe(namespace)

    return call


def row_of(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.split()[:1] == [name])
    return re.split(r"\s{2,}", line.strip())


def planned(tasks: str, model_args: dict[str, object] | None = None, **given: object) -> RunPlan:
    """The requests of a run with our tasks, and others that `include_path` names."""
    model_args = model_args or {}
    config, arguments = configured(tasks, model_args, **given)
    return plan_run(config, arguments)


def configured(tasks: str, model_args: dict[str, object], **given: object):
    paths = [str(tasks_path()), *given.pop("include_path", [])]
    config = EvaluatorConfig(
        tasks=tasks.split(","),
        model_args=model_args,
        metadata={**model_args, **given.pop("metadata", {})},
        include_path=paths,
        **given,
    )
    return config, parse_model_args(with_run_settings(model_args, {}))


@pytest.mark.parametrize(
    ("task", "num_requests", "prompt", "output"),
    [
        ("niah_131072", 110, 131_056, 16),
        ("niah_multi_32768", 20, 32_640, 128),
        ("ruler_niah_single_1_128k", 100, 130_944, 128),
        ("ruler_vt_32k", 100, 32_738, 30),
        ("longllada_niah_16000", 110, 15_968, 32),
        ("ultrallada_ruler_vt_4k", 100, 4_066, 64),
        ("longbench_qasper_4k", 200, 3_500, 128),
        ("longbench_lcc_16k", 500, 16_000, 64),
    ],
)
def test_requests_follow_from_the_task_file(
    task: str, num_requests: int, prompt: int, output: int
) -> None:
    (plan,) = planned(task).tasks
    assert plan.name == task
    assert plan.num_requests == num_requests
    assert [(r.prompt_length, r.target_length) for r in plan.requests] == [(prompt, output)]


@pytest.mark.parametrize(
    "task",
    [
        "niah_tiny",
        "niah_multi_1024",
        "ruler_tiny_niah_single_1_512",
        "ruler_tiny_fwe_512",
        "ppl_tiny",
    ],
)
def test_foreseen_requests_are_those_that_the_harness_makes(task: str) -> None:
    config, arguments = configured(task, {"pretrained": "tiny-llada"})
    (foreseen,) = plan_run(config, arguments).tasks
    manager = TaskManager(include_path=config.include_path, metadata=config.metadata)
    (built,) = _built(config, arguments, manager, task)
    assert foreseen.num_requests == built.num_requests
    longest = max(request.length for request in foreseen.requests)
    found = max(request.length for request in built.requests)
    # A sample fills its length to within one of its units: 8 tokens, or a line of RULER.
    assert longest - 40 <= found <= longest
    assert {r.sampling for r in foreseen.requests} == {r.sampling for r in built.requests}


@pytest.mark.parametrize(("name", "count"), [("ruler_32k", 13), ("ruler_128k", 13)])
def test_a_group_is_all_of_its_tasks(name: str, count: int) -> None:
    plan = planned(name)
    assert len(plan.tasks) == count
    assert all(task.num_requests == 100 for task in plan.tasks)
    assert not plan.missing


def test_longbench_has_its_published_number_of_documents() -> None:
    plan = planned("longbench_8k")
    assert len(plan.tasks) == len(LONGBENCH_DATASETS) == 21
    assert sum(task.num_requests for task in plan.tasks) == 4750
    assert all("at most" in " ".join(task.notes) for task in plan.tasks)


def test_longbench_of_a_folder_is_counted(tmp_path: Path) -> None:
    rows = [
        {"context": "word " * n, "input": "Which?", "answers": ["a"], "all_classes": None}
        for n in (5, 60, 700)
    ]
    (tmp_path / "longbench").mkdir()
    lines = "\n".join(json.dumps({**row, "dataset": "qasper"}) for row in rows)
    (tmp_path / "longbench" / "qasper.jsonl").write_text(lines, encoding="utf-8")
    plan = planned("longbench_qasper_4k", {"pretrained": "tiny-llada", "data_dir": str(tmp_path)})
    (task,) = plan.tasks
    assert task.num_requests == 3
    assert len({request.prompt_length for request in task.requests}) == 3
    assert all(request.prompt_length < 3_500 for request in task.requests)
    assert task.notes == ()


def test_a_folder_without_the_dataset_leaves_the_upper_bound(tmp_path: Path) -> None:
    model_args = {"pretrained": "tiny-llada", "data_dir": str(tmp_path)}
    (task,) = planned("longbench_qasper_4k", model_args).tasks
    assert task.num_requests == 200
    assert any("could not be built" in note for note in task.notes)


def test_arguments_of_a_run_change_what_is_planned() -> None:
    sampling = {"gen_length": 32, "block_length": 8}
    (task,) = planned("niah_4096", gen_kwargs=sampling, limit=5, metadata={"repeats": 2}).tasks
    (request,) = task.requests
    assert (task.num_requests, request.prompt_length, request.target_length) == (5, 4064, 32)
    assert request.sampling is not None and request.sampling.block_length == 8
    assert planned("niah_4096", limit=0.1).tasks[0].num_requests == 11
    assert planned("niah_4096", samples={"niah_4096": [0, 5]}).tasks[0].num_requests == 2
    (task,) = planned("niah_4096", {"max_length": 1000}).tasks
    assert [request.length for request in task.requests] == [1000]
    with pytest.raises(ValueError, match="exceed max_length=1000"):
        planned("niah_4096", {"max_length": 1000, "truncation": "error"})


def foreign_task(folder: Path, **settings: object) -> list[str]:
    """A task that is none of ours, with its data in a file, and the folder to find it in."""
    data = folder / "data.json"
    rows = [{"question": "one two three " * n, "answer": "four"} for n in (1, 2, 9)]
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = {
        "task": "foreign",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": 0,
        "doc_to_choice": ["four", "five six seven"],
        **settings,
    }
    (folder / "foreign.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    return [str(folder)]


def test_a_foreign_task_is_built_by_the_harness(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    paths = foreign_task(tmp_path)
    plan = planned("foreign", {"pretrained": "tiny-llada"}, include_path=paths)
    (task,) = plan.tasks
    assert task.name == "foreign"
    assert task.num_requests == 6
    assert all(request.sampling is None for request in task.requests)
    assert len({request.prompt_length for request in task.requests}) == 3
    assert len({request.target_length for request in task.requests}) == 2


def test_a_foreign_task_without_its_data_is_named(tmp_path: Path) -> None:
    paths = foreign_task(tmp_path, dataset_path="no/such/dataset", dataset_kwargs={})
    plan = planned("niah_512,foreign", {"pretrained": "tiny-llada"}, include_path=paths)
    assert [task.name for task in plan.tasks] == ["niah_512"]
    (line,) = plan.missing
    assert line.startswith("foreign: its requests could not be built here")


def test_rolling_windows_are_counted_one_by_one(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    paths = foreign_task(
        tmp_path,
        output_type="loglikelihood_rolling",
        doc_to_target="{{question}}",
        doc_to_text="",
        doc_to_choice=None,
        metric_list=[{"metric": "word_perplexity"}],
    )
    model_args = {"pretrained": "tiny-llada", "max_length": 16}
    (task,) = planned("foreign", model_args, include_path=paths).tasks
    assert task.num_requests > 3
    assert all(request.length <= 16 for request in task.requests)


@pytest.mark.parametrize("tasks", ["niah_tinny", "./no/task.yaml"])
def test_a_misspelt_task_is_an_error(tasks: str) -> None:
    with pytest.raises(ValueError, match="Tasks not found: .*(niah_tinny|task.yaml)"):
        planned(tasks)


def test_shapes_are_known_where_the_hub_is_out_of_reach() -> None:
    config, note = find_config(LLADA)
    assert note is not None and "could not be read" in note
    assert (config.d_model, config.n_layers, config.mlp_hidden_size) == (4096, 32, 12288)
    config, _ = find_config("someone/iLLaDA-8B")
    assert (config.n_kv_heads, config.vocab_size, config.weight_tying) == (8, 155_136, True)
    assert find_config("tiny-llada")[1] is None
    with pytest.raises(ValueError, match="could not be fetched"):
        find_config("someone/another-8B")


def test_niah_to_128k_of_llada_8b_by_hand(text_of) -> None:
    text = text_of("--tasks", "niah", "--model_args", f"pretrained={LLADA},target_length=131072")
    lengths = [512 * 2**step for step in range(9)]
    row = row_of(text, "niah_131072")
    assert row[:5] == ["niah_131072", "110", "131,056", "16", "1,760"]
    # 16 steps for 16 tokens, the rows being those that are still masked.
    layer, width = 2 * (4 * 4096**2 + 3 * 4096 * 12288), 4096
    flops = 0
    for masked in range(16, 0, -1):
        flops += 131_072 * (31 * layer + 4 * width**2) + masked * (layer - 4 * width**2)
        flops += 4 * width * 131_072 * (31 * 131_072 + masked) + masked * 2 * width * 126_464
    assert row[5] == f"{110 * flops / 1e15:,.0f}" == "18,492"
    assert float(row[6]) == pytest.approx(110 * flops / 400e12 / 3600, abs=0.05)
    assert row_of(text, "all")[1] == f"{110 * len(lengths):,}"
    assert "its shape is the published one" in text
    assert "400 TFLOP/s" in text and "16 steps, cache=none" in text


def test_a_cache_at_128k_is_said_not_to_fit_and_what_fits_is_named(text_of) -> None:
    text = text_of("--tasks", "niah_131072", "--model_args", f"pretrained={LLADA},cache=prefix")
    (line,) = [line for line in text.splitlines() if "DOES NOT FIT 80 GB" in line]
    assert "16.0 GB of weights, a cache of 64.0 GiB (68.7 GB)" in line
    assert re.search(r"What does: cache=none \(29\.\d GB\); tp=2 \(\d\d\.\d GB\); device_map", line)
    assert re.search(r"at most 10\d,\d{3} tokens", line)
    assert [row_of(text, cache)[-1] for cache in ("none", "prefix", "dual")] == ["yes", "no", "no"]
    assert float(row_of(text, "prefix")[2]) == pytest.approx(0.80, abs=0.01)


def test_kept_prompts_are_priced_and_their_knobs_named(text_of) -> None:
    knobs = f"pretrained={LLADA},cache=prompt,prompt_chunk=256,keep=0.125,cache_dtype=float8_e4m3fn"
    text = text_of("--tasks", "niah_131072", "--model_args", knobs)
    assert "cache=prompt, prompt_chunk=256, keep=0.125, cache_dtype=float8_e4m3fn" in text
    assert re.search(r"cache=prompt .* take 63\.0 GB .* a cache of 32\.0 GiB", text)


@pytest.mark.parametrize(("name", "length"), [("ruler_32k", 32_768), ("ruler_128k", 131_072)])
def test_ruler_of_llada_8b_with_and_without_a_cache(text_of, name: str, length: int) -> None:
    text = text_of("--tasks", name, "--model_args", f"pretrained={LLADA}")
    # 8 tasks of 128 tokens, then vt, cwe, fwe and two of questions, 100 samples each.
    forwards = 100 * (8 * 128 + 30 + 120 + 50 + 2 * 32)
    assert row_of(text, "all")[1:3] == ["1,300", f"{forwards:,}"]
    layer, keys_values = 2 * (4 * 4096**2 + 3 * 4096 * 12288), 4 * 4096**2
    one_pass = 31 * (length * layer + 4 * 4096 * length**2) + length * keys_values
    exact, prefix = (float(row_of(text, cache)[2].replace(",", "")) for cache in ("none", "prefix"))
    assert exact == pytest.approx(forwards * one_pass / 400e12 / 3600, rel=3e-3)
    # One full pass for each request, and windows that are cheap but not free.
    assert 1 < prefix / (1300 * one_pass / 400e12 / 3600) < 1.4
    fits = "no" if length == 131_072 else "yes"
    assert row_of(text, "dual")[-1] == fits
    assert ("DOES NOT FIT" in text) == (fits == "no")


def costs_of(model_args: dict[str, object], **hardware: float) -> CostModel:
    return CostModel(LLADA_8B, 2, parse_model_args(model_args), Hardware(**hardware))


def test_a_batch_that_does_not_fit_is_told_to_be_smaller() -> None:
    costs = costs_of({"batch_size": 8})
    request = Request(131_056, 16, SamplingOptions(gen_length=16))
    assert not costs.fits(request)
    ways = list(costs.ways_to_fit(request, "none"))
    assert ways[0].startswith("batch_size=1")
    assert not any("tp=" in way for way in ways[1:])
    assert any("tp=2 with batch_size=1" in way for way in costs.ways_to_fit(request, "prefix"))
    assert costs.most_sequences(request) == 3


def test_every_way_to_fit_fits(text_of) -> None:
    costs = costs_of({"batch_size": 4}, memory_gb=40)
    request = Request(65_000, 64, SamplingOptions(gen_length=64))
    for cache in ("none", "prefix"):
        for way in costs.ways_to_fit(request, cache):
            if found := re.search(r"\(([\d.]+) GB\)", way):
                assert float(found[1]) <= 40
            elif found := re.search(r"at most ([\d,]+) tokens", way):
                length = int(found[1].replace(",", ""))
                for longer, fits in ((0, True), (1, False)):
                    changed = Request(length - 64 + longer, 64, request.sampling)
                    assert costs.fits(changed, cache=cache) is fits


def test_processes_share_requests_and_tp_shares_a_pass() -> None:
    (plan,) = planned("niah_4096").tasks
    alone = costs_of({}).hours(plan)
    assert costs_of({}, num_processes=8).hours(plan) == pytest.approx(alone * 14 / 110)
    assert costs_of({"tp": 4}).hours(plan) == pytest.approx(alone / 4)
    assert costs_of({}, tflops=100).hours(plan) == pytest.approx(alone * 4)


def test_guidance_doubles_operations_and_sequences() -> None:
    plain, guided = (SamplingOptions(gen_length=16, cfg_scale=scale) for scale in (0, 1.5))
    costs = costs_of({})
    one, two = Request(4080, 16, plain), Request(4080, 16, guided)
    assert costs.work(two).flops == 2 * costs.work(one).flops
    assert costs.work(one) == generation_work(LLADA_8B, 4080, plain)
    weights = 2 * 8_015_581_184
    assert costs.memory(two) - weights == 2 * (costs.memory(one) - weights)


def test_likelihoods_take_their_options_from_model_args() -> None:
    costs = costs_of({"mc_num": 8, "is_check_greedy": False})
    request = Request(960, 64)
    options = costs.arguments.likelihood
    assert costs.work(request) == likelihood_work(LLADA_8B, 960, 64, options)
    assert costs.work(request).num_passes == 8
    checked = costs_of({"mc_num": 8})
    assert checked.work(request).num_passes == 8 + 64


def test_likelihoods_have_no_table_of_caches(text_of) -> None:
    text = text_of("--tasks", "ppl_tiny")
    assert "Caches" not in text
    assert row_of(text, "ppl_tiny")[1] == "19"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tflops", "0"], "tflops must be a number > 0"),
        (["--memory_gb", "-1"], "memory_gb must be a number > 0"),
        (["--num_processes", "0"], "num_processes must be a whole number >= 1"),
        (["--model", "hf"], "plan knows the cost of --model llada only; got 'hf'"),
    ],
)
def test_a_wrong_argument_is_an_error(text_of, arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        text_of("--tasks", "niah_512", *arguments)
