"""What is equal, better, worse, or not told apart, and how sure a score is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lm_eval_llada.report.against import baseline_section
from lm_eval_llada.report.document import Table
from lm_eval_llada.report.evaluations import Evaluation, TaskResult
from lm_eval_llada.report.files import find_files
from lm_eval_llada.report.matrix import matrix_section
from lm_eval_llada.report.page_blocks import Matrix
from lm_eval_llada.report.price import exact_run, price_section, seconds_a_sample
from lm_eval_llada.report.reading import read_evaluations
from lm_eval_llada.report.settings import compared, named_runs, report_title
from lm_eval_llada.report.verdicts import score_interval, verdict
from tests.helpers.report_results import niah, results, sample, task, write, write_samples


def run(folder: Path, scores: list[float], *, text: str = "99", **config: Any) -> Evaluation:
    """A run of one task with samples of needles of their own, all answered by one text."""
    lines = [sample(i, score) for i, score in enumerate(scores)]
    for i, line in enumerate(lines):
        line["resps"] = [[text]]
        line["score_clustered_se"] = [scores[i], f"needle {i}"]
    mean = sum(scores) / len(scores)
    entry = task(mean, 1.0, {"length": 512}, len(scores), score_clustered_se=1.0, depth_000=mean)
    write(folder, results({"niah_512": entry}, **config))
    write_samples(folder, "niah_512", lines)
    (found,) = read_evaluations(find_files([folder])).evaluations
    return found


def test_equal_needs_every_text_equal_not_every_score(tmp_path: Path) -> None:
    one = run(tmp_path / "a", [100.0] * 8)
    same = run(tmp_path / "b", [100.0] * 8)
    other = run(tmp_path / "c", [100.0] * 8, text="99 ")
    assert verdict(one, same, "niah_512").text == "equal"
    found = verdict(one, other, "niah_512")
    assert (found.text, found.same) == ("not told apart", 0.0)


def test_equal_is_not_said_without_texts_or_with_some_missing(tmp_path: Path) -> None:
    one = run(tmp_path / "a", [100.0] * 8)
    two = run(tmp_path / "b", [100.0] * 8)
    for path in (tmp_path / "b").glob("samples_*"):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    (cut,) = read_evaluations(find_files([tmp_path / "b"])).evaluations
    for path in (tmp_path / "b").glob("samples_*"):
        path.unlink()
    (without,) = read_evaluations(find_files([tmp_path / "b"])).evaluations
    assert verdict(one, two, "niah_512").kind == "equal"
    for other in (cut, without):
        found = verdict(one, other, "niah_512")
        assert (found.kind, found.same) == ("not told apart", None)


def test_a_clear_loss_is_worse_by_its_size_and_a_gain_better(tmp_path: Path) -> None:
    scores = [100.0] * 20
    one = run(tmp_path / "a", scores)
    two = run(tmp_path / "b", [0.0 if i % 2 else 100.0 for i in range(20)], text="98")
    found = verdict(one, two, "niah_512")
    # s / sqrt(n) of ten -100 and ten 0, times Student's t at 19 degrees of freedom.
    assert found.half == pytest.approx(2.093024 * (2500 * 20 / 19 / 20) ** 0.5, rel=1e-5)
    assert found.text == "worse by 50.0 ± 24.0"
    assert verdict(two, one, "niah_512").text == "better by 50.0 ± 24.0"


def test_two_samples_tell_nothing_apart(tmp_path: Path) -> None:
    one, two = run(tmp_path / "a", [100.0] * 2), run(tmp_path / "b", [0.0] * 2, text="98")
    assert verdict(one, two, "niah_512").kind == "not told apart"


def test_perplexity_is_better_where_it_is_lower(tmp_path: Path) -> None:
    def ppl(value: float) -> dict[str, Any]:
        entry = task(0.0, None, {}, ppl_000512=value, ppl_000512_stderr=0.1)
        del entry["results"]["score,none"]
        return results({"ppl_tiny": entry})

    for name, value in (("a", 9.0), ("b", 8.0)):
        write(tmp_path / name, ppl(value))
    (one,), (two,) = (
        read_evaluations(find_files([tmp_path / name])).evaluations for name in ("a", "b")
    )
    assert verdict(one, two, "ppl_tiny", "ppl_000512").kind == "better"


@pytest.mark.parametrize(
    ("score", "stderr", "expected"),
    [(50.0, 10.0, (30.4, 69.6)), (99.0, 10.0, (79.4, 100.0)), (100.0, 0.0, (72.2, 100.0))],
)
def test_intervals_stay_within_scores_and_are_no_points(
    score: float, stderr: float, expected: tuple[float, float]
) -> None:
    result = TaskResult("t", {"score": score}, {"score": stderr}, 10, 10, {})
    assert score_interval(result, ()) == pytest.approx(expected, abs=0.1)


def test_a_baseline_has_a_line_for_each_other_run_and_task(tmp_path: Path) -> None:
    one = run(tmp_path / "a", [100.0] * 8)
    two = run(tmp_path / "b", [0.0] * 8, text="98")
    (table,) = baseline_section(one, [two]).blocks
    assert isinstance(table, Table)
    assert table.rows[0][1:6] == ("niah_512", "100.00", "0.00", "worse by 100.0 ± 0.0", "0 %")


def approximate(folder: Path, cache: str, scores: list[float], seconds: float) -> Evaluation:
    own = {
        "version": "0",
        "arguments": {"sampling": {"cache": cache}, "requests": {"batch_size": cache}},
        "approximations": {} if cache == "none" else {"niah_512": [f"cache={cache}"]},
        "work": {"seconds": seconds, "answers_from_disk": 0},
    }
    args = {"pretrained": "tiny-llada", "cache": cache}
    return run(folder, scores, text=cache, llada=own, model_args=args)


def test_an_approximation_stands_beside_its_exact_run(tmp_path: Path) -> None:
    for name, scores, seconds in (
        ("none", [100.0] * 8, 8.0),
        ("dual", [100.0] * 4 + [0.0] * 4, 2.0),
    ):
        approximate(tmp_path / name, name, scores, seconds)
    dual, exact = read_evaluations(find_files([tmp_path])).evaluations
    assert exact_run(dual, [dual, exact]) is exact and exact_run(exact, [dual, exact]) is None
    assert (seconds_a_sample(exact), seconds_a_sample(dual)) == (1.0, 0.25)
    section = price_section([dual, exact])
    assert section is not None
    summary = next(block for block in section.blocks if isinstance(block, Table))
    line = dict(zip(summary.header, summary.rows[0], strict=True))
    assert (line["exact"], line["approximate"]) == ("100.0", "50.0")
    assert (line["equal"], line["same texts"], line["times as fast"]) == ("0", "0 %", "4.00")


def test_answers_of_an_earlier_run_have_no_speed(tmp_path: Path) -> None:
    own = {"version": "0", "work": {"seconds": 1.0, "answers_from_disk": 3}}
    assert seconds_a_sample(run(tmp_path, [1.0] * 4, llada=own)) is None


def test_the_title_says_what_is_compared(tmp_path: Path) -> None:
    for name in ("none", "dual"):
        approximate(tmp_path / name, name, [1.0], 1.0)
    runs = read_evaluations(find_files([tmp_path])).evaluations
    # What is neutral, such as the size of batches, is no difference.
    assert compared(runs) == ["cache"]
    assert report_title(runs, ["NIAH"]) == "NIAH: tiny-llada, cache compared"
    assert [named.chips[-1] for named in named_runs(runs)] == ["cache=dual", "cache=none"]
    assert report_title(runs[:1], ["NIAH"]) == f"NIAH: {runs[0].label}"


def test_a_matrix_marks_the_best_and_has_every_difference(tmp_path: Path) -> None:
    for name, value in (("a", 40.0), ("b", 60.0)):
        entry = {"niah_512": niah(512, lambda _, v=value: v)}
        write(tmp_path / name, results(entry, model_args={"pretrained": name}))
    runs = read_evaluations(find_files([tmp_path])).evaluations
    section = matrix_section(runs, runs[1].label)
    assert section is not None
    (matrix,) = section.blocks
    assert isinstance(matrix, Matrix) and matrix.baseline == "B"
    (row,) = matrix.rows
    assert row.group == "NIAH" and [s.is_best for s in row.scores if s] == [False, True]
    assert row.changes["A"] == (("baseline", "base"), ("+20.0 ± 8.3", "better"))
    assert row.changes["B"] == (("-20.0 ± 8.3", "worse"), ("baseline", "base"))
