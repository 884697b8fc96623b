"""From files to evaluations: what is used, what is skipped by name, what is put together."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.report.benchmark_sections import longbench_section, ruler_section
from lm_eval_llada.report.evaluations import Reading
from lm_eval_llada.report.files import find_files
from lm_eval_llada.report.kinds import kinds_section
from lm_eval_llada.report.markdown import to_markdown
from lm_eval_llada.report.needles import frontier_rows, needle_scores
from lm_eval_llada.report.published import published_section
from lm_eval_llada.report.reading import read_evaluations
from lm_eval_llada.report.runs import (
    other_tasks_section,
    overview_section,
    settings_section,
    speed_section,
)
from lm_eval_llada.report.samples import prompt_excerpt, read_samples, shortened, spread
from tests.helpers.report_results import (
    longbench,
    niah,
    results,
    rope,
    ruler,
    sample,
    task,
    write,
    write_samples,
)

LATER = "2026-01-02T00-00-00.1"


def read(*paths: Path) -> Reading:
    return read_evaluations(find_files(paths))


def whole(**config: Any) -> dict[str, Any]:
    return results({"niah_512": niah(512, lambda depth: float(depth))}, **config)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (json.dumps(whole())[:-9], "not whole JSON"),
        ("", "not whole JSON"),
        ("[1]", "holds a list"),
        ('{"model_type": "llada"}', "no 'results'"),
        ('{"results": {"a": 1}, "configs": {}}', "an entry of 'results'"),
        ('{"results": {}, "configs": {}, "config": {"rope": 3}}', "not a results file of lm-eval"),
        (
            '{"results": {"a": {"depth_000,none": 101}}, "configs": {"a": {}}}',
            "a depth and score in 0-100",
        ),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_the_rest_is_read(
    tmp_path: Path, text: str, reason: str
) -> None:
    write(tmp_path / "good", whole())
    bad = tmp_path / "bad" / "results_1.json"
    bad.parent.mkdir()
    bad.write_text(text)
    reading = read(tmp_path)
    assert [evaluation.model for evaluation in reading.evaluations] == ["tiny-llada"]
    (skipped,) = reading.skipped
    assert skipped.path == bad and reason in skipped.reason
    assert str(skipped).startswith(str(bad))


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "results_1.json"
    path.write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in read(tmp_path).skipped[0].reason


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    write(tmp_path / "good", whole())
    reading = read(tmp_path / "good", tmp_path / "none")
    assert len(reading.evaluations) == 1
    assert str(reading.skipped[0]) == f"{tmp_path / 'none'}: does not exist"


def test_a_file_found_twice_counts_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a", whole())
    found = find_files([tmp_path, tmp_path / "a", path])
    assert [result.path for result in found.results] == [path]


def test_files_of_one_setting_make_one_evaluation(tmp_path: Path) -> None:
    write(tmp_path, results({"niah_512": niah(512, lambda _: 1.0)}))
    write(tmp_path, results({"niah_1024": niah(1024, lambda _: 2.0)}), LATER)
    other = results({"niah_1024": niah(1024, lambda _: 3.0)}, rope=rope(4.0, "ntk"))
    other["config"]["model_args"] = {"pretrained": "models/tiny-llada", "rope_scale": 4}
    write(tmp_path / "b", other)
    one, two = read(tmp_path).evaluations
    assert sorted(one.tasks) == ["niah_1024", "niah_512"] and len(one.files) == 2
    assert (one.label, two.label) == ("tiny-llada, unscaled", "tiny-llada, λ = 4 (ntk)")
    assert one.tasks["niah_1024"].score == 2 and two.tasks["niah_1024"].score == 3


def test_batch_size_and_device_do_not_part_runs(tmp_path: Path) -> None:
    args = {"pretrained": "models/tiny-llada"}
    write(tmp_path, whole(model_args={**args, "batch_size": 4, "device": "cpu"}))
    write(tmp_path, whole(model_args=args), LATER)
    assert len(read(tmp_path).evaluations) == 1


@pytest.mark.parametrize(("counts", "kept"), [((22, 4), 22), ((4, 22), 22), ((22, 22), 22)])
def test_of_two_files_of_a_task_the_fuller_then_the_newer_counts(
    tmp_path: Path, counts: tuple[int, int], kept: int
) -> None:
    for stamp, count, score in zip(("2026-01-01", LATER), counts, (10.0, 20.0), strict=True):
        write(tmp_path, results({"niah_512": niah(512, lambda _, s=score: s, count=count)}), stamp)
    reading = read(tmp_path)
    (evaluation,) = reading.evaluations
    assert evaluation.tasks["niah_512"].samples == kept
    assert evaluation.tasks["niah_512"].score == (10 if counts == (22, 4) else 20)
    assert "niah_512 is in several files" in reading.notes[0]


def test_groups_are_not_tasks(tmp_path: Path) -> None:
    write(tmp_path, whole())
    assert list(read(tmp_path).evaluations[0].tasks) == ["niah_512"]


def test_what_was_not_measured_is_no_metric(tmp_path: Path) -> None:
    entry = task(1.0, None, {}, gone=math.nan, null=None, text="N/A")
    write(tmp_path, results({"t": entry}))
    result = read(tmp_path).evaluations[0].tasks["t"]
    assert result.metrics == {"score": 1.0} and result.stderr is None


def test_a_clustered_error_goes_before_the_plain_one(tmp_path: Path) -> None:
    write(tmp_path, results({"niah_512": niah(512, lambda _: 1.0), "t": task(1.0, 5.0, {})}))
    tasks = read(tmp_path).evaluations[0].tasks
    assert (tasks["niah_512"].stderr, tasks["t"].stderr) == (3.0, 5.0)


def test_runs_alike_but_for_an_argument_are_labelled_by_it(tmp_path: Path) -> None:
    for stamp, steps in (("2026-01-01", 8), (LATER, 16)):
        args = {"pretrained": "models/tiny-llada", "steps": steps}
        write(tmp_path, whole(model_args=args), stamp)
    labels = [evaluation.label for evaluation in read(tmp_path).evaluations]
    assert labels == ["tiny-llada, unscaled, steps=8", "tiny-llada, unscaled, steps=16"]


def test_what_tells_two_runs_of_a_model_apart_is_said_of_every_run_that_has_it(
    tmp_path: Path,
) -> None:
    runs = {
        "exact": {"pretrained": "a"},
        "kept": {"pretrained": "a", "cache": "prompt"},
        "other": {"pretrained": "b", "cache": "prompt"},
    }
    for name, args in runs.items():
        write(tmp_path / name, whole(model_args=args))
    scaled = whole(model_args={**runs["kept"], "rope_scale": 4}, rope=rope(4.0, "ntk"))
    write(tmp_path / "scaled", scaled)
    labels = {evaluation.label for evaluation in read(tmp_path).evaluations}
    assert labels == {
        "a, unscaled",
        "a, unscaled, cache=prompt",
        "a, λ = 4 (ntk), cache=prompt",
        # Nothing of this model runs without one.
        "b, unscaled",
    }


def test_runs_that_nothing_tells_apart_are_numbered(tmp_path: Path) -> None:
    for stamp, version in (("2026-01-01", "1"), (LATER, "2")):
        write(tmp_path, whole(llada={"version": version}), stamp)
    labels = [evaluation.label for evaluation in read(tmp_path).evaluations]
    assert labels == ["tiny-llada, unscaled [1]", "tiny-llada, unscaled [2]"]


def test_samples_go_to_the_run_of_their_folder_and_time(tmp_path: Path) -> None:
    write(tmp_path, whole())
    write_samples(tmp_path, "niah_512", [sample(0, 100.0), sample(1, 3.0, depth=50)])
    (evaluation,) = read(tmp_path).evaluations
    (first, second) = evaluation.samples["niah_512"]
    assert (first.score, first.depths, first.cluster) == (100.0, ((0, 100.0),), "needle 0")
    assert second.failed and not first.failed
    assert second.title == "niah_512 sample 1, 512 tokens, needle at 50 %, score 3.0"


def test_samples_without_results_still_give_a_heatmap(tmp_path: Path) -> None:
    bad = write(tmp_path, whole())
    bad.write_text(bad.read_text()[:100])
    lines = [sample(0, 100.0), sample(1, 50.0), sample(2, 8.0, depth=50)]
    write_samples(tmp_path, "niah_512", lines)
    reading = read(tmp_path)
    (evaluation,) = reading.evaluations
    run = needle_scores(evaluation)["niah"]
    assert (run.score(512, 0), run.score(512, 50)) == (75, 8)
    assert run.missing == "partial: 2 of 11 cells"
    assert "no results file" in reading.notes[0] and reading.skipped[0].path == bad


JUNK = [None, True, 3, -1.5, 1e300, math.nan, "x", [], [1], {}, {"a": 1}]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything inside of a nest of objects and lists."""
    inside = value.items() if isinstance(value, dict) else []
    inside = enumerate(value) if isinstance(value, list) else inside
    return [p for k, v in inside for p in ((*path, k), *places(v, (*path, k)))]


FULL = results(
    {
        "niah_512": niah(512, float),
        "ruler_vt_4k": ruler(4096, lambda _: 1.0)["ruler_vt_4k"],
        "longbench_trec_4k": longbench(lambda _: 1.0)["longbench_trec_4k"],
    }
)
FULL["config"]["llada"]["generation"] = {"niah_512": [{"options": {"steps": 1}}]}


@given(place=st.sampled_from(places(FULL)), junk=st.sampled_from(JUNK))
def test_no_single_damaged_value_stops_the_report_of_the_rest(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[Any, ...], junk: Any
) -> None:
    content = copy.deepcopy(FULL)
    parent = content
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = junk
    folder = tmp_path_factory.mktemp("damaged")
    write(folder / "good", FULL)
    bad = write(folder / "bad", content, LATER)
    reading = read(folder)
    used = {file.path for evaluation in reading.evaluations for file in evaluation.files}
    assert folder / "good" / "results_2026-01-01T00-00-00.1.json" in used
    assert bad in used or [skipped.path for skipped in reading.skipped] == [bad]
    runs = reading.evaluations
    for evaluation in runs:
        for run in needle_scores(evaluation).values():
            frontier_rows(run)
    sections = [ruler_section(runs), longbench_section(runs), kinds_section(runs)]
    sections += [speed_section(runs), settings_section(runs), other_tasks_section(runs)]
    sections += [published_section(runs), overview_section(reading, reading.skipped)]
    to_markdown("report", [section for section in sections if section is not None])


@pytest.mark.parametrize("damaged", ['{"doc_id": 3, "do', '{"doc_id": 3}', "[]", "null"])
def test_a_damaged_line_of_samples_ends_the_file_and_is_named(tmp_path: Path, damaged: str) -> None:
    path = write_samples(tmp_path, "niah_512", [sample(0, 1.0), sample(1, 2.0)])
    path.write_text(path.read_text() + damaged)
    samples, problem = read_samples(path, "niah_512")
    assert [s.doc_id for s in samples] == [0, 1]
    assert problem is not None and "line 3" in problem.reason and "2 before it" in problem.reason


def test_an_empty_file_of_samples_is_named(tmp_path: Path) -> None:
    path = write_samples(tmp_path, "niah_512", [])
    assert read_samples(path, "niah_512")[1] is not None


def test_an_excerpt_shows_the_needle_and_the_question() -> None:
    prompt = "a" * 5000 + "THE NEEDLE" + "b" * 5000 + "THE QUESTION"
    excerpt = prompt_excerpt(prompt, ["", "absent", "THE NEEDLE"])
    assert "THE NEEDLE" in excerpt and excerpt.endswith("THE QUESTION")
    assert excerpt.count("[…]") == 2 and len(excerpt) < 600
    assert prompt_excerpt(prompt, ["absent"]).count("[…]") == 1
    assert prompt_excerpt("short NEEDLE text", ["NEEDLE"]) == "short NEEDLE text"


def test_an_excerpt_keeps_every_character_between_needle_and_end_when_they_are_close() -> None:
    prompt = "a" * 1000 + "NEEDLE" + "b" * 100 + "QUESTION"
    assert prompt_excerpt(prompt, ["NEEDLE"]).endswith("NEEDLE" + "b" * 100 + "QUESTION")


def test_control_characters_never_reach_a_page(tmp_path: Path) -> None:
    line = sample(0, 1.0)
    line["filtered_resps"] = ["bell \x07 escape \x1b[31m half \ud800 kept \n"]
    samples, _ = read_samples(write_samples(tmp_path, "t", [line]), "t")
    assert samples[0].answer == "bell � escape �[31m half � kept \n"


def test_a_shortened_text_says_how_much_is_gone() -> None:
    assert shortened("abc", 4) == "abc"
    assert shortened("a" * 50 + "b" * 50, 10) == "aaaaa [… 90 characters …] bbbbb"


def test_shown_samples_are_spread_from_first_to_last(tmp_path: Path) -> None:
    lines = [sample(i, 0.0) for i in range(11)]
    samples, _ = read_samples(write_samples(tmp_path, "t", lines), "t")
    assert [s.doc_id for s in spread(samples, 3)] == [0, 5, 10]
    assert len(spread(samples, 99)) == 11 and not spread(samples, 0)
    assert [s.doc_id for s in spread(samples, 1)] == [0]
