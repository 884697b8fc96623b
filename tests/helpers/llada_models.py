"""Small random models of every shape, and the plain forward pass they are held against."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lm_eval_llada.modeling import LLaDAConfig, LLaDAForMaskedLM
from lm_eval_llada.modeling.families import family_named


def of_family(name: str, **changes: Any) -> dict[str, Any]:
    """What a row of the table makes of the sizes below."""
    return {"family": name, **family_named(name).settings, "n_kv_heads": 2, **changes}


# One model for each network of the table of families: SDAR and DreamReasoner are A2D-Qwen3's,
# Fast-dLLM v2 is Dream's.
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
    "nemotron": of_family(
        "Nemotron-Labs-Diffusion",
        head_dim=16,
        train_length=64,
        rope_parameters={"llama_4_scaling_beta": 0.5, "original_max_position_embeddings": 4},
    ),
    "llada2_moe": of_family(
        "LLaDA2",
        head_dim=16,
        rope_parameters={"partial_rotary_factor": 0.5},
        qk_norm=True,
        num_experts=8,
        num_experts_per_tok=3,
        num_expert_groups=4,
        num_groups_per_tok=2,
        num_shared_experts=2,
        expert_scale=2.5,
        mlp_hidden_size=40,
        num_dense_layers=1,
        dense_mlp_hidden_size=96,
    ),
}
# Those that decode and score by full attention; the others have an engine of their own.
FULL_ROWS = {name: row for name, row in ROWS.items() if name not in ("nemotron", "llada2_moe")}
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
    window: Sequence[int] | None = None,
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
        turned = x.clone()
        half = int(head_dim * config.rope_parameters.get("partial_rotary_factor", 1)) // 2
        for position in range(len(x)):
            for n in range(half):
                angle = position * config.rope_theta ** (-n / half)
                a, b = x[position, n], x[position, n + half]
                turned[position, n] = a * math.cos(angle) - b * math.sin(angle)
                turned[position, n + half] = b * math.cos(angle) + a * math.sin(angle)
        return turned

    def grown(x: Tensor) -> Tensor:
        beta = config.rope_parameters.get("llama_4_scaling_beta", 0)
        if not beta:
            return x
        length = config.rope_parameters["original_max_position_embeddings"]
        factors = [1 + beta * math.log(1 + position // length) for position in range(len(x))]
        return x * torch.tensor(factors)[:, None]

    def gated(mlp: str, token: Tensor) -> Tensor:
        gate = linear(f"{mlp}.gate_proj", token)
        up = gate * gate.sigmoid() * linear(f"{mlp}.up_proj", token)
        return linear(f"{mlp}.down_proj", up)

    def shares_of(block: str, token: Tensor) -> dict[int, Tensor]:
        scores = linear(f"{block}.router", token)
        if config.router == "softmax":
            scores = ranks = scores.softmax(-1)
        else:
            scores = scores.sigmoid()
            ranks = scores + weights[f"{block}.router.expert_bias"]
        size = config.num_experts // config.num_expert_groups
        worth = {
            group: float(ranks[group * size : (group + 1) * size].sort().values[-2:].sum())
            for group in range(config.num_expert_groups)
        }
        allowed = sorted(worth, key=lambda group: -worth[group])[: config.num_groups_per_tok]
        best = [int(n) for n in ranks.argsort(descending=True) if int(n) // size in allowed]
        shares = {number: scores[number] for number in best[: config.num_experts_per_tok]}
        total = sum(shares.values()) if config.norm_expert_weights else 1.0
        return {number: config.expert_scale * share / total for number, share in shares.items()}

    def experts(block: str, token: Tensor) -> Tensor:
        output = torch.zeros_like(token)
        for number, share in shares_of(block, token).items():
            output += share * gated(f"{block}.experts.{number}", token)
        return output + (
            gated(f"{block}.shared_experts", token) if config.num_shared_experts else 0.0
        )

    x = weights["model.transformer.wte.weight"][ids]
    for layer in range(config.n_layers):
        block = f"model.transformer.blocks.{layer}"
        if kept is not None:
            if window is not None:
                kept[layer][list(window)] = x[list(window)]
                x = kept[layer]
            kept[layer] = x.clone()
        h = norm(f"{block}.attn_norm", x)
        if config.fused_qkv:
            kv = config.n_kv_heads * head_dim
            q, k, v = linear(f"{block}.qkv_proj", h).split([config.n_heads * head_dim, kv, kv], -1)
        else:
            q, k, v = (linear(f"{block}.{name}", h) for name in ("q_proj", "k_proj", "v_proj"))
        heads = []
        for head in range(config.n_heads):
            own = slice(head * head_dim, (head + 1) * head_dim)
            shared = slice(head // group * head_dim, (head // group + 1) * head_dim)
            query, key = q[:, own], k[:, shared]
            if config.qk_norm:
                query, key = norm(f"{block}.q_norm", query), norm(f"{block}.k_norm", key)
            scores = grown(rope(query)) @ rope(key).T / math.sqrt(head_dim)
            heads.append(weigh(layer, head, scores) @ v[:, shared])
        x = x + linear(f"{block}.attn_out", torch.cat(heads, -1))
        h = norm(f"{block}.ff_norm", x)
        if config.num_experts and layer < config.num_dense_layers:
            x = x + gated(f"{block}.dense_mlp", h)
            continue
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
