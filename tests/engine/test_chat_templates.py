"""Chat templates: the named one is used, and none loses a message."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from lm_eval_llada.tasks.chat_templates import chosen_template
from lm_eval_llada.tasks.token_counts import chat_overhead
from tests.helpers.toy_tokenizer import toy_tokenizer

PLAIN = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
NAMED = "named one two three: " + PLAIN
IN_PARTS = (
    "{% for m in messages %}{% for part in m['content'] %}{{ part.text }}{% endfor %}{% endfor %}"
)
SAID = [{"role": "user", "content": " The key is "}]


def tokenizer_with(template: Any) -> Any:
    tokenizer = toy_tokenizer().__class__(tokenizer_object=toy_tokenizer().backend_tokenizer)
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture
def lm_with(make, random_checkpoint: Path, tmp_path: Path) -> Any:
    def build(template: Any) -> Any:
        folder = Path(shutil.copytree(random_checkpoint, tmp_path / "chat", dirs_exist_ok=True))
        tokenizer = make().tokenizer.__class__.from_pretrained(folder)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        return make(pretrained=str(folder))

    return build


@pytest.mark.parametrize("template", ["", IN_PARTS, "Answer:", "{{ messages[0]['content'][:4] }}"])
def test_a_template_that_loses_a_message_is_an_error(lm_with, template: str) -> None:
    with pytest.raises(ValueError, match="without the text of the user message, 'The key is'"):
        lm_with(template).apply_chat_template(SAID)


def test_a_template_that_drops_the_system_message_is_an_error(lm_with) -> None:
    last_only = "{{ messages[-1]['content'] }}"
    said = [{"role": "system", "content": "Be brief."}, *SAID]
    with pytest.raises(ValueError, match="without the text of the system message, 'Be brief.'"):
        lm_with(last_only).apply_chat_template(said)


def test_the_named_template_is_used(lm_with) -> None:
    lm = lm_with({"default": PLAIN, "rag": NAMED})
    assert lm.apply_chat_template(SAID) == " The key is "
    assert lm.chat_template("rag") == NAMED
    assert lm.apply_chat_template(SAID) == "named one two three:  The key is "
    assert lm.chat_template(True) == PLAIN
    assert lm.apply_chat_template(SAID) == " The key is "


def test_templates_without_a_default_are_listed(lm_with) -> None:
    lm = lm_with({"tool": PLAIN, "rag": NAMED})
    for ask in (lambda: lm.chat_template(True), lambda: lm.apply_chat_template(SAID)):
        with pytest.raises(ValueError, match="no default; name one .*: rag, tool"):
            ask()
    assert lm.chat_template("tool") == PLAIN


@pytest.mark.parametrize(
    ("template", "name", "message"),
    [
        (PLAIN, "rag", "has one chat template, without a name; got --apply_chat_template rag"),
        ({"default": PLAIN, "rag": NAMED}, "rga", "Did you mean 'rag'"),
        (None, None, "has no chat template"),
        (7, None, "must be a text, or several with names; got 7"),
    ],
)
def test_a_name_that_is_not_there_is_an_error(
    template: Any, name: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        chosen_template(tokenizer_with(template), name)


def test_the_tokens_of_the_named_template_are_reserved() -> None:
    tokenizer = tokenizer_with({"default": PLAIN, "rag": NAMED})
    assert chat_overhead(tokenizer) == 0
    assert chat_overhead(tokenizer, "rag") > 3
