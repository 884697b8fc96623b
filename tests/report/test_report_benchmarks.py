"""RULER, LongBench, kinds of task and two runs side by side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lm_eval_llada.report.against import against_section
from lm_eval_llada.report.benchmark_sections import longbench_section, ruler_section
from lm_eval_llada.report.benchmarks import (
    longbench_scores,
    ruler_means,
    ruler_scores,
)
from lm_eval_llada.report.document import Bullets, Paragraph, Section, Table
from lm_eval_llada.report.evaluations import Evaluation
from lm_eval_llada.report.files import find_files
from lm_eval_llada.report.kinds import by_kind, difference, kinds_section
from lm_eval_llada.report.reading import read_evaluations
from lm_eval_llada.tasks.longbench.scores import DATASETS, longbench_averages
from tests.helpers.report_results import (
    longbench,
    niah,
    results,
    ruler,
    sample,
    task,
    write,
    write_samples,
)

RULER_SCORES = {"vt": 60.0, "cwe": 30.0, "fwe": 90.0, "qa_1": 80.0, "qa_2": 50.0}


def ruler_score(name: str) -> float:
    return RULER_SCORES.get(name, 100.0)


def evaluation(folder: Path, tasks: dict[str, Any], **config: Any) -> Evaluation:
    write(folder, results(tasks, **config))
    (only,) = read_evaluations(find_files([folder])).evaluations
    return only


def tables(section: Section | None) -> list[Table]:
    assert section is not None
    return [block for block in section.blocks if isinstance(block, Table)]


def row(table: Table, number: int = 0) -> dict[str, str]:
    return dict(zip(table.header, table.rows[number], strict=True))


def test_ruler_means_weigh_thirteen_tasks_alike(tmp_path: Path) -> None:
    run = evaluation(tmp_path, ruler(4096, ruler_score))
    means = ruler_means(ruler_scores(run)[0])
    assert means["niah"][0] == 100 and means["agg"][0] == 60 and means["qa"][0] == 65
    assert means["average"][0] == pytest.approx((8 * 100 + 3 * 60 + 2 * 65) / 13)
    # Independent tasks, each with a standard error of 2.
    assert means["agg"][1] == pytest.approx(2 / math.sqrt(3))
    assert means["average"][1] == pytest.approx(2 / math.sqrt(13))


def test_a_missing_ruler_task_leaves_a_gap_that_says_so(tmp_path: Path) -> None:
    run = evaluation(tmp_path, ruler(4096, ruler_score, skip=["vt"]))
    cells = row(tables(ruler_section([run]))[0])
    assert cells["AGG"] == cells["average"] == "-"
    assert cells["NIAH"] == "100.0 ± 0.7" and cells["remarks"] == "not run: vt"


def test_a_ruler_task_cut_short_is_named(tmp_path: Path) -> None:
    tasks = ruler(4096, ruler_score)
    tasks["ruler_vt_4k"]["n-samples"] = {"original": 100, "effective": 10}
    run = evaluation(tmp_path, tasks)
    assert row(tables(ruler_section([run]))[0])["remarks"] == "partial: vt"


def test_protocols_lengths_and_reduced_tasks_are_lines_of_their_own(tmp_path: Path) -> None:
    tasks = {**ruler(4096, ruler_score), **ruler(8192, ruler_score)}
    metadata = {"ruler_task": "vt", "length": 4096}
    tasks["longllada_ruler_vt_4k"] = task(1.0, 1.0, metadata)
    tasks["ruler_tiny_vt_reduced_4096"] = task(2.0, 1.0, metadata)
    found = [
        (s.protocol, s.length, len(s.tasks)) for s in ruler_scores(evaluation(tmp_path, tasks))
    ]
    assert found == [
        ("longllada", 4096, 1),
        ("package", 4096, 13),
        ("package", 8192, 13),
        ("package, reduced", 4096, 1),
    ]


def test_longbench_means_are_those_of_the_metrics(tmp_path: Path) -> None:
    scores = {name: float(3 * place) for place, name in enumerate(DATASETS)}
    run = evaluation(tmp_path, longbench(scores.__getitem__))
    expected = longbench_averages(scores)
    cells = row(tables(longbench_section([run]))[0])
    for column, name in (
        ("single doc", "single_doc"),
        ("English", "english"),
        ("Chinese", "chinese"),
        ("mean of 21 datasets", "datasets"),
        ("mean of 6 categories", "categories"),
    ):
        assert cells[column].split(" ")[0] == f"{expected[name]:.1f}"
    assert cells["mean of 21 datasets"].endswith(f"± {1 / math.sqrt(21):.1f}")
    assert cells["length"] == "3,500" and cells["remarks"] == "complete"


def test_a_missing_dataset_leaves_gaps_in_its_means_alone(tmp_path: Path) -> None:
    run = evaluation(tmp_path, longbench(lambda _: 50.0, skip=["vcsum"]))
    cells = row(tables(longbench_section([run]))[0])
    assert cells["summary"] == cells["Chinese"] == cells["mean of 21 datasets"] == "-"
    assert cells["English"] == "50.0" and cells["remarks"] == "not run: vcsum"
    assert len(longbench_scores(run)[0].tasks) == 20


def test_the_task_table_has_a_column_for_each_run(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "a", ruler(4096, ruler_score))
    two = evaluation(tmp_path / "b", ruler(4096, lambda _: 1.0, skip=["cwe"]), model="hf_rope")
    by_task = tables(ruler_section([one, two]))[1]
    lines = {cells[0]: cells[1:] for cells in by_task.rows}
    assert lines["vt"] == ("60.0", "1.0") and lines["cwe"] == ("30.0", "-")


def test_without_tasks_there_are_no_sections(tmp_path: Path) -> None:
    run = evaluation(tmp_path, {"niah_512": niah(512, float)})
    assert ruler_section([run]) is None and longbench_section([run]) is None
    assert kinds_section([run]) is None


def pair(folder: Path) -> tuple[Evaluation, Evaluation]:
    tasks = {**ruler(4096, ruler_score), "niah_4096": niah(4096, lambda _: 100.0)}
    causal = {**ruler(4096, lambda name: 70.0), "niah_4096": niah(4096, lambda _: 60.0)}
    del causal["ruler_cwe_4k"]
    return (
        evaluation(folder / "a", tasks),
        evaluation(folder / "b", causal, model="hf_rope", model_args={"pretrained": "tiny-llama"}),
    )


def test_diffusion_against_causal_is_a_table_by_kind(tmp_path: Path) -> None:
    diffusion, causal = pair(tmp_path)
    (table,) = tables(kinds_section([diffusion, causal]))
    rows = {(r[0], r[1]): r[2:8] for r in table.rows}
    assert rows["retrieval", "NIAH"] == ("4,096", "1", "100.0", "60.0", "+40.0", "4.2")
    # cwe was not run by both: two tasks of 60 and 90 against 70.
    assert rows["aggregation", "RULER"][1:5] == ("2", "75.0", "70.0", "+5.0")
    assert rows["question answering", "RULER"][1:5] == ("2", "65.0", "70.0", "-5.0")


def test_a_diffusion_run_without_a_causal_one_of_its_scale_is_named(tmp_path: Path) -> None:
    diffusion, causal = pair(tmp_path)
    args = {"pretrained": "tiny-llada", "rope_scale": 4}
    scaled = evaluation(
        tmp_path / "c",
        ruler(4096, ruler_score),
        model_args=args,
        rope={**diffusion.config["rope"], "rope_scale": 4.0, "method": "ntk"},
    )
    section = kinds_section([diffusion, scaled, causal])
    assert len(tables(section)) == 1 and section is not None
    (note,) = [block for block in section.blocks if isinstance(block, Bullets)]
    assert note.lines == ("tiny-llada, λ = 4 (ntk): no causal run with the same λ and tasks.",)


def test_kinds_of_longbench_follow_its_categories(tmp_path: Path) -> None:
    run = evaluation(tmp_path, longbench(lambda _: 50.0))
    counts = {kind.name: count for kind, count, _ in by_kind(run, run)}
    assert counts == {
        "question answering": 8,
        "summary": 4,
        "few-shot": 4,
        "synthetic": 3,
        "code": 2,
    }


def test_independent_differences_add_their_variances(tmp_path: Path) -> None:
    diffusion, causal = pair(tmp_path)
    found = difference(causal, diffusion, "ruler_vt_4k", "score")
    assert (found.value, found.how) == (-10, "independent")
    assert found.stderr == pytest.approx(math.hypot(2, 2))
    assert found.in_errors == "-3.5"
    # Needle tasks have the error that is clustered by needle, 3, not the plain one, 5.
    needle = difference(causal, diffusion, "niah_4096", "score")
    assert needle.stderr == pytest.approx(math.hypot(3, 3))


def logged(folder: Path, scores: list[float], prefix: str = "hash") -> Evaluation:
    lines = [{**sample(i, score), "doc_hash": f"{prefix} {i}"} for i, score in enumerate(scores)]
    write_samples(folder, "niah_512", lines)
    return evaluation(folder, {"niah_512": niah(512, lambda _: 50.0, count=len(scores))})


def test_equal_samples_are_compared_one_by_one_and_clustered_by_needle(tmp_path: Path) -> None:
    before, after = [10.0, 20, 90, 40, 50, 60], [20.0, 30, 90, 50, 70, 60]
    found = difference(
        logged(tmp_path / "a", before), logged(tmp_path / "b", after), "niah_512", "score"
    )
    changes = [b - a for a, b in zip(before, after, strict=True)]
    mean = sum(changes) / 6
    clusters = [changes[i] + changes[i + 3] - 2 * mean for i in range(3)]
    expected = math.sqrt(3 / 2 * sum(c * c for c in clusters)) / 6
    assert found.stderr == pytest.approx(expected)
    assert found.how == "paired by sample, clustered by needle"


def test_samples_of_different_content_are_not_paired(tmp_path: Path) -> None:
    one = logged(tmp_path / "a", [1.0, 2.0])
    two = logged(tmp_path / "b", [1.0, 2.0], prefix="other")
    assert difference(one, two, "niah_512", "score").how == "independent"


def test_a_log_that_lacks_samples_is_not_paired(tmp_path: Path) -> None:
    one, two = logged(tmp_path / "a", [1.0, 2.0, 3.0]), logged(tmp_path / "b", [1.0, 2.0, 3.0])
    log = next((tmp_path / "b").glob("samples_*"))
    log.write_text("\n".join(log.read_text().splitlines()[:2]))
    (two,) = read_evaluations(find_files([tmp_path / "b"])).evaluations
    assert difference(one, two, "niah_512", "score").how == "independent"


def test_no_spread_is_said_instead_of_divided_by(tmp_path: Path) -> None:
    one, two = logged(tmp_path / "a", [1.0] * 6), logged(tmp_path / "b", [2.0] * 6)
    assert difference(one, one, "niah_512", "score").in_errors == "0"
    entry = difference(one, two, "niah_512", "score")
    assert entry.stderr == 0
    moved = type(entry)(1.0, 2.0, 0.0, "x"), type(entry)(1.0, 2.0, None, "x")
    assert [d.in_errors for d in moved] == ["no spread", "no standard error"]


def test_two_runs_stand_side_by_side(tmp_path: Path) -> None:
    diffusion, causal = pair(tmp_path)
    section = against_section(causal, diffusion)
    by_kind_table, by_task = tables(section)
    lines = {cells[0]: cells[1:] for cells in by_task.rows}
    assert lines["ruler_vt_4k"] == (
        *("score", "70.00", "60.00", "-10.00", "2.83", "-3.5", "independent"),
        "worse by 10.0 ± 5.5",
    )
    assert len(lines) == 13 and len(by_kind_table.rows) == 4
    texts = [block.text for block in section.blocks if isinstance(block, Paragraph)]
    assert "Only B ran ruler_cwe_4k." in texts
    assert any("of 13 differences with a standard error exceed their" in text for text in texts)


def test_tasks_of_others_are_compared_by_every_metric(tmp_path: Path) -> None:
    def arc(value: float) -> dict[str, Any]:
        entry = task(0.0, None, {}, acc=value, acc_stderr=0.03)
        del entry["results"]["score,none"]
        return {"arc": entry}

    one, two = evaluation(tmp_path / "a", arc(0.5)), evaluation(tmp_path / "b", arc(0.56))
    (table,) = tables(against_section(one, two))
    assert table.rows == (("arc", "acc", "0.50", "0.56", "+0.06", "0.04", "+1.4", "independent",
                           "not told apart"),)  # fmt: skip


def test_one_name_at_two_lengths_is_not_compared(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "a", {"niah_tiny": niah(512, lambda _: 1.0)})
    two = evaluation(tmp_path / "b", {"niah_tiny": niah(1024, lambda _: 2.0)})
    section = against_section(one, two)
    assert not tables(section)
    assert any("share no task" in b.text for b in section.blocks if isinstance(b, Paragraph))
