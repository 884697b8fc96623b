"""Decoding that may change a token of the block at work again, as LLaDA2.1's does."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lm_eval_llada.diffusion.block_work import AnyText, Working
from lm_eval_llada.diffusion.choices import most_confident

MOST_ROUNDS = 16
"""Passes over a block without masks, after which it is finished though it still changes."""


@dataclass
class Editing(Working[AnyText]):
    """A block whose tokens are decided once nothing of it changes any more.

    A step reveals the masked tokens above `threshold`, and the likeliest in any case. It replaces
    those revealed before by another token that is likelier than `editing_threshold` where they now
    stand. Prompt tokens stay. What of a text has ended is looked at block by block, since tokens
    change until then.

    Source: LLaDA2.1's published decoding, for one text; here each has its own pace.
    """

    _draft: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    _rounds: int = 0
    _is_settled: bool = False

    def enter(self, last: Tensor) -> None:
        """See `Working.enter`."""
        super().enter(last)
        self._draft = self.text.tokens[self.start : self.end].clone()
        self._rounds, self._is_settled = 0, False

    @property
    def is_finished(self) -> bool:
        """See `Working.is_finished`."""
        return self._is_settled

    def tokens(self) -> Tensor:
        """See `Working.tokens`."""
        return self._draft

    def reveal(self, tokens: Tensor, sure: Tensor) -> None:
        """Reveals and replaces tokens of the block; see `Working.reveal`."""
        options = self.decoder.options
        here = self.candidates - self.start
        before = self._draft[here]
        is_masked = before == self.text.mask_token_id
        if bool(is_masked.any()):
            masked = is_masked.nonzero()[:, 0]
            is_above = sure[masked] > (1.0 if options.threshold is None else options.threshold)
            chosen = masked[most_confident(sure[masked], max(1, int(is_above.sum())))]
            self._draft[here[chosen]] = tokens[chosen]
        else:
            self._rounds += 1
        assert options.editing_threshold is not None
        is_edited = ~is_masked & (tokens != before) & (sure > options.editing_threshold)
        self._draft[here[is_edited]] = tokens[is_edited]
        is_stable = not bool(is_masked.any() | is_edited.any())
        if is_stable or self._rounds == MOST_ROUNDS:
            self._is_settled = True
            self.text.reveal(self.candidates, self._draft[here])

    def _candidates(self) -> Tensor:
        return torch.arange(max(self.start, self.text.prompt_length), self.end)
