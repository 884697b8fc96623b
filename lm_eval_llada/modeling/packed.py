"""Linear layers whose weights oneDNN keeps in the order in which its kernels read them.

Plain ones bring a weight into that order at every call, which is a large part of a product with few
rows. Sums go in another order then, so the last bits of logits change.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

KERNELS = ("default", "packed")

# Rows that kernels are chosen for; others work too.
_USUAL_ROWS = 32


class PackedLinear(nn.Module):
    """A linear layer for inference in float32 on a CPU."""

    def __init__(self, linear: nn.Linear) -> None:
        """Takes over what a layer computes; its weight is no parameter any more."""
        super().__init__()
        self.out_features = linear.out_features
        self.bias = linear.bias
        weight = linear.weight.detach()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _USUAL_ROWS)

    def forward(self, states: Tensor) -> Tensor:
        """The layer's output, (..., out_features)."""
        if not states.numel():
            return states.new_zeros(*states.shape[:-1], self.out_features)
        pointwise = torch.ops.mkldnn._linear_pointwise
        output: Tensor = pointwise(states, self._packed, self.bias, "none", [], "")
        return output


def pack_weights(model: nn.Module) -> int:
    """Replaces all linear layers of a model, and returns how many they were.

    A head that is tied to the embedding stays as it is.

    Raises:
        ValueError: if the model is not in float32 on a CPU, or PyTorch has no oneDNN here.
    """
    weight = next(model.parameters())
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        kind = str(weight.dtype).removeprefix("torch.")
        raise ValueError(
            f"kernels=packed needs dtype=float32 on device=cpu; this model is in {kind} on "
            f"{weight.device.type}. Set these, or drop kernels."
        )
    if not torch.backends.mkldnn.is_available():
        raise ValueError("kernels=packed needs a PyTorch with oneDNN, which this one is without.")
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear)
    ]
    for parent, name, child in found:
        setattr(parent, name, PackedLinear(child))
    return len(found)
