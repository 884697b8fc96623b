"""What a run prints at its end: the score first, needles by depth, RULER by kind."""

from __future__ import annotations

from typing import Any

import pytest
from lm_eval import utils

from lm_eval_llada.cli.run_tables import own_tables, report_line
from lm_eval_llada.report.run_summary import run_summary
from tests.helpers.report_results import niah, results, ruler, task


def content(**more: Any) -> dict[str, Any]:
    """Results of needles, RULER with one task missing, and a task of others."""
    tasks = {"niah_512": niah(512, float, count=11, planned=22)}
    tasks |= ruler(4096, lambda name: 60.0 if name == "vt" else 30.0, skip=["qa_2"])
    other = task(0.0, None, {}, acc=0.25, acc_stderr=0.01)
    del other["results"]["score,none"]
    found = results({**tasks, "arc": other}, **more)
    del found["results"]["a_group"]
    return {**found, "versions": {}, "n-shot": {}, "higher_is_better": {}}


def printed(output_path: str | None, found: dict[str, Any], *columns: str) -> list[str]:
    with own_tables(output_path):
        return [utils.make_table(found, column) for column in columns]


def test_the_score_comes_first_with_its_interval_and_samples() -> None:
    header, needles = run_summary(content()).splitlines()[:2]
    assert header.split()[:5] == ["task", "score", "95", "%", "samples"]
    assert needles.split() == ["niah_512", "50.0", "44–56", "11", "of", "22"]


def test_needles_have_the_table_of_the_demo() -> None:
    lines = run_summary(content()).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("length   0%"))
    assert lines[at + 1].split()[:12] == ["512", *(str(d) for d in range(0, 101, 10))]
    assert lines[at].split()[-2:] == ["frontier", "predicted"]


def test_ruler_has_means_by_kind_and_says_what_is_missing() -> None:
    lines = run_summary(content()).splitlines()
    header, numbers = lines[-2:]
    assert header.split() == ["length", "NIAH", "AGG", "QA", "mean"]
    assert [cell.strip() for cell in numbers.split("  ") if cell.strip()] == [
        *("4,096", "30.0 ± 0.7", "40.0 ± 1.2", "30.0 ± 2.0 (1 of 2)", "32.5 ± 0.6 (12 of 13)")
    ]


def test_tasks_of_others_keep_the_table_of_the_harness() -> None:
    (text,) = printed("results", content(), "results")
    ours, theirs = text.split("|", 1)
    assert "niah_512" in ours and "arc" not in ours
    assert "0.25" in theirs and "depth" not in theirs and "niah_512" not in theirs
    alone = {**content(), "results": {"arc": content()["results"]["arc"]}}
    assert printed("results", alone, "results") == [utils.make_table(alone)]


def test_the_line_for_a_page_comes_last_also_after_groups() -> None:
    found = content()
    (text,) = printed("my results", found, "results")
    assert text.rstrip().endswith("A page of it: lm-eval-llada report 'my results'")
    found["groups"] = {"ruler": {"score,none": 1.0, "alias": "ruler"}}
    first, groups = printed("results", found, "results", "groups")
    assert "A page of it" not in first
    assert groups.endswith("A page of it: lm-eval-llada report results")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (None, "Kept nowhere: --output_path results --log_samples keeps it for a report."),
        ("out/one.json", "A page of it: lm-eval-llada report out"),
        ("one.json", "A page of it: lm-eval-llada report ."),
    ],
)
def test_the_line_names_the_folder(path: str | None, expected: str) -> None:
    assert report_line(path) == expected


def test_the_harness_has_its_own_table_back_afterwards() -> None:
    before = utils.make_table
    with pytest.raises(KeyError), own_tables(None):
        raise KeyError
    assert utils.make_table is before
