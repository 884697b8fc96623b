"""new-task: what it writes runs as it is, and holds what was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lm_eval_llada.cli import main as cli
from lm_eval_llada.tasks.grid import user_configs
from lm_eval_llada.tasks.longbench.samples import build_longbench
from lm_eval_llada.tasks.niah.single import build_niah
from lm_eval_llada.tasks.perplexity.samples import build_perplexity
from lm_eval_llada.tasks.ruler.samples import build_ruler
from tests.helpers.command_line import check_one_sentence
from tests.helpers.toy_tokenizer import toy_tokenizer


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(capsys: Any, *arguments: str) -> dict[str, dict[str, Any]]:
    """The tasks of the file that a command wrote, expanded as for a run."""
    assert cli.main(["new-task", *arguments]) == 0
    printed = capsys.readouterr().out
    assert f"lm-eval-llada --tasks {arguments[1]}.yaml" in printed
    return user_configs(Path(f"{arguments[1]}.yaml"))


def samples_of(build: Any, config: dict[str, Any], tokenizer: Any = None) -> list[dict[str, Any]]:
    settings = {k: v for k, v in config["metadata"].items() if k != "version"}
    if "generation_kwargs" in config and build is not build_longbench:
        settings["gen_length"] = config["generation_kwargs"]["gen_length"]
    if "ruler_task" in settings:
        settings["task"] = settings.pop("ruler_task")
    return build(tokenizer or toy_tokenizer(), **settings)


def test_a_needle_and_a_haystack_of_ones_own(here, capsys) -> None:
    text = "Rain fell on the {roofs} of $ix towns. Nobody spoke of the harbour then.\n"
    (here / "book.txt").write_text(text * 40)
    needle = "The gate of {Ely} costs $5 at {number}."
    configs = written(
        capsys, "niah", "mine", "--needle", needle, "--question", "What is it, in $ and {}?",
        "--haystack", "book.txt", "--lengths", "300", "500", "--repeats", "3",
        "--depths", "0", "50",
    )  # fmt: skip
    assert list(configs) == ["mine_300", "mine_500", "mine"]
    samples = samples_of(build_niah, configs["mine_300"])
    assert len(samples) == 6 and len({sample["answer"] for sample in samples}) == 3
    for sample in samples:
        sentence = f"The gate of {{Ely}} costs $5 at {sample['answer']}."
        assert sample["prompt"].count(sentence) == 1
        assert sample["reference"] == sentence
        assert "on the {roofs} of $ix towns" in sample["prompt"]
        assert sample["prompt"].endswith("The gate of {Ely} costs $5 at")
        assert 300 - 16 - 8 <= sample["num_tokens"] <= 300 - 16


def test_the_example_needle_runs(here, capsys) -> None:
    configs = written(capsys, "niah", "first")
    assert configs["first_512"]["metadata"]["needles"][0]["answer"] == "{number}"
    assert len(samples_of(build_niah, configs["first_512"])) == 110


def test_a_needle_without_a_number_is_asked_once_a_depth(here, capsys) -> None:
    configs = written(
        capsys, "niah", "plain", "--needle", "In Oslo it is best to swim in the fjord.",
        "--question", "What is best in Oslo?", "--answer", "swim in the fjord", "--lengths", "300",
    )  # fmt: skip
    samples = samples_of(build_niah, configs["plain_300"])
    assert [sample["depth"] for sample in samples] == [10.0 * i for i in range(11)]
    assert samples[0]["prompt"].endswith("In Oslo it is best to")


def test_ruler_at_a_length_of_ones_own(here, capsys) -> None:
    configs = written(
        capsys, "ruler", "six", "--lengths", "6000", "--ruler_tasks", "vt", "fwe",
        "--num_samples", "2",
    )  # fmt: skip
    assert configs["six"]["task"] == ["six_6000"]
    assert configs["six_6000"]["task"] == ["six_vt_6000", "six_fwe_6000"]
    samples = samples_of(build_ruler, configs["six_vt_6000"])
    assert len(samples) == 2 and configs["six_vt_6000"]["generation_kwargs"]["steps"] == 30


def test_longbench_over_a_file_of_ones_own(here, capsys) -> None:
    rows = [{"paper": f"Ida has {n} bees.", "q": "How many?", "reply": str(n)} for n in (3, 4)]
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = ("context=paper", "input=q", "answers=reply")
    configs = written(
        capsys, "longbench", "papers", "--file", "own.jsonl", "--fields", *fields,
        "--dataset", "qasper",
    )  # fmt: skip
    samples = samples_of(build_longbench, configs["papers"])
    assert [sample["answers"] for sample in samples] == [["3"], ["4"]]
    assert "Ida has 3 bees." in samples[0]["prompt"] and "How many?" in samples[0]["prompt"]
    assert configs["papers"]["generation_kwargs"]["gen_length"] == 128


def test_longbench_without_a_file_writes_an_example(here, capsys) -> None:
    configs = written(capsys, "longbench", "example")
    assert [s["answers"][0] for s in samples_of(build_longbench, configs["example"])] == [
        "honey",
        "noon",
    ]


def test_perplexity_of_a_text_of_ones_own(here, capsys) -> None:
    Path("book.txt").write_text("The rain fell on the old roof all night, and nobody spoke. " * 60)
    configs = written(capsys, "ppl", "text", "--text", "book.txt", "--lengths", "256", "128")
    samples = samples_of(build_perplexity, configs["text"])
    assert {sample["length"] for sample in samples} == {128, 256}
    names = [metric["metric"] for metric in configs["text"]["metric_list"]]
    assert {"ppl_000128", "ppl_000256", "perplexity"} <= set(names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("niah", "a/b"), "letters, digits"),
        (("niah", "x", "--needle", "No number.", "--question", "What?"), "Give --answer"),
        (("niah", "x", "--needle", "It is {number}."), "come together"),
        (("niah", "x", "--haystack", "esays"), "Did you mean 'essays'"),
        (("ruler", "x", "--ruler_tasks", "vtt"), "Did you mean 'vt'"),
        (("longbench", "x", "--file", "none.jsonl"), "no such file"),
        (("longbench", "x", "--dataset", "hotpot"), "Did you mean 'hotpotqa'"),
        (("longbench", "x", "--fields", "context"), "NAME=THEIRS"),
        (("ppl", "x", "--text", "none.txt"), "neither is"),
    ],
)
def test_what_cannot_be_written_is_said_in_one_sentence(here, capsys, arguments, message) -> None:
    code = cli.main(["new-task", *arguments])
    check_one_sentence(code, capsys.readouterr().err, message)
    assert not list(here.iterdir())


def test_nothing_is_written_over(here, capsys) -> None:
    written(capsys, "niah", "twice")
    before = Path("twice.yaml").read_text()
    code = cli.main(["new-task", "ruler", "twice"])
    check_one_sentence(code, capsys.readouterr().err, "is there already")
    assert Path("twice.yaml").read_text() == before
