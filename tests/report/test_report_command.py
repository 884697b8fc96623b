"""The command: whole reports from folders, with all that can be wrong in them."""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from pathlib import Path

import pytest

from lm_eval_llada.cli import report as command
from lm_eval_llada.cli.report import ReportOptions, build_sections, write_report
from lm_eval_llada.report.document import Excerpt, Paragraph, Section, Table
from lm_eval_llada.report.perplexity import find_curves, measured_perplexities
from tests.helpers.report_results import (
    curve_lines,
    longbench,
    niah,
    results,
    rope,
    ruler,
    sample,
    task,
    write,
    write_samples,
)

TAGS = "</pre><script>x</script> needle"


def fill(folder: Path) -> None:
    """Two runs, a curve, samples, and one of each kind of file that cannot be used."""
    tasks = {**ruler(4096, lambda _: 70.0), **longbench(lambda _: 30.0)}
    tasks |= {f"niah_{n}": niah(n, float) for n in (512, 1024)}
    write(folder / "a", results(tasks))
    lines = [sample(i, 1.0 if i < 5 else 100.0) for i in range(8)]
    lines[0]["arguments"]["gen_args_0"]["arg_0"] = f"{TAGS} {lines[0]['doc']['reference']}"
    write_samples(folder / "a", "niah_512", lines)
    causal = results(
        {**ruler(4096, lambda _: 60.0), "arc": task(1.0, None, {})},
        model="hf_rope",
        model_args={"pretrained": "tiny-llama"},
        hf_rope={"version": "0"},
        llada=None,
    )
    write(folder / "b", causal)
    write_curve(folder / "curves" / "ppl.jsonl", {128: 10.0, 256: 9.0})
    (folder / "curves" / "torn.jsonl").write_text('{"kind": "sett')
    (folder / "curves" / "other.jsonl").write_text('{"prompt": "x"}\n')
    (folder / "curves" / "half.jsonl").write_text(
        '{"kind": "settings", "format": 1}\n{"kind": "score"}\n'
    )
    (folder / "config.json").write_text('{"model_type": "llada"}')
    (folder / "results_cut.json").write_text('{"results": {')
    (folder / "notes.txt").write_text("not ours")


def write_curve(path: Path, values: dict[int, float], **settings: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = curve_lines(values, **settings)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return parser.parse_args(["report", *arguments])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of a report on all that `fill` makes, and its summary."""
    folder = tmp_path_factory.mktemp("report")
    fill(folder / "results")
    summary = write_report(ReportOptions((folder / "results",), output=folder / "out"))
    return folder / "out", summary


def test_every_part_is_there(written: tuple[Path, str]) -> None:
    for text in ((written[0] / "report.html").read_text(), (written[0] / "report.md").read_text()):
        for title in (
            *("Runs", "Needles in a haystack", "RULER", "LongBench", "Perplexity"),
            *("Diffusion against causal, by kind of task", "Other tasks"),
            *("Speed and memory", "Settings that differ", "Samples", "All runs"),
        ):
            assert title in text, title


def test_pictures_are_written_as_png_svg_and_pdf(written: tuple[Path, str]) -> None:
    names = {path.name for path in written[0].iterdir()}
    for stem in ("heatmap-niah", "retrieval-niah", "perplexity"):
        assert {f"{stem}.png", f"{stem}.svg", f"{stem}.pdf"} <= names
    assert (written[0] / "perplexity.png").read_bytes().startswith(b"\x89PNG")
    assert (written[0] / "perplexity.pdf").read_bytes().startswith(b"%PDF")
    # The heatmap of the page is a table; its picture is a file alone.
    drawn = sum(name.endswith(".svg") for name in names)
    assert (written[0] / "report.html").read_text().count("<svg") == drawn - 1


def test_letters_of_an_svg_stay_letters(written: tuple[Path, str]) -> None:
    text = (written[0] / "retrieval-niah.svg").read_text()
    assert ">niah: retrieval by context length</text>" in text


def test_each_file_that_cannot_be_used_has_a_line_and_no_other_has(
    written: tuple[Path, str],
) -> None:
    root = written[0].parent / "results"
    named = [line for line in written[1].splitlines() if line.startswith(f"- {root}")]
    files = ["results_cut.json", "config.json", *(f"curves/{n}.jsonl" for n in ("half", "other"))]
    files.append("curves/torn.jsonl")
    assert sorted(line[2:].partition(": ")[0] for line in named) == sorted(
        str(root / name) for name in files
    )
    for text in ((written[0] / "report.html").read_text(), written[1]):
        assert "results_cut.json" in text and "notes.txt" not in text


def test_prompts_cannot_break_the_page(written: tuple[Path, str]) -> None:
    text = (written[0] / "report.html").read_text()
    assert text.count("<script") == 1 and "&lt;script&gt;x&lt;/script&gt; needle" in text


def test_the_summary_is_plain(written: tuple[Path, str]) -> None:
    assert "\033" not in written[1]
    assert written[1].rstrip().endswith("pictures as PNG, SVG and PDF")


def test_some_failed_samples_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    fill(tmp_path / "results")
    options = ReportOptions((tmp_path / "results",), failures=2)
    (section,) = [s for s in build_sections(options) if s.title == "Samples"]
    shown = [block for block in section.blocks if isinstance(block, Excerpt)]
    assert [excerpt.title.split(": ")[1].split(",")[0] for excerpt in shown] == [
        "niah_512 sample 0",
        "niah_512 sample 4",
    ]
    parts = dict(shown[1].parts)
    assert parts["answer"] == "<b>99</b> & more" and "is 10004." in parts["prompt"]
    (counts,) = [block for block in section.blocks if isinstance(block, Table)]
    assert counts.rows == (("tiny-llada, unscaled", "niah_512", "5", "8", "0 %"),)
    texts = [block.text for block in section.blocks if isinstance(block, Paragraph)]
    assert any("No samples were logged" in text and "tiny-llama" in text for text in texts)


def section_of(paths: list[Path], title: str) -> Section:
    (found,) = [s for s in build_sections(ReportOptions(tuple(paths))) if s.title == title]
    return found


def test_speed_and_memory_are_those_of_each_file(tmp_path: Path) -> None:
    content = results({"niah_512": niah(512, float)})
    content["config"]["llada"]["work"] |= {
        "tokens_read": 4096,
        "tokens_per_second": 2048.0,
        "peak_memory_bytes": 3 * 2**30,
    }
    write(tmp_path, content)
    (table,) = section_of([tmp_path], "Speed and memory").blocks
    assert isinstance(table, Table)
    assert table.rows[0][1:] == (
        *("niah_512", "12.5", "2.0", "8", "4,096", "2,048", "512", "3.00", "1", "2 x Card"),
    )


def test_only_settings_that_differ_are_listed(tmp_path: Path) -> None:
    for name, scale in (("a", 1.0), ("b", 4.0)):
        args = {"pretrained": "tiny-llada", "rope_scale": scale}
        write(
            tmp_path / name,
            results({}, model_args=args, rope=rope(scale, "ntk" if scale > 1 else "none")),
        )
    (table,) = section_of([tmp_path], "Settings that differ").blocks
    assert isinstance(table, Table)
    assert {row[0]: row[1:] for row in table.rows} == {"λ": ("unscaled", "λ = 4 (ntk)")}


def test_against_compares_even_two_runs_of_one_setting(tmp_path: Path) -> None:
    for name, score in (("a", 10.0), ("b", 30.0)):
        write(tmp_path / name, results({"niah_512": niah(512, lambda _, s=score: s)}))
    options = ReportOptions((), against=(tmp_path / "a", tmp_path / "b"))
    (section,) = [s for s in build_sections(options) if s.title == "Two runs side by side"]
    (_, by_task) = [block for block in section.blocks if isinstance(block, Table)]
    assert by_task.rows[0][2:5] == ("10.00", "30.00", "+20.00")


def test_against_one_run_compares_all_others_with_it(tmp_path: Path) -> None:
    for name, score in (("a", 10.0), ("b", 30.0)):
        args = {"pretrained": f"model-{name}"}
        entry = {"niah_512": niah(512, lambda _, s=score: s)}
        write(tmp_path / name, results(entry, model_args=args))
    for baseline in (tmp_path / "a", Path("model-a")):
        sections = build_sections(ReportOptions((tmp_path,), against=(baseline,)))
        (section,) = [s for s in sections if s.title == "Against model-a, unscaled"]
        (table,) = [block for block in section.blocks if isinstance(block, Table)]
        assert [row[:5] for row in table.rows] == [
            ("model-b, unscaled", "niah_512", "10.00", "30.00", "better by 20.0 ± 8.3")
        ]
    for wrong, message in (("model", "several of: model-a, unscaled; model-b"), ("x", "none of")):
        with pytest.raises(ValueError, match=message):
            build_sections(ReportOptions((tmp_path,), against=(Path(wrong),)))


def test_scores_are_written_for_other_programs(written: tuple[Path, str]) -> None:
    lines = list(csv.DictReader((written[0] / "scores.csv").open(encoding="utf-8")))
    depth = [line for line in lines if line["task"] == "niah_1024" and line["depth"] == "30"]
    assert [(d["run"], d["metric"], d["value"]) for d in depth] == [("A", "score", "30.0")]
    (mean,) = [
        r for r in lines if (r["task"], r["metric"], r["depth"]) == ("niah_512", "score", "")
    ]
    assert (mean["value"], mean["stderr"], mean["samples"]) == ("50.0", "3.0", "22")
    assert float(mean["low_95"]) < 50 < float(mean["high_95"]) and mean["model"] == "tiny-llada"


def test_against_needs_one_run_on_each_side(tmp_path: Path) -> None:
    fill(tmp_path)
    options = ReportOptions((), against=(tmp_path, tmp_path / "a"))
    with pytest.raises(ValueError, match="exactly one run; .* holds tiny-llada, unscaled; tiny-ll"):
        build_sections(options)


def test_nothing_to_report_is_an_error_that_names_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "results_1.json").write_text("{")
    with pytest.raises(ValueError, match=r"nothing to report: .*results_1\.json: is not whole"):
        build_sections(ReportOptions((tmp_path,)))
    with pytest.raises(ValueError, match="does not exist"):
        build_sections(ReportOptions((tmp_path / "none",)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paths": ()}, "needs a folder"),
        ({"against": tuple(map(Path, "abc"))}, "one run or two; got 3"),
        ({"failures": -1}, "failures must be"),
        ({"output": Path(__file__)}, "must be a folder"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReportOptions(**{"paths": (Path("x"),), **changes})  # type: ignore[arg-type]


def test_the_command_prints_its_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "in", results({"arc": task(1.0, 0.5, {})}))
    namespace = parse(str(tmp_path / "in"), "--output", str(tmp_path / "out"))
    namespace.func(namespace)
    printed = capsys.readouterr().out
    assert "1.0000 ± 0.5000" in printed and "\033" not in printed
    assert (tmp_path / "out" / "report.html").exists()


def test_arguments_have_their_names(tmp_path: Path) -> None:
    namespace = parse("x", "y", "--against", "a", "b", "--failures", "7")
    assert namespace.paths == [Path("x"), Path("y")]
    assert (namespace.against, namespace.failures) == ([Path("a"), Path("b")], 7)


def test_curves_alone_make_a_report(tmp_path: Path) -> None:
    write_curve(tmp_path / "ppl.jsonl", {128: 10.0, 256: 9.0, 512: 8.0})
    section = section_of([tmp_path], "Perplexity")
    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    assert table.header == ("run", "value", "128", "256", "512")
    lines = {row[1]: row[2:] for row in table.rows}
    assert lines["perplexity of the chunk"] == ("10.00 ± 0.10", "9.00 ± 0.09", "8.00 ± 0.08")
    # Chunks count by the text they stand for: 64, 128 and 256 tokens.
    assert lines["perplexity so far"][2].startswith(f"{(10 * 9**2 * 8**4) ** (1 / 7):.2f} ± ")
    assert lines["bits per byte so far"][0] == f"{64 * math.log2(10) / 256:.3f}"


def test_perplexity_tasks_are_listed_by_length(tmp_path: Path) -> None:
    entry = task(0.0, None, {}, ppl_000512=9.5, ppl_001024=12.25, bits_per_byte=1.5)
    del entry["results"]["score,none"]
    write(tmp_path, results({"ppl_tiny": entry}))
    (table,) = section_of([tmp_path], "Perplexity").blocks
    assert isinstance(table, Table)
    assert table.header[2:] == ("512", "1,024") and table.rows[0][2:] == ("9.50", "12.25")
    (others,) = section_of([tmp_path], "Other tasks").blocks
    assert isinstance(others, Table)
    assert [row[2] for row in others.rows] == ["bits_per_byte"]


def test_a_papers_model_brings_its_perplexities(tmp_path: Path) -> None:
    path = tmp_path / "ppl.jsonl"
    name = "GSAI-ML/LLaDA-8B-Base"
    write_curve(path, {4000: 6.0, 4032: 6.0, 8192: 6.0}, pretrained=name)
    found = measured_perplexities(find_curves([path]).series)
    assert [(m.model, m.benchmark, m.length) for m in found] == [
        ("LLaDA-Base", "perplexity", 4),
        ("LLaDA-Base", "perplexity", 8),
    ]
    assert found[0].value == pytest.approx(6.0)
    assert found[0].stderr == pytest.approx(0.06)
    write_curve(path, {4000: 6.0}, pretrained=name, estimators=["elbo"])
    assert not measured_perplexities(find_curves([path]).series)


def test_without_matplotlib_the_tables_are_written_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "runs", results({"niah_512": niah(512, float)}))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    options = ReportOptions((tmp_path / "runs",), output=tmp_path / "report")
    assert "and no picture. A picture needs matplotlib" in write_report(options)
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        *("report.md", "report.html", "scores.csv")
    }
    assert "![" not in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "tiny-llada, unscaled" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
