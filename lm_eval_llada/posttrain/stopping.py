"""A run that is told to stop saves a checkpoint after the step, and the same command goes on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lm_eval_llada.engine import preemption


class StopWhenTold(TrainerCallback):
    """Ends training after a step in which any rank was told to.

    Attributes:
        is_told: Whether one was, as all ranks agreed before this step.
    """

    def __init__(self) -> None:
        """Nobody was told yet."""
        self.is_told = False

    def agree(self, num_items: Tensor, accelerator: Any) -> Tensor:
        """A sum over ranks, and on the way whether one of them was told to stop.

        Ranks hear of a signal at different moments, and a checkpoint takes all of them.

        Args:
            num_items: Of this rank, int64 ().
            accelerator: Of the Trainer.
        """
        told = torch.tensor(preemption.was_told(), dtype=num_items.dtype, device=num_items.device)
        total = accelerator.reduce(torch.stack([num_items, told]), "sum")
        self.is_told = bool(total[1])
        return total[0]

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Asks for a checkpoint and the end."""
        if self.is_told:
            control.should_save = control.should_training_stop = True

    def check(self, state: TrainerState) -> None:
        """Stops here, behind the checkpoint, unless training had come to its end anyway.

        Raises:
            Preempted: if the run was told to stop.
        """
        if self.is_told and state.global_step < state.max_steps:
            preemption.check(
                f"after step {state.global_step}, of which there is a checkpoint; the same command "
                "goes on from it"
            )
            # Another rank was told, and this one not yet.
            raise preemption.Preempted(f"stopped after step {state.global_step}.")
