"""The attention of a checkpoint whose files do not say it, as the user does."""

from __future__ import annotations

import copy

from lm_eval_llada.errors import unknown_choice
from lm_eval_llada.modeling.configuration import LLaDAConfig

ATTENTIONS = ("bidirectional", "block")


def check_attention_choice(attention: str | None) -> None:
    """Stops at a word that is none of `ATTENTIONS`.

    Raises:
        ValueError: naming them.
    """
    if attention is not None and attention not in ATTENTIONS:
        raise unknown_choice("attention", attention, ATTENTIONS)


def with_attention(
    config: LLaDAConfig, attention: str | None, block_length: int | None = None
) -> LLaDAConfig:
    """A copy of `config` that attends as the user says.

    Args:
        config: of a checkpoint; left as it is.
        attention: `bidirectional`, `block`, or None for what the checkpoint's files say.
        block_length: tokens of a block under `block`; None takes the checkpoint's, then its
            release's.

    Raises:
        ValueError: if no checkpoint of its family attends so, or the word is unknown.
    """
    check_attention_choice(attention)
    if attention is None:
        return config
    row, released = config.row, config.row.blocks.block_length
    config = copy.deepcopy(config)
    if attention == "bidirectional":
        if row.is_block_causal:
            raise ValueError(
                f"attention=bidirectional, but {row.name} was trained to see earlier blocks only; "
                f"drop attention."
            )
        config.block_length = None
    elif not row.is_block_causal and config.block_length is None and released == 1:
        raise ValueError(
            f"attention=block, but {row.name} was trained to see all positions; drop attention."
        )
    else:
        config.block_length = block_length or config.block_length or released
    return config
