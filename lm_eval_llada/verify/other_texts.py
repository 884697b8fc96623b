"""Texts that another engine makes of the same prompts: from a server, or from a file of lines."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lm_eval_llada.tasks.text.sources import read_json_lines

_KEY = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Asked:
    """What is asked of both sides.

    Attributes:
        prompt: The text.
        max_tokens: Tokens to generate.
        stop: The text ends before the first of these.
    """

    prompt: str
    max_tokens: int
    stop: tuple[str, ...] = ()


class OtherTexts(Protocol):
    """Another engine's side of a comparison."""

    def text(self, asked: Asked) -> str:
        """The text for a prompt, whole: stops are cut out by who asks."""
        ...


@dataclass
class ServedTexts:
    """A server that speaks the completions of OpenAI's protocol, asked one prompt at a time.

    Attributes:
        url: Such as ``http://localhost:8000/v1``; ``/v1`` is added where it is missing.
        model: The name it serves the model under; None asks it, and takes the first.
        timeout: Seconds to wait for a text.
    """

    url: str
    model: str | None = None
    timeout: float = 600.0
    _base: str = field(init=False)

    def __post_init__(self) -> None:  # noqa: D105
        base = self.url.rstrip("/")
        self._base = base if base.endswith("/v1") else f"{base}/v1"

    def text(self, asked: Asked) -> str:
        """As `OtherTexts.text`; greedy, with the stops that the protocol allows.

        Raises:
            ValueError: If the server is not there, refuses, or answers in another form.
        """
        if self.model is None:
            self.model = self._first_model()
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": asked.prompt,
            "max_tokens": asked.max_tokens,
            "temperature": 0,
        }
        if asked.stop:
            body["stop"] = list(asked.stop[:4])  # The most that the protocol takes.
        answer = self._call("completions", body)
        try:
            return str(answer["choices"][0]["text"])
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(
                f"{self._base}/completions answered without choices[0].text, which the protocol "
                f"has: {str(answer)[:200]}"
            ) from error

    def _first_model(self) -> str:
        answer = self._call("models", None)
        try:
            return str(answer["data"][0]["id"])
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(
                f"{self._base}/models names no model; give its name by --served_model."
            ) from error

    def _call(self, path: str, body: Mapping[str, Any] | None) -> Any:
        url = f"{self._base}/{path}"
        headers = {"Content-Type": "application/json"}
        if os.environ.get(_KEY):
            headers["Authorization"] = f"Bearer {os.environ[_KEY]}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            said = error.read(300).decode(errors="replace")
            raise ValueError(f"{url} answered {error.code} {error.reason}: {said}") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ValueError(
                f"No answer from {url} ({reason}); is the server running, and does it speak "
                "OpenAI's completions?"
            ) from error


class WrittenTexts:
    """Texts of a JSON-lines file, found by their prompts.

    A line has ``prompt`` and ``text``, or is one of lm-eval's ``samples_*.jsonl``.
    """

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            ValueError: If a line is of neither form, or a prompt has two texts.
            FileNotFoundError: If there is no such file.
        """
        self._path = path
        self._texts: dict[str, str] = {}
        for number, row in enumerate(read_json_lines(path), start=1):
            prompt, text = _of_row(row)
            if not isinstance(prompt, str) or not isinstance(text, str):
                raise ValueError(
                    f"{path}, text {number}: expected prompt and text, or a line of lm-eval's "
                    f"samples; got the names {', '.join(sorted(row))}."
                )
            if self._texts.setdefault(prompt, text) != text:
                raise ValueError(
                    f"{path}, text {number}: the prompt {prompt[-40:]!r} has another text before."
                )

    def text(self, asked: Asked) -> str:
        """As `OtherTexts.text`.

        Raises:
            ValueError: If the file has no such prompt.
        """
        if asked.prompt not in self._texts:
            raise ValueError(
                f"{self._path} has no text for the prompt that ends in {asked.prompt[-60:]!r}; "
                "write the prompts by --write_prompts, for the same --tasks, --limit and model."
            )
        return self._texts[asked.prompt]


def write_prompts(path: Path, asked: Sequence[Asked]) -> None:
    """Write what another engine is to answer, one JSON object a line; it adds ``text`` to each."""
    rows = [
        {"prompt": one.prompt, "max_tokens": one.max_tokens, "stop": list(one.stop)}
        for one in asked
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _of_row(row: Mapping[str, Any]) -> tuple[Any, Any]:
    if "arguments" not in row:
        return row.get("prompt"), row.get("text")
    try:
        return row["arguments"]["gen_args_0"]["arg_0"], row["resps"][0][0]
    except (KeyError, IndexError, TypeError):
        return None, None
