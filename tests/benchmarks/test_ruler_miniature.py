"""The table of RULER in miniature: what is run, how kinds are averaged, how twins are compared."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.ruler_miniature import (
    LENGTHS,
    SETTINGS,
    command,
    differences_table,
    kinds_table,
    measure,
    read,
    tasks_table,
)
from lm_eval_llada.tasks.grid import shipped_configs
from tests.helpers.report_results import results, task, write

TASKS = {"niah_single_1": 100.0, "niah_multivalue": 80.0, "vt": 60.0, "qa_synthetic": 50.0}


def options(folder: Path, **changes: object) -> argparse.Namespace:
    values = {"diffusion": "d", "causal": "c", "samples": 3, "decoding": "threshold=0.9"}
    return argparse.Namespace(
        **{**values, "dtype": "bfloat16", "lengths": [512], "output": folder, **changes}
    )


def written(folder: Path, less: float, model: str = "d") -> None:
    entries = {
        f"ruler_tiny_{name}_512": task(score - less, 3.0, {"ruler_task": name, "length": 512})
        for name, score in TASKS.items()
    }
    write(folder, results(entries, model_args={"pretrained": model}))


@pytest.fixture
def rows(tmp_path):
    written(tmp_path / "unscaled-512", 0.0)
    written(tmp_path / "causal-unscaled-512", 20.0, "c")
    return read(options(tmp_path))


def test_runs_of_another_model_are_not_taken_for_this_one(rows, tmp_path):
    with pytest.raises(ValueError, match="holds a run of d, not of other; give another --output"):
        read(options(tmp_path, diffusion="other"))


def test_every_task_that_is_asked_for_is_shipped():
    assert {f"ruler_tiny_{length}" for length in LENGTHS} <= set(shipped_configs()["ruler"])


def test_nothing_is_scaled_inside_the_trained_context_and_everything_beyond():
    inside = ["unscaled", "causal, unscaled"]
    assert [s.name for s in SETTINGS if s.runs_at(512, "")] == inside
    beyond = [s.name for s in SETTINGS if s.runs_at(1024, "cache=prompt")]
    assert beyond == [setting.name for setting in SETTINGS if not setting.is_exact]


def test_a_decoding_that_approximates_has_an_exact_row_beside_it_inside_the_context(tmp_path):
    inside = [s for s in SETTINGS if s.runs_at(512, "cache=prompt")]
    assert [s.name for s in inside] == ["exact", "unscaled", "causal, unscaled"]
    decodings = [command(s, 512, options(tmp_path, decoding="cache=prompt"))[3] for s in inside]
    assert ["cache" in decoding for decoding in decodings] == [False, True, False]


def test_a_command_names_model_rope_and_decoding(tmp_path):
    by_name = {setting.name: command(setting, 1024, options(tmp_path)) for setting in SETTINGS}
    ntk, causal = by_name["NTK"], by_name["causal, NTK"]
    scaled = "rope_method=ntk,target_length=1024"
    assert ntk[:4] == [
        "--model", "llada", "--model_args", f"pretrained=d,dtype=bfloat16,{scaled},threshold=0.9"
    ]  # fmt: skip
    assert causal[:4] == [
        "--model", "hf_rope", "--model_args", f"pretrained=c,dtype=bfloat16,{scaled}"
    ]  # fmt: skip
    plain = command(SETTINGS[1], 512, options(tmp_path, decoding=""))
    assert plain[3].endswith("bfloat16")
    assert json.loads(ntk[ntk.index("--metadata") + 1]) == {"num_samples": 3}


def test_kinds_are_means_over_their_tasks_with_independent_errors(rows):
    (block,) = kinds_table(rows).blocks
    # Errors of 3 each: 1.96 x 3 / sqrt(2) over two tasks, 1.96 x 3 / 2 over four.
    assert block.rows[0] == ("512", "unscaled", "90.0 ± 4.2", "60.0 ± 5.9", "50.0 ± 5.9",
                             "72.5 ± 2.9")  # fmt: skip
    assert [row[1] for row in block.rows] == ["unscaled", "causal, unscaled"]


def test_tasks_have_their_scores_under_their_own_names(rows):
    (block,) = tasks_table(rows).blocks
    assert block.header[2:] == tuple(TASKS)
    assert [cell.partition(" ")[0] for cell in block.rows[1][2:]] == [
        "80.0",
        "60.0",
        "40.0",
        "30.0",
    ]


def test_twins_are_compared_task_by_task_in_standard_errors(rows):
    (block,) = differences_table(rows).blocks
    assert len(block.rows) == len(TASKS)
    # Two independent errors of 3: 20 / (3 sqrt(2)).
    assert block.rows[0] == (
        "512", "unscaled", "niah_single_1", "100.0", "80.0", "+20.0", "4.2", "+4.7"
    )  # fmt: skip


def test_what_has_been_run_is_not_run_again(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "benchmarks.ruler_miniature.run_evaluations", lambda runs, folder: asked.extend(runs)
    )
    written(tmp_path / "unscaled-512", 0.0)
    measure(options(tmp_path))
    assert asked == ["exact-512", "causal-unscaled-512"]


def test_what_takes_longest_runs_first(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "benchmarks.ruler_miniature.run_evaluations", lambda runs, folder: asked.extend(runs)
    )
    measure(options(tmp_path, lengths=[512, 2048]))
    assert asked[:2] == ["exact-512", "unscaled-2048"]
    assert asked[-2:] == ["unscaled-512", "causal-unscaled-512"]
    assert len(asked) == 3 + 5
