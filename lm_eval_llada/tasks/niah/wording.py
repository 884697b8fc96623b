"""How needles are asked for: in our own words, in NeedleBench's as LongLLaDA ran it, or a user's.

NeedleBench's words are in a module of OpenCompass that imports half of it, so the file is parsed
and never run. It may lie in a ``data_dir`` instead.

Source: OpenCompass 0.4.2, ``datasets/needlebench/origin.py``, with ``guide`` on; LongLLaDA (arXiv
2506.14429) and UltraLLaDA (arXiv 2510.10481) release edited copies of it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path

from lm_eval_llada.tasks.harness_texts import literal_text, note_text
from lm_eval_llada.tasks.niah.options import NiahOptions
from lm_eval_llada.tasks.prompts import require_fields
from lm_eval_llada.tasks.text.sources import folder_of

PROMPT = "{context}\n\nQuestion: {question}\nAnswer: {stem}"
"""Our own words for one needle. They end in the stem of the answer, without a blank behind it."""

MULTI_PROMPT = "{context}\n\nQuestions: {questions}\nAnswers, in the same order: {stem}"
"""Our own words for several needles. They end in the stem of the first answer."""

RELEASE = "opencompass==0.4.2"
"""Where the papers' wording is from."""

CHECKSUM = "4dd650378a9ca363a0ca1112f2302908efa6f552fdd434492d6e6702dfb3fcb9"
"""SHA-256 of the template that its file makes."""

_NAME = "needlebench/prompt"
_FILE = Path("needlebench", "origin.py")


def single_template(options: NiahOptions) -> str:
    """Return the format string of a prompt for one needle: {context}, {question} and {stem}.

    Args:
        options: Whose ``template`` wins over its ``wording``. Where NeedleBench's words are asked
            for and nowhere to be had, a warning and a note for the results say that it is ours.

    Raises:
        ValueError: If the template lacks a field or has an unknown one, or a file of ``data_dir``
            does not hold the words.
    """
    if options.template is not None:
        return _checked(options.template, "question")
    if options.wording == "own":
        return PROMPT
    if (found := _needlebench(options.data_dir)) is None:
        digest = _digest(PROMPT)
        note_text(
            _NAME,
            f"own wording, {digest}",
            "NeedleBench's prompt is not at hand: needles are asked for in this package's own "
            "words, and the results say so under prompt_digest. For the original: pip install "
            f'--no-deps "{RELEASE}", or put its {_FILE.name} at {_FILE} in data_dir.',
        )
        return PROMPT
    if (digest := _digest(found)) != CHECKSUM:
        note_text(
            _NAME,
            digest,
            f"The prompt of NeedleBench has the SHA-256 {digest}; {CHECKSUM} is the one of "
            f"{RELEASE}. Scores do not compare with those; the results say so under prompt_digest.",
        )
    return found


def multi_template(options: NiahOptions) -> str:
    """Return the format string of a prompt for several needles: {context}, {questions}, {stem}.

    Raises:
        ValueError: If the template lacks a field or has an unknown one, or NeedleBench's words are
            asked for, which are for one needle.
    """
    if options.template is not None:
        return _checked(options.template, "questions")
    if options.wording != "own":
        raise ValueError(
            f"wording={options.wording!r} is for one needle. Leave it out, or give a template."
        )
    return MULTI_PROMPT


def has_stem(template: str) -> bool:
    """Whether a prompt holds the beginning of the answer, which an output then need not repeat."""
    return "{stem}" in template


def parse_origin(source: str) -> str | None:
    """Return the English prompt that NeedleBench's module makes with ``guide``, as a format string.

    LongLLaDA's edit of it takes the request for a format out and the last ten characters off, so
    that the answer's stem, which is quoted there, ends the prompt.

    Args:
        source: The text of ``origin.py``.

    Returns:
        The template; None where the module has it not, or not in that form.
    """
    whole = _english(source, "_generate_prompt", "prompt", position="End")
    guided = _english(source, "_modify_retrieval_question", "guide_retrieval_question")
    parts = _english(source, "_modify_retrieval_question", "parts")
    # `parts[0] + "<hint> <request>" + parts[1]`, where the question was split at the request.
    if not isinstance(guided, ast.BinOp) or not isinstance(guided.left, ast.BinOp):
        return None
    if not isinstance(parts, ast.Call) or len(parts.args) != 1:
        return None
    texts = literal_text(whole), literal_text(guided.left.right), literal_text(parts.args[0])
    text, hint, request = texts
    if text is None or hint is None or not request or not hint.endswith(request):
        return None
    hint = hint.removesuffix(request).replace("{", "{{").replace("}", "}}")
    text = text.replace("{retrieval_question}", "{question} " + hint + "{stem}")
    return text if text.endswith("{stem}") and "{context}" in text else None


def _checked(template: str, question: str) -> str:
    where = "The template of a NIAH task"
    require_fields(where, template, required=("context",), optional=(question, "stem"))
    if not has_stem(template) and "{" + question + "}" not in template:
        raise ValueError(f"{where} must hold {{{question}}}, {{stem}} or both; got {template!r}.")
    return template


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _needlebench(data_dir: str | Path | None) -> str | None:
    """NeedleBench's words from a file of ``data_dir`` or the installed OpenCompass, or None."""
    if data_dir is not None:
        folder = folder_of(data_dir)
        for path in (folder / _FILE, folder / _FILE.name):
            if path.is_file():
                if (found := _read(path)) is None:
                    raise ValueError(
                        f"{path} does not hold the prompt of NeedleBench where {RELEASE} has it. "
                        "Take the file from there, or give the wording as template."
                    )
                return found
    spec = importlib.util.find_spec("opencompass")
    places = (spec.submodule_search_locations or []) if spec else []
    paths = [Path(place) / "datasets" / _FILE for place in places]
    # Another release may have its words elsewhere, and be there for another purpose.
    return next((_read(path) for path in paths if path.is_file()), None)


@lru_cache(maxsize=4)
def _read(path: Path) -> str | None:
    try:
        return parse_origin(path.read_text(encoding="utf-8-sig"))
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path} is no Python module in UTF-8 ({error}).") from error


def _english(source: str, function: str, name: str, **branches: str) -> ast.expr | None:
    """What a variable of a function is set to in the branch for English."""
    node: ast.AST = ast.parse(source)
    found = [n for n in ast.walk(node) if isinstance(n, ast.FunctionDef) and n.name == function]
    body: list[ast.stmt] = list(found[0].body) if found else []
    for variable, value in {"language": "English", **branches}.items():
        test = f"{variable} == {value!r}"
        inside = [n for s in body for n in ast.walk(s) if isinstance(n, ast.If)]
        body = next((list(n.body) for n in inside if ast.unparse(n.test) == test), [])
    for statement in body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            return statement.value
    return None
