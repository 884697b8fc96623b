"""The λ sweep keeps what tables need of lm-eval's results and compares the frontiers rightly."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lm_eval_llada.report.cells import Cell, NeedleScores
from lm_eval_llada.report.frontier import RopeFacts
from lm_eval_llada.report.needles import frontier_rows, newest_needles

lambda_sweep = importlib.import_module("benchmarks.lambda_sweep")

DEPTHS = range(0, 101, 10)
ROPE = {"rope_theta": 1e4, "rope_scale": 1.0, "head_dim": 64, "train_length": 512, "d_crit": 32}
PLAN = {512: 3, 1024: 2}


def make_run(scores: list[float], length: int = 1024, rope_scale: float = 1.0) -> NeedleScores:
    cells = tuple(Cell(length, depth, s) for depth, s in zip(DEPTHS, scores, strict=True))
    return NeedleScores("run", cells, {length: 33}, RopeFacts(1e4, 64, 512, rope_scale))


def lm_eval_results(model_args: dict[str, Any]) -> dict[str, Any]:
    """The shape of what lm-eval writes, with paths of the machine where it has them."""
    scores = {f"depth_{depth:03d},none": float(depth) for depth in DEPTHS}
    return {
        "results": {
            f"niah_demo_{n}": {"alias": f"niah_demo_{n}", "score_stderr,none": "N/A", **scores}
            for n in PLAN
        },
        "configs": {
            f"niah_demo_{n}": {
                "include": "/somewhere/tasks/niah/_niah.yaml",
                "metadata": {"version": 1, "length": n, "repeats": r, "path": "/somewhere"},
            }
            for n, r in PLAN.items()
        },
        "n-samples": {
            f"niah_demo_{n}": {"original": 11 * r, "effective": 11 * r} for n, r in PLAN.items()
        },
        "config": {
            "model": "llada",
            "model_args": model_args,
            "model_dtype": "torch.bfloat16",
            "rope": {**ROPE, "method": "none"},
            "device": "auto",
        },
        "pretty_env_info": "Python platform: /somewhere",
        "lm_eval_version": "0.4.13",
        "transformers_version": "5.23.0",
        "total_evaluation_time_seconds": "12.5",
    }


def write_kept(folder: Path, model_args: dict[str, Any]) -> Path:
    path = folder / "results_1x.json"
    path.write_text(json.dumps(lambda_sweep.trimmed(lm_eval_results(model_args))))
    return path


# --- what is kept -------------------------------------------------------------------------------


def test_kept_results_name_no_path_and_read_like_the_whole(tmp_path: Path) -> None:
    path = write_kept(tmp_path, {"pretrained": "tiny-llada"})
    assert "/somewhere" not in path.read_text()
    run = lambda_sweep.labelled(newest_needles(path, "x"))
    assert run.label == "λ = 1"
    assert run.samples == {512: 33, 1024: 22}
    assert [run.score(1024, depth) for depth in DEPTHS] == [float(depth) for depth in DEPTHS]
    assert run.rope == RopeFacts(1e4, 64, 512, 1.0, False, 32)


def test_a_run_is_called_by_its_scale() -> None:
    assert lambda_sweep.labelled(make_run([0] * 11, rope_scale=2.65614)).label == "λ = 2.66"


def test_a_run_without_scale_cannot_be_in_a_sweep() -> None:
    with pytest.raises(ValueError, match="do not say what their λ is"):
        lambda_sweep.labelled(replace(make_run([0] * 11), rope=None))


@pytest.mark.parametrize(
    ("kept", "model_args", "plan", "message"),
    [
        ({"pretrained": "a"}, "pretrained=b", PLAN, r"model_args=\{'pretrained': 'a'\}, not"),
        ({"pretrained": "a"}, "pretrained=a,rope_scale=2", PLAN, "model_args="),
        ({"pretrained": "a"}, "pretrained=a", {512: 3, 1024: 3}, r"1024: 2\}, not .* 1024: 3\}"),
        ({"pretrained": "a"}, "pretrained=a", {512: 3}, "repeats="),
    ],
)
def test_scores_of_other_settings_are_not_taken_for_these(
    kept: dict[str, Any], model_args: str, plan: dict[int, int], message: str, tmp_path: Path
) -> None:
    path = write_kept(tmp_path, kept)
    with pytest.raises(ValueError, match=message):
        lambda_sweep.check_settings(path, model_args, plan)


def test_scores_of_the_same_settings_are(tmp_path: Path) -> None:
    kept = {"pretrained": "a", "rope_method": "ntk", "target_length": 1024}
    path = write_kept(tmp_path, kept)
    asked = "pretrained=a,rope_method=ntk,target_length=1024"
    lambda_sweep.check_settings(path, asked, PLAN)


# --- predicted and observed ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0] * 5 + [100] * 6, 45.0),  # half way between 40 and 50
        ([0] * 4 + [20] + [100] * 6, 43.75),
        ([100] * 11, 0.0),
        ([0] * 11, None),
        ([100] * 10 + [0], None),
        ([100] * 3 + [0] * 3 + [100] * 5, 55.0),  # the last of two
        ([0] * 5 + [50] * 6, 50.0),  # just reached is found
    ],
)
def test_the_crossing_is_where_scores_pass_50_for_good(
    scores: list[float], expected: float | None
) -> None:
    assert lambda_sweep.crossing(make_run(scores), 1024) == expected


def test_the_crossing_of_one_length_ignores_the_others() -> None:
    near, far = make_run([100] * 11, 512), make_run([0] * 8 + [100] * 3)
    both = replace(near, cells=near.cells + far.cells, samples={512: 33, 1024: 33})
    assert lambda_sweep.crossing(both, 512) == 0.0
    assert lambda_sweep.crossing(both, 1024) == 75.0


def test_rows_hold_the_frontiers_of_the_report_and_their_table_says_the_same() -> None:
    runs = [make_run([0] * 6 + [100] * 5), make_run([0] + [100] * 10, 4096, rope_scale=10.625)]
    rows = lambda_sweep.rows_of(runs)
    for run, row in zip(runs, rows, strict=True):
        (expected,) = frontier_rows(run)
        assert row["predicted"] == expected.predicted
        assert row["observed_mean"] == expected.observed_mean
    # The trained context is half of 1,024; λ = 10.625 reaches half of 4,096, up to rounding.
    assert lambda_sweep.frontier_table(rows).rows == (
        ("1.00", "1,024", "50", "60", "55", "55", "45", "+9", "33"),
        ("10.62", "4,096", "50", "10", "5", "55", "91", "-36", "33"),
    )


# --- options ------------------------------------------------------------------------------------


def test_lengths_and_targets_are_the_same_multiples() -> None:
    options = lambda_sweep.SweepOptions(multiples=(1, 4), repeats=(3, 2))
    assert options.plan(512) == {512: 3, 2048: 2}
    assert options.model_args(1, 512) == "pretrained=tiny-llada"
    assert options.model_args(4, 512) == (
        "pretrained=tiny-llada,rope_method=ntk,target_length=2048"
    )


def test_one_number_of_repeats_serves_all_lengths() -> None:
    assert set(lambda_sweep.SweepOptions(repeats=(4,)).plan(512).values()) == {4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "repeats must be a whole number >= 1; got 0"),
        (["--repeats", "3", "2"], "one number or 4, one for each length; got 2"),
        (["--multiples", "2", "1"], "multiples must ascend; got [2, 1]"),
        (["--picture", "docs/sweep.png"], "a name without ending, for a .png and a .svg"),
        (["--pretrained", "./no-such-folder"], "no-such-folder"),
    ],
)
def test_a_wrong_argument_ends_with_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lambda_sweep.main([*arguments, "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and len(error.splitlines()) == 1 and message in error
    assert not (tmp_path / "out").exists()


# --- the command --------------------------------------------------------------------------------


def test_a_sweep_goes_on_where_it_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def stand_in(plan: dict[int, int], model_args: str) -> dict[str, Any]:
        asked.append(model_args)
        if len(asked) == 2:
            raise RuntimeError("killed")
        results = lm_eval_results(dict(pair.split("=") for pair in model_args.split(",")))
        if "ntk" in model_args:
            results["config"]["rope"] |= {"rope_scale": 2.65614, "method": "ntk"}
        return results

    monkeypatch.setattr(lambda_sweep, "_evaluate", stand_in)
    output = tmp_path / "out"
    command = ["--multiples", "1", "2", "--repeats", "3", "2", "--output", str(output)]
    assert lambda_sweep.main(command) == 1
    assert capsys.readouterr().err == "error: killed\n"
    assert lambda_sweep.main(command) == 0
    assert ["ntk" in model_args for model_args in asked] == [False, True, True]
    assert (output / "lambda_sweep.png").read_bytes().startswith(b"\x89PNG")
    assert (output / "lambda_sweep.svg").exists()
    rows = json.loads((output / "frontier.json").read_text())
    assert [(row["label"], row["length"]) for row in rows] == [
        ("λ = 1", 512),
        ("λ = 1", 1024),
        ("λ = 2.66", 512),
        ("λ = 2.66", 1024),
    ]
    assert (output / "frontier.md").read_text() in capsys.readouterr().out
