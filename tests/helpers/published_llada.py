"""Code such as authors publish beside a checkpoint: under the official names, none of it ours."""

PUBLISHED = """
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class Config(PretrainedConfig):
    model_type = "llada"


class Norm(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(config.d_model)), config.rms_norm_eps

    def forward(self, x):
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        width, inner = config.d_model, config.mlp_hidden_size
        self.attn_norm, self.ff_norm = Norm(config), Norm(config)
        for name in ("q_proj", "k_proj", "v_proj", "attn_out"):
            setattr(self, name, nn.Linear(width, width, bias=False))
        self.ff_proj, self.up_proj = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.ff_out = nn.Linear(inner, width, bias=False)

    def heads(self, x):
        return x.unflatten(-1, (self.config.n_heads, -1)).transpose(1, 2)

    def rotated(self, x):
        half = x.shape[-1] // 2
        speeds = self.config.rope_theta ** -(torch.arange(half) / half)
        angles = torch.arange(x.shape[2])[:, None] * speeds
        a, b, cos, sin = x[..., :half], x[..., half:], angles.cos(), angles.sin()
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def forward(self, x):
        h = self.attn_norm(x)
        q, k = (self.rotated(self.heads(f(h))) for f in (self.q_proj, self.k_proj))
        scores = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        x = x + self.attn_out((scores @ self.heads(self.v_proj(h))).transpose(1, 2).flatten(2))
        h = self.ff_norm(x)
        return x + self.ff_out(nn.functional.silu(self.ff_proj(h)) * self.up_proj(h))


class Model(PreTrainedModel):
    config_class = Config

    def __init__(self, config):
        super().__init__(config)
        parts = {"wte": nn.Embedding(config.embedding_size, config.d_model)}
        parts["blocks"] = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        parts["ln_f"] = Norm(config)
        parts["ff_out"] = nn.Linear(config.d_model, config.embedding_size, bias=False)
        self.model = nn.ModuleDict({"transformer": nn.ModuleDict(parts)})
        self.post_init()

    def forward(self, input_ids, **kwargs):
        parts = self.model["transformer"]
        x = parts["wte"](input_ids)
        for block in parts["blocks"]:
            x = block(x)
        return CausalLMOutput(logits=parts["ff_out"](parts["ln_f"](x)))
"""
