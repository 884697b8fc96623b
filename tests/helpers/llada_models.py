"""Small random models of every shape, and the plain forward pass they are held against."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lm_eval_llada.modeling import LLaDAConfig, LLaDAForMaskedLM

SHAPES = {
    "mha": {},
    "gqa": {"n_kv_heads": 2},
    "mqa": {"multi_query_attention": True},
    "tied": {"weight_tying": True},
    "qkv_bias": {"include_qkv_bias": True, "n_kv_heads": 2},
    "all_biases": {"include_bias": True},
    "odd": {"d_model": 42, "n_heads": 3, "n_kv_heads": 1, "mlp_hidden_size": 37, "vocab_size": 53},
    "wide_embedding": {"embedding_size": 104},
    "one_layer": {"n_layers": 1},
}
SIZES = {
    "vocab_size": 97,
    "d_model": 48,
    "n_layers": 3,
    "n_heads": 4,
    "mlp_hidden_size": 80,
    "max_sequence_length": 64,
    "rope_theta": 1e4,
    # Large weights, so that attention is far from uniform and a wrong mask or angle shows.
    "init_std": 0.25,
}


def make_model(**changes: Any) -> LLaDAForMaskedLM:
    torch.manual_seed(0)
    model = LLaDAForMaskedLM(LLaDAConfig(**{**SIZES, **changes})).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name or "ln_f" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 50, shape, generator=torch.Generator().manual_seed(seed))


def plain_forward(
    model: LLaDAForMaskedLM,
    ids: Tensor,
    kept: dict[int, Tensor] | None = None,
    window: range | None = None,
) -> Tensor:
    """One sequence, loops over heads, nothing shared with the package but the weights.

    What each layer reads goes into ``kept``. With a window, all but the window's part of it is
    what ``kept`` holds from before; only the window's logits mean something then.
    """
    config, weights = model.config, dict(model.named_parameters())
    head_dim = config.d_model // config.n_heads
    group = config.n_heads // config.n_kv_heads

    def linear(name: str, x: Tensor) -> Tensor:
        y = x @ weights[f"{name}.weight"].T
        return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y

    def norm(name: str, x: Tensor) -> Tensor:
        y = x / (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt()
        return y * weights[f"{name}.weight"] + weights.get(f"{name}.bias", 0.0)

    def rope(x: Tensor) -> Tensor:
        turned = torch.empty_like(x)
        for position in range(len(x)):
            for n in range(head_dim // 2):
                angle = position * config.rope_theta ** (-2 * n / head_dim)
                a, b = x[position, n], x[position, n + head_dim // 2]
                turned[position, n] = a * math.cos(angle) - b * math.sin(angle)
                turned[position, n + head_dim // 2] = b * math.cos(angle) + a * math.sin(angle)
        return turned

    x = weights["model.transformer.wte.weight"][ids]
    for layer in range(config.n_layers):
        block = f"model.transformer.blocks.{layer}"
        if kept is not None:
            if window is not None:
                kept[layer][window.start : window.stop] = x[window.start : window.stop]
                x = kept[layer]
            kept[layer] = x.clone()
        h = norm(f"{block}.attn_norm", x)
        q, k, v = (linear(f"{block}.{name}", h) for name in ("q_proj", "k_proj", "v_proj"))
        heads = []
        for head in range(config.n_heads):
            own = slice(head * head_dim, (head + 1) * head_dim)
            shared = slice(head // group * head_dim, (head // group + 1) * head_dim)
            scores = rope(q[:, own]) @ rope(k[:, shared]).T / math.sqrt(head_dim)
            heads.append(scores.softmax(-1) @ v[:, shared])
        x = x + linear(f"{block}.attn_out", torch.cat(heads, -1))
        h = norm(f"{block}.ff_norm", x)
        gate = linear(f"{block}.ff_proj", h)
        x = x + linear(f"{block}.ff_out", gate * gate.sigmoid() * linear(f"{block}.up_proj", h))
    x = norm("model.transformer.ln_f", x)
    if config.weight_tying:
        return x @ weights["model.transformer.wte.weight"].T
    return linear("model.transformer.ff_out", x)


def at(logits: Tensor, rows: Tensor) -> Tensor:
    return logits[rows[:, 0], rows[:, 1]]


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 5e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)
