"""The command line: defaults that suffice, errors in one sentence, and the harness beside ours."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from lm_eval_llada import __version__
from lm_eval_llada.cli import main as cli
from lm_eval_llada.cli import run as cli_run
from lm_eval_llada.tasks.grid import tasks_path
from tests.helpers.command_line import call, check_one_sentence, parsed

ROOT = Path(__file__).resolve().parents[2]
TINY_TASK = str(tasks_path() / "niah" / "niah_tiny.yaml")


@pytest.fixture
def without_other_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the harness the reading of its own thousands of task files, seconds each time."""
    from lm_eval.tasks import TaskManager

    short = functools.partialmethod(TaskManager.__init__, include_defaults=False)
    monkeypatch.setattr(TaskManager, "__init__", short)


def subprocess_of(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_task_folder_is_printed(monkeypatch, capsys) -> None:
    assert call(monkeypatch, "tasks-path") == 0
    assert Path(capsys.readouterr().out.strip()) == tasks_path()


def test_rope_prints_the_golden_scale(monkeypatch, capsys) -> None:
    numbers = ("--rope_theta", "5e5", "--head_dim", "128", "--train_length", "4096")
    assert call(monkeypatch, "rope", *numbers, "--target_length", "16384") == 0
    printed = capsys.readouterr().out
    assert "13.5991" in printed
    assert "d_crit: 64 of 128" in printed
    assert "32 of 64 rotation pairs" in printed


def test_rope_takes_a_file_of_factors(monkeypatch, capsys, tmp_path) -> None:
    numbers = ("--rope_theta", "5e5", "--head_dim", "8", "--train_length", "4096")
    path = tmp_path / "factors.csv"
    path.write_text("1.0\n1.5\n2.5\n4.0\n", encoding="utf-8")
    longrope = ("--target_length", "131072", "--rope_method", "longrope", "--rope_long_factor")
    assert call(monkeypatch, "rope", *numbers, *longrope, str(path)) == 0
    assert "logits of attention by 1.41667" in capsys.readouterr().out
    exact = ("--rope_attention_factor", "1.0")
    assert call(monkeypatch, "rope", *numbers, *longrope, str(path), *exact) == 0
    assert "logits" not in capsys.readouterr().out


def test_rope_reads_a_checkpoint(monkeypatch, capsys, random_checkpoint) -> None:
    assert call(monkeypatch, "rope", "--model_args", f"pretrained={random_checkpoint}") == 0
    assert "trained on 128 tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rope_theta", "5e5"), "missing: --head_dim, --train_length"),
        (("--head_dim", "64", "--model_args", "pretrained=x"), "brings its own rope_theta"),
        (("--d_crit", "8", "--model_args", "d_crit=8"), "d_crit came twice"),
        (("--model_args", "rope_scal=2"), "Did you mean 'rope_scale'"),
        (("--rope_method", "ntkk"), "Did you mean 'ntk'"),
    ],
)
def test_rope_says_what_it_needs(monkeypatch, capsys, arguments, message: str) -> None:
    assert call(monkeypatch, "rope", *arguments) == 1
    assert message in capsys.readouterr().err


def test_rope_draws_the_coverage(monkeypatch, capsys, random_checkpoint, tmp_path) -> None:
    path = tmp_path / "coverage.svg"
    arguments = ("--model_args", f"pretrained={random_checkpoint}", "--plot", str(path))
    assert call(monkeypatch, "rope", *arguments) == 0
    assert f"wrote {path}" in capsys.readouterr().out
    assert path.read_text(encoding="utf-8").lstrip().startswith("<?xml")


def test_report_says_what_it_needs(monkeypatch, capsys, tmp_path) -> None:
    assert call(monkeypatch, "report") == 1
    assert "report needs a folder of results" in capsys.readouterr().err
    assert call(monkeypatch, "report", str(tmp_path / "nowhere")) == 1
    assert "nowhere" in capsys.readouterr().err


def test_help_lists_our_commands(monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit):
        call(monkeypatch, "--help")
    printed = capsys.readouterr().out
    for command in (
        *("tasks-path", "rope", "report", "plan", "verify", "prefetch"),
        *("curve", "plot", "demo", "posttrain"),
    ):
        assert f"\n    {command}" in printed


def test_the_version_is_that_of_the_package(monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "--version")
    assert stop.value.code == 0
    assert capsys.readouterr().out.split() == ["lm-eval-llada", __version__]


@pytest.mark.parametrize(
    "arguments",
    [
        ("rope", "--pretrained", "tiny-llada"),
        ("verify", "pretrained=tiny-llada"),
        ("plan", "--tasks", "niah", "--pretrained", "tiny-llada"),
        ("curve", "--output", "x", "--pretrained", "tiny-llada"),
    ],
)
def test_another_spelling_of_a_checkpoint_is_told_the_right_one(
    monkeypatch, capsys, arguments: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, *arguments)
    assert stop.value.code == 2
    assert "named as in a run: --model_args pretrained=" in capsys.readouterr().err


def test_tasks_of_prefetch_as_of_a_run_are_told_their_place(monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, "prefetch", "--tasks", "niah_tiny")
    assert stop.value.code == 2
    assert "by themselves: prefetch niah,ruler_16k" in capsys.readouterr().err


def test_rope_takes_the_model_args_of_a_run(monkeypatch, capsys, random_checkpoint) -> None:
    name = f"pretrained={random_checkpoint}"
    assert call(monkeypatch, "rope", "--model_args", name, "--target_length", "1024") == 0
    alone = capsys.readouterr().out
    both = ("--model_args", f"{name},target_length=1024,dtype=float32")
    assert call(monkeypatch, "rope", *both) == 0
    assert capsys.readouterr().out == alone


def test_the_front_door_imports_no_torch() -> None:
    numbers = "--rope_theta 5e5 --head_dim 128 --train_length 4096 --target_length 16384"
    for arguments in (["--version"], ["tasks-path"], ["rope", *numbers.split()]):
        code = (
            "import contextlib, sys; from lm_eval_llada.cli.main import main\n"
            f"with contextlib.suppress(SystemExit): main({arguments!r})\n"
            "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
        )
        assert subprocess_of("-c", code).returncode == 0


def test_run_is_understood_without_its_name() -> None:
    for arguments in (["--tasks", "niah"], ["--tasks=niah"], ["run", "--tasks", "niah"]):
        namespace = parsed(*arguments)
        assert (namespace.command, namespace.tasks) == ("run", ["niah"])


@pytest.mark.usefixtures("without_other_tasks")
@pytest.mark.parametrize(
    ("model_args", "lengths"),
    [({}, ["512"]), ({"target_length": 2048}, ["512", "1024", "2048"])],
)
def test_niah_runs_at_the_lengths_that_suit_the_checkpoint(
    random_checkpoint, tmp_path, capsys, model_args, lengths
) -> None:
    given = ",".join(f"{k}={v}" for k, v in {"pretrained": random_checkpoint, **model_args}.items())
    namespace = parsed("--tasks", "niah,niah_tiny", "--model_args", given)
    cli_run.fill_in(namespace, tmp_path)
    from lm_eval.tasks import TaskManager

    # The harness takes the later of two groups of one name, so ours must be the one it finds.
    entry = TaskManager(include_path=namespace.include_path).task_index["niah"]
    assert entry.cfg["task"] == [f"niah_{length}" for length in lengths]
    printed = capsys.readouterr().err
    assert f"niah runs at {', '.join(lengths)} tokens" in printed
    assert f"--tasks niah_{2 * int(lengths[-1])}" in printed


@pytest.fixture
def broken(random_checkpoint: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "broken"
    shutil.copytree(random_checkpoint, folder)
    return folder


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def cut_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 10**6) + b"{")


def drop_mask(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mask_token_id": 50}))


def shrink_vocabulary(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mask_token_id": 6000}))


def forget_mask(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.pop("mask_token_id")
    (folder / "config.json").write_text(json.dumps(config))


def drop_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "is truncated or corrupt"),
        (cut_header, "is truncated or corrupt"),
        (drop_mask, "mask token is id 50, but the tokenizer .* has the ordinary token"),
        (shrink_vocabulary, "mask_token_id=6000 is outside the 600 tokens"),
        (forget_mask, "has no mask_token_id"),
        (drop_tokenizer, "No tokenizer could be loaded"),
    ],
)
def test_a_broken_checkpoint_is_one_sentence(monkeypatch, capsys, broken, damage, message) -> None:
    damage(broken)
    monkeypatch.setenv("WORLD_SIZE", "1")
    arguments = ("--tasks", TINY_TASK, "--model_args", f"pretrained={broken}")
    check_one_sentence(call(monkeypatch, *arguments), capsys.readouterr().err, message)


@pytest.mark.parametrize(
    ("model_args", "message"),
    [
        ("rope_scal=4", "Did you mean 'rope_scale'"),
        ("remasking=entropy", "remasking must be one of"),
        ("gen_length=0", "gen_length must be"),
        ("target_length=64,rope_scale=4", "target_length=64 is shorter than the trained context"),
        ("pretrained=./no/such/model", "'./no/such/model' does not exist"),
        ("tokenizer=./no/such/tokenizer", "'./no/such/tokenizer' does not exist"),
    ],
)
def test_a_wrong_argument_is_one_sentence(
    monkeypatch, capsys, random_checkpoint, model_args: str, message: str
) -> None:
    if "pretrained" not in model_args:
        model_args = f"pretrained={random_checkpoint},{model_args}"
    code = call(monkeypatch, "--tasks", TINY_TASK, "--model_args", model_args)
    check_one_sentence(code, capsys.readouterr().err, message)


@pytest.mark.usefixtures("without_other_tasks")
@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("niah_tinny", "no task, .* 'niah_tinny'. Did you mean 'niah_tiny'"),
        ("./no/task.yaml", "no task, .*no/task.yaml"),
    ],
)
def test_a_misspelt_task_costs_nothing(
    monkeypatch, capsys, random_checkpoint, tasks: str, message: str
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("lm_eval_llada.engine.loading.load_model", refuse)
    code = call(monkeypatch, "--tasks", tasks, "--model_args", f"pretrained={random_checkpoint}")
    check_one_sentence(code, capsys.readouterr().err, message)


@pytest.mark.usefixtures("without_other_tasks")
def test_an_unknown_device_is_one_sentence(monkeypatch, capsys, random_checkpoint) -> None:
    model_args = f"pretrained={random_checkpoint},device=gpu"
    code = call(monkeypatch, "--tasks", TINY_TASK, "--model_args", model_args)
    check_one_sentence(code, capsys.readouterr().err, "device='gpu' is unknown")


def test_arguments_are_checked_before_the_harness_lists_its_tasks(monkeypatch, capsys) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("tasks were listed")

    monkeypatch.setattr("lm_eval.tasks.TaskManager.__init__", refuse)
    code = call(monkeypatch, "--tasks", "niah", "--model_args", "gen_length=0")
    check_one_sentence(code, capsys.readouterr().err, "gen_length must be")


def test_the_traceback_is_there_for_those_who_ask(monkeypatch, random_checkpoint) -> None:
    monkeypatch.setenv(cli.DEBUG, "1")
    with pytest.raises(ValueError, match="gen_length"):
        call(
            monkeypatch,
            *("--tasks", TINY_TASK, "--model_args", f"pretrained={random_checkpoint},gen_length=0"),
        )


def test_a_wrong_argument_fails_the_process() -> None:
    found = subprocess_of("-m", "lm_eval_llada", "--tasks", "niah", "--model_args", "stepz=4")
    check_one_sentence(found.returncode, found.stderr, "Did you mean 'steps'")
    assert found.stdout == ""


@pytest.mark.usefixtures("without_other_tasks")
def test_a_run_writes_results_without_a_network(
    monkeypatch, capsys, random_checkpoint, tmp_path
) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX:
            raise AssertionError(f"connects to {address}")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: pytest.fail(f"looks {args}"))
    code = call(
        monkeypatch,
        *("--tasks", "niah_tiny", "--limit", "2", "--output_path", str(tmp_path)),
        *("--model_args", f"pretrained={random_checkpoint},device=cpu,batch_size=8"),
        *("--gen_kwargs", "gen_length=6,steps=1"),
    )
    assert code == 0
    printed = capsys.readouterr().out
    assert re.search(r"^task +score +95 % +samples", printed, re.MULTILINE)
    assert printed.rstrip().endswith(f"A page of it: lm-eval-llada report {tmp_path}")
    (file,) = tmp_path.rglob("results_*.json")
    results = json.loads(file.read_text())
    assert results["config"]["llada"]["generation"]["niah_tiny"][0]["options"]["gen_length"] == 6
    assert results["config"]["rope"]["train_length"] == 128
    assert results["config"]["batch_sizes"] == [8]
    assert "score,none" in results["results"]["niah_tiny"]


@pytest.mark.slow
def test_plain_lm_eval_finds_the_model_through_a_task_file(random_checkpoint) -> None:
    found = subprocess_of(
        *("-m", "lm_eval", "--model", "llada", "--tasks", TINY_TASK, "--limit", "1"),
        *("--model_args", f"pretrained={random_checkpoint},device=cpu,batch_size=8,steps=1"),
    )
    assert found.returncode == 0, found.stderr
    assert "|niah_tiny|" in found.stdout


def test_importing_the_package_is_light_and_leaves_the_harness_its_models() -> None:
    code = (
        "import sys, lm_eval_llada; from lm_eval.api.registry import model_registry; "
        "print('hf' in model_registry, 'llada' in model_registry, 'torch' in sys.modules)"
    )
    assert subprocess_of("-c", code).stdout.split() == ["True", "True", "False"]
