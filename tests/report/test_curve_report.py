"""Curves from their files: values of points, tables and pictures, and the scripts of ppl/."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import figure1
from lm_eval_llada.cli.main import main
from lm_eval_llada.report.cells import Cell, NeedleScores
from lm_eval_llada.report.curve_picture import draw_curves
from lm_eval_llada.report.curves import Series, curve_table, read_curves
from lm_eval_llada.tasks.perplexity.scores import ChunkScore, curve_points
from tests.helpers.toy_tokenizer import toy_tokenizer


def scored(nats: list[float], document: str = "a", stderr: float | None = 0.1, size: int = 40):
    return [
        ChunkScore(document, 64 * place, value, stderr, 64, size)
        for place, value in enumerate(nats, start=2)
    ]


# --- points -------------------------------------------------------------------------------------


def test_cumulative_values_are_longlladas_geometric_mean():
    nats = [2.0, 3.0, 1.5, 4.0]
    points = curve_points(scored(nats), [128, 192, 256, 320], 64)
    curve = [point.cumulative.perplexity for point in points]
    means = [math.exp(sum(nats[:k]) / k) for k in range(1, len(nats) + 1)]
    assert curve == pytest.approx(means)
    assert [point.local.nats for point in points] == nats


def test_a_scored_chunk_stands_for_those_left_out_since_the_one_before():
    scores = [s for s in scored([2.0, 9.9, 9.9, 3.0]) if s.length in (128, 320)]
    last = curve_points(scores, [128, 320], 64)[-1]
    assert last.cumulative.nats == pytest.approx((2.0 + 3 * 3.0) / 4)
    assert last.cumulative.mc_stderr == pytest.approx(math.hypot(0.1, 3 * 0.1) / 4)


def test_several_documents_give_their_mean_and_its_spread():
    scores = [*scored([2.0, 3.0]), *scored([4.0, 5.0], "b", size=80), *scored([3.0, 1.0], "c")]
    first, second = curve_points(scores, [128, 192], 64)
    assert first.local.nats == pytest.approx(3.0)
    assert first.local.mc_stderr == pytest.approx(0.1 / 3**0.5)
    assert first.local.stderr == first.local.spread_stderr == pytest.approx(1 / 3**0.5)
    per_document = torch.tensor([2.5, 4.5, 2.0])
    assert second.cumulative.nats == pytest.approx(3.0)
    assert second.cumulative.stderr == pytest.approx(float(per_document.std()) / 3**0.5)
    # All nats over all bytes, not a mean of ratios.
    assert first.local.bits_per_byte == pytest.approx(9 * 64 / 160 / math.log(2))


def test_one_document_has_the_error_of_its_masks_and_an_unknown_one_stays_unknown():
    (point,) = curve_points(scored([2.0]), [128], 64)
    assert (point.local.stderr, point.local.spread_stderr) == (pytest.approx(0.1), None)
    (point,) = curve_points(scored([2.0], stderr=None), [128], 64)
    assert point.local.stderr is None


def test_an_unfinished_document_has_no_cumulative_value_past_a_gap():
    scores = [s for s in scored([2.0, 3.0, 4.0]) if s.length != 192]
    first, last = curve_points(scores, [128, 192, 256], 64)
    assert first.cumulative.nats == 2.0
    assert (last.length, last.cumulative) == (256, None)


# --- files of the scripts -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    config = LlamaConfig(
        vocab_size=600,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
        eos_token_id=0,
        pad_token_id=0,
    )
    torch.manual_seed(4)
    folder = tmp_path_factory.mktemp("random-llama")
    LlamaForCausalLM(config).save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory, random_checkpoint, llama) -> dict[str, Path]:
    """A diffusion curve with all estimators, and a causal one, of the packaged text."""
    folder = tmp_path_factory.mktemp("curves")
    common = ["--context", "64", "--chunk_length", "8", "--points", "3", "--mc_num", "4"]
    paths = {}
    for model, checkpoint in (("llada", random_checkpoint), ("hf_rope", llama)):
        paths[model] = folder / f"{model}.jsonl"
        estimators = ["--estimator", "elbo", "masked_mean", "duel"] if model == "llada" else []
        given = ["--model", model, "--model_args", f"pretrained={checkpoint},target_length=256"]
        assert main(["curve", *given, *estimators, *common, "--output", str(paths[model])]) == 0
    return paths


def test_the_curve_script_writes_every_estimator_of_every_point(files):
    lines = [json.loads(line) for line in files["llada"].read_text().splitlines()]
    assert lines[0]["rope"]["target_length"] == 256
    keys = {(line["length"], line["estimator"]) for line in lines[1:]}
    assert keys == {(n, e) for n in (16, 32, 64) for e in ("elbo", "masked_mean", "duel")}
    series = read_curves(files.values())
    assert [one.estimator for one in series] == ["elbo", "masked_mean", "duel", "causal"]
    assert all(math.isfinite(point.local.nats) for one in series for point in one.points)
    assert all(one.num_missing == 0 for one in series)
    assert [one.train_length for one in series] == [128, 128, 128, 64]
    assert "λ = " in series[-1].label


def test_a_finished_curve_is_not_measured_again(files, random_checkpoint, capsys, monkeypatch):
    from lm_eval_llada.engine import loading

    before = files["llada"].read_bytes()
    monkeypatch.setattr(loading, "load_model", None)  # weights would be read by this
    given = ["--model_args", f"pretrained={random_checkpoint},target_length=256"]
    more = ["--context", "64", "--chunk_length", "8", "--points", "3", "--mc_num", "4"]
    names = ["--estimator", "elbo", "masked_mean", "duel", "--output", str(files["llada"])]
    assert main(["curve", *given, *more, *names]) == 0
    assert files["llada"].read_bytes() == before
    said = capsys.readouterr()
    assert "9 scores are there already" in said.err
    assert "bits/byte" in said.out


def test_an_interrupted_curve_goes_on_to_the_same_scores(
    files, random_checkpoint, tmp_path, capsys
):
    whole = files["llada"].read_bytes()
    lines = whole.splitlines(keepends=True)
    output = tmp_path / "cut.jsonl"
    output.write_bytes(b"".join(lines[:4]) + lines[4][:20])
    given = ["--model_args", f"pretrained={random_checkpoint},target_length=256"]
    more = ["--context", "64", "--chunk_length", "8", "--points", "3", "--mc_num", "4"]
    names = ["--estimator", "elbo", "masked_mean", "duel", "--output", str(output)]
    assert main(["curve", *given, *more, *names, "--batch_size", "2"]) == 0
    assert "dropped the last line, 20 bytes" in capsys.readouterr().err

    def by_key(data: bytes) -> dict:
        rows = [json.loads(line) for line in data.splitlines()][1:]
        return {(row["length"], row["estimator"]): row["nats_per_token"] for row in rows}

    assert by_key(output.read_bytes()) == pytest.approx(by_key(whole), abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seed", "1"], "seed is 2025 there and 1 now"),
        (["--context", "72"], "context is 64 there and 72 now"),
        (["--context", "65"], "not a multiple of chunk_length=8"),
        (["--text", "nowhere"], "text must be"),
        (["--estimator", "causal"], "has the estimators elbo, masked_mean, duel"),
        (["--context", "80000"], "documents of 80000 tokens are needed"),
    ],
    ids=str,
)
def test_wrong_commands_end_with_a_sentence(files, random_checkpoint, change, message, capsys):
    given = ["--model_args", f"pretrained={random_checkpoint},target_length=256"]
    more = ["--context", "64", "--chunk_length", "8", "--points", "3", "--mc_num", "4"]
    names = ["--estimator", "elbo", "masked_mean", "duel", "--output", str(files["llada"])]
    assert main(["curve", *given, *more, *names, *change]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("unit", ["perplexity", "nats", "bits_per_byte"])
def test_the_plot_script_draws_png_and_svg(files, tmp_path, unit):
    output = tmp_path / "pictures" / "curves.png"
    arguments = [*map(str, files.values()), "--output", str(output), "--unit", unit]
    assert main(["plot", *arguments, "--kind", "local"]) == 0
    assert output.read_bytes().startswith(b"\x89PNG")
    assert "<svg" in output.with_suffix(".svg").read_text()


@pytest.mark.parametrize("place", [0, 1])
def test_a_file_with_a_key_missing_is_an_error_and_not_a_crash(files, tmp_path, place):
    lines = [json.loads(line) for line in files["llada"].read_text().splitlines()]
    lines[place].pop("lengths" if place == 0 else "num_bytes")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match="lacks"):
        read_curves([tmp_path / "a.jsonl"])


def test_the_plot_script_says_what_is_wrong(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text("{}\n")
    assert main(["plot", str(tmp_path / "a.jsonl")]) == 1
    assert "it is another file" in capsys.readouterr().err
    assert main(["plot", str(tmp_path / "b.jsonl")]) == 1


# --- pictures -----------------------------------------------------------------------------------


def toy_series(nats: list[float], **changes) -> Series:
    lengths = [64 * place for place in range(2, 2 + len(nats))]
    points = tuple(curve_points(scored(nats), lengths, 64))
    return Series(
        **{"label": "toy", "source": "a", "estimator": "elbo", "points": points, **changes}
    )


def test_a_line_shows_values_with_a_band_of_two_standard_errors():
    axes = Figure().subplots()
    draw_curves(axes, [toy_series([2.0, 3.0])], kind="local")
    (line,) = axes.get_lines()
    assert line.get_xydata().tolist() == [
        [128, pytest.approx(math.exp(2.0))],
        [192, pytest.approx(math.exp(3.0))],
    ]
    edges = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert edges.min() == pytest.approx(math.exp(2.0 - 0.2))
    assert edges.max() == pytest.approx(math.exp(3.0 + 0.2))
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert "tokens" in axes.get_xlabel() and "perplexity" in axes.get_ylabel()


def test_bits_per_byte_are_drawn_as_they_were_counted():
    axes = Figure().subplots()
    draw_curves(axes, [toy_series([2.0])], unit="bits_per_byte")
    assert axes.get_lines()[0].get_ydata()[0] == pytest.approx(2.0 * 64 / 40 / math.log(2))


def test_models_differ_in_colour_and_estimators_in_dashes():
    axes = Figure().subplots()
    series = [
        toy_series([2.0]),
        toy_series([2.0], estimator="duel"),
        toy_series([2.0], source="b", estimator="causal"),
    ]
    draw_curves(axes, series)
    elbo, duel, causal = axes.get_lines()
    assert elbo.get_color() == duel.get_color() != causal.get_color()
    assert len({(line.get_linestyle(), line.get_marker()) for line in (elbo, duel, causal)}) == 3


def test_trained_context_and_target_are_marked_once():
    axes = Figure().subplots()
    series = [toy_series([2.0], train_length=512, target_length=2048, source=s) for s in "ab"]
    draw_curves(axes, series)
    assert [text.get_text() for text in axes.texts] == ["trained: 512", "target: 2,048"]


def test_an_unfinished_curve_says_so():
    series = toy_series([2.0], num_missing=3)
    axes = Figure().subplots()
    draw_curves(axes, [series])
    assert axes.get_lines()[0].get_label() == "toy (unfinished)"
    assert "unfinished: 3 scores" in curve_table(series)


@pytest.mark.parametrize(
    ("given", "message"), [({"unit": "bits"}, "unit must be"), ({"kind": "all"}, "kind must be")]
)
def test_unknown_choices_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        draw_curves(Figure().subplots(), [toy_series([2.0])], **given)
    with pytest.raises(ValueError, match="No curve to draw"):
        draw_curves(Figure().subplots(), [])


def test_a_value_around_a_length_is_the_mean_of_the_chunks_that_end_near_it():
    series = toy_series([1.0, 2.0, 4.0])  # ending at 128, 192 and 256
    assert series.around(256) == pytest.approx(4.0), "192 is three quarters of it, and too far"
    assert series.around(200) == pytest.approx(2.0)
    assert series.up_to(200) == series.points[1].cumulative.nats == pytest.approx(1.5)
    assert series.up_to(256) == pytest.approx(7 / 3)
    with pytest.raises(ValueError, match="up to 100 tokens"):
        series.up_to(100)
    with pytest.raises(ValueError, match="no score between"):
        series.around(1000)


# --- figure 1 -----------------------------------------------------------------------------------


def test_figure_1_reports_and_draws_what_was_measured(tmp_path, random_checkpoint, llama):
    steady = toy_series([math.log(5)] * 31, source="diffusion", train_length=512)
    rising = toy_series(
        [math.log(5 + place) for place in range(31)], source="causal", estimator="causal"
    )
    cells = tuple(Cell(n, d, float(d == 100)) for n in (1024, 2048) for d in (0, 100))
    needles = {
        role: NeedleScores(role, cells, {1024: 1, 2048: 1}) for role in ("diffusion", "causal")
    }
    numbers = figure1.measured([steady, rising], needles, 512, 4)
    ratio = {
        (role, measure): by_length["2048"]["times_that_at_trained_length"]
        for role, by_measure in numbers["perplexity"].items()
        for measure, by_length in by_measure.items()
    }
    assert ratio["diffusion", "around"] == ratio["diffusion", "up_to"] == pytest.approx(1)
    assert ratio["causal", "around"] > ratio["causal", "up_to"] > 2
    assert numbers["needles"]["causal"]["2048"] == {"0": 0.0, "100": 1.0}
    text = figure1.describe(numbers)
    assert f"2,048: {5:.4g} (1.00x)" in text
    options = figure1.FigureOptions(
        diffusion=str(random_checkpoint), causal=str(llama), output=tmp_path
    )
    figure1.draw([steady, rising], needles, options)
    assert (tmp_path / "figure1.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "figure1.svg").exists()


def test_figure_1_refuses_a_checkpoint_that_is_not_there(capsys):
    assert figure1.main(["--causal", "./nowhere"]) == 1
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.slow
def test_figure_1_runs_whole(tmp_path, random_checkpoint, llama, capsys):
    arguments = {
        "diffusion": random_checkpoint,
        "causal": llama,
        "output": tmp_path,
        "multiple": 4,
        "points": 7,
        "duel_points": 1,
        "mc_num": 2,
        "repeats": 1,
    }
    given = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    assert figure1.main(given) == 0
    numbers = json.loads((tmp_path / "figure1.json").read_text())
    assert set(numbers["perplexity"]["causal"]) == {"128", "256", "512"}
    assert set(numbers["needles"]["diffusion"]) == {"256", "512"}
    assert "Pictures:" in capsys.readouterr().out
