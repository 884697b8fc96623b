"""Which of a tokenizer's chat templates a run uses, and whether it keeps what was said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval_llada.errors import unknown_choice


def chosen_template(tokenizer: Any, name: str | None) -> str:
    """A tokenizer's chat template of a name; None for its only or its default one.

    Raises:
        ValueError: If there is no such template, or none, or several and no default.
    """
    templates = getattr(tokenizer, "chat_template", None)
    label = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    if templates is None:
        raise ValueError(
            f"The tokenizer {label!r} has no chat template; run without "
            "apply_chat_template, as is right for a base model."
        )
    if isinstance(templates, str):
        if name not in (None, "default"):
            raise ValueError(
                f"The tokenizer {label!r} has one chat template, without a name; "
                f"got --apply_chat_template {name}. Leave the name out."
            )
        return templates
    if not isinstance(templates, Mapping):
        raise ValueError(
            f"The chat template of the tokenizer {label!r} must be a text, or several with names; "
            f"got {templates!r}. Look at its tokenizer_config.json."
        )
    if name is None and "default" not in templates:
        raise ValueError(
            f"The tokenizer {label!r} has several chat templates and no default; "
            f"name one by --apply_chat_template: {', '.join(sorted(templates))}."
        )
    if name is not None and name not in templates:
        raise unknown_choice("--apply_chat_template", name, sorted(templates))
    return str(templates[name or "default"])


def check_messages_kept(prompt: str, messages: Sequence[Mapping[str, str]]) -> None:
    """Refuse a prompt that has lost a message, as from a template for contents in parts.

    Args:
        prompt: What a chat template made.
        messages: Roles and contents; white space around a content may be lost.

    Raises:
        ValueError: If the text of a message is not in the prompt.
    """
    for message in messages:
        if message["content"].strip() not in prompt:
            raise ValueError(
                f"The chat template makes a prompt without the text of the {message['role']} "
                f"message, {message['content'].strip()[:40]!r}; it may want contents in parts, or "
                "be empty. Use another template, or run without --apply_chat_template."
            )
