"""Training that is told to stop saves its step, and the same command goes on; fsdp that is not."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.utils import DistributedType

from lm_eval_llada.engine import preemption
from lm_eval_llada.posttrain.__main__ import main
from lm_eval_llada.posttrain.options import options_from
from lm_eval_llada.posttrain.trainer import _check_layout, run
from tests.helpers.posttrain_runs import losses, settings, write_documents, write_yaml


@pytest.fixture
def untold(monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    monkeypatch.setattr(preemption, "_told", None)
    yield monkeypatch
    for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
        signal.signal(number, handler)


def test_a_told_run_saves_its_step_and_goes_on(random_checkpoint, tmp_path, untold, capsys) -> None:
    write_documents(tmp_path)
    whole = run(options_from(settings(random_checkpoint, tmp_path, "whole")))
    values = settings(random_checkpoint, tmp_path, "told", save_strategy="no")
    untold.setattr(preemption, "_told", signal.SIGINT)
    untold.setattr(preemption, "watch", lambda: None)
    assert main([str(write_yaml(values, tmp_path))]) == preemption.EXIT_CODE
    said = "stopped by Ctrl-C after step 1, of which there is a checkpoint"
    assert said in capsys.readouterr().err
    untold.setattr(preemption, "_told", None)
    rest = losses(run(options_from(values)))
    assert rest == losses(whole)


def test_ctrl_c_before_the_first_step_is_a_sentence(
    random_checkpoint, tmp_path, untold, capsys
) -> None:
    def interrupted(options: object) -> None:
        raise KeyboardInterrupt

    write_documents(tmp_path)
    untold.setattr("lm_eval_llada.posttrain.trainer.run", interrupted)
    file = write_yaml(settings(random_checkpoint, tmp_path), tmp_path)
    assert main([str(file)]) == preemption.INTERRUPTED
    assert capsys.readouterr().err.endswith("stopped by Ctrl-C.\n")


@pytest.mark.parametrize(
    ("kind", "fsdp", "is_said"),
    [("MULTI_CPU", "full_shard", True), ("MULTI_CPU", None, False), ("FSDP", "full_shard", False)],
)
def test_fsdp_that_is_not_in_force_is_said(tmp_path, capsys, kind, fsdp, is_said) -> None:
    # Two ranks on CPUs asked for it, and ran as DDP without a word.
    options = options_from(
        {
            "output": "run",
            "data": {"strategy": "eod"},
            "training": {"max_steps": 1, "fsdp": fsdp},
        }
    )
    trainer: Any = SimpleNamespace(
        accelerator=SimpleNamespace(distributed_type=DistributedType[kind]),
        args=SimpleNamespace(n_gpu=0),
        is_fsdp_enabled=bool(fsdp),
        is_deepspeed_enabled=False,
        is_world_process_zero=lambda: True,
    )
    _check_layout(trainer, options)
    said = "training.fsdp='full_shard' is not in force: under MULTI_CPU each rank holds the whole"
    assert (said in capsys.readouterr().out) == is_said
