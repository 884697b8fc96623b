"""Rotary position embeddings: tables of cosines and sines, and the rotation itself."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lm_eval_llada.modeling.configuration import LLaDAConfig

_LENGTH_DEPENDENT = ("dynamic", "longrope")


def default_inv_freq(rope_theta: float, head_dim: int) -> Tensor:
    """Frequencies b^(-2n/d) of unscaled RoPE, float32 (head_dim / 2,), radians per token."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    return 1.0 / (rope_theta**exponents)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the split halves of each head by the given angles, computed in their dtype.

    Of d rotated dimensions, the first of a head, pair n is dimensions n and n + d / 2: (x1, x2)
    becomes (x1·cos - x2·sin, x2·cos + x1·sin). The others stay.

    Args:
        states: queries or keys, (..., heads, head_dim).
        cos: broadcastable to (..., 1, d / 2); float32, or the dtype of `states`.
        sin: like `cos`.

    Returns:
        Rotated states, shape and dtype of `states`.
    """
    turned = 2 * cos.shape[-1]
    first, second = states[..., :turned].to(cos.dtype).chunk(2, dim=-1)
    parts = [first * cos - second * sin, second * cos + first * sin]
    if turned < states.shape[-1]:
        parts.append(states[..., turned:].to(cos.dtype))
    return torch.cat(parts, dim=-1).to(states.dtype)


class LLaDARotaryEmbedding(nn.Module):
    """Cosines and sines for positions, under the rotation that the config describes.

    Frequencies are kept as Python floats rather than in a buffer: a buffer would be rounded by
    `model.to(torch.bfloat16)` and would stay empty on the meta device that loading starts from.
    """

    def __init__(self, config: LLaDAConfig) -> None:
        """Computes the frequencies of `config`."""
        super().__init__()
        # A private copy: transformers' functions read it again when lengths change.
        self._config = copy.deepcopy(config)
        self.rope_type: str = config.rope_parameters["rope_type"]
        self._beta = float(config.rope_parameters.get("llama_4_scaling_beta") or 0.0)
        self.inv_freq, self.attention_factor = self._frequencies(None)
        self._tables: dict[tuple[torch.device, int | None], tuple[Tensor, Tensor]] = {}

    @property
    def depends_on_length(self) -> bool:
        """Whether frequencies change with the length of a sequence (dynamic, longrope)."""
        return self.rope_type in _LENGTH_DEPENDENT

    def forward(
        self,
        seq_length: int,
        device: torch.device,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Cosines and sines of every rotation angle.

        Args:
            seq_length: number of positions.
            device: where the tables go.
            position_ids: int (batch, seq); None means 0, 1, 2, ...
            attention_mask: bool (batch, seq), True = real. Only length-dependent rotations read
                it, to know how long each sequence is.

        Returns:
            Two float32 tensors (1 or batch, seq, d / 2) for the d dimensions of a head that are
            rotated, times the attention factor.
        """
        if self.depends_on_length and (position_ids is not None or attention_mask is not None):
            return self._tables_by_length(seq_length, device, position_ids, attention_mask)
        length = seq_length if self.depends_on_length else None
        if position_ids is not None:
            return self._cos_sin(position_ids, self.inv_freq)
        if torch.compiler.is_compiling():
            # Inside a compiled graph a cache would be a guard per entry and saves next to nothing.
            return self._new_tables(seq_length, device, length)
        cached = self._tables.get((device, length))
        if cached is None or cached[0].shape[1] < seq_length:
            # Ordinary tensors even under inference_mode: training may use the same tables later.
            with torch.inference_mode(False), torch.no_grad():
                cached = self._new_tables(seq_length, device, length)
            if self.depends_on_length:
                self._tables.clear()
            self._tables[device, length] = cached
        return cached[0][:, :seq_length], cached[1][:, :seq_length]

    def query_scale(
        self, seq_length: int, device: torch.device, position_ids: Tensor | None = None
    ) -> Tensor | None:
        """What queries are multiplied by once they are rotated; None where it is always 1.

        It is 1 + β·ln(1 + floor(position / L)), β `llama_4_scaling_beta` and L
        `original_max_position_embeddings` of the rope parameters.

        Args:
            seq_length: number of positions.
            device: where the factors go.
            position_ids: int (batch, seq); None means 0, 1, 2, ...

        Returns:
            float32 (1 or batch, seq).
        """
        if not self._beta:
            return None
        if position_ids is None:
            position_ids = torch.arange(seq_length, device=device)[None]
        length = self._config.rope_parameters["original_max_position_embeddings"]
        with torch.autocast(device.type, enabled=False):
            return 1 + self._beta * torch.log(1 + torch.floor(position_ids / length))

    def _frequencies(self, seq_length: int | None) -> tuple[tuple[float, ...], float]:
        """Frequencies in radians per token, and the factor on cosines and sines."""
        if self.rope_type == "default":
            compute, factor = default_inv_freq, 1.0
            # Loading builds the model on the meta device, where these numbers must still exist.
            with torch.device("cpu"):
                inv_freq = compute(self._config.rope_theta, self._config.rope_dim)
        else:
            try:
                with torch.device("cpu"):
                    inv_freq, factor = ROPE_INIT_FUNCTIONS[self.rope_type](
                        self._config, torch.device("cpu"), seq_len=seq_length
                    )
            except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
                # transformers only warns of keys that are missing, and then reads them.
                reason = f"{type(error).__name__}: {error}"
                raise ValueError(
                    f"rope_parameters={self._config.rope_parameters!r} describe no rotation "
                    f"({reason})."
                ) from error
        return tuple(inv_freq.tolist()), float(factor)

    def _new_tables(
        self, seq_length: int, device: torch.device, length: int | None
    ) -> tuple[Tensor, Tensor]:
        inv_freq = self.inv_freq if length is None else self._frequencies(length)[0]
        return self._cos_sin(torch.arange(seq_length, device=device)[None], inv_freq)

    def _tables_by_length(
        self,
        seq_length: int,
        device: torch.device,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Each sequence under the frequencies of its own length.

        Differs from transformers, where the longest sequence of a batch sets the frequencies of
        all of them, so that a score depends on what shares its batch.
        """
        if position_ids is None:
            position_ids = torch.arange(seq_length, device=device)[None]
        if attention_mask is None:
            attention_mask = torch.ones_like(position_ids, dtype=torch.bool)
        position_ids, attention_mask = torch.broadcast_tensors(position_ids, attention_mask)
        last = position_ids.masked_fill(~attention_mask, -1).amax(-1)
        first = position_ids.masked_fill(~attention_mask, torch.iinfo(torch.int64).max).amin(-1)
        # A sequence's length is the span of its real positions, so padding has no part in it.
        lengths = (last - first + 1).clamp(min=1).tolist()
        pairs = [
            self._cos_sin(position_ids[index : index + 1], self._frequencies(length)[0])
            for index, length in enumerate(lengths)
        ]
        return torch.cat([cos for cos, _ in pairs]), torch.cat([sin for _, sin in pairs])

    def _cos_sin(self, positions: Tensor, inv_freq: tuple[float, ...]) -> tuple[Tensor, Tensor]:
        frequencies = torch.tensor(inv_freq, dtype=torch.float32, device=positions.device)
        # float32 whatever autocast says: at position 100,000 bfloat16 is off by whole turns.
        with torch.autocast(positions.device.type, enabled=False):
            angles = positions[..., None].float() * frequencies
            return angles.cos() * self.attention_factor, angles.sin() * self.attention_factor
