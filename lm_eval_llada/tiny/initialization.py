"""Fresh weights from which copying forms in minutes on a CPU."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lm_eval_llada.modeling import LLaDAForMaskedLM

OFFSETS = (-1, 1, -2, 2)
"""Neighbour that each head of the first layer looks at to begin with."""

EMBEDDING_STD = 0.05
COMMON_SHARE = 0.7
"""Length of the direction all embeddings share, against that of their random part."""

NUM_PAIRS = 10
"""Fastest rotation pairs, of those of a head, that carry an offset."""

SHARPNESS = 3.0
"""Attention logit between the neighbour looked at and the one beside it, roughly."""

QUERY_KEY_CORRELATION = 0.8


@torch.no_grad()
def initialize(model: LLaDAForMaskedLM, seed: int, *, with_neighbours: bool = True) -> None:
    """Overwrites all weights; depends on `seed`, the config and `with_neighbours` only.

    Matrices are normal with standard deviation 1 / sqrt(inputs), those that write to the residual
    stream divided by sqrt(2 * layers). Two departures save most of the time that retrieval takes
    to form (without them copying was at 10 % of tokens where it is at 50 % with them). Keys start
    correlated with queries, so that attention begins as a look-up of similar states. And
    the heads of the first layer start as look-ups of a neighbour, by offsets that are
    rotation phases on a direction which all embeddings share: a masked token then knows what
    stands next to it. Everything after that, retrieval included, is learnt.

    Args:
        model: to initialise.
        seed: of the weights.
        with_neighbours: whether the heads of the first layer start as look-ups.
    """
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    transformer = model.model.transformer
    common = torch.randn(config.d_model, generator=generator)
    common /= common.norm()
    wte = transformer["wte"].weight
    wte.normal_(0, EMBEDDING_STD, generator=generator)
    wte += common * EMBEDDING_STD * math.sqrt(config.d_model) * COMMON_SHARE
    for block in transformer["blocks"]:
        for name, weight in block.named_parameters():
            if weight.dim() < 2:
                continue
            std = weight.shape[1] ** -0.5
            if name.startswith(("attn_out", "ff_out")):
                std /= math.sqrt(2 * config.n_layers)
            weight.normal_(0, std, generator=generator)
        query, key = block.q_proj.weight, block.k_proj.weight
        independent = math.sqrt(1 - QUERY_KEY_CORRELATION**2)
        key.copy_(QUERY_KEY_CORRELATION * query + independent * key)
    if not with_neighbours:
        return
    first = transformer["blocks"][0]
    for head, offset in enumerate(OFFSETS[: config.n_heads]):
        _look_at_neighbour(first.q_proj.weight, first.k_proj.weight, head, offset, common, config)


def _look_at_neighbour(
    query: Tensor, key: Tensor, head: int, offset: int, common: Tensor, config: object
) -> None:
    """Makes head `head` attend `offset` tokens away.

    With a constant state, a query (cos wo, sin wo) and a key (1, 0) in the pair of frequency w give
    the logit cos(w (j - i - o)) after rotation, which over several w peaks at j = i + o.
    """
    head_dim: int = config.head_dim  # type: ignore[attr-defined]
    theta: float = config.rope_theta  # type: ignore[attr-defined]
    half = head_dim // 2
    inv_freq = theta ** (-torch.arange(NUM_PAIRS) / half)
    # The component of a normalised embedding along the common direction.
    component = COMMON_SHARE / math.sqrt(1 + COMMON_SHARE**2) * math.sqrt(common.shape[0])
    gap = (1 - inv_freq.cos()).sum().item() / math.sqrt(head_dim)
    amplitude = math.sqrt(SHARPNESS / gap) / component
    rows = slice(head * head_dim, (head + 1) * head_dim)
    query[rows] *= 0.1
    key[rows] *= 0.1
    start = head * head_dim
    first, second = slice(start, start + NUM_PAIRS), slice(start + half, start + half + NUM_PAIRS)
    query[first] += amplitude * (inv_freq * offset).cos()[:, None] * common
    query[second] += amplitude * (inv_freq * offset).sin()[:, None] * common
    key[first] += amplitude * common
