"""Samples of the tasks: made from text that is built in, local, or on the hub."""

from __future__ import annotations

from lm_eval_llada.data.tasks import niah_group, niah_lengths, tasks_path

__all__ = ["niah_group", "niah_lengths", "tasks_path"]
