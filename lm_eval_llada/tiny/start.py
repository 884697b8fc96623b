"""A run's first weights, taken from a trained model, which may be smaller."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.modeling import load_model

_BLOCK = re.compile(r"(?P<room>.*\.(?:blocks|layers))\.(?P<number>\d+)\.(?P<rest>.+)")
_EMBEDDINGS = {"model.transformer.wte.weight", "model.embed_tokens.weight", "lm_head.weight"}
"""Names in either layout; the two of LLaMA's are one tensor."""

_WRITES = ("attn_out", "ff_out", "o_proj", "down_proj")
"""Matrices by which a block writes to the residual stream, in either layout."""


@torch.no_grad()
def start_from(model: PreTrainedModel, name: str) -> None:
    """Gives a fresh model the weights of a trained one, so that it computes what that one does.

    Args:
        model: from `build_model`; it may have more tokens behind those of the trained one, and
            more blocks. Those that the trained model has
            not are spread between its own and write nothing to begin with, all else as
            initialised, so that the first step changes them as well.
        name: a checkpoint of the same kind, LLaDA's or LLaMA's, and the same widths.

    Raises:
        ValueError: if the trained model has more blocks.
        RuntimeError: if widths or vocabulary differ, from torch, with the tensors' names.
    """
    weights = _weights(model, name)
    theirs, ours = _num_blocks(weights), _num_blocks(model.state_dict())
    if theirs > ours:
        raise ValueError(
            f"{name} has {theirs} blocks and the model to train {ours}; give --layers {theirs} or "
            f"more."
        )
    places = [round(block * (ours - 1) / max(1, theirs - 1)) for block in range(theirs)]
    moved = {_placed(tensor, places): value for tensor, value in weights.items()}
    for tensor, value in model.state_dict().items():
        found = _BLOCK.fullmatch(tensor)
        if found and int(found["number"]) not in places:
            moved[tensor] = value.zero_() if found["rest"].split(".")[-2] in _WRITES else value
    num_tokens = model.config.vocab_size
    for tensor in _EMBEDDINGS & moved.keys():
        moved[tensor] = _with_new_tokens(moved[tensor], num_tokens)
    model.load_state_dict(moved)


def _with_new_tokens(embeddings: Tensor, num_tokens: int) -> Tensor:
    """Adds rows that vary as the trained ones do, whatever they stand for.

    Look-ups that hold for any trained token then hold for the new ones from the first step on.
    """
    mean = embeddings.mean(dim=0)
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(num_tokens - len(embeddings), len(embeddings), generator=generator)
    return torch.cat([embeddings, mean + mixing @ (embeddings - mean) / len(embeddings) ** 0.5])


def _weights(model: PreTrainedModel, name: str) -> dict[str, Tensor]:
    if isinstance(model, LlamaForCausalLM):
        folder = Path(resolve_checkpoint(name))
        return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    return load_model(name, dtype="float32").state_dict()


def _num_blocks(weights: dict[str, Tensor]) -> int:
    found = (_BLOCK.fullmatch(tensor) for tensor in weights)
    return 1 + max(int(block["number"]) for block in found if block)


def _placed(tensor: str, places: list[int]) -> str:
    found = _BLOCK.fullmatch(tensor)
    if not found:
        return tensor
    return f"{found['room']}.{places[int(found['number'])]}.{found['rest']}"
