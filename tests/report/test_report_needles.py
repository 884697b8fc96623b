"""Needle tasks of evaluations: families, the observed frontier, and the sweep over λ."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.report.cells import Cell, NeedleScores
from lm_eval_llada.report.document import Bullets, Picture, Table
from lm_eval_llada.report.evaluations import Evaluation
from lm_eval_llada.report.files import find_files
from lm_eval_llada.report.frontier import RopeFacts
from lm_eval_llada.report.needle_section import file_name, needle_section
from lm_eval_llada.report.needles import (
    frontier_caption,
    frontier_rows,
    needle_scores,
    observed_frontier,
)
from lm_eval_llada.report.page_blocks import Heatmap, Score
from lm_eval_llada.report.reading import read_evaluations
from tests.helpers.report_results import DEPTHS, niah, results, rope, write

TINY = RopeFacts(rope_theta=1e4, head_dim=64, train_length=512)


def read(path: Path) -> list[Evaluation]:
    return list(read_evaluations(find_files([path])).evaluations)


def run_of(
    scores: list[float], rope_facts: RopeFacts | None = TINY, length: int = 1024
) -> NeedleScores:
    cells = tuple(Cell(length, d, s) for d, s in zip(DEPTHS, scores, strict=True))
    return NeedleScores("run", cells, {length: 11}, rope_facts)


def brute_force(scores: list[float]) -> int | None:
    """The same step by trying every split, from the deepest on."""
    misfits = []
    for first in range(len(DEPTHS), -1, -1):
        step = [0.0] * first + [100.0] * (len(DEPTHS) - first)
        misfit = sum(abs(a - b) for a, b in zip(step, scores, strict=True))
        misfits.append((round(misfit, 6), -first))
    first = -min(misfits)[1]
    return DEPTHS[first] if first < len(DEPTHS) else None


@pytest.mark.parametrize("first", range(12))
def test_a_clean_step_is_its_own_frontier(first: int) -> None:
    scores = [0.0] * first + [100.0] * (11 - first)
    assert observed_frontier(run_of(scores), 1024) == (DEPTHS[first] if first < 11 else None)


@given(st.lists(st.integers(0, 100), min_size=11, max_size=11))
def test_the_frontier_is_the_best_of_all_steps(scores: list[int]) -> None:
    values = [float(score) for score in scores]
    assert observed_frontier(run_of(values), 1024) == brute_force(values)


def test_one_failed_cell_does_not_move_the_frontier() -> None:
    scores = [0.0] * 3 + [100.0] * 5 + [5.0] + [100.0] * 2
    assert observed_frontier(run_of(scores), 1024) == 30


def test_frontier_errors_are_predicted_less_observed() -> None:
    # At twice the trained length everything from 50 % on is predicted; from 70 % on is found.
    (row,) = frontier_rows(run_of([0.0] * 7 + [100.0] * 4))
    assert (row.predicted, row.first_predicted, row.observed, row.error) == (50, 50, 70, -20)
    assert row.predicted_mean == pytest.approx(600 / 11)
    assert row.mean_error == pytest.approx(200 / 11)
    (row,) = frontier_rows(run_of([0.0] * 11))
    assert row.observed is None and row.error is None and row.mean_error == pytest.approx(600 / 11)


def test_the_caption_says_how_far_the_frontier_is_off() -> None:
    assert frontier_caption(run_of([0.0] * 11, None)) is None
    assert frontier_caption(run_of([0.0] * 11)) == "no frontier to compare at any length"
    one = run_of([0.0] * 7 + [100.0] * 4)
    assert frontier_caption(one) == "frontier off by 20 points of depth"
    cells = (*one.cells, *run_of([100.0] * 11, length=512).cells)
    both = NeedleScores("run", cells, {512: 11, 1024: 11}, TINY)
    assert frontier_caption(both) == "frontier off by 10 points of depth on average, 20 at most"
    cells = (*cells, *run_of([0.0] * 11, length=2048).cells)
    three = NeedleScores("run", cells, {512: 11, 1024: 11, 2048: 11}, TINY)
    assert str(frontier_caption(three)).endswith("none to compare at 1 of 3 lengths")


def test_tasks_that_differ_in_more_than_length_are_families_of_their_own(tmp_path: Path) -> None:
    names = {
        "niah_512": 512,
        "niah_1024": 1024,
        "longllada_niah_1024": 1024,
        "longllada_niah_1024_steps_4": 1024,
        "niah_tiny": 512,
    }
    write(tmp_path, results({name: niah(n, lambda _: 1.0) for name, n in names.items()}))
    runs = needle_scores(read(tmp_path)[0])
    assert {name: run.lengths for name, run in runs.items()} == {
        "niah": [512, 1024],
        "longllada_niah": [1024],
        "longllada_niah_steps_4": [1024],
    }


def test_depths_that_were_never_planned_are_not_missing(tmp_path: Path) -> None:
    entry = niah(512, lambda _: 1.0)
    entry["configs"]["metadata"]["depths"] = [0, 50]
    entry["results"] = {
        key: value
        for key, value in entry["results"].items()
        if not key.startswith("depth_") or key[6:9] in ("000", "050")
    }
    write(tmp_path, results({"niah_512": entry}))
    run = needle_scores(read(tmp_path)[0])["niah"]
    assert run.depths == [0, 50] and run.missing is None


def sweep(folder: Path) -> list[Evaluation]:
    """λ 1, 2.66 and 4 of one checkpoint at 512 and 1024 tokens; the last one cut short."""
    for position, scale in enumerate((1.0, 2.6560740364737, 4.0)):
        count = 4 if scale == 4 else 22
        found = {
            f"niah_{n}": niah(n, lambda d, s=scale: 100.0 * (s > 1 or d >= 70), count=count)
            for n in (512, 1024)
        }
        method = "none" if scale == 1 else "ntk"
        args = {"pretrained": "models/tiny-llada", "rope_scale": scale}
        content = results(found, model_args=args, rope=rope(scale, method))
        write(folder, content, f"2026-01-0{position + 1}")
    return read(folder)


def test_a_sweep_is_one_picture_in_the_order_of_its_scales(tmp_path: Path) -> None:
    section = needle_section(sweep(tmp_path))
    assert section is not None
    pictures = [block for block in section.blocks if isinstance(block, Picture)]
    assert [picture.name for picture in pictures] == ["heatmap-niah", "retrieval-niah"]
    assert pictures[0].alternative.endswith("depth, by λ")
    titles = [axes.get_title() for axes in pictures[0].draw().axes[:3]]
    assert titles[:2] == ["tiny-llada, unscaled", "tiny-llada, λ = 2.656 (ntk)"]
    assert titles[2].startswith("tiny-llada, λ = 4 (ntk)\npartial: 8 of 44")
    assert "off by" in pictures[0].draw().axes[0].get_xlabel()


def test_a_sweep_has_a_table_of_predicted_and_observed_frontiers(tmp_path: Path) -> None:
    section = needle_section(sweep(tmp_path))
    assert section is not None
    (table,) = [b for b in section.blocks if isinstance(b, Table) and "λ" in b.header]
    rows = {(row[1], row[2]): row[3:] for row in table.rows}
    assert rows["1.00", "1,024"] == ("50 %", "70 %", "-20", "55", "36.4", "+18.2")
    assert rows["2.66", "1,024"] == ("0 %", "0 %", "0", "100", "100.0", "0.0")
    assert len(rows) == 6
    (note,) = [block for block in section.blocks if isinstance(block, Bullets)]
    assert note.lines == ("tiny-llada, λ = 4 (ntk): partial: 8 of 44 samples",)


def test_all_checkpoints_share_one_heatmap_with_the_lengths_of_all(tmp_path: Path) -> None:
    tasks = ({"niah_tiny": niah(512, float)}, {"niah_1024": niah(1024, lambda _: 50.0)})
    for position, (name, found) in enumerate(zip(("tiny-llada", "other"), tasks, strict=True)):
        content = results(found, model_args={"pretrained": name})
        write(tmp_path, content, f"2026-01-0{position + 1}")
    section = needle_section(read(tmp_path))
    assert section is not None
    (heatmap,) = [block for block in section.blocks if isinstance(block, Heatmap)]
    assert heatmap.title == "niah: needles found by context length and depth, by model"
    assert heatmap.columns == ("512", "1,024")
    other, tiny = heatmap.panels
    assert [panel.run.label for panel in (other, tiny)] == [
        "other, unscaled",
        "tiny-llada, unscaled",
    ]
    assert other.rows[3][0] is None and tiny.rows[3][1] is None
    assert other.rows[3][1] == Score("50", 50.0, note="niah_1024: 1,024 tokens, depth 30 %, score "
                                     "50.0")  # fmt: skip
    # Half of 1,024 tokens is within the trained 512.
    found_at = [row[1].is_first_found for row in other.rows if row[1]]
    assert found_at.index(True) == 5 and sum(found_at) == 1


def test_of_two_tasks_of_one_length_the_one_with_more_samples_is_shown(tmp_path: Path) -> None:
    write(tmp_path, results({"niah_tiny": niah(512, lambda _: 1.0, count=22),
                             "niah_512": niah(512, lambda _: 2.0, count=110)}))  # fmt: skip
    (run,) = read(tmp_path)
    assert needle_scores(run)["niah"].score(512, 0) == 2.0


def test_file_names_are_plain_whatever_the_label() -> None:
    assert file_name("heatmap", "λ = 4/../x y") == "heatmap-4-..-x-y"
    assert "/" not in file_name("a/b", "\\c")


def test_without_needles_there_is_no_section() -> None:
    assert needle_section([]) is None
