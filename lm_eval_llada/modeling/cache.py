"""Keys and values kept from one forward pass for later ones: the approximate caches of decoding.

In a bidirectional model every key depends on every token, so keys kept while tokens change are
out of date. That is the approximation of Fast-dLLM (arXiv 2505.22618): tokens far from those being
decided are assumed to change them little.
"""

from __future__ import annotations

import torch
from torch import Tensor


class KeyValueCache:
    """Keys and values of every layer, (batch, seq, kv_heads, head_dim) each.

    An empty cache is filled by a pass over whole sequences. Passes after it read a window of each
    sequence, put the window's keys and values in the place of the old ones, and attend to all.

    Attributes:
        key_length: Positions that are kept, padding included; 0 while the cache is empty.
    """

    def __init__(self) -> None:
        """An empty cache."""
        self.key_length = 0
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def is_filled(self) -> bool:
        """Whether a pass over whole sequences has run."""
        return self.key_length > 0

    def fill(self, layer_idx: int, key: Tensor, value: Tensor) -> None:
        """Keep a layer's keys and values of whole sequences.

        Args:
            layer_idx: Number of the layer.
            key: (batch, seq, kv_heads, head_dim), rotated.
            value: like `key`.
        """
        self._layers[layer_idx] = (key, value)
        self.key_length = key.shape[1]

    def replace(
        self, layer_idx: int, key: Tensor, value: Tensor, position_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Put a window's keys and values in the place of the old ones; returns all of them.

        Args:
            layer_idx: Number of the layer.
            key: (batch, window, kv_heads, head_dim), rotated.
            value: like `key`.
            position_ids: int64 (batch, window), positions of the window in its sequence.
        """
        keys, values = self._layers[layer_idx]
        position_ids = position_ids.to(keys.device)
        batch = torch.arange(len(position_ids), device=keys.device)[:, None]
        keys[batch, position_ids] = key
        values[batch, position_ids] = value
        return keys, values

    def keep(self, sequences: Tensor) -> None:
        """Drop all sequences but these.

        Args:
            sequences: int64 (num_kept,), indices into the batch.
        """
        for layer_idx, (key, value) in self._layers.items():
            index = sequences.to(key.device)
            self._layers[layer_idx] = (key[index], value[index])
