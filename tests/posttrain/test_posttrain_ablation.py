"""The ablation runs each cell once, on equal terms, and its tables say what was measured."""

from __future__ import annotations

import importlib
import json
import math
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.json_lines import append_record, read_records
from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.modeling import load_config, load_model
from lm_eval_llada.modeling.configuration import apply_rope
from lm_eval_llada.posttrain import trainer
from lm_eval_llada.posttrain.model import extended_config
from tests.helpers.block_checkpoints import with_blocks

cells = importlib.import_module("benchmarks.ablation_cells")
tables = importlib.import_module("benchmarks.ablation_tables")
ablation = importlib.import_module("benchmarks.posttrain_ablation")
Cell = cells.Cell

# --- cells --------------------------------------------------------------------------------------


def test_the_grid_is_whole_and_names_are_told_apart() -> None:
    found = cells.all_cells()
    grid = {(cell.method, cell.strategy) for cell in found if cell.d_crit is None}
    assert grid == {
        (method, strategy)
        for method in ("none", "ntk", "diffusion_ntk")
        for strategy in ("free", "concat", "adaptive", "eod")
    }
    assert len({cell.name for cell in found}) == len(found)
    assert {cell.d_crit for cell in found if cell.strategy == "free"} == {None, 32, 40, 44}


def test_the_cells_that_conclusions_rest_on_have_two_seeds_and_come_first() -> None:
    found = cells.all_cells()
    counts = Counter(cell.setting for cell in found)
    twice = {f"diffusion_ntk-{strategy}" for strategy in ("adaptive", "concat", "eod")}
    assert {setting for setting, count in counts.items() if count == 2} == twice | {"ntk-adaptive"}
    first = [cell for cell in found if cell.is_trained][:4]
    assert {cell.setting for cell in first} == twice | {"ntk-adaptive"}
    assert all(not cell.is_trained for cell in found[:3])


def test_trained_cells_differ_in_what_their_name_says_and_in_nothing_else(tmp_path: Path) -> None:
    def shared(cell: Any) -> dict[str, Any]:
        options = cell.training(tmp_path).to_dict()
        assert options.pop("output") == str(tmp_path / cell.name)
        assert options.pop("seed") == cell.seed
        assert options["data"].pop("strategy") == cell.strategy
        assert options["objective"].pop("block_share") == cell.block_share
        assert options.pop("rope")["d_crit"] == cell.d_crit
        return options

    one, *others = [shared(cell) for cell in cells.all_cells() if cell.is_trained]
    assert all(other == one for other in others)
    assert one["training"]["max_steps"] == 18 and one["evaluation"]["every"] is None


@pytest.mark.parametrize(
    ("method", "d_crit", "scale"),
    [("none", None, 1.0), ("ntk", None, 42.497), ("diffusion_ntk", None, 34.526),
     ("diffusion_ntk", 40, 9.645)],
)  # fmt: skip
def test_a_rotation_is_the_same_with_and_without_training(
    method: str, d_crit: int | None, scale: float, tmp_path: Path
) -> None:
    free, _ = apply_rope(load_config("tiny-llada"), Cell(method, d_crit=d_crit).rope)
    trained, _ = extended_config(Cell(method, "eod", d_crit=d_crit).training(tmp_path))
    assert free.rope_theta == trained.rope_theta == pytest.approx(1e4 * scale, rel=1e-3)


def test_cells_are_chosen_by_name_in_the_order_of_all() -> None:
    found = cells.chosen(["none-eod-seed0", "ntk-free"])
    assert [cell.name for cell in found] == ["ntk-free", "none-eod-seed0"]
    assert cells.chosen(None) == cells.all_cells()
    with pytest.raises(ValueError, match="got 'ntk-fre'. Did you mean 'ntk-free'"):
        cells.chosen(["ntk-fre"])


# --- running ------------------------------------------------------------------------------------


def record(cell: Any, **values: Any) -> dict[str, Any]:
    """One of a cell with ten samples at two depths, two lengths, and three chunks."""
    return {
        "cell": cell.name,
        **asdict(cell),
        "rope_scale": 34.53,
        "samples": 10,
        "found": {"512": {"0": 10, "100": 10}, "4096": {"0": 4, "100": 10}},
        "chunk_nats": {"512": [4.0, 4.0, 4.0], "4096": [4.0, 5.0, 6.0]},
        "window_nats": [4.0, 5.0],
        "train_seconds": 100.0,
        "eval_seconds": 1.0,
        **values,
    }


def test_an_interrupted_ablation_goes_on_and_never_runs_a_finished_cell_again(
    tmp_path: Path,
) -> None:
    results, asked = tmp_path / "new" / "results.jsonl", []
    wanted = [Cell("none"), Cell("ntk"), Cell("diffusion_ntk")]

    def measure(cell: Any) -> dict[str, Any]:
        asked.append(cell.name)
        if asked == ["none-free", "ntk-free"]:
            raise KeyboardInterrupt
        if cell.method == "ntk":  # another process ends the next one meanwhile
            append_record(results, record(wanted[2]))
        return record(cell)

    with pytest.raises(KeyboardInterrupt):
        ablation.run_missing(wanted, results, measure)
    assert [one["cell"] for one in read_records(results)] == ["none-free"]
    ablation.run_missing(wanted, results, measure)
    assert asked == ["none-free", "ntk-free", "ntk-free"]
    assert {one["cell"] for one in read_records(results)} == {
        "none-free",
        "ntk-free",
        "diffusion_ntk-free",
    }
    assert len(results.read_text().splitlines()) == 3


def test_a_trained_cell_is_measured_as_saved_and_the_others_under_their_rotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, loaded = [], []

    def load(folder: Any, rope: Any = None, dtype: str = "auto") -> Any:
        loaded.append((Path(folder).name, rope, dtype))
        return load_model("tiny-llada", dtype=dtype)

    class Fake:
        samples = 3
        found = chunk_nats = window_nats = staticmethod(lambda model: str(model.dtype))

    monkeypatch.setattr(trainer, "run", lambda options: trained.append(options) or [{"loss": 4.5}])
    monkeypatch.setattr(ablation, "load_model", load)
    free, eod = Cell("ntk"), Cell("ntk", "eod", seed=1)
    first, second = (ablation.run_cell(cell, tmp_path, Fake()) for cell in (free, eod))
    assert [options.output for options in trained] == [str(tmp_path / "ntk-eod-seed1")]
    assert loaded == [
        *(("tiny-llada", free.rope, dtype) for dtype in ("bfloat16", "float32")),
        *(("ntk-eod-seed1", None, dtype) for dtype in ("bfloat16", "float32")),
    ]
    assert (first["train_seconds"], second["losses"]) == (0, [4.5])
    assert (first["found"], first["chunk_nats"]) == ("torch.bfloat16", "torch.float32")
    assert json.loads(json.dumps(second))["cell"] == "ntk-eod-seed1"


def test_every_length_scores_the_same_tokens_under_the_same_masks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def fake(model: Any, pairs: Any, num_masks: int) -> list[float]:
        calls.append(pairs)
        return [0.0] * len(pairs)

    monkeypatch.setattr(ablation, "_nats", fake)
    measurement = ablation.Measurement()
    assert list(measurement.chunk_nats(None)) == ["512", "1024", "2048", "4096"]
    for length, pairs in zip(ablation.LENGTHS, calls, strict=True):
        assert len(pairs) == 40
        assert {len(before) + len(chunk) for before, chunk in pairs} == {length}
        assert {len(chunk) for _, chunk in pairs} == {64}
        assert all(chunk.equal(same) for (_, chunk), (_, same) in zip(pairs, calls[0], strict=True))
    ends = measurement.ends
    assert all(late - early >= 64 for early, late in zip(ends, ends[1:], strict=False))
    assert ends[-1] == len(measurement.text)


def test_the_shipped_model_finds_its_needles_and_reads_its_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ablation, "LENGTHS", (512,))
    monkeypatch.setattr(ablation, "DEPTHS", (0, 100))
    measurement = ablation.Measurement(samples=1, num_masks=1, num_chunks=3)
    model = load_model("tiny-llada", dtype="float32")
    assert measurement.found(model) == {"512": {"0": 1, "100": 1}}
    for sample in measurement.needles[512]:
        sample["answer"] = "no such number"
    assert measurement.found(model) == {"512": {"0": 0, "100": 0}}
    # docs/tiny-llada.md: perplexity 58, and this is noisy.
    windows = measurement.window_nats(model)
    assert len(windows) == len(measurement.text) // 512
    assert 3.5 < sum(windows) / len(windows) < 5


# --- tables -------------------------------------------------------------------------------------


def two_seeds() -> list[dict[str, Any]]:
    adaptive, again = (Cell("diffusion_ntk", "adaptive", seed=seed) for seed in (0, 1))
    better = {"512": {"0": 10, "100": 10}, "4096": {"0": 9, "100": 9}}
    return [
        record(again, found=better, window_nats=[4.0, 4.0], train_seconds=90.0),
        record(adaptive),
        record(Cell("diffusion_ntk"), chunk_nats={"512": [5.0] * 3, "4096": [4.1, 5.0, 6.2]}),
    ]


def rows(block: Any) -> dict[tuple[str, str], dict[str, str]]:
    return {row[:2]: dict(zip(block.header, row, strict=True)) for row in block.rows}


def test_needles_show_both_seeds_the_worst_depth_and_the_time() -> None:
    shown = rows(tables.needle_table(tables.by_setting(two_seeds())))
    assert list(shown) == [("diffusion NTK", "no training"), ("diffusion NTK", "adaptive")]
    row = shown["diffusion NTK", "adaptive"]
    assert row["512"] == "100 / 100 (100 / 100)"
    assert row["4,096"] == "70 / 90 (40 / 90)"
    assert row["training, s"] == "100 / 90"
    assert row["λ"] == "34.5"


def test_perplexity_is_that_of_the_mean_cross_entropy() -> None:
    block = tables.perplexity_table(tables.by_setting(two_seeds()))
    row = rows(block)["diffusion NTK", "adaptive"]
    assert row["4,096"] == f"{math.exp(5):.1f} / {math.exp(5):.1f}"
    assert row["loss at 512"] == "4.500 / 4.000"
    # The largest is of 4.1, 5.0, 6.2: standard deviation 1.0536, over the root of 3.
    assert "of 0 to 61 %" in block.caption


def test_differences_are_paired_by_seed_and_by_chunk() -> None:
    block = tables.difference_table(tables.by_setting(two_seeds()))
    (row,) = block.rows
    assert row[0] == "diffusion NTK + adaptive against diffusion NTK + no training"
    assert row[1] == "0 / +20"
    # Differences of -0.1, 0, -0.2: mean -0.1, standard error 0.1 / sqrt(3).
    change, error = 100 * math.expm1(-0.1), 100 * math.exp(-0.1) * 0.1 / math.sqrt(3)
    assert row[2].split(" / ") == [f"{change:.1f} ± {error:.1f}"] * 2


def test_seeds_without_a_counterpart_are_not_compared() -> None:
    adaptive = [record(Cell("diffusion_ntk", "adaptive", seed=seed)) for seed in (0, 1)]
    eod = record(Cell("diffusion_ntk", "eod", seed=1))
    block = tables.difference_table(tables.by_setting([*adaptive, eod]))
    assert [row[1] for row in block.rows] == ["0"]


def test_the_papers_table_has_its_numbers_and_gaps() -> None:
    block = tables.paper_table()
    shown = {row[0]: row[1:] for row in block.rows}
    assert block.header[1:] == ("4K", "8K", "16K", "32K", "48K")
    assert shown["base NTK, EOD"] == ("90.00", "85.30", "79.54", "65.85", "53.75")
    assert shown["diffusion NTK, direct"] == ("-", "-", "-", "63.04", "-")


def test_the_command_prints_what_is_there_and_names_a_wrong_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.jsonl"
    assert ablation.main(["--table", "--results", str(path)]) == 0
    assert capsys.readouterr().out == "No cell has been measured yet.\n"
    for line in two_seeds():
        append_record(path, line)
    assert ablation.main(["--table", "--results", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "| diffusion NTK | adaptive | 34.5 | 100 / 100 (100 / 100) |" in printed
    assert "| diffusion NTK, EOD | 87.86 | 86.30 | 82.99 | 70.78 | 56.94 |" in printed
    assert ablation.main(["--only", "none", "--results", str(path)]) == 1
    assert capsys.readouterr().err.startswith("error: A cell must be one of none-free, ")


def test_a_model_that_is_causal_between_blocks_is_not_trained(tmp_path: Path) -> None:
    folder = with_blocks(Path(resolve_checkpoint("tiny-llada")), tmp_path / "blocks")
    options = replace(Cell("none", "eod").training(tmp_path / "run"), pretrained=str(folder))
    with pytest.raises(ValueError, match="causal between blocks of 4 tokens, and the loss here"):
        extended_config(options)
