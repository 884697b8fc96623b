"""Memory and time that a run needs, from its configuration alone.

Arithmetic on sizes, good to some tens of percent: allocators, kernels and communication differ.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lm_eval_llada.modeling import LLaDAConfig, LLaDAForMaskedLM
from lm_eval_llada.posttrain.loss import LOGITS_AT_ONCE
from lm_eval_llada.posttrain.model import (
    add_lora,
    extended_config,
    runs_by_document,
)
from lm_eval_llada.posttrain.options import PosttrainOptions

GIGABYTE = 2**30
UTILISATION = 0.4
"""Share of a matrix product's speed that training is taken to reach where `tflops` is measured."""

_DEFAULT_BATCH_SIZE = 8  # of TrainingArguments
# Bytes of optimizer state for each weight, by what the optimizer's name holds. AdamW, and whatever
# is not named here, keeps two moments in the weights' own type.
_STATE_BYTES = {"8bit": 2.0, "4bit": 1.0, "adafactor": 0.1, "sgd": 0.0}


@dataclass(frozen=True)
class Machine:
    """What a run has at its disposal.

    Attributes:
        num_ranks: devices.
        memory_gb: of each, in units of 2**30 bytes.
        tflops: of each, sustained in training, in 10**12 operations a second.
        note: where the numbers come from.
    """

    num_ranks: int
    memory_gb: float
    tflops: float
    note: str = "as given"


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    Attributes:
        num_parameters: of the model.
        num_trained: of them and of LoRA's, those that change.
        memory: bytes on one device, by what they hold.
        tokens_per_step: over all devices.
        flops_per_step: over all devices, recomputation included.
        max_steps: of the run.
        machine: the devices.
        is_bound: whether time is the most it can be, as where documents are attended to apart.
    """

    num_parameters: int
    num_trained: int
    memory: Mapping[str, float]
    tokens_per_step: int
    flops_per_step: float
    max_steps: int
    machine: Machine
    is_bound: bool = False

    @property
    def memory_gb(self) -> float:
        """All of one device's memory that is needed, in units of 2**30 bytes."""
        return sum(self.memory.values()) / GIGABYTE

    @property
    def seconds_per_step(self) -> float:
        """Time of a step on the machine."""
        return self.flops_per_step / (self.machine.tflops * 1e12 * self.machine.num_ranks)

    def lines(self) -> list[str]:
        """The estimate in words."""
        machine = self.machine
        parts = ", ".join(f"{name} {size / GIGABYTE:.3g}" for name, size in self.memory.items())
        fits = "fits" if self.memory_gb <= machine.memory_gb else "DOES NOT FIT"
        hours = self.seconds_per_step * self.max_steps / 3600
        about = "at most" if self.is_bound else "about"
        return [
            f"machine: {machine.num_ranks} x {machine.memory_gb:.3g} GB, {machine.tflops:.3g} "
            f"TFLOP/s each ({machine.note})",
            f"parameters: {self.num_parameters:,}, of which trained: {self.num_trained:,}",
            f"memory of each device, estimated: {self.memory_gb:.3g} GB ({parts}): {fits}",
            f"a step: {self.tokens_per_step:,} tokens, {self.flops_per_step / 1e12:.3g} TFLOP, "
            f"{about} {self.seconds_per_step:.3g} s",
            f"the run: {self.max_steps:,} steps, {self.tokens_per_step * self.max_steps:,} tokens, "
            f"{about} {hours:.3g} h",
        ]


def estimate(options: PosttrainOptions, machine: Machine) -> Estimate:
    """What a run takes on a machine; reads the checkpoint's configuration, and no weights.

    Raises:
        ValueError: if the checkpoint cannot be read.
        ImportError: if LoRA is asked for and peft is missing.
    """
    config, _ = extended_config(options)
    with torch.device("meta"):
        model: Any = LLaDAForMaskedLM(config)
        num_parameters = sum(p.numel() for p in model.parameters())
        if options.lora is not None:
            model = add_lora(model, options.lora)
    num_held = sum(p.numel() for p in model.parameters())
    num_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    training = options.training
    samples = training.get("per_device_train_batch_size", _DEFAULT_BATCH_SIZE)
    micro_tokens = samples * options.data.length
    tokens = micro_tokens * training.get("gradient_accumulation_steps", 1) * machine.num_ranks
    shards = machine.num_ranks if is_sharded(training) else 1
    memory = {
        **_states(options, num_held, num_trained, shards),
        **_activations(options, config, micro_tokens),
    }
    flops = tokens * _flops_per_token(options, config, num_parameters)
    return Estimate(
        *(num_parameters, num_trained, memory, tokens, flops, training["max_steps"], machine),
        is_bound=options.data.strategy == "adaptive",
    )


def is_sharded(training: Mapping[str, Any]) -> bool:
    """Whether weights, gradients and optimizer states are spread over the ranks."""
    by_launcher = os.environ.get("ACCELERATE_USE_FSDP") or os.environ.get(
        "ACCELERATE_USE_DEEPSPEED"
    )
    return bool(training.get("fsdp") or training.get("deepspeed") or by_launcher == "true")


def this_machine(
    *, tflops: float | None = None, memory_gb: float | None = None, num_ranks: int | None = None
) -> Machine:
    """The machine this runs on, with what is given in place of what is found.

    Args:
        tflops: sustained by each device; None measures a matrix product and takes `UTILISATION`.
        memory_gb: of each device; None asks the first GPU, or the system where there is none.
        num_ranks: devices; None reads what the launcher has set, and is 1 without one.
    """
    notes = []
    if num_ranks is None:
        num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if memory_gb is None:
        memory_gb = _total_memory() / GIGABYTE
        notes.append("memory found")
    if tflops is None:
        tflops = UTILISATION * _measured_tflops()
        notes.append(f"speed {UTILISATION:.0%} of a matrix product measured here")
    return Machine(num_ranks, memory_gb, tflops, ", ".join(notes) or "as given")


def _bytes(dtype: str) -> int:
    return 2 if dtype in ("bfloat16", "float16") else 4


def _states(
    options: PosttrainOptions, num_held: int, num_trained: int, shards: int
) -> dict[str, float]:
    """Bytes of weights, gradients and optimizer states on one device."""
    size = _bytes(options.dtype)
    name = str(options.training.get("optim", "adamw_torch_fused"))
    states = next((held for part, held in _STATE_BYTES.items() if part in name), 2.0 * size)
    return {
        "weights": size * num_held / shards,
        "gradients": size * num_trained / shards,
        "optimizer": states * num_trained / shards,
    }


def _activations(
    options: PosttrainOptions, config: LLaDAConfig, micro_tokens: int
) -> dict[str, float]:
    """Bytes kept for the backward pass of one micro-batch on one device."""
    mixed = options.training.get("bf16") or options.training.get("fp16")
    size = 2 if mixed else _bytes(options.dtype)
    kv_width = config.n_kv_heads * config.head_dim
    # Of a block: residual stream, two norms, query, key, value, both rotated, attention's output
    # and its projection; then gate, its activation, up and their product.
    of_block = (
        size * micro_tokens * (7 * config.d_model + 3 * kv_width + 4 * config.mlp_hidden_size)
    )
    of_boundary = size * micro_tokens * config.d_model
    blocks = config.n_layers * of_block
    if is_checkpointed(options.training):
        blocks = config.n_layers * of_boundary + of_block
    head = 3 * 4 * min(LOGITS_AT_ONCE, micro_tokens * config.embedding_size)
    sizes = {"activations": float(blocks), "logits": float(head)}
    # flash and flex attention, and documents one by one, need no mask of length x length.
    is_dense = options.attn_implementation in ("sdpa", "eager") and not runs_by_document(options)
    if options.data.strategy == "adaptive" and is_dense:
        sizes["document mask"] = float(micro_tokens * options.data.length)
    return sizes


def is_checkpointed(training: Mapping[str, Any]) -> bool:
    """Whether activations are made again in the backward pass."""
    config = training.get("fsdp_config")
    by_fsdp = isinstance(config, Mapping) and config.get("activation_checkpointing")
    names = ("activation_checkpointing", "gradient_checkpointing")
    return bool(by_fsdp or any(training.get(name) for name in names))


def _flops_per_token(options: PosttrainOptions, config: LLaDAConfig, num_parameters: int) -> float:
    """Operations of training on one token: 6 for each weight in a product, and attention's.

    The LM head runs for masked tokens, half of all on average; a token attends to the whole
    sample, which is the most that any strategy lets it do.
    """
    embedding = config.embedding_size * config.d_model
    blocks = num_parameters - embedding * (1 if config.weight_tying else 2)
    attention = 2 * options.data.length * config.d_model * config.n_layers
    forward = 2.0 * (blocks + embedding / 2 + attention)
    # The gradients of activations cost as much again, and so do those of weights, which LoRA
    # hardly has, and activations that are made again.
    return forward * (2 + (options.lora is None) + is_checkpointed(options.training))


def _total_memory() -> float:
    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _measured_tflops() -> float:
    """Speed of a square matrix product on this device, in 10**12 operations a second."""
    on_gpu = torch.cuda.is_available()
    size, dtype = (8192, torch.bfloat16) if on_gpu else (1024, torch.float32)
    matrix = torch.ones(size, size, dtype=dtype, device="cuda" if on_gpu else "cpu")
    seconds = []
    for _ in range(4):  # the first warms up
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds[1:]) / 1e12
