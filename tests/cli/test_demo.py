"""The demo runs what it prints, draws what it ran, and says only what the scores say."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from lm_eval.tasks._yaml_loader import load_yaml

from lm_eval_llada.cli import demo
from lm_eval_llada.cli.demo import DemoOptions, describe, evaluation_arguments, write_tasks
from lm_eval_llada.cli.main import main
from lm_eval_llada.harness import processes
from lm_eval_llada.harness.processes import run_evaluations
from lm_eval_llada.report.cells import Cell, NeedleScores
from lm_eval_llada.report.frontier import RopeFacts
from lm_eval_llada.tasks.grid import tasks_path

DEPTHS = range(0, 101, 10)

# Stands for the command line: same arguments in, a results file of lm-eval's shape out. The score
# is 100 inside the trained context and past the middle; with NTK it is 90 everywhere.
STAND_IN = """
import json, pathlib, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
scaled = "rope_method=ntk,target_length=1024" in given["--model_args"]
assert given["--model"] == "llada" and "pretrained=tiny-llada" in given["--model_args"]
files = sorted(pathlib.Path(given["--tasks"]).glob("*.yaml"))
lengths = [int(path.stem.removeprefix("niah_demo_")) for path in files]
def score(length, depth):
    return 90.0 if scaled else 100.0 * (length <= 512 or depth >= 50)
rope = {"rope_theta": 10000.0, "rope_scale": 1.0, "head_dim": 64, "train_length": 512,
        "d_crit": 32, "method": "none"}
if scaled:
    rope |= {"rope_theta": 26561.0, "rope_scale": 2.6561, "method": "ntk"}
results = {
    "results": {f"niah_{n}": {f"depth_{d:03d},none": score(n, d) for d in range(0, 101, 10)}
                for n in lengths},
    "configs": {f"niah_{n}": {"metadata": {"length": n}} for n in lengths},
    "n-samples": {f"niah_{n}": {"original": 22, "effective": 22} for n in lengths},
    "config": {"model_args": given["--model_args"], "rope": rope},
}
folder = pathlib.Path(given["--output_path"], "tiny-llada")
folder.mkdir(parents=True)
(folder / "results_2026-01-01T00-00-00.json").write_text(json.dumps(results))
"""


def make_run(label: str, older: float, newer: float, rope_scale: float = 1.0) -> NeedleScores:
    """100 up to 512 tokens; at 1024 one score under the middle depth and one from there on."""
    cells = [Cell(512, d, 100) for d in DEPTHS]
    cells += [Cell(1024, d, older if d < 50 else newer) for d in DEPTHS]
    rope = RopeFacts(1e4, 64, 512, rope_scale)
    return NeedleScores(label, tuple(cells), {512: 22, 1024: 22}, rope)


def use_stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str) -> None:
    script = tmp_path / "stand_in.py"
    script.write_text(source)
    monkeypatch.setattr(processes, "_COMMAND", (sys.executable, str(script)))
    monkeypatch.setattr(processes, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(demo, "resolve_checkpoint", lambda name: name)


def test_the_demo_reports_what_its_evaluations_wrote(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use_stand_in(monkeypatch, tmp_path, STAND_IN)
    output = tmp_path / "out"
    assert main(["demo", "--repeats", "2", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("$ lm-eval-llada --model llada") == 2
    table = printed[printed.index("unscaled: score") :].splitlines()
    assert table[4].split()[:12] == ["1024", *["0"] * 5, *["100"] * 6]
    assert "scores 100 at 256 and 100 at 512 tokens" in printed
    assert "scores 0 on needles in the older half of the context against 100" in printed
    assert "(λ = 2.66) the same needles score 90 and 90" in printed
    assert (output / "heatmaps.png").read_bytes().startswith(b"\x89PNG")


def test_the_newest_results_are_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use_stand_in(monkeypatch, tmp_path, STAND_IN)
    old = tmp_path / "out" / "ntk" / "earlier" / "results_2025-01-01T00-00-00.json"
    old.parent.mkdir(parents=True)
    old.write_text("not the file to read")
    assert main(["demo", "--repeats", "2", "--output", str(tmp_path / "out")]) == 0


def test_a_failed_evaluation_ends_the_demo_with_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The other evaluation would sleep for an hour: a failure must not wait for it.
    source = """
import sys, time
if "rope_method=ntk" in " ".join(sys.argv):
    print("10%\\r20%\\rthis is why", file=sys.stderr)
    sys.exit(3)
time.sleep(3600)
"""
    use_stand_in(monkeypatch, tmp_path, source)
    with pytest.raises(SystemExit, match="1"):
        main(["demo", "--output", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert error.startswith("lm-eval-llada: error: the evaluation 'ntk' failed")
    assert error.rstrip().endswith("this is why") and "20%" not in error


def test_both_evaluations_run_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Each waits for the file that the other writes, so one after the other would never end.
    source = """
import pathlib, sys, time
mine, other = sys.argv[1:]
pathlib.Path(mine).touch()
deadline = time.monotonic() + 20
while not pathlib.Path(other).exists():
    if time.monotonic() > deadline: sys.exit(1)
    time.sleep(0.01)
"""
    use_stand_in(monkeypatch, tmp_path, source)
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    run_evaluations({"a": [one, two], "b": [two, one]}, tmp_path)


def test_the_two_evaluations_differ_in_nothing_but_rope() -> None:
    options = DemoOptions(pretrained="org/model", lengths=(256, 2048), repeats=3)
    plain = evaluation_arguments(options, "name", scaled=False)
    scaled = evaluation_arguments(options, "name", scaled=True)
    differing = [(one, two) for one, two in zip(plain, scaled, strict=True) if one != two]
    assert differing == [
        ("pretrained=org/model", "pretrained=org/model,rope_method=ntk,target_length=2048")
    ]


def test_the_task_files_are_those_of_the_options(tmp_path: Path) -> None:
    (tmp_path / "niah_demo_99.yaml").write_text("from an earlier demo")
    write_tasks(tmp_path, {300: 3, 400: 3})
    assert {path.name for path in tmp_path.iterdir()} == {
        "niah_demo_300.yaml",
        "niah_demo_400.yaml",
    }
    config = load_yaml(tmp_path / "niah_demo_300.yaml", resolve_func=False)
    assert config["metadata"]["length"] == 300 and config["metadata"]["repeats"] == 3
    assert config["generation_kwargs"]["until"] == ["\n"]
    # What a task of the package has and the file does not say comes from the shared file.
    shared = load_yaml(tasks_path() / "niah" / "niah_tiny.yaml", resolve_func=False)
    assert set(config) == set(shared)


@pytest.mark.parametrize(
    ("older", "newer", "older_scaled", "expected"),
    [
        (0, 100, 95, ("loses what is far", "brings 95 points back")),
        (100, 0, 100, ("loses what is near", "no clear difference to the older half")),
        (90, 100, 20, ("depth makes no clear difference", "costs the older half 70 points")),
    ],
)
def test_the_verdict_follows_the_scores(
    older: float, newer: float, older_scaled: float, expected: tuple[str, str]
) -> None:
    scaled = make_run("rope_method=ntk", older_scaled, 100, rope_scale=2.5)
    sentences = describe(make_run("unscaled", older, newer), scaled).split("\n")
    assert len(sentences) == 2
    for sentence, words in zip(sentences, expected, strict=True):
        assert words in sentence and sentence.endswith(".")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "repeats must be a whole number >= 1; got 0"),
        (["--lengths", "512", "256"], r"lengths must ascend; got \[512, 256\]"),
        (["--lengths", "0"], "length must be a whole number >= 1; got 0"),
        (["--pretrained", "./no-such-folder"], "no-such-folder"),
    ],
)
def test_a_wrong_argument_ends_with_one_sentence(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "--pretrained" not in arguments:
        monkeypatch.setattr(demo, "resolve_checkpoint", lambda name: name)
    assert main(["demo", *arguments, "--output", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("lm-eval-llada: error: ") and len(printed.err.splitlines()) == 1
    assert re.search(message, printed.err)
    assert not (tmp_path / "out").exists()


def test_no_more_evaluations_run_at_a_time_than_there_are_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Each counts those that run beside it.
    source = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
mine = folder / f"{sys.argv[2]}.running"
mine.touch()
time.sleep(0.3)
(folder / f"{sys.argv[2]}.seen").write_text(str(len(list(folder.glob("*.running")))))
mine.unlink()
"""
    use_stand_in(monkeypatch, tmp_path, source)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    names = ["a", "b", "c", "d", "e"]
    run_evaluations({name: [str(tmp_path), name] for name in names}, tmp_path)
    seen = [int((tmp_path / f"{name}.seen").read_text()) for name in names]
    assert max(seen) == 2
    assert {path.name for path in tmp_path.glob("*.log")} == {f"{name}.log" for name in names}


def test_a_failure_is_told_even_if_it_comes_after_the_last_look(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_stand_in(monkeypatch, tmp_path, "import sys, time; time.sleep(0.5); sys.exit(3)")
    monkeypatch.setattr(processes, "_REPORT_SECONDS", 0.0)
    # What it prints takes until the evaluation has ended.
    monkeypatch.setattr(
        processes, "_report", lambda running, *_: [process.wait() for process in running.values()]
    )
    with pytest.raises(RuntimeError, match="the evaluation 'a' failed"):
        run_evaluations({"a": []}, tmp_path)
