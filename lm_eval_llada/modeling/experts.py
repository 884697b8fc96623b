"""A mixture of gated MLPs: a router gives each token a few of them, and a weight for each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_eval_llada.modeling.configuration import LLaDAConfig

_SMALLEST_SUM = 1e-20


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


class Router(nn.Module):
    """Chooses experts for a token, each with its weight.

    `softmax`: the score is the softmax over all experts in float32 of logits in the model's dtype,
    and so are the weights (LLaDA-MoE, arXiv 2509.24389; with weights made to sum to one, Qwen3).
    `sigmoid`: logits and all that follows are in float32. Experts are chosen by sigmoid plus bias,
    from the groups whose two best have the largest sum; the bias has no part in the weights
    (LLaDA2.0's published code).
    """

    def __init__(self, config: LLaDAConfig) -> None:
        """Fresh weights, and a bias of zero where experts are chosen with one."""
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.d_model))
        nn.init.normal_(self.weight, std=config.init_std)
        if config.router == "sigmoid":
            self.expert_bias = nn.Parameter(torch.zeros(config.num_experts), requires_grad=False)

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """The weights of the chosen experts and their numbers.

        Args:
            hidden_states: (num_tokens, d_model).

        Returns:
            Twice (num_tokens, num_experts_per_tok): weights in the dtype that their experts'
            outputs are summed in, and int64.
        """
        config = self.config
        if config.router == "softmax":
            scores = F.linear(hidden_states, self.weight).softmax(dim=-1, dtype=torch.float32)
            weights, chosen = scores.topk(config.num_experts_per_tok, dim=-1)
        else:
            scores = F.linear(hidden_states.float(), self.weight.float()).sigmoid()
            choice = self._within_groups(scores + self.expert_bias.float())
            chosen = choice.topk(config.num_experts_per_tok, dim=-1).indices
            weights = scores.gather(-1, chosen)
        if config.norm_expert_weights:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + _SMALLEST_SUM)
        weights = weights * config.expert_scale
        return (weights.to(hidden_states.dtype) if config.router == "softmax" else weights), chosen

    def _within_groups(self, choice: Tensor) -> Tensor:
        """The scores with minus infinity outside the groups that a token may choose from."""
        num_groups, num_kept = self.config.num_expert_groups, self.config.num_groups_per_tok
        if num_groups == num_kept:
            return choice
        grouped = choice.unflatten(-1, (num_groups, -1))
        best = grouped.topk(2, dim=-1).values.sum(dim=-1).topk(num_kept, dim=-1).indices
        is_kept = torch.zeros(grouped.shape[:-1], dtype=torch.bool, device=choice.device)
        is_kept.scatter_(-1, best, True)
        return grouped.masked_fill(~is_kept[..., None], float("-inf")).flatten(-2)


class Experts(nn.ModuleList):
    """Experts of a layer, each applied to the tokens that the router sends it."""

    def __init__(self, config: LLaDAConfig) -> None:
        """As many experts as the config has, named by their number."""
        super().__init__(
            GatedMLP(config.d_model, config.mlp_hidden_size) for _ in range(config.num_experts)
        )

    def forward(self, hidden_states: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """The weighted sum of the chosen experts' outputs.

        A token's experts are added in the order of their numbers, whatever shares the batch.

        Args:
            hidden_states: (num_tokens, d_model).
            weights: (num_tokens, num_chosen); what they are wider than `hidden_states`, the sum
                is too, before it is rounded.
            chosen: int64 (num_tokens, num_chosen), numbers of experts.

        Returns:
            Shape and dtype of `hidden_states`.
        """
        dtype = torch.promote_types(hidden_states.dtype, weights.dtype)
        output = torch.zeros_like(hidden_states, dtype=dtype)
        for number, expert in enumerate(self):
            token, place = (chosen == number).nonzero(as_tuple=True)
            output.index_add_(0, token, expert(hidden_states[token]) * weights[token, place, None])
        return output.to(hidden_states.dtype)
