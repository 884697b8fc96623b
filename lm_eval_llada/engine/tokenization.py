"""The tokenizer of a checkpoint: text to ids and back, chat prompts, and where a text ends."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import jinja2
from lm_eval.models.utils import configure_pad_token, postprocess_generated_text
from transformers import PreTrainedTokenizerBase

from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.modeling import LLaDAConfig
from lm_eval_llada.tasks.chat_templates import check_messages_kept, chosen_template


class Tokenization:
    """Text to token ids and back, for one checkpoint."""

    def __init__(
        self,
        name: str,
        config: LLaDAConfig,
        *,
        revision: str | None = None,
        add_bos_token: bool | None = None,
    ) -> None:
        """Loads and checks the tokenizer.

        Args:
            name: Shipped model, folder or hub id.
            config: Of the model that is to read the ids.
            revision: Branch, tag or commit on the hub.
            add_bos_token: Whether prompts start with BOS; None leaves it to the tokenizer.

        Raises:
            ValueError: If there is no tokenizer there, or it does not fit the model.
        """
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(None, name, revision)
        try:
            self.tokenizer.encode("One.")
        except Exception as error:  # settings of a wrong type come to light only here
            raise ValueError(
                f"The tokenizer of {name!r} reads no text ({type(error).__name__}: {error}); look "
                "at its tokenizer_config.json."
            ) from error
        self.mask_token_id = checked_mask_token(self.tokenizer, config, name)
        configure_pad_token(self.tokenizer, config)
        if add_bos_token and self.tokenizer.bos_token_id is None:
            raise ValueError(f"add_bos_token=true, but the tokenizer of {name!r} has no BOS token.")
        self._add_bos_token = add_bos_token
        self._template: str | None = None
        ends = _listed_ids(config.eos_token_id) + _listed_ids(self.tokenizer.eos_token_id)
        self.eos_token_id = ends[0] if ends else None
        # The end of a turn in a chat; the model's own `eos_token_id` is the end of a text.
        for name_of_turn in config.row.end_of_turn:
            ends += _listed_ids(self.tokenizer.get_added_vocab().get(name_of_turn))
        self.end_token_ids = tuple(dict.fromkeys(ends))
        # The options of a question share their context, so the last few texts come again.
        self._encode = lru_cache(maxsize=64)(self._encode_once)

    def encode(self, text: str, add_special_tokens: bool | None = None) -> list[int]:
        """Token ids of a text.

        Args:
            text: Any text. Names of special tokens in it become those tokens, except that of the
                mask token: a document that mentions it must not gain a gap to fill.
            add_special_tokens: Whether to start with BOS or what else the tokenizer adds. None
                means as `add_bos_token` says, and never a second BOS where the text has one, as
                chat prompts do.

        Raises:
            ValueError: If the text holds half of a surrogate pair.
        """
        if add_special_tokens is None:
            bos = self.tokenizer.bos_token
            has_bos = bos is not None and text.startswith(bos)
            add_special_tokens = False if has_bos else self._add_bos_token
        if add_special_tokens and self._add_bos_token:
            # A tokenizer that adds no BOS of its own would ignore add_special_tokens=True.
            return [self.tokenizer.bos_token_id, *self._encode(text, False)]
        return list(self._encode(text, add_special_tokens))

    def _encode_once(self, text: str, add_special_tokens: bool | None) -> tuple[int, ...]:
        """Ids without a mask token among them; None leaves special tokens to the tokenizer."""
        lone = next((i for i, letter in enumerate(text) if "\ud800" <= letter <= "\udfff"), None)
        if lone is not None:
            raise ValueError(
                f"A text has half a character, {text[lone]!r}, at place {lone}, which no tokenizer "
                "reads; remove it from the data, or write both halves."
            )
        keyword = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        ids = list(self.tokenizer.encode(text, **keyword))
        if self.mask_token_id not in ids:
            return tuple(ids)
        # Encoded apart, the halves of the name are ordinary text.
        spelt = [i for part in self._without_names(text) for i in self._plain(part)]
        plain = self._plain(text)
        # What the tokenizer has put in front of the text and behind it stays there.
        num_added = len(ids) - len(plain)
        start = next(i for i in range(num_added + 1) if ids[i : i + len(plain)] == plain)
        return (*ids[:start], *spelt, *ids[start + len(plain) :])

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _without_names(self, text: str) -> list[str]:
        """A text in parts none of which makes a mask token: it is cut inside of each name."""
        parts, waiting = [], [text]
        while waiting:
            part = waiting.pop()
            cuts = self._cuts(part)
            if not cuts:
                parts.append(part)
            ends = zip([0, *cuts], [*cuts, len(part)], strict=True)
            # Again, since with a token that takes the spaces around it a name can still be whole.
            waiting += [part[start:end] for start, end in ends if cuts][::-1]
        return parts

    def _cuts(self, text: str) -> list[int]:
        """The middle of each stretch of a text that makes a mask token."""
        if self.mask_token_id not in self._plain(text):
            return []
        if self.tokenizer.is_fast:
            # Not a search for the name: normalized, other spellings become the token as well.
            encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
            spans = [span for token, span in pairs if token == self.mask_token_id]
        else:
            name = str(self.tokenizer.convert_ids_to_tokens(self.mask_token_id))
            spans = [match.span() for match in re.finditer(re.escape(name), text)]
        if not spans or any(end - start < 2 for start, end in spans):
            raise ValueError(
                f"A text holds what the tokenizer {self.tokenizer.name_or_path!r} can only read as "
                f"a mask token, near {text[:40]!r}; remove it from the data."
            )
        return [(start + end) // 2 for start, end in spans]

    def prefix(self) -> list[int]:
        """What a text with nothing before it starts from: BOS if `add_bos_token` says so."""
        return [self.tokenizer.bos_token_id] if self._add_bos_token else []

    def text_of(self, ids: Sequence[int], until: Sequence[str], *, ignore_eos: bool) -> str:
        """The text of generated tokens, up to where it ends, without special tokens.

        Args:
            ids: Generated tokens.
            until: The text ends before the first of these; a special token may be among them.
            ignore_eos: Whether to read on after an end-of-text token.
        """
        ends = self._ends(until, ignore_eos)
        num_kept = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        return postprocess_generated_text(self._decode(ids[:num_kept]), list(until), None)

    def is_final(self, ids: Sequence[int], until: Sequence[str], *, ignore_eos: bool) -> bool:
        """Whether `text_of` these tokens stays the same whatever tokens follow.

        Args:
            ids: Generated tokens, the first of a longer text.
            until: As in `text_of`.
            ignore_eos: As in `text_of`.
        """
        if not self._ends(until, ignore_eos).isdisjoint(ids):
            return True
        text = self._decode(ids)
        found = [text.index(stop) for stop in until if stop in text]
        if not found:
            return False
        # A stop that has begun before it, and is not complete yet, would end the text earlier.
        return not any(
            stop.startswith(text[start:])
            for stop in until
            for start in range(max(0, len(text) - len(stop) + 1), min(found))
        )

    def _decode(self, ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text)

    def _ends(self, until: Sequence[str], ignore_eos: bool) -> set[int]:
        """Tokens that end a text. Decoding drops special ones, so it is too late for them after."""
        ends = set() if ignore_eos else set(self.end_token_ids)
        return ends | {self._specials[stop] for stop in until if stop in self._specials}

    @cached_property
    def _specials(self) -> dict[str, int]:
        """Special tokens and their ids; looked up once, since every step of a text asks."""
        tokens, ids = self.tokenizer.all_special_tokens, self.tokenizer.all_special_ids
        return dict(zip(tokens, ids, strict=True))

    def choose_template(self, name: str | None) -> str:
        """The chat template of a name, which chat prompts are in from now on.

        Args:
            name: One of the tokenizer's templates; None for its only or its default one.

        Raises:
            ValueError: If there is no such template, or none, or several and no default.
        """
        template = chosen_template(self.tokenizer, name)
        self._template = template
        return template

    def chat_prompt(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        """A conversation as the model was trained to see it.

        Args:
            messages: Roles and contents.
            add_generation_prompt: Whether to open the assistant's turn. False continues the last
                message instead of closing it: the harness puts a task's `gen_prefix` there.
                Templates that trim a message trim that one too, so a prefix keeps no blank or
                newline at its end under them.

        Raises:
            ValueError: If the tokenizer has no chat template, or it refuses the conversation or
                loses a message.
        """
        template = self._template or chosen_template(self.tokenizer, None)
        try:
            prompt = self.tokenizer.apply_chat_template(
                messages,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        except (jinja2.exceptions.TemplateError, TypeError, ValueError) as error:
            # Differs from the harness' `hf` model, which drops the system message and goes on.
            roles = ", ".join(message["role"] for message in messages)
            raise ValueError(
                f"The chat template refuses messages with the roles {roles}: {error}"
            ) from error
        check_messages_kept(str(prompt), messages)
        return str(prompt)


def checked_mask_token(tokenizer: PreTrainedTokenizerBase, config: LLaDAConfig, name: str) -> int:
    """The id of the mask token, once model and tokenizer agree on it.

    It is the config's; where that has none, the token that checkpoints of its family name so, and
    where the tokenizer does not know that one, the tokenizer's own mask token.

    Raises:
        ValueError: If nothing names a mask token, or the tokenizer uses its id for ordinary text or
            not at all.
    """
    special = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    mask_token_id = config.mask_token_id
    if mask_token_id is None and (named := config.row.mask_tokens):
        # Only a whole token of that name, not the pieces that spell it.
        added = tokenizer.get_added_vocab()
        mask_token_id = next((added[n] for n in named if n in added), tokenizer.mask_token_id)
        if mask_token_id is None:
            known = " or ".join(map(repr, named))
            raise ValueError(
                f"Neither the config of the model nor the tokenizer {name!r} names a mask token, "
                f"which {config.row.name} calls {known}; add mask_token_id to config.json."
            )
    if mask_token_id is None:
        raise ValueError("The config of the model has no mask_token_id; add it to config.json.")
    if mask_token_id in special:
        return mask_token_id
    found = "has no such token"
    if mask_token_id < len(tokenizer):
        token = tokenizer.convert_ids_to_tokens(mask_token_id)
        found = f"has the ordinary token {token!r} there"
    raise ValueError(
        f"The model's mask token is id {mask_token_id}, but the tokenizer {name!r} {found}; "
        "name the tokenizer the model was trained with by tokenizer=."
    )


def _listed_ids(given: Any) -> list[int]:
    """End-of-text tokens as a config gives them: none, one, or a list of them."""
    listed = [] if given is None else given if isinstance(given, list) else [given]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in listed):
        raise ValueError(f"eos_token_id must be a token id or a list of them; got {given!r}.")
    return listed[:]
