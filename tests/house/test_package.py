"""The wheel works where the repository is not: it carries its tasks, its model and its commands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

MODEL = "lm_eval_llada.harness.llada:LLaDALM"
ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    """Output of a command that must succeed, run in ``cwd`` with no path to the repository."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(
        *(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT),
        cwd=folder,
    )
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def clean_bin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a new environment that holds the wheel and borrows its dependencies."""
    venv = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=venv)
    python = venv / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=venv)
    # Torch and the rest come from the environment of the tests: downloading them again would need
    # a network and minutes. Its own .pth files are not read this way, so an editable install of
    # this repository there stays out.
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv / "bin"


@pytest.mark.parametrize(
    "pattern",
    [
        "lm_eval_llada/**/*.py",
        "lm_eval_llada/tasks/text/*.txt",
        "lm_eval_llada/tiny/tiny-llada/*.safetensors",
        "lm_eval_llada/tiny/tiny-llada/*.json",
        "tasks/*.yaml",
        "configs/*.yaml",
    ],
)
def test_the_wheel_carries_all_that_the_package_reads(wheel: Path, pattern: str) -> None:
    carried = set(zipfile.ZipFile(wheel).namelist())
    expected = {str(path.relative_to(ROOT)) for path in ROOT.glob(pattern)}
    assert expected
    moved = {f"lm_eval_llada/_{name}" for name in expected}
    assert (expected if pattern.startswith("lm_eval_llada/") else moved) <= carried


def test_the_wheel_installs_one_package_and_nothing_else(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lm_eval_llada"}


def test_the_installed_package_is_the_wheel(clean_bin: Path, tmp_path: Path) -> None:
    code = "import lm_eval_llada; print(lm_eval_llada.__file__)"
    where = Path(run(clean_bin / "python", "-c", code, cwd=tmp_path).strip())
    assert clean_bin.parent in where.parents
    grids = "from lm_eval_llada.tasks.grid import grids_path; print(grids_path())"
    folder = Path(run(clean_bin / "python", "-c", grids, cwd=tmp_path).strip())
    assert folder == where.parent / "_tasks"
    shipped = "from lm_eval_llada.posttrain.shipped import find_config as f; print(f('{}'))"
    found = run(clean_bin / "python", "-c", shipped.format("tiny_ultra.yaml"), cwd=tmp_path)
    assert Path(found.strip()) == where.parent / "_configs" / "tiny_ultra.yaml"


def test_the_installed_package_names_its_model_for_the_harness(
    clean_bin: Path, tmp_path: Path
) -> None:
    code = (
        "from importlib.metadata import entry_points\n"
        "(point,) = entry_points(group='lm_eval.models', name='llada')\n"
        "print(point.value)"
    )
    assert run(clean_bin / "python", "-c", code, cwd=tmp_path).strip() == MODEL


@pytest.mark.slow
def test_the_installed_command_runs_shipped_and_own_tasks_on_the_shipped_model(
    clean_bin: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    block = "generation_kwargs: {until: ['\\n'], do_sample: false, gen_length: 8, steps: 8}"
    (mine / "grid.yaml").write_text(
        "tasks:\n- task: own_${length}_$num\n  axes: {length: [300, 400], num: [0, 2]}\n"
        f"  include: _niah.yaml\n  {block}\n"
        "  metadata: {version: 1, length: $length, num_distractors: $num, repeats: 1}\n"
    )
    (mine / "plain.yaml").write_text(
        f"include: _niah.yaml\ntask: plain\n{block}\nmetadata: {{version: 1, length: 300}}\n"
    )
    names = ["niah_tiny", "own_300_0", "own_400_2", "plain"]
    run(
        *(clean_bin / "lm-eval-llada", "--tasks", ",".join(names), "--limit", "2"),
        *("--include_path", mine),
        *("--model_args", "device=cpu", "--output_path", tmp_path / "results"),
        cwd=tmp_path,
    )
    (path,) = (tmp_path / "results").rglob("results_*.json")
    results = json.loads(path.read_text())
    assert set(results["results"]) == set(names)
    for name in names:
        assert results["n-samples"][name]["effective"] == 2
        assert 0 <= results["results"][name]["score,none"] <= 100


def test_pre_commit_has_the_ruff_of_the_constraints() -> None:
    (pin,) = re.findall(r"^ruff==.+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert f'["{pin}"]' in (ROOT / ".pre-commit-config.yaml").read_text()


@pytest.mark.slow
def test_the_installed_tasks_are_plain_files_for_the_plain_harness(
    clean_bin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tasks = Path(run(clean_bin / "lm-eval-llada", "tasks-path", cwd=tmp_path).strip())
    assert tmp_path / "cache" in tasks.parents
    copied = tmp_path / "copied.yaml"
    text = (tasks / "niah" / "niah_tiny.yaml").read_text()
    copied.write_text(text.replace("task: niah_tiny", "task: mine"))
    out = run(
        *(clean_bin / "python", "-m", "lm_eval", "run", "--model", "llada"),
        *("--tasks", f"{tasks / 'niah' / 'niah_tiny.yaml'},{copied}"),
        *("--limit", "1", "--model_args", "pretrained=tiny-llada"),
        cwd=tmp_path,
    )
    for name in ("niah_tiny", "mine"):
        assert f"|{name}|" in out.replace(" ", "")


def test_the_floors_that_are_tested_are_those_that_are_promised() -> None:
    root = Path(__file__).resolve().parents[2]
    promised = (root / "pyproject.toml").read_text(encoding="utf-8")
    floors = (root / "constraints-floors.txt").read_text(encoding="utf-8")
    ours = floors.split("# The newest")[0]
    pins = [line for line in ours.splitlines() if "==" in line]
    assert len(pins) == 5
    for pin in pins:
        assert f'"{pin.replace("==", ">=").removesuffix(".0")}"' in promised
