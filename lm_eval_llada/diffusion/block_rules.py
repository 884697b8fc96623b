"""How a model that is causal between blocks lays them out, and where it reads a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lm_eval_llada.errors import require_whole, unknown_choice

if TYPE_CHECKING:
    from torch import Tensor

GRIDS = ("start", "prompt")
PREFIXES = ("block", "causal")
FIRST_TOKENS = ("own", "previous", "causal")
REVEALS = ("llada", "quota", "sub_blocks")


@dataclass(frozen=True)
class BlockRules:
    """What a family of block-causal models has in common, and what tells them apart.

    A token of a block sees all of its block, masks among them, and the finished tokens of earlier
    blocks; what is behind the block it never sees.

    Attributes:
        block_length: tokens of a block.
        grid: where blocks begin to be counted. `start`: at token 0, so that the end of a prompt
            may share its block with the first generated tokens. `prompt`: at the prompt's end; of
            those before it, the first may be short.
        prefix: what a finished token sees. `block`: its block and those before it. `causal`: the
            tokens before it and itself.
        first_token: where the first token of a block is read. `own`: at its own row, as all
            others are. `previous`: every token at the row before it, the first one at the last row
            of the finished block before. `causal`: the first one as a causal model predicts it,
            the others at their own rows.
        reveal: what a step decides. `llada`: as LLaDA does, the share of the steps that falls to
            the block; under a threshold all that reach it, and the likeliest in any case. `quota`:
            the share of a whole block; under a threshold all above it where these are at least so
            many. `sub_blocks`: parts of a block from left to right, in each of them as many as the
            steps say; under a threshold all above it, and the likeliest in any case.
        sub_block_length: tokens of such a part.

    Raises:
        ValueError: if a value is none of these.
    """

    block_length: int
    grid: str = "start"
    prefix: str = "block"
    first_token: str = "own"
    reveal: str = "llada"
    sub_block_length: int | None = None

    def __post_init__(self) -> None:  # noqa: D105
        require_whole("block_length", self.block_length, 1)
        for name, known in (
            ("grid", GRIDS),
            ("prefix", PREFIXES),
            ("first_token", FIRST_TOKENS),
            ("reveal", REVEALS),
        ):
            if (value := getattr(self, name)) not in known:
                raise unknown_choice(name, value, known)
        if self.sub_block_length is not None:
            require_whole("sub_block_length", self.sub_block_length, 1)
        elif self.reveal == "sub_blocks":
            raise ValueError("reveal='sub_blocks' needs sub_block_length; got None.")

    @property
    def has_causal_mode(self) -> bool:
        """Whether the model also predicts the next token from finished ones alone."""
        return self.prefix == "causal" and self.first_token == "causal"

    @property
    def causal_mode(self) -> BlockRules:
        """The same model token by token: blocks of one, each read at the row before it."""
        return BlockRules(1, "prompt", "causal", "causal")

    def first_block(self, prompt_length: int) -> int:
        """Where the block begins that holds the first token behind such a prompt."""
        return prompt_length - (prompt_length + self.offset(prompt_length)) % self.block_length

    def offset(self, prompt_length: int) -> int:
        """Tokens that the first block lacks at its start, in a text behind such a prompt."""
        return 0 if self.grid == "start" else -prompt_length % self.block_length

    def block_ids(self, length: int, prompt_length: int = 0) -> Tensor:
        """The block of each of the first tokens of a text, int64 (length,), from 0."""
        import torch  # not above: a config.json is read without it

        return (torch.arange(length) + self.offset(prompt_length)) // self.block_length

    def clean_ids(self, length: int, prompt_length: int = 0) -> Tensor:
        """Numbers by which finished tokens see each other: those of none greater, (length,)."""
        if self.prefix == "causal":
            return self.causal_mode.block_ids(length)
        return self.block_ids(length, prompt_length)
