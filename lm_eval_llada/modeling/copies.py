"""Several copies of a model, each over some of the ranks by transformers' tensor parallelism."""

from __future__ import annotations

import os
from typing import Any

import torch


def mesh_of_copies(tp_size: int) -> tuple[torch.device, Any] | None:
    """Where this rank's part of its copy goes, and the mesh that says who has the other parts.

    Copies are next to each other: of four ranks, 0 and 1 share the first and 2 and 3 the second.
    Ranks have to be connected before, see `distributed.join_ranks`.

    Args:
        tp_size: Ranks that share a copy.

    Returns:
        The device, and what transformers asks for meshes by the names of their dimensions; None
        where one copy takes all ranks, for which transformers makes both itself.
    """
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if tp_size == num_ranks or tp_size == 1:
        return None
    # Imported here: the first releases of transformers 5 do not have it.
    from torch.distributed.device_mesh import init_device_mesh
    from transformers.distributed.utils import TransformersDeviceMesh

    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    # A mesh is sliced by names: one of transformers' own has ranks with an equal place in `copy`.
    names = ("copy", "pp", "dp_replicate", "fsdp", "tp")
    shape = (num_ranks // tp_size, 1, 1, 1, tp_size)
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
    return device, TransformersDeviceMesh(mesh, mesh)
