"""The papers' own protocols: what their tasks are."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager

from lm_eval_llada.diffusion.sampler import SamplingOptions
from lm_eval_llada.engine.requests import generation_settings
from lm_eval_llada.tasks import token_counts as counting
from lm_eval_llada.tasks.grid import shipped_configs, tasks_path
from lm_eval_llada.tasks.niah.scores import DEPTHS
from lm_eval_llada.tasks.prompts import LONGBENCH_DATASETS, longbench_prompt
from lm_eval_llada.tasks.ruler.options import RULER_TASKS
from tests.helpers.cl100k_stand_in import StandIn
from tests.helpers.command_line import call
from tests.helpers.needle_rows import needle_row
from tests.helpers.origin_module import BEFORE, BEHIND, BETWEEN, write_origin

LONG_LENGTHS = [2000, 4000, 8000, 16000, 24000, 32000]
ULTRA_LENGTHS = [8192 * k for k in range(1, 17)]
STEPS = [1, 4, 8, 16, 32]
LONGBENCH = {
    "longllada_longbench_4k": 3500,
    "longllada_longbench_8k": 7500,
    "ultrallada_longbench_16k": 16000,
}


@pytest.fixture
def cl100k(monkeypatch) -> StandIn:
    encoding = StandIn()
    monkeypatch.setattr(counting, "cl100k_encoding", lambda: encoding)
    return encoding


@pytest.fixture(scope="session")
def corpora(tmp_path_factory) -> Path:
    """A data folder of NeedleBench's form, with text enough for 128K tokens."""
    root = tmp_path_factory.mktemp("corpora")
    folder = root / "needlebench"
    folder.mkdir()
    rng = random.Random(0)
    words = ["coal", "grain", "ships carry", "trains", "harbour", "nobody knows", "sand", "café"]
    documents = []
    for number in range(60):
        text = " ".join(rng.choice(words) for _ in range(1500))
        documents.append({"title": "", "text": f"Report {number}. {text}."})
    (folder / "en_un_asr.jsonl").write_text("\n".join(map(json.dumps, documents)))
    places = ["Mars", "Venus", "Pluto", "Titan", "Io", "Ceres", "Vesta", "Juno", "Eros", "Leda"]
    bands = ["Red", "Blue", "Ice", "Salt", "Moss", "Iron", "Jade", "Tin", "Zinc", "Opal", "Onyx"]
    rows = [
        {**needle_row(place, f"{band} Band"), "language": "English"}
        for place in [*places, "Dione"]
        for band in bands
    ]
    rows.insert(0, {**needle_row("Mars", "Gold Band"), "language": "Chinese"})
    (folder / "needles.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_origin(root)
    return root


def load(group: str, **metadata) -> dict:
    # The protocols' own folder: an index of all takes longer than what is tested.
    folder = str(tasks_path() / "papers")
    manager = TaskManager(include_path=folder, include_defaults=False, metadata=metadata)
    return manager.load([group])


@pytest.fixture
def small(corpora, cl100k) -> dict:
    """Metadata that makes few samples of every NIAH task."""
    return {"data_dir": str(corpora), "repeats": 1, "depths": [0, 50, 100]}


def decoding(task) -> SamplingOptions:
    """How a task is decoded, once it is checked that nothing ends its outputs early."""
    plan = generation_settings(task.get_config("generation_kwargs"), SamplingOptions())
    assert plan.until == () and plan.ignore_eos
    options = plan.options
    assert not options.stop_at_eos and not options.suppress_eos
    assert (options.temperature, options.cfg_scale) == (0, 0)
    assert options.remasking == "low_confidence"
    assert task.get_config("num_fewshot") == 0
    return options


# --- NIAH ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "lengths", "steps", "depths"),
    [
        ("longllada_niah", LONG_LENGTHS, 32, [0, 50, 100]),
        ("ultrallada_niah", ULTRA_LENGTHS, 16, [90]),
    ],
)
def test_niah_has_the_lengths_buffer_and_decoding_of_the_release(
    small, cl100k, group, lengths, steps, depths
):
    loaded = load(group, **{**small, "depths": depths})
    assert list(loaded["tasks"]) == [f"{group}_{length}" for length in lengths]
    needles = set()
    for length, task in zip(lengths, loaded["tasks"].values(), strict=True):
        options = decoding(task)
        assert (options.gen_length, options.block_length, options.steps) == (32, 32, steps)
        docs = list(task.test_docs())
        assert [doc["placed_depth"] for doc in docs] == pytest.approx(depths, abs=0.1)
        for doc in docs:
            context, question = doc["prompt"].removeprefix(BEFORE).split(BETWEEN)
            assert doc["prompt"].startswith(BEFORE) and BEHIND in question
            assert abs(len(cl100k.encode_ordinary(context)) - (length - 600)) <= 2
            assert question.endswith(" is") and "answer in the format" not in question
            assert context.count(f"\n{doc['reference']}\n") == 1
        needles.add(tuple(doc["needle_id"] for doc in docs))
    assert len(needles) == 1


def test_niah_has_ten_repeats_at_eleven_depths(corpora, cl100k):
    (task,) = load("longllada_niah_2000", data_dir=str(corpora))["tasks"].values()
    cells = [(doc["repeat"], doc["depth"]) for doc in task.test_docs()]
    assert cells == [(repeat, depth) for repeat in range(10) for depth in DEPTHS]


def test_steps_are_swept_in_one_subgroup_each(small):
    loaded = load("longllada_niah_steps", **{**small, "depths": [50]})
    groups = [f"longllada_niah_steps_{steps}" for steps in STEPS]
    assert loaded["group_map"]["longllada_niah_steps"] == groups
    for group, steps in zip(groups, STEPS, strict=True):
        tasks = [loaded["tasks"][name] for name in loaded["group_map"][group]]
        assert [task.config.metadata["length"] for task in tasks] == LONG_LENGTHS
        assert {decoding(task).steps for task in tasks} == {steps}
        assert {decoding(task).gen_length for task in tasks} == {32}
    one, last = (loaded["tasks"][f"longllada_niah_{n}"] for n in ("2000_steps_1", "2000"))
    assert one.test_docs()[:] == last.test_docs()[:]


# --- RULER and LongBench ------------------------------------------------------------------------


@pytest.fixture
def ruler_calls(monkeypatch) -> dict[tuple[str, int], dict]:
    """What the maker of RULER's samples is asked for, by task and length."""
    calls = {}

    def record(tokenizer, *, task, length, **options):
        calls[task, length] = options
        return [{"input": "a", "gen_prefix": " b", "outputs": ["c"], "task": task}]

    monkeypatch.setattr("lm_eval_llada.tasks.ruler.samples.build_ruler", record)
    return calls


# Where OpenCompass 0.4.2's samples are made otherwise than RULER's own.
RULER_SETTINGS = {
    **dict.fromkeys(
        ("niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multivalue", "niah_multiquery"),
        {"full_stops": False},
    ),
    "vt": {"num_examples": 0},
    "cwe": {"example_blank": False},
}
RESERVED = {"niah": 128, "vt": 30, "cwe": 120, "fwe": 50, "qa": 32}


@pytest.mark.parametrize(
    ("group", "sizes", "newlines"),
    [
        ("longllada_ruler", (4, 8, 16), 0),
        ("longllada_ruler_32k", (32,), 0),
        ("ultrallada_ruler", (4, 8, 16, 32), 2),
    ],
)
def test_ruler_has_the_settings_of_the_release(ruler_calls, group, sizes, newlines):
    loaded = load(group)
    assert len(loaded["tasks"]) == 13 * len(sizes)
    for task in loaded["tasks"].values():
        options = decoding(task)
        assert (options.gen_length, options.block_length, options.steps) == (64, 64, 64)
        assert task.config.target_delimiter == "" and task.config.gen_prefix == "gen_prefix"
    assert set(ruler_calls) == {(t, 1024 * size) for t in RULER_TASKS for size in sizes}
    for (task, _), options in ruler_calls.items():
        assert options["gen_length"] == RESERVED[task.partition("_")[0]]
        assert options["num_samples"] == 100
        assert options["length_unit"] == "cl100k"
        assert options["answer_newlines"] == newlines
        assert options.get("settings", {}) == RULER_SETTINGS.get(task, {})


def test_ruler_reports_its_kinds_at_each_length(ruler_calls):
    groups = load("longllada_ruler")["group_map"]
    assert groups["longllada_ruler"] == [f"longllada_ruler_{size}k" for size in (4, 8, 16)]
    kinds = groups["longllada_ruler_8k"]
    assert kinds == [f"longllada_ruler_{kind}_8k" for kind in ("niah", "agg", "qa")]
    assert [len(groups[kind]) for kind in kinds] == [8, 3, 2]


def test_ruler_samples_fit_their_length_in_the_papers_tokens(cl100k):
    (task,) = load("longllada_ruler_vt_4k", num_samples=2)["tasks"].values()
    for doc in task.test_docs():
        prompt = doc["input"] + doc["gen_prefix"]
        assert not prompt.endswith("\n")
        assert 3900 < len(cl100k.encode_ordinary(prompt)) + 30 <= 4096


@pytest.mark.parametrize(("paper", "ending"), [("longllada", "is"), ("ultrallada", "is\n\n")])
def test_ruler_prompts_end_as_in_the_release(cl100k, paper, ending):
    (task,) = load(f"{paper}_ruler_niah_single_1_4k", num_samples=1)["tasks"].values()
    task.build_all_requests(rank=0, world_size=1)
    (request,) = task.instances
    assert request.args[0].endswith(f" text {ending}")


def test_no_blank_parts_the_worked_answer_of_cwe(cl100k):
    (task,) = load("longllada_ruler_cwe_4k", num_samples=1)["tasks"].values()
    (doc,) = task.test_docs()
    prefix = doc["gen_prefix"]
    assert doc["input"].count(f"{prefix}1. ") == 1 and f"{prefix} " not in doc["input"]


# max_out_len of OpenCompass 0.4.2's LongBench configurations, which both releases run.
OUTPUTS = {
    **dict.fromkeys(("qasper", "hotpotqa", "2wikimqa", "musique", "triviaqa"), 32),
    **dict.fromkeys(("passage_count", "passage_retrieval_en", "passage_retrieval_zh"), 32),
    **dict.fromkeys(("multifieldqa_en", "multifieldqa_zh", "trec", "lsht", "lcc"), 64),
    **dict.fromkeys(("repobench-p",), 64),
    **dict.fromkeys(("narrativeqa", "dureader", "samsum"), 128),
    **dict.fromkeys(("gov_report", "qmsum", "multi_news", "vcsum"), 512),
}
# Where its wording is not the original's: first 16 digits of the SHA-256 of each `prompt`.
OPENCOMPASS_PROMPTS = {
    "narrativeqa": "5178f3835db90239",
    "qasper": "9ec4ae308865bd0c",
    "multi_news": "3f65eac0d079ea05",
}


@pytest.mark.parametrize("group", LONGBENCH)
def test_longbench_asks_in_the_words_of_the_release(group):
    paper, _, size = group.rpartition("_")
    for dataset in LONGBENCH_DATASETS:
        config = shipped_configs()["papers"][f"{paper}_{dataset}_{size}"]
        metadata = config["metadata"]
        options = {k: metadata[k] for k in ("wording", "part_words", "ending") if k in metadata}
        template = longbench_prompt(dataset, **options).template
        if dataset in OPENCOMPASS_PROMPTS:
            digest = hashlib.sha256(template.encode()).hexdigest()[:16]
            assert digest == OPENCOMPASS_PROMPTS[dataset]
        else:
            assert template == longbench_prompt(dataset).template
    original = longbench_prompt("qasper").template
    assert longbench_prompt("qasper", original, wording="trec", ending="!").template == original


@pytest.mark.parametrize("group", LONGBENCH)
def test_longbench_has_the_settings_of_the_release(monkeypatch, group):
    calls = {}

    def record(tokenizer, *, dataset, prompt_length, **options):
        calls[dataset] = (prompt_length, options)
        # Scored as an English dataset, which needs no word segmentation.
        sample = {"prompt": "a", "answers": ["b"], "all_classes": None, "dataset": "hotpotqa"}
        flags = {"first_line": False, "chat_template": True}
        return [{**sample, **flags, "num_tokens": 1, "num_dropped": 0, "id": "0"}]

    monkeypatch.setattr("lm_eval_llada.tasks.longbench.samples.build_longbench", record)
    loaded = load(group)
    paper, _, size = group.rpartition("_")
    assert set(calls) == set(LONGBENCH_DATASETS) and len(calls) == 21
    assert {length for length, _ in calls.values()} == {LONGBENCH[group]}
    assert {dataset for dataset, (_, options) in calls.items() if options} == {*OPENCOMPASS_PROMPTS}
    for dataset in LONGBENCH_DATASETS:
        options = decoding(loaded["tasks"][f"{paper}_{dataset}_{size}"])
        assert options.block_length == 64
        assert options.gen_length == options.steps == max(OUTPUTS[dataset], 64)
    assert [len(loaded["group_map"][name]) for name in loaded["group_map"][group]] == [
        *(4, 4, 4, 4, 3, 2)
    ]


# --- a run ---------------------------------------------------------------------------------------


def test_a_protocol_runs_in_half_precision_on_a_cpu(
    monkeypatch, capsys, random_checkpoint, corpora, cl100k, tmp_path
):
    short = TaskManager.__init__

    def without_defaults(self, *args, **kwargs):
        short(self, *args, **{**kwargs, "include_defaults": False})

    monkeypatch.setattr(TaskManager, "__init__", without_defaults)
    code = call(
        monkeypatch,
        *("--tasks", "longllada_niah_2000", "--limit", "1", "--output_path", str(tmp_path)),
        *("--model_args", f"pretrained={random_checkpoint},device=cpu,data_dir={corpora}"),
        *("--gen_kwargs", "steps=1", "--metadata", '{"repeats": 1, "depths": [50]}'),
    )
    assert code == 0
    assert "not the protocol's, because of steps in --gen_kwargs" in capsys.readouterr().err
    (file,) = tmp_path.rglob("results_*.json")
    results = json.loads(file.read_text())
    assert results["config"]["model_dtype"] == "torch.float16"
    assert results["config"]["llada"]["arguments"]["rope"]["round_scale"] is True
    assert results["n-samples"]["longllada_niah_2000"]["effective"] == 1
