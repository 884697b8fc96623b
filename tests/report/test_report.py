"""From the JSON of lm-eval to rows, tables and pictures."""

from __future__ import annotations

import builtins
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.report.cells import Cell, NeedleScores
from lm_eval_llada.report.frontier import RopeFacts, rope_facts
from lm_eval_llada.report.heatmap import draw_heatmaps, save_heatmaps
from lm_eval_llada.report.needles import newest_needles
from lm_eval_llada.report.tables import depth_table
from lm_eval_llada.rope import RopeChoice, resolve

LENGTHS = (256, 512, 1024)
DEPTHS = tuple(range(0, 101, 10))
TINY = RopeFacts(rope_theta=1e4, head_dim=64, train_length=512)


def score_of(length: int, depth: int) -> float:
    """A pattern no two cells of which are alike, so that a swapped axis shows."""
    return (length / 1024) * 40 + depth / 2


def make_results(**config: Any) -> dict[str, Any]:
    """Results in the shape of lm-eval 0.4.13: three tasks and the group that averages them."""
    results: dict[str, Any] = {"niah": {"alias": "niah", "score,none": 50.0, "depth_000,none": 1.0}}
    for length in LENGTHS:
        metrics: dict[str, Any] = {"alias": f" - niah_{length}", "score,none": 33.0}
        for depth in DEPTHS:
            metrics[f"depth_{depth:03d},none"] = score_of(length, depth)
            metrics[f"depth_{depth:03d}_stderr,none"] = "N/A"
        results[f"niah_{length}"] = metrics
    return {
        "results": results,
        "configs": {f"niah_{n}": {"metadata": {"length": n}} for n in LENGTHS},
        "n-samples": {f"niah_{n}": {"original": 44, "effective": 22} for n in LENGTHS},
        "config": {"model": "llada", "model_args": {"pretrained": "tiny-llada"}, **config},
    }


def read(folder: Path, content: dict[str, Any]) -> NeedleScores:
    """What a report makes of results."""
    path = folder / "results_1.json"
    path.write_text(json.dumps(content))
    return newest_needles(path, "mine")


def make_run(label: str = "unscaled", rope: RopeFacts | None = TINY) -> NeedleScores:
    cells = tuple(Cell(n, d, score_of(n, d)) for n in LENGTHS for d in DEPTHS)
    return NeedleScores(label, cells, dict.fromkeys(LENGTHS, 22), rope)


def test_every_score_lands_in_its_cell(tmp_path: Path) -> None:
    run = read(tmp_path, make_results())
    assert (run.lengths, run.depths) == (list(LENGTHS), list(DEPTHS))
    for length in LENGTHS:
        for depth in DEPTHS:
            assert run.score(length, depth) == score_of(length, depth)
    assert run.samples == dict.fromkeys(LENGTHS, 22)


def test_a_group_adds_no_cells(tmp_path: Path) -> None:
    results = make_results()
    results["configs"]["niah"] = {"metadata": {"version": 1}}
    assert len(read(tmp_path, results).cells) == len(LENGTHS) * len(DEPTHS)


@pytest.mark.parametrize("missing", [math.nan, "N/A"])
def test_a_depth_without_samples_is_not_a_score(missing: Any, tmp_path: Path) -> None:
    results = make_results()
    results["results"]["niah_512"]["depth_030,none"] = missing
    run = read(tmp_path, results)
    assert run.score(512, 30) is None
    assert run.mean(512, 30, 40) == score_of(512, 40)
    line = next(line for line in depth_table(run).splitlines() if line.lstrip().startswith("512"))
    assert line.split()[1 + DEPTHS.index(30)] == "-"


def test_results_without_needles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needles of one kind; found: none"):
        read(tmp_path, {"results": {"arc": {"acc,none": 0.5}}, "configs": {"arc": {}}})


def test_needles_of_two_kinds_are_refused(tmp_path: Path) -> None:
    results = make_results()
    for part in ("results", "configs", "n-samples"):
        results[part]["niah_512_other"] = results[part]["niah_512"]
    with pytest.raises(ValueError, match="found: niah, niah_other"):
        read(tmp_path, results)


def test_the_newest_results_count_whatever_the_others_are(tmp_path: Path) -> None:
    names = ["b/results_2026-01-02.json", "a/results_2026-01-03.json", "a/results_2026-01-01.json"]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("{" if "01-01" in name else json.dumps(make_results()))
    newest = make_results(model_args={"pretrained": "another"})
    del newest["results"]["niah_256"]
    (tmp_path / names[1]).write_text(json.dumps(newest))
    assert newest_needles(tmp_path, "mine").lengths == [512, 1024]
    assert newest_needles(tmp_path / names[0], "mine").lengths == list(LENGTHS)


def test_a_folder_without_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no results_"):
        newest_needles(tmp_path, "mine")


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results_1.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"results_1\.json: is not whole JSON"):
        newest_needles(path, "mine")


@pytest.mark.parametrize("bad", [(0, 0, 0.0), (1, 101, 0.0), (1, 0, 100.1), (1, 0, math.nan)])
def test_impossible_cells_are_refused(bad: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="A cell needs"):
        Cell(*bad)


def test_the_frontier_comes_from_the_rope_of_the_run(tmp_path: Path) -> None:
    choice = RopeChoice(method="ntk", target_length=1024)
    resolved = resolve(choice, rope_theta=1e4, head_dim=64, train_length=512)
    rope = {name: getattr(resolved, name) for name in resolved.__dataclass_fields__}
    scaled = read(tmp_path, make_results(rope=rope)).rope
    assert scaled is not None
    assert scaled.rope_theta == pytest.approx(1e4)
    # λ was chosen to reach 1024, so half of a context of 2048 lies behind it.
    assert scaled.frontier(1024) == 0
    assert scaled.frontier(2048) == pytest.approx(50)
    assert TINY.frontier(1024) == 50


@given(theta=st.floats(1e3, 1e7), train=st.integers(64, 8192), ratio=st.floats(1, 64))
def test_a_scale_made_for_a_length_predicts_all_of_it(
    theta: float, train: int, ratio: float
) -> None:
    target = int(train * ratio)
    choice = RopeChoice(method="ntk", target_length=target)
    resolved = resolve(choice, rope_theta=theta, head_dim=64, train_length=train)
    rope = {name: getattr(resolved, name) for name in resolved.__dataclass_fields__}
    facts = rope_facts({"rope": rope})
    assert facts is not None
    # Between the trained context and its natural reach λ stays 1, and no more than the trained
    # context is counted on.
    expected = 0 if facts.rope_scale > 1 else 100 * (1 - train / target)
    assert facts.frontier(target) == pytest.approx(expected, abs=1e-6)


def test_methods_without_a_critical_dimension_predict_nothing(tmp_path: Path) -> None:
    resolved = resolve(
        RopeChoice(method="linear", target_length=1024),
        rope_theta=1e4,
        head_dim=64,
        train_length=512,
    )
    rope = {name: getattr(resolved, name) for name in resolved.__dataclass_fields__}
    run = read(tmp_path, make_results(rope=rope))
    assert run.rope is None and run.predicted_mean(1024) is None
    assert "frontier" not in depth_table(run)


def test_predicted_mean_counts_the_depths_past_the_frontier() -> None:
    run = make_run()
    assert run.predicted_mean(512) == 100
    # The frontier is at exactly 50 %: depths 50 to 100 are six of eleven.
    assert run.predicted_mean(1024) == pytest.approx(100 * 6 / 11)


@given(low=st.integers(0, 100), high=st.integers(0, 100))
def test_mean_is_that_of_the_depths_between(low: int, high: int) -> None:
    run = make_run()
    scores = [score_of(512, depth) for depth in DEPTHS if low <= depth <= high]
    if scores:
        assert run.mean(512, low, high) == pytest.approx(sum(scores) / len(scores))
    else:
        with pytest.raises(ValueError, match="No score"):
            run.mean(512, low, high)


def test_the_table_shows_every_number_in_aligned_columns() -> None:
    lines = depth_table(make_run()).splitlines()[1:]
    assert len({len(line) for line in lines}) == 1
    header, *body = (line.split() for line in lines)
    assert header == [
        "length",
        *(f"{d}%" for d in DEPTHS),
        *["mean", "samples", "frontier", "predicted"],
    ]
    for length, values in zip(LENGTHS, body, strict=True):
        assert values[0] == str(length)
        assert values[1:12] == [f"{score_of(length, depth):.0f}" for depth in DEPTHS]
        assert values[13] == "22"
    assert body[2][14:] == ["50", "55"]


def test_the_picture_shows_every_cell_and_the_frontier() -> None:
    axes = draw_heatmaps([make_run("one"), make_run("two", rope=None)], "title").axes
    expected = np.array([[score_of(n, d) for n in LENGTHS] for d in DEPTHS])
    for panel, label in zip(axes[:2], ("one", "two"), strict=True):
        assert panel.get_title() == label
        np.testing.assert_array_equal(panel.images[0].get_array(), expected)
        # A shared colour bar is honest only if both panels map 0-100 to the same colours.
        assert panel.images[0].get_clim() == (0, 100)
        texts = {(int(t.get_position()[1]), int(t.get_position()[0])): t for t in panel.texts}
        for (row, column), text in texts.items():
            assert text.get_text() == f"{expected[row, column]:.0f}"
        assert len(texts) == expected.size
    (line,) = axes[0].lines
    # At 1024 the frontier is 50 %: rows 0-4 (depths 0-40) lie above it.
    assert list(line.get_ydata()) == [-0.5, -0.5, -0.5, -0.5, 4.5, 4.5]
    assert list(line.get_xdata()) == [-0.5, 0.5, 0.5, 1.5, 1.5, 2.5]
    assert "heuristic" in line.get_label()
    assert not axes[1].lines


def test_the_picture_is_written_where_asked(tmp_path: Path) -> None:
    path = save_heatmaps([make_run()], tmp_path / "new" / "picture.png", "title")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_runs_of_different_lengths_share_axes_with_grey_cells() -> None:
    short = NeedleScores("short", make_run().cells[: len(DEPTHS)], {256: 22})
    axes = draw_heatmaps([make_run(), short], "title").axes
    shown = [np.ma.filled(panel.images[0].get_array(), np.nan) for panel in axes[:2]]
    assert shown[0].shape == shown[1].shape == (len(DEPTHS), len(LENGTHS))
    assert np.isfinite(shown[1][:, 0]).all() and not np.isfinite(shown[1][:, 1:]).any()
    assert len(axes[1].texts) == len(DEPTHS)
    legend = draw_heatmaps([make_run(), short], "title").legends[0]
    assert [text.get_text() for text in legend.get_texts()][-1] == "not measured"


def test_a_picture_of_no_run_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        draw_heatmaps([], "title")


def test_many_panels_wrap_and_leave_no_empty_axes() -> None:
    runs = [make_run(f"run {number}") for number in range(5)]
    figure = draw_heatmaps(runs, "title")
    panels = figure.axes[:-1]
    assert [panel.get_title() for panel in panels] == [run.label for run in runs]
    assert figure.get_figwidth() <= 13
    assert len({panel.get_subplotspec().rowspan.start for panel in panels}) == 2


def test_an_unfinished_run_says_what_is_missing() -> None:
    whole = make_run()
    assert whole.missing is None
    cut = NeedleScores("cut", whole.cells[:3], {256: 4}, planned={256: 22}, planned_depths=DEPTHS)
    assert cut.depths == list(DEPTHS)
    assert cut.missing == "partial: 3 of 11 cells, 4 of 22 samples"
    (panel, _) = draw_heatmaps([cut], "title", {"cut": "a caption"}).axes
    assert " ".join(panel.get_title().split()) == f"cut {cut.missing}"
    assert panel.get_xlabel().endswith("a caption")
    assert len(panel.texts) == 3


def test_a_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_matplotlib(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(ImportError, match=r'pip install -e "\.\[plot\]"'):
        draw_heatmaps([make_run()], "title")
