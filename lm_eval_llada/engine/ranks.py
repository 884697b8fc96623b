"""Ranks of a run under torchrun or accelerate, on GPUs and on CPUs, and the device of each.

Every rank holds a whole model and works on its own share of the requests, so ranks only exchange a
few small objects. Those go over gloo, which needs no GPU. Where some ranks hold a model together,
by tensor parallelism, they count as one: all of them do all of its work, and each exchanges objects
with the ranks that have its place in the other copies.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# A rank that is done waits for the slowest one, which a long run can keep busy for days.
_TIMEOUT = timedelta(weeks=52)


@dataclass(frozen=True)
class Ranks:
    """This process, or the copy of the model that it has part of, among those of the run.

    Attributes:
        rank: Index over all nodes.
        world_size: Number of processes or copies over all nodes.
        local_rank: Index of the process on this node, which is the index of its GPU.
        group: The gloo group of as many ranks; None for a single one.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    group: Any = None

    def all_gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks, concatenated in order of rank, on the device of this one's.

        Args:
            tensor: Of the same shape on every rank; a scalar counts as one element.
        """
        if self.world_size == 1:
            return tensor
        here = tensor.detach().cpu().reshape(-1, *tensor.shape[1:])
        parts = [torch.empty_like(here) for _ in range(self.world_size)]
        dist.all_gather(parts, here, group=self.group)
        return torch.cat(parts).to(tensor.device)

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """The objects of all ranks in order of rank on rank `dst`, None on the others."""
        if self.world_size == 1:
            return [obj]
        gathered = [None] * self.world_size if self.rank == dst else None
        root = dist.get_global_rank(self.group, dst)
        dist.gather_object(obj, gathered, dst=root, group=self.group)
        return gathered

    def all_gather_object(self, obj: Any) -> list[Any]:
        """The objects of all ranks in order of rank, on every rank."""
        if self.world_size == 1:
            return [obj]
        gathered = [None] * self.world_size
        dist.all_gather_object(gathered, obj, group=self.group)
        return gathered

    def first_of(self, purpose: str, order: Sequence[str]) -> str:
        """The purpose that comes first in `order` among those of all ranks, on every rank."""
        return min(self.all_gather_object(purpose), key=order.index)

    def exchange_objects(self, outgoing: Sequence[Any]) -> list[Any]:
        """What every rank has for this one, in order of rank.

        Ranks take turns to scatter, since gloo has no exchange of objects; gathering everything
        everywhere would fill the memory with the requests of all ranks.

        Args:
            outgoing: What this rank has for each, itself included.
        """
        if self.world_size == 1:
            return list(outgoing)
        received: list[Any] = []
        for source in range(self.world_size):
            box = [None]
            parts = list(outgoing) if source == self.rank else None
            root = dist.get_global_rank(self.group, source)
            dist.scatter_object_list(box, parts, src=root, group=self.group)
            received.append(box[0])
        return received


def place_of_process() -> Ranks:
    """The place of this process by the launcher's word, before any ranks are connected."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    numbers = [
        int(os.environ.get(name, default)) for name, default in zip(names, "010", strict=True)
    ]
    return Ranks(*numbers)


def join_ranks(tp: int | None = None) -> Ranks:
    """This process among those that torchrun or accelerate has started, once all have joined.

    Differs from the harness' own `hf` model, which takes ranks into account on more than one GPU
    only, so that on CPUs every rank would do all of the work.

    Args:
        tp: Ranks that share each layer of a model; None if each has a whole one.

    Returns:
        The place of this process, or with `tp` that of its copy of the model; rank 0 of 1 where no
        launcher has set WORLD_SIZE, or all ranks share one copy, which transformers connects.

    Raises:
        ValueError: If the number of ranks is no multiple of `tp`.
    """
    place = place_of_process()
    if tp is not None:
        return _join_copies(tp, place)
    if place.world_size == 1 and not (dist.is_available() and dist.is_initialized()):
        return Ranks()
    if dist.is_initialized():
        # Someone else chose the backend, such as NCCL, which only moves GPU memory.
        group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
    else:
        dist.init_process_group("gloo", timeout=_TIMEOUT)
        group = dist.group.WORLD
    return Ranks(dist.get_rank(), dist.get_world_size(), place.local_rank, group)


def _join_copies(tp: int, place: Ranks) -> Ranks:
    if place.world_size % tp:
        raise ValueError(
            f"tp={tp} needs as many ranks or a multiple, but {place.world_size} run; start with "
            f"torchrun --nproc_per_node={tp}."
        )
    if place.world_size == tp:
        return Ranks()
    if not dist.is_initialized():
        # Layers are shared over the backend of their device, and everything else over gloo.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=_TIMEOUT)
    copy, part = divmod(place.rank, tp)
    groups = [
        dist.new_group(list(range(first, place.world_size, tp)), timeout=_TIMEOUT, backend="gloo")
        for first in range(tp)
    ]
    return Ranks(copy, place.world_size // tp, place.local_rank, groups[part])


def own_gpu_memory() -> dict[int, int] | None:
    """What a model that is spread over GPUs may use of each while other ranks spread theirs.

    The GPUs of a node are parted among its ranks in order, equally many each, so that two ranks on
    eight GPUs hold a model over four each.

    Returns:
        Free bytes of this rank's GPUs and 0 for the others; None where it may use all of them.

    Raises:
        ValueError: If there are fewer GPUs than ranks.
    """
    num_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    num_gpus = torch.cuda.device_count()
    if num_ranks == 1 or num_gpus == 0:
        return None
    if num_gpus < num_ranks:
        raise ValueError(
            f"{num_ranks} ranks cannot each spread a model over {num_gpus} GPUs; start at most "
            f"{num_gpus}."
        )
    share, first = num_gpus // num_ranks, place_of_process().local_rank * (num_gpus // num_ranks)
    own = range(first, first + share)
    return {i: torch.cuda.mem_get_info(i)[0] if i in own else 0 for i in range(num_gpus)}


def leave_ranks() -> None:
    """Closes the connections to the other ranks, if there are any."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def choose_device(name: str, *, local_rank: int = 0, world_size: int = 1) -> torch.device:
    """The device a rank runs on.

    Args:
        name: auto (the GPU of this rank if there is one, else the CPU), cuda (the GPU of this
            rank), or any torch device.
        local_rank: Index of this process on its node.
        world_size: Number of processes of the run.

    Raises:
        ValueError: If the device is unknown or not there, or one GPU is named for several ranks.
    """
    if name == "auto":
        cpu_wanted = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1")
        if torch.cuda.is_available() and not cpu_wanted:
            return torch.device("cuda", local_rank % torch.cuda.device_count())
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name!r} is unknown; use auto, cpu, cuda or cuda:N.") from error
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device={name!r} is not available here; use device=cpu.")
    if device.type != "cuda":
        return device
    return _checked_gpu(device, local_rank, world_size)


def _checked_gpu(device: torch.device, local_rank: int, world_size: int) -> torch.device:
    if not torch.cuda.is_available():
        raise ValueError(
            f"device={str(device)!r} needs CUDA, which is not available; use device=cpu."
        )
    num_gpus = torch.cuda.device_count()
    if device.index is None:
        return torch.device("cuda", local_rank % num_gpus)
    if device.index >= num_gpus:
        raise ValueError(f"device={str(device)!r} does not exist; there are {num_gpus} GPUs here.")
    if world_size > 1:
        raise ValueError(
            f"device={str(device)!r} would put all {world_size} ranks on one GPU; use device=cuda."
        )
    return device
