"""One layer of the model: attention and a gated MLP, or a mixture of them, each after a norm."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from lm_eval_llada.modeling.attention import attend
from lm_eval_llada.modeling.cache import KeyValueCache
from lm_eval_llada.modeling.configuration import LLaDAConfig
from lm_eval_llada.modeling.experts import Experts, GatedMLP, Router
from lm_eval_llada.modeling.packing import Rows
from lm_eval_llada.modeling.rotary import rotate

MLP_CHUNK_BYTES = 256 * 2**20
"""Largest intermediate tensor of an MLP; longer inputs go through it in chunks of rows."""


class LayerReader(Protocol):
    """Runs layers in another way than `LLaDABlock.forward`, see `prompt_pass`."""

    def run(
        self,
        block: LLaDABlock,
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        query_scale: Tensor | None,
    ) -> Tensor:
        """The residual stream after a block."""
        ...


class LLaDARMSNorm(nn.Module):
    """x / rms(x) in float32, rounded to the dtype of x, times a weight."""

    def __init__(self, width: int, eps: float, bias: bool = False) -> None:
        """Weight one, and bias zero if there is to be one."""
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalised states, shape of `hidden_states`."""
        # Without a weight the kernel rounds before the product, as the official code does.
        normed = F.rms_norm(hidden_states, self.weight.shape, None, self.eps) * self.weight
        return normed if self.bias is None else normed + self.bias


class FusedProjection(nn.Module):
    """Queries, keys and values from one weight, whose rows are those of all three in this order."""

    def __init__(self, config: LLaDAConfig, bias: bool) -> None:
        """Fresh weights, and a bias of zero if there is to be one."""
        super().__init__()
        self.q_width = config.n_heads * config.head_dim
        width = self.q_width + 2 * config.n_kv_heads * config.head_dim
        self.weight = nn.Parameter(torch.empty(width, config.d_model))
        nn.init.normal_(self.weight, std=config.init_std)
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, normed: Tensor, is_query: bool) -> Tensor:
        """Queries alone, or keys and then values, (..., their width)."""
        part = slice(None, self.q_width) if is_query else slice(self.q_width, None)
        return F.linear(normed, self.weight[part], None if self.bias is None else self.bias[part])


class LLaDABlock(GradientCheckpointingLayer):
    """Pre-norm attention and gated MLP, each added to the residual stream."""

    is_causal = False

    def __init__(self, config: LLaDAConfig, layer_idx: int) -> None:
        """Layer number `layer_idx` of a model with this config."""
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.scaling = config.head_dim**-0.5
        self.num_key_value_groups = config.n_heads // config.n_kv_heads
        width, q_width = config.d_model, config.n_heads * config.head_dim
        kv_width = config.n_kv_heads * config.head_dim
        qkv_bias = config.include_bias or config.include_qkv_bias
        out_bias = config.include_bias or config.attention_out_bias
        self.attn_norm = LLaDARMSNorm(width, config.rms_norm_eps, config.norm_bias)
        if config.fused_qkv:
            self.qkv_proj = FusedProjection(config, qkv_bias)
        else:
            self.q_proj = nn.Linear(width, q_width, bias=qkv_bias)
            self.k_proj = nn.Linear(width, kv_width, bias=qkv_bias)
            self.v_proj = nn.Linear(width, kv_width, bias=qkv_bias)
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if config.qk_norm:
            self.q_norm = LLaDARMSNorm(config.head_dim, config.rms_norm_eps)
            self.k_norm = LLaDARMSNorm(config.head_dim, config.rms_norm_eps)
        self.attn_out = nn.Linear(q_width, width, bias=out_bias)
        self.ff_norm = LLaDARMSNorm(width, config.rms_norm_eps, config.norm_bias)
        self.is_mixture = config.num_experts > 0 and layer_idx >= config.num_dense_layers
        self.mlp_hidden_size = config.mlp_hidden_size
        if self.is_mixture:
            self.router = Router(config)
            self.experts = Experts(config)
            if config.num_shared_experts:
                self.mlp_hidden_size *= config.num_shared_experts
                self.shared_experts = GatedMLP(width, self.mlp_hidden_size)
        elif config.num_experts:
            self.mlp_hidden_size = config.dense_mlp_hidden_size or config.mlp_hidden_size
            self.dense_mlp = GatedMLP(width, self.mlp_hidden_size)
        else:
            mlp_bias = config.include_bias or config.mlp_bias
            self.ff_proj = nn.Linear(width, self.mlp_hidden_size, bias=mlp_bias)
            self.up_proj = nn.Linear(width, self.mlp_hidden_size, bias=mlp_bias)
            self.ff_out = nn.Linear(self.mlp_hidden_size, width, bias=mlp_bias)

    def forward(
        self,
        hidden_states: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Any = None,
        rows: Rows | None = None,
        cache: KeyValueCache | None = None,
        window: Tensor | None = None,
        with_weights: bool = False,
        query_scale: Tensor | None = None,
        reader: LayerReader | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The residual stream after this block, and the attention weights if asked for.

        Args:
            hidden_states: (batch, seq, d_model).
            cos: (1 or batch, seq, d / 2) in the dtype to rotate in, of the d dimensions of a head
                that are rotated.
            sin: like `cos`.
            mask: from `attention_mask_for`, with the same `rows`.
            rows: positions to go on with. Keys and values still come from all positions.
            cache: keeps keys and values. A filled one also brings those of all other positions.
            window: int64 (batch, seq), where `hidden_states` are among the keys of a filled cache.
            with_weights: return the attention weights, which `eager` alone computes.
            query_scale: (1 or batch, seq), a factor on queries; None is 1.
            reader: does the layer's part of a pass with kept prompts, in place of all of the above
                but `query_scale`.

        Returns:
            (batch, seq, d_model), or (num_rows, d_model) with `rows`; weights as of `attend`.
        """
        if reader is not None:
            return reader.run(self, hidden_states, cos, sin, query_scale), None
        normed = self.attn_norm(hidden_states)
        key, value = self.keys_values(normed, cos, sin)
        if cache is not None and window is not None:
            key, value = cache.replace(self.layer_idx, key, value, window)
        elif cache is not None:
            cache.fill(self.layer_idx, key, value)
        if rows is not None:
            # From here on tensors are (num_rows, ...): indexing copies them contiguously, which
            # a linear layer in bfloat16 on CPU can need to stay off a far slower path.
            chosen = (rows.batch, rows.position)
            hidden_states, normed = hidden_states[chosen], normed[chosen]
            cos, sin = (t.expand(len(key), -1, -1)[chosen] for t in (cos, sin))
            if query_scale is not None:
                query_scale = query_scale.expand(len(key), -1)[chosen]
        query = self.queries(normed, cos, sin, query_scale)
        attended, weights = attend(self, query, key, value, mask, rows, with_weights)
        return self.advance(hidden_states, attended), weights

    def keys_values(self, normed: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Rotated keys and values of normed states (..., d_model), each (..., heads, head_dim)."""
        if self.config.fused_qkv:
            key, value = self.qkv_proj(normed, False).chunk(2, dim=-1)
        else:
            key, value = self.k_proj(normed), self.v_proj(normed)
        key = rotate(self.k_norm(self._heads(key)), cos[..., None, :], sin[..., None, :])
        return key, self._heads(value)

    def queries(
        self, normed: Tensor, cos: Tensor, sin: Tensor, query_scale: Tensor | None = None
    ) -> Tensor:
        """Rotated queries of normed states (..., d_model), (..., heads, head_dim).

        Raises:
            ValueError: if queries of this model grow with their position and no factor came.
        """
        fused = self.config.fused_qkv
        query = self.qkv_proj(normed, True) if fused else self.q_proj(normed)
        query = rotate(self.q_norm(self._heads(query)), cos[..., None, :], sin[..., None, :])
        if query_scale is not None:
            return query * query_scale[..., None, None].to(query.dtype)
        if self.config.rope_parameters.get("llama_4_scaling_beta"):
            raise ValueError("Queries of this model grow with their position; pass query_scale.")
        return query

    def advance(self, hidden_states: Tensor, attended: Tensor) -> Tensor:
        """The residual stream (..., d_model) with attention's output and the MLP added."""
        hidden_states = hidden_states + self.attn_out(attended)
        return hidden_states + self._mlp(self.ff_norm(hidden_states))

    def _mlp(self, normed: Tensor) -> Tensor:
        """The gated MLP. It works row by row, so long inputs go through in parts that fit."""
        row_bytes = self.mlp_hidden_size * normed.element_size()
        num_rows = max(1, MLP_CHUNK_BYTES // row_bytes)
        if torch.is_grad_enabled() or normed[..., 0].numel() <= num_rows:
            return self._gated(normed)
        flat = normed.flatten(0, -2)
        output = torch.empty_like(flat)
        for start in range(0, len(flat), num_rows):
            output[start : start + num_rows] = self._gated(flat[start : start + num_rows])
        return output.view_as(normed)

    def _gated(self, normed: Tensor) -> Tensor:
        if self.is_mixture:
            flat = normed.flatten(0, -2)
            mixed = self.experts(flat, *self.router(flat)).view_as(normed)
            return mixed + self.shared_experts(normed) if self.config.num_shared_experts else mixed
        if self.config.num_experts:
            return self.dense_mlp(normed)
        return self.ff_out(F.silu(self.ff_proj(normed)) * self.up_proj(normed))

    def _heads(self, states: Tensor) -> Tensor:
        """Splits the last dimension into heads; under tensor parallelism, into this rank's."""
        return states.unflatten(-1, (-1, self.head_dim))
