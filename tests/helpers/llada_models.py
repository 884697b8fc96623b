"""Small random models of every shape, and the plain forward pass they are held against."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lm_eval_llada.modeling import LLaDAConfig, LLaDAForMaskedLM
from lm_eval_llada.modeling.families import family_named


def of_family(name: str, **changes: Any) -> dict[str, Any]:
    """What a row of the table makes of the sizes below."""
    return {"family": name, **family_named(name).settings, "n_kv_heads": 2, **changes}


# One model for each row of the table of families.
ROWS = {
    "llada": {},
    "illada": of_family("iLLaDA", weight_tying=True),
    "dream": of_family("Dream"),
    "a2d_qwen3": of_family("A2D-Qwen3", head_dim=16, weight_tying=True),
    "a2d_qwen2": of_family("A2D-Qwen2", weight_tying=True),
    "a2d_llama": of_family(
        "A2D-LLaMA", head_dim=8, include_qkv_bias=True, attention_out_bias=True, mlp_bias=True
    ),
    "llada_moe": of_family("LLaDA-MoE", qk_norm=True, num_experts=5, num_experts_per_tok=2),
}
SHAPES = {
    **ROWS,
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
    weigh: Callable[[int, int, Tensor], Tensor] = lambda layer, head, scores: scores.softmax(-1),
) -> Tensor:
    """One sequence, loops over heads, nothing shared with the package but the weights.

    What each layer reads goes into ``kept``. With a window, all but the window's part of it is
    what ``kept`` holds from before; only the window's logits mean something then. ``weigh`` makes
    attention weights of a head's scores, (seq, seq), given the numbers of layer and head.
    """
    config, weights = model.config, dict(model.named_parameters())
    head_dim = config.head_dim
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

    def experts(block: str, token: Tensor) -> Tensor:
        shares = linear(f"{block}.router", token).softmax(-1)
        output = torch.zeros_like(token)
        for number in shares.argsort(descending=True)[: config.num_experts_per_tok]:
            expert = f"{block}.experts.{number}"
            gate = linear(f"{expert}.gate_proj", token)
            up = gate * gate.sigmoid() * linear(f"{expert}.up_proj", token)
            output += shares[number] * linear(f"{expert}.down_proj", up)
        return output

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
            query, key = q[:, own], k[:, shared]
            if config.qk_norm:
                query, key = norm(f"{block}.q_norm", query), norm(f"{block}.k_norm", key)
            scores = rope(query) @ rope(key).T / math.sqrt(head_dim)
            heads.append(weigh(layer, head, scores) @ v[:, shared])
        x = x + linear(f"{block}.attn_out", torch.cat(heads, -1))
        h = norm(f"{block}.ff_norm", x)
        if config.num_experts:
            x = x + torch.stack([experts(block, token) for token in h])
            continue
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
