"""What a forward pass keeps on its way: hidden states and attention weights, if asked for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor

from lm_eval_llada.modeling.configuration import LLaDAConfig

HiddenStatesChoice = bool | int | Sequence[int] | None
"""All or none; or the numbers of those to keep, from the end if negative; None: the config's."""


class Recorded:
    """Hidden states and attention weights of one call, as many as were asked for."""

    def __init__(self, hidden_states: Collection[int], with_attentions: bool) -> None:
        """Nothing yet.

        Args:
            hidden_states: numbers of those to keep.
            with_attentions: whether to keep attention weights.
        """
        self.with_attentions = with_attentions
        self._kept = hidden_states
        self._hidden: list[Tensor | None] = []
        self._attentions: list[Tensor] = []

    @classmethod
    def for_call(
        cls, config: LLaDAConfig, hidden_states: HiddenStatesChoice, attentions: bool | None
    ) -> Recorded:
        """What the arguments of a call ask for, or where they are None, the config.

        Raises:
            ValueError: if attention weights are asked of a function that never holds them.
        """
        hidden_states = config.output_hidden_states if hidden_states is None else hidden_states
        attentions = config.output_attentions if attentions is None else attentions
        if attentions and config._attn_implementation != "eager":
            raise ValueError(
                f"output_attentions needs attn_implementation=eager; got "
                f"{config._attn_implementation}, which never holds the weights."
            )
        return cls(_numbers(hidden_states, config.n_layers + 1), bool(attentions))

    @property
    def is_empty(self) -> bool:
        """Whether nothing was asked for."""
        return not (self._kept or self.with_attentions)

    def require_none(self, beside: str) -> None:
        """Stops if anything was asked for.

        Args:
            beside: what does without it, for the message.

        Raises:
            ValueError: naming both.
        """
        if not self.is_empty:
            raise ValueError(
                f"{beside} hands out no hidden states or attentions; ask for them without it."
            )

    def add_hidden(self, hidden_states: Tensor) -> None:
        """Keeps the next hidden states, if it is their turn."""
        if self._kept:
            self._hidden.append(hidden_states if len(self._hidden) in self._kept else None)

    def add_weights(self, weights: Tensor | None) -> None:
        """Keeps a layer's attention weights, if there are any."""
        if weights is not None:
            self._attentions.append(weights)

    def outputs(self) -> dict[str, Any]:
        """Both tuples by the names that transformers' outputs have; absent if not asked for."""
        kept: tuple[tuple[str, Sequence[Tensor | None]], ...] = (
            ("hidden_states", self._hidden),
            ("attentions", self._attentions),
        )
        return {name: tuple(tensors) for name, tensors in kept if tensors}


def _numbers(choice: HiddenStatesChoice, count: int) -> Sequence[int]:
    if choice is None or isinstance(choice, bool):
        return range(count if choice else 0)
    chosen = [choice] if isinstance(choice, int) else choice
    wrong = [number for number in chosen if not -count <= number < count]
    if wrong:
        raise ValueError(
            f"output_hidden_states must be from {-count} to {count - 1}; got {wrong[0]}."
        )
    return [number % count for number in chosen]
