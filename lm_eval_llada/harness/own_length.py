"""Rotations that depend on length (dynamic, longrope), by the length of each sequence alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lm_eval_llada.rope.existing import LENGTH_DEPENDENT


class OwnLength:
    """Takes the choice of frequencies out of transformers' hands, which remembers and mixes.

    There dynamic frequencies stay those of the longest pass until one within the trained context
    comes, and a batch has the frequencies of its longest row, padding included. Here a pass has
    those of its last position, whatever came before it; rows of a batch must be equally long.
    While `of` a length, all passes have the frequencies of that one, so that keys that are kept
    while a text grows stay what they were.
    """

    def __init__(self, model: nn.Module) -> None:
        """Find the length-dependent rotations of a model, and govern them from now on.

        Args:
            model: Of transformers, with its weights; one without such rotations is left alone.

        Raises:
            ValueError: If it computes them otherwise than transformers' own functions.
        """
        self._length: int | None = None
        self._kinds: dict[nn.Module, str] = {}
        self._last: dict[nn.Module, int] = {}
        for module in model.modules():
            kind = getattr(module, "rope_type", None)
            if isinstance(kind, str) and kind in LENGTH_DEPENDENT:
                self._govern(module, kind)

    @contextmanager
    def of(self, length: int) -> Iterator[None]:
        """Rotate as sequences of `length` tokens do, however many of them are there yet."""
        self._length = length
        try:
            yield
        finally:
            self._length = None

    def _govern(self, module: nn.Module, kind: str) -> None:
        module_inv_freq: Any = module.inv_freq
        inv_freq, _ = _frequencies(module, kind, None)
        if inv_freq.shape != module_inv_freq.shape or not torch.allclose(
            inv_freq, module_inv_freq.float(), rtol=1e-3, atol=0
        ):
            raise ValueError(
                f"{type(module).__name__} computes rope_type={kind!r} in a way of its own, which "
                f"cannot be followed by the length of each sequence; use --model hf."
            )
        self._kinds[module] = kind
        # The type under which transformers leaves the frequencies alone.
        module.rope_type = "default"  # type: ignore[assignment]
        module.register_forward_pre_hook(self._set, with_kwargs=True)

    def _set(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        length = self._length
        if length is None:
            position_ids: Tensor = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
            length = int(position_ids.max()) + 1
        if self._last.get(module) == length:
            return
        inv_freq, scaling = _frequencies(module, self._kinds[module], length)
        buffer: Any = module.inv_freq
        buffer.copy_(inv_freq)
        module.attention_scaling = scaling  # type: ignore[assignment]
        self._last[module] = length


def _frequencies(module: nn.Module, kind: str, length: int | None) -> tuple[Tensor, float]:
    buffer: Any = module.inv_freq
    # A tensor, as transformers hands it over: its float32 powers are not those of a Python int.
    seq_len = None if length is None else torch.tensor(length, device=buffer.device)
    inv_freq, scaling = ROPE_INIT_FUNCTIONS[kind](
        module.config,  # type: ignore[arg-type]
        buffer.device,
        seq_len=seq_len,  # type: ignore[arg-type]
    )
    return inv_freq, float(scaling)
