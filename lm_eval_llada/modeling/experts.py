"""A mixture of gated MLPs: a router gives each token a few of them, and a weight for each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_eval_llada.modeling.configuration import LLaDAConfig


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x)), without biases."""

    def __init__(self, width: int, hidden_width: int) -> None:
        """From `width` to `hidden_width` and back."""
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden_width, bias=False)
        self.up_proj = nn.Linear(width, hidden_width, bias=False)
        self.down_proj = nn.Linear(hidden_width, width, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Shape of `hidden_states`."""
        return self.down_proj(F.silu(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class Experts(nn.ModuleList):
    """Experts of a layer, each applied to the tokens that the router sends it.

    The router is a softmax over all experts in float32; the weights of the chosen ones are not
    made to sum to one. Source: LLaDA-MoE (arXiv 2509.24389) and its published code.
    """

    def __init__(self, config: LLaDAConfig) -> None:
        """As many experts as the config has, named by their number."""
        super().__init__(
            GatedMLP(config.d_model, config.mlp_hidden_size) for _ in range(config.num_experts)
        )
        self.num_chosen = config.num_experts_per_tok

    def forward(self, hidden_states: Tensor, router_logits: Tensor) -> Tensor:
        """The weighted sum of the chosen experts' outputs.

        A token's experts are added in the order of their numbers, whatever shares the batch.

        Args:
            hidden_states: (..., d_model).
            router_logits: (..., num_experts).

        Returns:
            Shape and dtype of `hidden_states`.
        """
        flat = hidden_states.flatten(0, -2)
        weights = router_logits.flatten(0, -2).softmax(dim=-1, dtype=torch.float32)
        weights, chosen = weights.topk(self.num_chosen, dim=-1)
        weights = weights.to(flat.dtype)
        output = torch.zeros_like(flat)
        for number, expert in enumerate(self):
            token, place = (chosen == number).nonzero(as_tuple=True)
            output.index_add_(0, token, expert(flat[token]) * weights[token, place, None])
        return output.view_as(hidden_states)
