"""Counting tokens: the model's own, or those of GPT-4 as the papers count lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lm_eval_llada.checkpoints.tokenizers import plain_backend
from lm_eval_llada.errors import missing_package, unknown_choice
from lm_eval_llada.tasks.chat_templates import chosen_template

LENGTH_UNITS: tuple[str, ...] = ("model", "cl100k")
"""Whose tokens a length is counted in: the model's own, or GPT-4's ``cl100k_base``."""

# A letter, a word, a digit, a mark and a Chinese character: the kinds of character that a message
# or an answer begins or ends with.
_CHAT_PROBES = ("a", "The", "1", ".", "文")


@dataclass(frozen=True)
class TokenCounter:
    """Counts the tokens of texts.

    Attributes:
        count_plain: Token counts of a batch of texts, without special tokens.
        num_special: Special tokens that the model's encoding of a whole prompt adds.
    """

    count_plain: Callable[[Sequence[str]], list[int]]
    num_special: int = 0
    _pieces: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    def count(self, text: str) -> int:
        """Return the tokens of a whole prompt, special ones included."""
        return self.count_plain([text])[0] + self.num_special

    def count_pieces(self, pieces: Sequence[str]) -> list[int]:
        """Return the tokens of each piece on its own.

        Their sum is close to the count of the joined text, equal where no token spans two pieces.
        Every distinct piece is encoded once in the life of the counter.
        """
        unknown = list(dict.fromkeys(piece for piece in pieces if piece not in self._pieces))
        if unknown:
            self._pieces.update(zip(unknown, self.count_plain(unknown), strict=True))
        return [self._pieces[piece] for piece in pieces]


def make_counter(
    tokenizer: Any,
    length_unit: str = "model",
    *,
    add_bos_token: bool = False,
    apply_chat_template: bool | str = False,
) -> TokenCounter:
    """Build the counter for a unit of length.

    Args:
        tokenizer: A transformers tokenizer; not used where ``length_unit`` is ``cl100k`` and there
            is no chat format.
        length_unit: One of ``LENGTH_UNITS``.
        add_bos_token: Whether the model puts a beginning-of-sequence token before each prompt.
        apply_chat_template: Whether prompts are sent in the tokenizer's chat format, or in which of
            several by its name.

    Returns:
        The counter. In ``model`` units it counts the special tokens that the tokenizer adds by
        default, and the one of ``add_bos_token`` where that is not among them. In a chat the
        tokens of ``chat_overhead`` come on top, which are the model's own in either unit: GPT-4
        has no token for another model's marks.

    Raises:
        ValueError: If ``length_unit`` is unknown, tiktoken's vocabulary cannot be had, or the
            tokenizer has no chat template and needs one.
        ImportError: If tiktoken is needed and missing.
    """
    if length_unit not in LENGTH_UNITS:
        raise unknown_choice("length_unit", length_unit, LENGTH_UNITS)
    template = apply_chat_template if isinstance(apply_chat_template, str) else None
    num_special = chat_overhead(tokenizer, template) if apply_chat_template else 0
    if length_unit == "cl100k":
        encoding = cl100k_encoding()

        def count_plain(texts: Sequence[str]) -> list[int]:
            # Text that spells a special token is text here, as it is in any document.
            return [len(encoding.encode_ordinary(text)) for text in texts]

        return TokenCounter(count_plain, num_special)

    if not (apply_chat_template and _chat_brings_bos(tokenizer, template)):
        special_ids = tokenizer("", verbose=False)["input_ids"]
        num_special += len(special_ids)
        if add_bos_token and tokenizer.bos_token_id not in special_ids:
            num_special += 1
    return TokenCounter(_plain_count(tokenizer), num_special)


def chat_overhead(tokenizer: Any, template: str | None = None) -> int:
    """Return the tokens that the chat format adds around one message and an opened answer.

    That is all beside the user's message and the beginning of the answer, where one is given: the
    marks of both turns, and a beginning-of-sequence token or a system message that the template
    itself brings. Texts whose ends merge with the marks can take a token more or less in a
    tokenizer without special tokens for the marks; of several tried, the largest number is taken.

    Args:
        tokenizer: A transformers tokenizer with a chat template.
        template: Name of one of several; None means the only or the default one.

    Raises:
        ValueError: If the tokenizer has no such chat template.
    """
    count = _plain_count(tokenizer)
    added = []
    for text in _CHAT_PROBES:
        opened = _opened_chat(tokenizer, text, template)
        alone, asked, answered = count([text, opened, opened + text])
        added += [asked - alone, answered - 2 * alone]
    return max(added)


def _opened_chat(tokenizer: Any, message: str, template: str | None) -> str:
    turns = [{"role": "user", "content": message}]
    chosen = chosen_template(tokenizer, template)
    opened = tokenizer.apply_chat_template(
        turns, chat_template=chosen, tokenize=False, add_generation_prompt=True
    )
    return str(opened)


def _chat_brings_bos(tokenizer: Any, template: str | None) -> bool:
    """Whether chats start with BOS in writing, before which no model puts a second one."""
    bos = tokenizer.bos_token
    return bool(bos) and _opened_chat(tokenizer, _CHAT_PROBES[0], template).startswith(bos)


def _plain_count(tokenizer: Any) -> Callable[[Sequence[str]], list[int]]:
    """Return the function that counts tokens without special ones, by the fastest way there is."""
    backend = plain_backend(tokenizer)
    if backend is None:

        def count_slowly(texts: Sequence[str]) -> list[int]:
            encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)
            return [len(ids) for ids in encoded["input_ids"]]

        return count_slowly

    def count_fast(texts: Sequence[str]) -> list[int]:
        # Several times faster than calling the tokenizer, which also finds each token's place.
        return [len(found) for found in backend.encode_batch_fast(texts, add_special_tokens=False)]

    return count_fast


def cl100k_encoding() -> Any:
    """Return tiktoken's ``cl100k_base`` encoding.

    Raises:
        ImportError: If tiktoken is not installed.
        ValueError: If its vocabulary is neither cached nor to be downloaded.
    """
    try:
        import tiktoken
    except ImportError as error:
        instead = "use length_unit='model'"
        raise missing_package("length_unit='cl100k'", "tiktoken", "ruler", instead) from error
    try:
        return tiktoken.get_encoding("cl100k_base")
    except Exception as error:  # tiktoken lets every kind of network error through
        raise ValueError(
            "length_unit='cl100k' needs the vocabulary cl100k_base, which tiktoken downloads on "
            f"first use, and that failed ({type(error).__name__}: {error}). Point "
            "TIKTOKEN_CACHE_DIR to a folder that another machine has filled, or use "
            "length_unit='model'."
        ) from error
