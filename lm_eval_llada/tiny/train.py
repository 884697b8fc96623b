"""Trains a tiny LLaDA on CPU: `python -m lm_eval_llada.tiny.train --output my-tiny --seed 0`.

With `--objective causal` it trains the LLaMA that differs from it in nothing but the direction of
attention and the loss that goes with it; with `--objective block` a model that is causal between
blocks. `--start-from tiny-llada` goes on from trained weights of the same sizes.

A run goes through the curriculum, then trains for a fixed number of steps at a constant learning
rate and lets it fall to zero. It saves its whole state every few minutes: the same command
goes on after a kill, with the numbers it would have had without it. No position of 512 or more and
no RoPE scale is ever seen.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.tiny.corpus import (
    BOS_ID,
    Corpus,
    read_corpus,
    train_tokenizer,
)
from lm_eval_llada.tiny.curriculum import Batch, Stage, begun_with
from lm_eval_llada.tiny.decoding_order import reveal_surest
from lm_eval_llada.tiny.export import save_checkpoint
from lm_eval_llada.tiny.objectives import (
    block_matrices,
    build_model,
    predict,
)
from lm_eval_llada.tiny.recipes import RECIPES
from lm_eval_llada.tiny.start import start_from
from lm_eval_llada.tiny.training_options import TrainingOptions

AVERAGING = 0.97
"""Decay per batch of the running accuracies and losses."""


class Trainer:
    """One run: model, optimizers, sample stream, and the place in the curriculum."""

    def __init__(self, options: TrainingOptions, corpus: Corpus) -> None:
        """A fresh run."""
        self.options = options
        self.corpus = corpus
        self.recipe = RECIPES[options.recipe]
        start = options.start_from
        base = load_tokenizer(start).backend_tokenizer if start else train_tokenizer(corpus)
        self.tokenizer = self.recipe.extend_tokenizer(base)
        self.maker = self.recipe.make_samples(
            corpus, self.tokenizer, options.seed, is_causal=options.objective != "masked"
        )
        config = options.model_config(self.tokenizer.get_vocab_size())
        self.model = build_model(
            config,
            options.seed,
            is_causal=options.is_causal,
            with_neighbours=options.first_layer == "neighbours",
        )
        if start:
            start_from(self.model, start)
        self.optimizers = self._make_optimizers()
        self.step = 0
        self.stage = 0
        self.stage_start = 0
        self.num_tokens = 0
        self.seconds = 0.0
        self.averages: dict[str, tuple[float, float]] = {}
        self.log: list[dict[str, Any]] = []

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        # Muon is meant for the matrices inside blocks only.
        matrices = block_matrices(self.model)
        chosen = {id(p) for p in matrices}
        others = [p for p in self.model.parameters() if id(p) not in chosen]
        rate = self.options.learning_rate
        return [
            torch.optim.Muon(
                matrices,
                lr=rate,
                weight_decay=self.options.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]

    @property
    def in_tail(self) -> bool:
        """Whether the curriculum is over."""
        return self.stage == len(self.recipe.stages)

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        tail = self.options.constant_steps + self.options.decay_steps
        return self.in_tail and self.step - self.stage_start >= tail

    def current_stage(self) -> Stage:
        """The stage batches are drawn for."""
        recipe = self.recipe
        return recipe.final_stage if self.in_tail else recipe.stages[self.stage]

    def learning_rate(self) -> float:
        """Of the next step: warm-up, constant, linear decay to zero."""
        options = self.options
        rate = options.learning_rate * min(1.0, (self.step + 1) / options.warmup_steps)
        if self.in_tail:
            left = options.constant_steps + options.decay_steps - (self.step - self.stage_start)
            rate *= min(1.0, left / max(1, options.decay_steps))
        return rate

    def train_step(self) -> None:
        """One batch: loss, update, running averages, and perhaps the next stage."""
        start = time.perf_counter()
        options = self.options
        size = options.tail_tokens_per_batch if self.in_tail else options.tokens_per_batch
        batch = self.recipe.draw_batch(self.maker, self.current_stage(), size)
        if options.first_token == "bos":
            batch = begun_with(batch, BOS_ID)
        # Of its own, so that the samples are those of the causal twin, which reveals nothing.
        rng = np.random.default_rng((options.seed, self.step))
        is_revealed = options.objective == "masked" and rng.random() < options.reveal_share
        if is_revealed:
            batch = reveal_surest(self.model, batch, rng)
        with torch.autocast("cpu", torch.bfloat16):
            logits = predict(self.model, batch, self.maker.array_rng)
        losses = F.cross_entropy(logits.float(), batch.targets, reduction="none")
        (losses * batch.weights).sum().div(batch.input_ids.shape[0]).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        rate = self.learning_rate()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.num_tokens += batch.input_ids.numel()
        if not is_revealed:
            # What is left behind the surest tokens would make the averages look worse.
            self._average(batch, losses.detach(), logits.detach())
        self._maybe_advance()
        self.seconds += time.perf_counter() - start

    def _average(self, batch: Batch, losses: Tensor, logits: Tensor) -> None:
        is_right = logits.argmax(dim=-1) == batch.targets
        kinds = np.array(batch.kinds)[batch.rows[:, 0].numpy()]
        for kind in sorted(set(batch.kinds)):
            is_kind = torch.from_numpy(kinds == kind)
            right = is_right[is_kind & batch.is_decisive].float()
            means = {"loss": losses[is_kind].mean().item()}
            if len(right):
                means["accuracy"] = right.mean().item()
            for name, value in means.items():
                total, weight = self.averages.get(f"{kind}_{name}", (0.0, 0.0))
                total, weight = AVERAGING * total + value, AVERAGING * weight + 1
                self.averages[f"{kind}_{name}"] = (total, weight)

    def average(self, key: str) -> float:
        """A running average by its name, such as `needle_accuracy`; 0 before the first value."""
        total, weight = self.averages.get(key, (0.0, 0.0))
        return total / weight if weight else 0.0

    def _maybe_advance(self) -> None:
        spent = self.step - self.stage_start
        if self.in_tail or spent < self.options.min_stage_steps:
            return
        stage = self.current_stage()
        asked = self._accuracies() if stage.max_needles else ["copy_accuracy"]
        reached = fmean(self.average(name) for name in asked) if asked else 0.0
        if reached >= stage.accuracy or spent >= self.options.max_stage_steps:
            self.stage += 1
            self.stage_start = self.step
            for name in self._accuracies():
                del self.averages[name]

    def _accuracies(self) -> list[str]:
        """Names of the running accuracies of what is asked, copies and prose aside."""
        apart = ("copy_accuracy", "continuation_accuracy", "text_accuracy")
        return [name for name in self.averages if name.endswith("_accuracy") and name not in apart]

    def report(self) -> dict[str, Any]:
        """One line of the log."""
        line = {
            "step": self.step,
            "stage": self.stage,
            "length": self.current_stage().length,
            "minutes": round(self.seconds / 60, 2),
            "tokens_per_second": round(self.num_tokens / max(self.seconds, 1e-9)),
            **{key: round(self.average(key), 4) for key in sorted(self.averages)},
        }
        self.log.append(line)
        return line

    def state_dict(self) -> dict[str, Any]:
        """Everything the rest of the run depends on."""
        return {
            "options": asdict(self.options),
            "corpus_sha256": self.corpus.sha256,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "rng": self.maker.rng.getstate(),
            "array_rng": self.maker.array_rng.bit_generator.state,
            "progress": {name: getattr(self, name) for name in _PROGRESS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where a saved run stopped.

        Raises:
            ValueError: if the saved run had other options or another corpus.
        """
        ours = {"options": asdict(self.options), "corpus_sha256": self.corpus.sha256}
        # Runs that were saved before an option was there had what is now its default.
        theirs = {**state, "options": {**asdict(TrainingOptions()), **state["options"]}}
        progress = state["progress"]
        spent = progress["step"] - progress["stage_start"]
        in_tail = progress["stage"] == len(self.recipe.stages)
        earliest = min(theirs["options"]["constant_steps"], self.options.constant_steps)
        if not in_tail or spent <= earliest:
            # Up to here the rate has fallen under neither schedule, so both led to this state.
            for name in ("constant_steps", "decay_steps"):
                theirs["options"][name] = getattr(self.options, name)
        for name, value in ours.items():
            if theirs[name] != value:
                raise ValueError(
                    f"The saved run has {name}={theirs[name]}, this one {value}; give the same "
                    f"arguments, or another --output."
                )
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.maker.rng.setstate(state["rng"])
        self.maker.array_rng.bit_generator.state = state["array_rng"]
        for name, value in state["progress"].items():
            setattr(self, name, value)


_PROGRESS = ("step", "stage", "stage_start", "num_tokens", "seconds", "averages", "log")


def run(trainer: Trainer, output: Path, save_minutes: float = 3.0, log_every: int = 50) -> None:
    """Trains to the end, saving the state on the way and the checkpoint at the end."""
    output.mkdir(parents=True, exist_ok=True)
    state_path = output / "state.pt"
    if state_path.exists():
        trainer.load_state_dict(torch.load(state_path, weights_only=False))
        print(f"resumed at step {trainer.step}", flush=True)
    saved = time.monotonic()
    while not trainer.finished:
        stage = trainer.stage
        trainer.train_step()
        if trainer.step % log_every == 0 or trainer.stage != stage:
            print(json.dumps(trainer.report()), flush=True)
        if time.monotonic() - saved > save_minutes * 60:
            _save_state(trainer, state_path)
            saved = time.monotonic()
    _save_state(trainer, state_path)
    save_checkpoint(trainer.model, trainer.tokenizer, output, _training_record(trainer))
    print(f"wrote {output}", flush=True)


def _save_state(trainer: Trainer, path: Path) -> None:
    """Writes beside and renames, so that a kill leaves the old state or the new one."""
    partial = path.with_suffix(".partial")
    torch.save(trainer.state_dict(), partial)
    os.replace(partial, path)


def _training_record(trainer: Trainer) -> dict[str, Any]:
    return {
        "options": asdict(trainer.options),
        "python_version": trainer.corpus.python_version,
        "corpus_sha256": trainer.corpus.sha256,
        "torch_version": torch.__version__,
        "machine": platform.machine(),
        "num_threads": torch.get_num_threads(),
        "steps": trainer.step,
        "tokens": trainer.num_tokens,
        "minutes": round(trainer.seconds / 60, 1),
        "stages": [asdict(stage) for stage in _stages(trainer)],
        "log": trainer.log,
    }


def _stages(trainer: Trainer) -> list[Stage]:
    return [*trainer.recipe.stages, trainer.recipe.final_stage]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for state and weights")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for name, default in asdict(TrainingOptions()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    arguments = vars(parser.parse_args())
    output, threads = arguments.pop("output"), arguments.pop("threads")
    torch.set_num_threads(threads)
    run(Trainer(TrainingOptions(**arguments), read_corpus()), output)


if __name__ == "__main__":
    main()
