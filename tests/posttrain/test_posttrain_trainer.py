"""A run of post-training: exact after a kill, the same on two ranks, saved ready to evaluate."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lm_eval_llada.modeling import load_config, load_model
from lm_eval_llada.posttrain import trainer
from lm_eval_llada.posttrain.__main__ import main
from lm_eval_llada.posttrain.options import options_from
from lm_eval_llada.posttrain.resume import last_whole_checkpoint
from lm_eval_llada.posttrain.trainer import PosttrainTrainer, run
from lm_eval_llada.rope import RopeChoice
from tests.helpers.posttrain_runs import LENGTH, losses, settings, write_yaml

ROOT = Path(__file__).resolve().parents[2]
LORA = {"r": 2, "lora_alpha": 4, "lora_dropout": 0.3}


class Killed(Exception):
    pass


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ends the run after the forward pass of a step, as a kill would."""
    train_step = PosttrainTrainer.training_step

    def stopping(self, *args, **kwargs):
        if self.state.global_step == step:
            raise Killed
        return train_step(self, *args, **kwargs)

    monkeypatch.setattr(PosttrainTrainer, "training_step", stopping)


def record(output: Path) -> dict:
    return json.loads((output / "posttrain.json").read_text())


@pytest.mark.parametrize("lora", [None, LORA], ids=["all weights", "lora with dropout"])
def test_a_killed_run_goes_on_with_the_losses_it_would_have_had(
    random_checkpoint, tmp_path, monkeypatch, lora
) -> None:
    values = settings(random_checkpoint, tmp_path, "whole") | {"lora": lora}
    expected = losses(run(options_from(values)))
    assert list(expected) == [1, 2, 3, 4, 5, 6]
    options = options_from(values | {"output": str(tmp_path / "killed")})
    step = random.Random().randint(2, 5)
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(Killed):
            run(options)
    assert losses(run(options)) == expected, f"killed at step {step}"
    one, two = (record(tmp_path / name) for name in ("whole", "killed"))
    assert (one["samples"], one["packing"]) == (two["samples"], two["packing"])
    weights = [load_model(tmp_path / name).state_dict() for name in ("whole", "killed")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
def test_sigkill_at_random_moments_changes_no_digit(random_checkpoint, tmp_path) -> None:
    steps = {"max_steps": 30, "save_steps": 3}
    expected = losses(run(options_from(settings(random_checkpoint, tmp_path, "whole", **steps))))
    assert len(expected) == 30
    values = settings(random_checkpoint, tmp_path, "killed", **steps)
    command = [sys.executable, "-m", "lm_eval_llada.posttrain", str(write_yaml(values, tmp_path))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    output, generator = tmp_path / "killed", random.Random()
    for saved in (generator.randint(1, 4), generator.randint(5, 8)):
        process = subprocess.Popen(command, cwd=ROOT, env=environment)
        while len(list(output.glob("checkpoint-*"))) < saved and process.poll() is None:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.3))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"
    assert losses(run(options_from(values))) == expected
    one, two = (record(tmp_path / name) for name in ("whole", "killed"))
    assert one["packing"] == two["packing"]


def test_a_finished_run_trains_no_further_when_it_is_started_again(
    random_checkpoint, tmp_path
) -> None:
    options = options_from(settings(random_checkpoint, tmp_path, max_steps=2))
    once = losses(run(options))
    weights = load_model(tmp_path / "run").state_dict()
    assert losses(run(options)) == once
    again = load_model(tmp_path / "run").state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert record(tmp_path / "run")["samples"] == 8


def test_a_checkpoint_that_a_kill_left_half_written_is_passed_over(
    random_checkpoint, tmp_path
) -> None:
    run(options_from(settings(random_checkpoint, tmp_path)))
    output = tmp_path / "run"
    assert last_whole_checkpoint(output) == output / "checkpoint-6"
    state = output / "checkpoint-6" / "trainer_state.json"
    state.write_text(state.read_text()[:40])
    assert last_whole_checkpoint(output) == output / "checkpoint-4"
    (output / "checkpoint-4" / "rng_state.pth").unlink()
    assert last_whole_checkpoint(output) == output / "checkpoint-2"
    assert last_whole_checkpoint(tmp_path) is None


def test_a_run_refuses_to_go_on_from_other_settings(random_checkpoint, tmp_path) -> None:
    values = settings(random_checkpoint, tmp_path, max_steps=2)
    run(options_from(values))
    other = values | {"objective": {"loss": "unweighted"}}
    with pytest.raises(ValueError, match="objective: .*weighted.* there, .*unweighted.* here"):
        run(options_from(other))
    fewer = values | {"training": values["training"] | {"gradient_accumulation_steps": 1}}
    with pytest.raises(ValueError, match="global_batch: 4 there, 2 here"):
        run(options_from(fewer))


def test_micro_batches_do_not_change_the_losses(random_checkpoint, tmp_path) -> None:
    logs = {}
    for size in (1, 4):
        values = settings(
            random_checkpoint,
            tmp_path,
            f"of_{size}",
            max_steps=3,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=4 // size,
        )
        logs[size] = losses(run(options_from(values)))
    assert logs[1] == pytest.approx(logs[4], rel=1e-4)


def test_gradient_checkpointing_and_a_worker_do_not_change_the_losses(
    random_checkpoint, tmp_path
) -> None:
    plain = settings(random_checkpoint, tmp_path, "plain", max_steps=2)
    other = settings(random_checkpoint, tmp_path, "other", max_steps=2, gradient_checkpointing=True)
    other["data"]["num_workers"] = 1
    one, two = (losses(run(options_from(values))) for values in (plain, other))
    assert one == pytest.approx(two, rel=1e-6)


@pytest.mark.slow
def test_two_ranks_have_the_losses_of_one(random_checkpoint, tmp_path) -> None:
    one = settings(random_checkpoint, tmp_path, "one", max_steps=20, save_strategy="no")
    two = settings(
        random_checkpoint,
        tmp_path,
        "two",
        max_steps=20,
        save_strategy="no",
        gradient_accumulation_steps=1,
    )
    # Without a backend each process once trained by itself, over the files of the other.
    two["training"].pop("use_cpu")
    command = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    done = subprocess.run(
        [
            *(sys.executable, *command, "-m", "lm_eval_llada.posttrain"),
            str(write_yaml(two, tmp_path)),
            *("--tflops", "1", "--memory_gb", "1"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = losses(run(options_from(one)))
    assert len(expected) == 20
    found = record(tmp_path / "two")
    assert found["num_ranks"] == 2
    assert losses(found["log"]) == pytest.approx(expected, abs=1e-4)
    assert found["samples"] == record(tmp_path / "one")["samples"] == 80


def test_processes_that_would_train_apart_are_stopped(
    random_checkpoint, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(trainer, "TrainingArguments", lambda **_: SimpleNamespace(world_size=1))
    options = options_from(settings(random_checkpoint, tmp_path))
    with pytest.raises(ValueError, match="2 processes were started, but each would train"):
        trainer.training_arguments(options)


def test_the_result_is_evaluated_without_a_rope_argument(random_checkpoint, tmp_path) -> None:
    run(options_from(settings(random_checkpoint, tmp_path, max_steps=1)))
    before, after = load_config(random_checkpoint), load_config(tmp_path / "run")
    scale = after.rope_theta / before.rope_theta
    assert scale > 1
    assert after.rope_scale == pytest.approx(scale)
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["rope_theta"] == saved["rope_parameters"]["rope_theta"] == after.rope_theta
    assert saved["architectures"] == ["LLaDAForMaskedLM"]
    assert (after.train_length, after.max_sequence_length) == (128, 1024)
    again = RopeChoice(method="diffusion_ntk", target_length=2048)
    with pytest.raises(ValueError, match="extended already.*force_rope=true"):
        load_model(tmp_path / "run", rope=again)
    assert load_model(tmp_path / "run", rope=RopeChoice(target_length=2048, force=True))
    with pytest.raises(ValueError, match="extended already"):
        run(options_from(settings(tmp_path / "run", tmp_path, "twice", max_steps=1)))


def test_samples_longer_than_the_trained_context_become_it(random_checkpoint, tmp_path) -> None:
    values = settings(random_checkpoint, tmp_path, max_steps=1)
    values["data"]["length"] = 160
    run(options_from(values))
    config = load_config(tmp_path / "run")
    assert (config.train_length, config.max_sequence_length) == (160, 1024)


def test_needles_are_looked_for_on_the_way(random_checkpoint, tmp_path) -> None:
    values = settings(random_checkpoint, tmp_path, max_steps=2)
    # The answer is five digits and a full stop.
    values["evaluation"] = {"every": 1, "lengths": [100], "depths": [0, 100], "steps": 1}
    scores = [line["eval_niah_100"] for line in run(options_from(values)) if "eval_niah" in line]
    assert scores == [0, 0]  # a random model finds none


def test_lora_changes_the_attention_alone_and_is_merged_in(random_checkpoint, tmp_path) -> None:
    values = settings(random_checkpoint, tmp_path, max_steps=2, learning_rate=0.1, warmup_steps=0)
    run(options_from(values | {"lora": {"r": 2}}))
    before, after = (
        load_model(folder).state_dict() for folder in (random_checkpoint, tmp_path / "run")
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    projections = ("q_proj", "k_proj", "v_proj", "attn_out")
    assert changed == {name for name in before if name.split(".")[-2] in projections}


def test_lora_without_peft_names_the_extra(random_checkpoint, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    values = settings(random_checkpoint, tmp_path) | {"lora": {"r": 2}}
    with pytest.raises(ImportError, match=r'pip install -e "\.\[train\]"'):
        run(options_from(values))


def test_documents_that_are_used_up_are_an_error_and_not_the_end(
    random_checkpoint, tmp_path
) -> None:
    values = settings(random_checkpoint, tmp_path)
    values["data"] |= {"epochs": 1, "length": 2000}
    with pytest.raises(ValueError, match="used up after . samples.*training.max_steps"):
        run(options_from(values))


def test_a_loss_that_is_not_finite_ends_the_run(random_checkpoint, tmp_path) -> None:
    values = settings(random_checkpoint, tmp_path, learning_rate=1e30, max_grad_norm=0.0)
    with pytest.raises(ValueError, match="The loss is (nan|inf) at step"):
        run(options_from(values))


def test_the_command_says_what_is_wrong_in_one_line(random_checkpoint, tmp_path, capsys) -> None:
    path = write_yaml(settings(random_checkpoint, tmp_path), tmp_path)
    assert main([str(path), "training.max_step=3"]) == 1
    assert "no 'max_step'. Did you mean 'max_steps'?" in capsys.readouterr().err


def test_a_dry_run_prints_the_estimate_and_trains_nothing(
    random_checkpoint, tmp_path, capsys
) -> None:
    path = write_yaml(settings(random_checkpoint, tmp_path), tmp_path)
    assert main([str(path), "--dry_run", "--tflops", "0.1", "--memory_gb", "8"]) == 0
    printed = capsys.readouterr().out
    assert f"a step: {4 * LENGTH} tokens" in printed
    assert "machine: 1 x 8 GB, 0.1 TFLOP/s each (as given)" in printed
    assert not (tmp_path / "run").exists()
