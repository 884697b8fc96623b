"""verify --against: a server of the protocol, a file of lines, and where texts part."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from lm_eval_llada.cli import main as cli
from lm_eval_llada.cli.task_index import without_defaults
from lm_eval_llada.engine.loading import open_run
from lm_eval_llada.verify.other_texts import Asked, ServedTexts
from lm_eval_llada.verify.text_comparison import TaskComparison, TextPair, first_difference
from tests.helpers.command_line import check_one_sentence

RUN = ("--tasks", "niah_tiny", "--limit", "3", "--model_args", "pretrained=tiny-llada")


class Server:
    """Speaks the completions of OpenAI's protocol; `answer` makes the text for a request."""

    def __init__(self, answer: Callable[[dict[str, Any]], str]) -> None:
        self.bodies: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send({"data": [{"id": "served-llada"}]} if self.path == "/v1/models" else {})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body)
                if self.path == "/v1/completions":
                    self._send({"choices": [{"index": 0, "text": answer(body)}]})
                else:
                    self.send_error(404, "no such path")

            def _send(self, content: Any) -> None:
                data = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[Server]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """No proxy, and no listing of the harness' own tasks, thousands of files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "*")
        with without_defaults():
            yield


@pytest.fixture(scope="module")
def exact(tmp_path_factory) -> dict[str, str]:
    """Our texts by prompt, from a run of the command line."""
    folder = tmp_path_factory.mktemp("run")
    assert cli.main(["run", *RUN, "--output_path", str(folder), "--log_samples"]) == 0
    (log,) = folder.rglob("samples_*.jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return {row["arguments"]["gen_args_0"]["arg_0"]: row["resps"][0][0] for row in rows}


def against(capsys: Any, where: str, *more: str) -> tuple[int, str]:
    try:
        code = cli.main(["verify", "--against", where, *RUN, *more])
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, capsys.readouterr().out


def test_a_server_of_our_own_texts_is_equal_in_all(exact, capsys) -> None:
    with Server(lambda body: exact[body["prompt"]]).running() as server:
        code, out = against(capsys, server.url)
    assert code == 0
    assert "niah_tiny: 3 of 3 texts are equal (100.0 %)" in out
    assert "difference +0.00" in out and "part first" not in out
    body = server.bodies[0]
    assert body["model"] == "served-llada" and body["temperature"] == 0
    assert body["max_tokens"] == 8 and body["stop"] == ["\n"]


def test_a_changed_token_is_found_at_that_token(exact, capsys, tmp_path) -> None:
    text = open_run({"pretrained": "tiny-llada"}).text
    prompt = list(exact)[1]
    ids = text.encode(exact[prompt], add_special_tokens=False)
    changed = [*ids]
    # A token that stays itself when the text is read again.
    for other in text.encode(" the old river 7 9 2", add_special_tokens=False):
        changed[2] = other
        theirs = text.tokenizer.decode(changed)
        if text.encode(theirs, add_special_tokens=False) == changed and changed != ids:
            break
    assert text.encode(theirs, add_special_tokens=False)[2] != ids[2]
    output = tmp_path / "pairs.jsonl"
    with Server(lambda b: theirs if b["prompt"] == prompt else exact[b["prompt"]]).running() as s:
        code, out = against(capsys, s.url + "/v1/", "--output", str(output))
    assert code == 1
    assert "2 of 3 texts are equal (66.7 %)" in out
    shown = [text.tokenizer.decode([token]) for token in (ids[2], changed[2])]
    assert f"in sample 1 at token 2: ours {shown[0]!r}, theirs {shown[1]!r}" in out
    assert "no interval from a single sample or needle" in out
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["place"] for row in rows] == [None, 2, None]
    assert rows[1]["score_ours"] == 100.0 and rows[1]["score_theirs"] < 100.0


def test_a_difference_of_scores_has_an_interval_over_needles() -> None:
    scores = [(100.0, 100.0), (100.0, 0.0), (0.0, 0.0), (100.0, 100.0)]
    pairs = [
        TextPair("t", i, "a", "b", one, two, f"needle {i}", 0, ("a", "b"))
        for i, (one, two) in enumerate(scores)
    ]
    *_, line = TaskComparison("t", tuple(pairs)).lines()
    # Differences 0, -100, 0, 0: mean -25, standard error 25, Student's t of 3 degrees 3.18.
    assert line.endswith("difference -25.00, 95 % interval -104.56 to +54.56")


@pytest.mark.parametrize(
    ("ours", "theirs", "place", "tokens"),
    [
        ("a b c", "a b c", None, ("", "")),
        ("a b c", "a x c", 1, ("b", "x")),
        ("a b", "a b c", 2, ("", "c")),
        ("", "a", 0, ("", "a")),
    ],
)
def test_where_texts_part(ours, theirs, place, tokens) -> None:
    words = ["a", "b", "c", "x"]
    found = first_difference(
        ours, theirs, lambda text: [words.index(w) for w in text.split()], words.__getitem__
    )
    assert found == (place, tokens)


def test_stops_are_cut_out_here_too(exact, capsys) -> None:
    with Server(lambda body: exact[body["prompt"]] + "\nmore").running() as server:
        assert against(capsys, server.url)[0] == 0


def test_a_file_of_lines_serves_as_well(exact, capsys, tmp_path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    assert cli.main(["verify", "--write_prompts", str(prompts), *RUN]) == 0
    rows = [json.loads(line) for line in prompts.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == list(exact)
    assert rows[0]["max_tokens"] == 8 and rows[0]["stop"] == ["\n"]
    lines = [{**row, "text": exact[row["prompt"]] + " "} for row in rows]
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps(row) + "\n" for row in lines))
    code, out = against(capsys, str(texts))
    assert code == 1 and "3 differ in white space at their ends alone" in out


def test_a_log_of_samples_serves_as_well(exact, capsys, tmp_path) -> None:
    log = tmp_path / "samples_niah_tiny_x.jsonl"
    rows = [
        {"arguments": {"gen_args_0": {"arg_0": prompt}}, "resps": [[text]]}
        for prompt, text in exact.items()
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert against(capsys, str(log))[0] == 0


@pytest.mark.parametrize(
    ("where", "more", "message"),
    [
        ("http://127.0.0.1:9", (), "No answer from http://127.0.0.1:9/v1/models"),
        ("none.jsonl", (), "neither a URL such as"),
        ("http://127.0.0.1:9", ("--model_args", "cache=prefix"), "compares with the exact mode"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_sentence(where, more, message, capsys) -> None:
    code = cli.main(["verify", "--against", where, *RUN, *more])
    check_one_sentence(code, capsys.readouterr().err, message)


def test_a_missing_prompt_is_named(exact, capsys, tmp_path) -> None:
    prompt, text = next(iter(exact.items()))
    file = tmp_path / "few.jsonl"
    file.write_text(json.dumps({"prompt": prompt, "text": text}) + "\n")
    code = cli.main(["verify", "--against", str(file), *RUN])
    check_one_sentence(code, capsys.readouterr().err, "has no text for the prompt that ends in")


def test_answers_of_another_form_and_refusals_are_shown() -> None:
    with Server(lambda body: "").running() as server:
        with pytest.raises(ValueError, match="answered 404 no such path"):
            ServedTexts(server.url + "/other", model="x").text(Asked("a", 4))
        with pytest.raises(ValueError, match="names no model"):
            ServedTexts(server.url + "/other").text(Asked("a", 4))


def test_prompts_are_found_by_path(tmp_path: Path, capsys) -> None:
    (tmp_path / "bad.jsonl").write_text(json.dumps({"question": "x"}) + "\n")
    code = cli.main(["verify", "--against", str(tmp_path / "bad.jsonl"), *RUN])
    check_one_sentence(code, capsys.readouterr().err, "expected prompt and text")
