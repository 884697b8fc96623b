"""Values of results that are no scores: what stands in their place, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lm_eval_llada.report.evaluations import Evaluation, TaskResult, model_name
from lm_eval_llada.report.files import find_files
from lm_eval_llada.report.markdown import to_markdown
from lm_eval_llada.report.needles import needle_scores
from lm_eval_llada.report.perplexity import perplexity_section
from lm_eval_llada.report.reading import read_evaluations
from lm_eval_llada.report.runs import other_tasks_section, overview_section
from lm_eval_llada.report.values import read_numbers
from tests.helpers.report_results import niah, results, ruler, task, write

LATER = "2026-01-02T00-00-00.1"


def other(**values: Any) -> dict[str, Any]:
    """A task of another package, whose metrics have the given values."""
    keys = {f"{name.removeprefix('n')},none": value for name, value in values.items()}
    counts = {"original": 3, "effective": 3}
    return {"results": {"alias": "x", **keys}, "configs": {}, "n-samples": counts}


def read(folder: Path, tasks: dict[str, Any], **config: Any) -> tuple[Evaluation, str]:
    """The evaluation in a results file of some tasks, and all that is written of it."""
    write(folder, results(tasks, **config))
    reading = read_evaluations(find_files([folder]))
    (found,) = reading.evaluations
    sections = [overview_section(reading, reading.skipped), other_tasks_section([found])]
    return found, to_markdown("t", [section for section in sections if section])


def test_a_length_that_was_not_measured_is_no_score(tmp_path: Path) -> None:
    found, text = read(
        tmp_path,
        {"niah_single_1": other(n4096=0.5, n8192=-1), "vt": other(n4096=-1, n8192=-1.0)},
    )
    assert found.tasks["niah_single_1"].metrics == {"4096": 0.5}
    assert found.tasks["niah_single_1"].gaps == {}
    assert found.tasks["vt"].metrics == {}
    assert "-1.0" not in text
    assert "vt: 4096, 8192: not measured" in text


def test_minus_one_of_a_metric_with_a_name_is_a_value() -> None:
    assert read_numbers({"mcc,none": -1, "4096,none": -1})[0] == {"mcc": -1.0}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("inf"), "infinite"),
        (float("-inf"), "infinite"),
        (float("nan"), "not a number"),
        (None, "not measured"),
        ("N/A", "not measured"),
    ],
)
def test_a_metric_without_a_number_is_named_with_what_it_has(
    tmp_path: Path, value: Any, said: str
) -> None:
    found, text = read(tmp_path, {"wikitext": other(word_perplexity=value, bits=2.5)})
    assert found.tasks["wikitext"].metrics == {"bits": 2.5}
    # One line on how the file was read, one row of the table.
    assert rf"wikitext: word\_perplexity: {said}." in text
    assert rf"| wikitext | word\_perplexity | {said} | 3 |" in text


def test_a_listed_metric_that_is_not_there_is_named(tmp_path: Path) -> None:
    entry = other(acc=0.5)
    entry["configs"] = {"metric_list": [{"metric": "acc"}, {"metric": "f1"}]}
    _, text = read(tmp_path, {"arc": entry})
    assert "arc: f1: missing." in text and "| arc | f1 | missing | 3 |" in text


def test_many_metrics_without_a_number_are_one_short_line(tmp_path: Path) -> None:
    entry = niah(512, lambda depth: 1.0)
    entry["results"] |= {f"depth_{depth:03d},none": None for depth in range(30, 101, 10)}
    _, text = read(tmp_path, {"niah_512": entry})
    assert r"niah\_512: depth\_030, depth\_040, depth\_050 and 5 more: not measured." in text


def test_an_infinite_perplexity_stands_in_the_table_of_lengths(tmp_path: Path) -> None:
    found, _ = read(tmp_path, {"ppl_tiny": other(ppl_000128=7.25, ppl_000256=float("inf"))})
    section = perplexity_section([], [found])
    assert section is not None
    assert "| 7.25 | infinite |" in to_markdown("t", [section])


def test_a_number_of_samples_that_is_not_known_is_not_nought(tmp_path: Path) -> None:
    entry, needle = other(acc=0.5), niah(512, lambda depth: 1.0)
    entry["n-samples"] = {}
    needle["n-samples"], needle["results"]["sample_len"] = {}, None
    found, text = read(tmp_path, {"arc": entry, "niah_512": needle})
    assert found.tasks["arc"].samples is None
    assert "| arc | acc | 0.5000 | - |" in text
    assert "2 size unknown" in text and "partial" not in text
    (run,) = needle_scores(found).values()
    assert (dict(run.samples), run.missing) == ({}, None)


def test_none_scored_is_still_nought(tmp_path: Path) -> None:
    entry = task(0.0, None, {}, 0, planned=5)
    found, text = read(tmp_path, {"t": entry})
    assert (found.tasks["t"].samples, found.tasks["t"].extent) == (0, "partial")
    assert "1 partial" in text


def test_a_known_number_of_samples_goes_before_an_unknown_one(tmp_path: Path) -> None:
    write(tmp_path, results({"arc": other(acc=0.5)}))
    unknown = other(acc=0.25)
    unknown["n-samples"] = {}
    write(tmp_path, results({"arc": unknown}), LATER)
    reading = read_evaluations(find_files([tmp_path]))
    assert reading.evaluations[0].tasks["arc"].metrics == {"acc": 0.5}
    assert "counts, with 3 samples" in reading.notes[0]


def test_ruler_tasks_of_unknown_size_are_not_called_partial(tmp_path: Path) -> None:
    from lm_eval_llada.report.benchmarks import RULER_TASKS, ruler_scores

    entries = ruler(4096, lambda _: 50.0)
    entries["ruler_vt_4k"]["n-samples"] = {}
    entries["ruler_vt_4k"]["results"].pop("sample_len")
    found, _ = read(tmp_path, entries)
    (scores,) = ruler_scores(found)
    assert scores.remarks(RULER_TASKS) == "size unknown: vt"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"model": "gpt-4o", "base_url": "http://localhost/v1"}, "gpt-4o"),
        ("model=meta-llama/Llama-3-8B,base_url=http://localhost/v1", "Llama-3-8B"),
        ({"pretrained": "org/base", "peft": "org/lora"}, "base"),
        ({"path": "model.nemo"}, "model.nemo"),
        ({"engine": "davinci"}, "davinci"),
        ({"pretrained": "."}, "."),
        ({"pretrained": "models/tiny-llada/"}, "tiny-llada"),
        (None, "local-completions"),
    ],
)
def test_every_model_has_its_name(arguments: Any, name: str) -> None:
    assert model_name({"model": "local-completions", "model_args": arguments}) == name


def test_api_models_are_two_runs_by_name(tmp_path: Path) -> None:
    for folder, model in (("a", "gpt-4o"), ("b", "gpt-4o-mini")):
        content = results({"arc": other(acc=0.5)}, model_args={"model": model}, rope=None)
        content["config"]["model"] = "openai-chat-completions"
        write(tmp_path / folder, content)
    labels = [e.label for e in read_evaluations(find_files([tmp_path])).evaluations]
    assert labels == ["gpt-4o", "gpt-4o-mini"]


def test_a_task_says_how_much_of_it_was_scored() -> None:
    sizes = {(5, 5): "complete", (4, 5): "partial", (5, None): "size unknown"}
    for (samples, planned), extent in sizes.items():
        assert TaskResult("t", {}, {}, samples, planned, {}).extent == extent
