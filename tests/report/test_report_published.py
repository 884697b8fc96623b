"""The papers' numbers: the data as such, and which of ours they stand beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lm_eval_llada.report.document import Paragraph, Table
from lm_eval_llada.report.evaluations import Evaluation
from lm_eval_llada.report.files import find_files
from lm_eval_llada.report.published import (
    Measured,
    length_in_k,
    matches,
    measured_numbers,
    paper_name,
    published_numbers,
    published_section,
)
from lm_eval_llada.report.reading import read_evaluations
from tests.helpers.report_results import longbench, niah, results, rope, ruler, write

BASE = "GSAI-ML/LLaDA-8B-Base"
LENGTHS = (2000, 4000, 8000, 16000, 24000, 32000)


def evaluation(folder: Path, tasks: dict[str, Any], scale: float = 1.0, name: str = BASE) -> Any:
    arguments = {"pretrained": name, "rope_scale": scale}
    facts = rope(scale, "none" if scale == 1 else "ntk")
    write(folder, results(tasks, model_args=arguments, rope=facts))
    (only,) = read_evaluations(find_files([folder])).evaluations
    return only


def values(model: str, benchmark: str, scale: float = 1) -> dict[int | None, float | None]:
    return {
        n.length: n.value
        for n in published_numbers()
        if (n.model, n.benchmark, n.rope_scale) == (model, benchmark, scale)
    }


def rows(run: Evaluation) -> list[tuple[str, ...]]:
    (block,) = published_section([run]).blocks
    return list(block.rows) if isinstance(block, Table) else []


def test_the_overall_scores_are_the_means_of_the_scores_by_length() -> None:
    # The paper states both: for λ = 1 and 4 exactly, for figures read by eye to within a point.
    for scale, overall in ((1, 54.25), (4, 71.33), (14, 82.33), (31, 82.33), (55, 75.43)):
        by_length = values("LLaDA-Base", "niah", scale)
        assert len(by_length) == 6
        known = [value for value in by_length.values() if value is not None]
        assert sum(known) / 6 == pytest.approx(overall, abs=0.2)
    assert values("LLaDA-Base", "niah_overall_steps_32")[None] == 54.25
    assert values("LLaDA-Base", "niah_overall", 4)[None] == 71.33


def test_numbers_that_are_not_from_a_table_are_labelled() -> None:
    for entry in published_numbers():
        if entry.paper == "UltraLLaDA":
            assert entry.label.startswith("second-hand")
        if entry.model == "LLaDA-Base" and entry.benchmark == "niah" and entry.rope_scale > 1:
            assert entry.label == "read off the figure, ±1"
        if entry.value is None:
            assert "no number" in entry.label


def test_the_paper_of_every_model_that_can_match_has_numbers() -> None:
    known = {entry.model for entry in published_numbers()}
    for name in (
        "LLaDA-8B-Base",
        "llada-8b-instruct",
        "LLaDA-1.5",
        "Meta-Llama-3-8B",
        "UltraLLaDA",
    ):
        assert paper_name(name) in known
    assert paper_name("tiny-llada") is None


@pytest.mark.parametrize(
    ("length", "expected"),
    [(2000, 2), (2048, 2), (24000, 24), (24576, 24), (131072, 128), (32768, 32), (32000, 32)],
)
def test_decimal_and_binary_lengths_have_one_name(length: int, expected: int) -> None:
    assert length_in_k(length) == expected


@pytest.mark.parametrize(
    ("scale", "beside"),
    [(14.0, 14), (13.599, 14), (13.0, None), (14.01, None), (1.0, 1), (1.5, None)],
)
def test_a_raw_scale_stands_beside_the_one_it_is_rounded_up_to(
    scale: float, beside: float | None
) -> None:
    measured = Measured("LLaDA-Base", scale, "ruler_average", 8, 1.0, None, "run")
    found = [entry.rope_scale for entry in published_numbers() if matches(entry, measured)]
    assert found == ([] if beside is None else [beside])


def test_a_run_of_the_papers_model_stands_beside_its_numbers(tmp_path: Path) -> None:
    tasks = {f"longllada_niah_{n}": niah(n, lambda _: 90.0) for n in LENGTHS}
    lines = {(row[1], row[2]): row[3:] for row in rows(evaluation(tmp_path, tasks))}
    assert lines["niah", "8K"] == ("1", "90.00 ± 3.00", "62.64", "+27.36", "LongLLaDA")
    assert ("niah overall", "all") not in lines  # the paper gives it for λ above 1 only
    assert len(lines) == 6


def test_the_overall_score_needs_every_length_and_every_sample(tmp_path: Path) -> None:
    tasks = {f"longllada_niah_{n}": niah(n, lambda _: 90.0) for n in LENGTHS}
    whole = evaluation(tmp_path / "a", tasks, 4.0)
    assert "niah_overall" in {m.benchmark for m in measured_numbers(whole)}
    cut = {**tasks, "longllada_niah_2000": niah(2000, lambda _: 90.0, count=4)}
    less = {name: entry for name, entry in tasks.items() if name != "longllada_niah_2000"}
    for folder, some in (("b", cut), ("c", less)):
        found = measured_numbers(evaluation(tmp_path / folder, some, 4.0))
        assert "niah_overall" not in {m.benchmark for m in found}


def test_steps_are_compared_with_steps_only(tmp_path: Path) -> None:
    tasks = {f"longllada_niah_{n}_steps_8": niah(n, lambda _: 50.0) for n in LENGTHS}
    (line,) = rows(evaluation(tmp_path, tasks))
    assert line[1:6] == ("niah overall steps 8", "all", "1", "50.00", "52.75")


def test_ruler_and_longbench_stand_beside_theirs(tmp_path: Path) -> None:
    tasks = {**ruler(8192, lambda _: 80.0), **longbench(lambda _: 30.0)}
    run = evaluation(tmp_path, tasks, 4.0)
    lines = {(row[1], row[2]): (row[3], row[5], row[7]) for row in rows(run)}
    assert lines["ruler average", "8K"] == ("4", "84.70", "LongLLaDA")
    scale, value, source = lines["longbench average", "4K"]
    assert (scale, value) == ("4", "34.00") and "not known" in source


def test_reduced_tasks_and_unfinished_averages_match_nothing(tmp_path: Path) -> None:
    tasks = ruler(8192, lambda _: 80.0, skip=["vt"])
    tasks["ruler_tiny_vt_reduced_8192"] = ruler(8192, lambda _: 1.0)["ruler_vt_8k"]
    assert not rows(evaluation(tmp_path, tasks, 4.0))


def test_without_a_match_the_section_says_which_models_would(tmp_path: Path) -> None:
    run = evaluation(tmp_path, {"niah_512": niah(512, float)}, name="tiny-llada")
    (block,) = published_section([run]).blocks
    assert isinstance(block, Paragraph) and "UltraLLaDA" in block.text
