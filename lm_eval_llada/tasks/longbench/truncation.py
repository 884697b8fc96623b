"""Cutting a prompt in the middle, so that it keeps its beginning and its end within a budget.

Source of the rule: LongBench (arXiv 2308.14508) and its ``pred.py``, which keeps the first and the
last half of a prompt's tokens: that is where instructions and questions stand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval_llada.checkpoints.tokenizers import plain_backend
from lm_eval_llada.tasks.token_counts import chat_overhead, cl100k_encoding, make_counter

# What decoding writes in place of bytes that are no whole character.
_REPLACEMENT = "\ufffd"
# A character has up to four bytes, so a cut leaves up to three tokens of an unfinished one.
_MAX_UNFINISHED = 3


@dataclass(frozen=True)
class Cut:
    """A prompt that is within its budget.

    Attributes:
        text: The prompt, whole or without its middle.
        num_tokens: The tokens that the model reads, special and wrapping ones included.
        num_dropped: How many fewer these are than the whole prompt's; 0 if nothing was cut.
    """

    text: str
    num_tokens: int
    num_dropped: int


@dataclass(frozen=True)
class MiddleCutter:
    """Cuts prompts to a budget of tokens.

    Attributes:
        encode: Token ids of a text, without special tokens.
        decode: The text of token ids, special tokens left out.
        num_special: Tokens that the model reads beside those of the text, wrapped or not.
        wrap: Puts a text into the form in which the model reads it, such as a chat; None leaves it
            as it is.
    """

    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    num_special: int = 0
    wrap: Callable[[str], str] | None = None

    def cut(self, text: str, budget: int) -> Cut:
        """Return a prompt as it is if it fits, or else its first and last halves, joined.

        Both halves have the same number of tokens, special ones counted as part of the first; of an
        odd budget the end has one more. A half that would begin or end inside a character loses
        that character.

        Differs from LongBench's ``pred.py``, which lets the text that it decodes and joins encode
        to more tokens than the budget, drops a token of an odd budget, and keeps the replacement
        characters of what it cuts through.

        Args:
            text: The whole prompt.
            budget: The most tokens it may have, special and wrapping ones included.

        Raises:
            ValueError: If the budget has no room for a token of each half.
        """
        ids = self.encode(text)
        total = self._total(text, ids)
        if total <= budget:
            return Cut(text, total, 0)
        num_around = total - len(ids)
        room = budget - num_around
        while room >= 2:
            kept = self._ends(ids, room)
            num_tokens = self._total(kept, self.encode(kept))
            if num_tokens <= budget:
                return Cut(kept, num_tokens, total - num_tokens)
            # Encoded anew, the joined text can have other tokens, and more of them.
            room -= num_tokens - budget
        raise ValueError(
            f"A prompt of {total} tokens cannot be cut to {budget}, as {num_around} of them are "
            "special tokens or the chat format's; allow more."
        )

    def _total(self, text: str, ids: list[int]) -> int:
        """The tokens that the model reads; ``ids`` are the text's own."""
        # Measured anew in the wrapping, whose marks can merge with the ends of the text.
        read = ids if self.wrap is None else self.encode(self.wrap(text))
        return len(read) + self.num_special

    def _ends(self, ids: list[int], room: int) -> str:
        """The text of the first and the last ids, ``room`` of them or a few fewer."""
        head, tail = room // 2, len(ids) - (room - room // 2)
        spares = range(_MAX_UNFINISHED + 1)
        return self._whole([ids[: max(head - spare, 0)] for spare in spares], str.endswith) + (
            self._whole([ids[tail + spare :] for spare in spares], str.startswith)
        )

    def _whole(self, candidates: list[list[int]], touches: Callable[[str, str], bool]) -> str:
        """The text of the first candidate that is cut between characters."""
        for ids in candidates:
            text = self.decode(ids)
            if not touches(text, _REPLACEMENT):
                return text
        # The prompt itself has replacement characters there.
        return self.decode(candidates[0])


def make_cutter(
    tokenizer: Any,
    length_unit: str = "model",
    *,
    add_bos_token: bool = False,
    apply_chat_template: bool = False,
) -> MiddleCutter:
    """Build the cutter for a unit of length.

    Args:
        tokenizer: The model's, a transformers tokenizer.
        length_unit: One of ``LENGTH_UNITS``.
        add_bos_token: Whether the model puts a beginning-of-sequence token before each prompt.
        apply_chat_template: Whether prompts are sent in the tokenizer's chat format.

    Raises:
        ValueError: As ``make_counter`` does.
        ImportError: As ``make_counter`` does.
    """
    num_special = make_counter(
        tokenizer,
        length_unit,
        add_bos_token=add_bos_token,
        apply_chat_template=apply_chat_template,
    ).num_special
    if length_unit == "cl100k":
        # The chat format keeps to its estimate there, which is in the model's own tokens.
        encoding = cl100k_encoding()
        return MiddleCutter(encoding.encode_ordinary, encoding.decode, num_special)

    def decode(ids: Sequence[int]) -> str:
        # Differs from LongBench's pred.py, which leaves it to the tokenizer whether spaces in front
        # of punctuation go: what is kept is to be the prompt's own text.
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    encode = _encoder(tokenizer)
    if not apply_chat_template:
        return MiddleCutter(encode, decode, num_special)

    def wrap(text: str) -> str:
        messages = [{"role": "user", "content": text}]
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    return MiddleCutter(encode, decode, num_special - chat_overhead(tokenizer), wrap)


def _encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    """Return the function that encodes without special tokens, by the fastest way there is."""
    backend = plain_backend(tokenizer)
    if backend is None:
        return lambda text: tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    # As for counting, without the tokens' places.
    return lambda text: backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
