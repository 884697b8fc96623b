"""The package from Python: the numbers and texts of the command line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import lm_eval_llada
from lm_eval_llada import generate, load_model, log_likelihood
from lm_eval_llada.cli import main as cli
from tests.helpers.toy_requests import PAIRS, PROMPTS, choices, generations


@pytest.fixture
def model(random_checkpoint):
    return load_model(str(random_checkpoint), device="cpu", mc_num=12)


def test_texts_are_those_of_the_harness_model(model, make) -> None:
    expected = make().generate_until(generations(PROMPTS))
    assert generate(model, PROMPTS, gen_length=8) == expected
    assert generate(model, PROMPTS[1], gen_length=8) == expected[1]


def test_drawn_texts_have_the_seeds_of_a_run(model, make) -> None:
    settings = {"gen_length": 8, "temperature": 1.0}
    expected = make().generate_until(generations(PROMPTS, temperature=1.0))
    assert generate(model, PROMPTS, **settings) == expected


def test_likelihoods_are_those_of_the_harness_model(model, make) -> None:
    expected = [value for value, _ in make().loglikelihood(choices(PAIRS))]
    contexts, continuations = zip(*PAIRS, strict=True)
    assert log_likelihood(model, contexts, continuations) == pytest.approx(expected, abs=1e-5)
    assert log_likelihood(model, *PAIRS[0]) == pytest.approx(expected[0], abs=1e-5)
    several = log_likelihood(model, "The key for", [" rain", " a roof"])
    assert len(several) == 2 and several[0] == pytest.approx(expected[0], abs=1e-5)


def test_numbers_of_contexts_and_continuations_must_fit(model) -> None:
    with pytest.raises(ValueError, match="got 1 and 2"):
        log_likelihood(model, ["a"], ["b", "c"])


def test_the_command_line_has_the_same_defaults(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = ["--tasks", "niah_tiny", "--limit", "2", "--output_path", "out", "--log_samples"]
    assert cli.main(run) == 0
    (log,) = tmp_path.rglob("samples_*.jsonl")
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    prompts = [row["arguments"]["gen_args_0"]["arg_0"] for row in rows]
    settings = rows[0]["arguments"]["gen_args_0"]["arg_1"]
    found = generate(load_model(), prompts, **settings)
    assert found == [row["resps"][0][0] for row in rows]


def test_importing_the_package_stays_cheap() -> None:
    code = (
        "import sys, lm_eval_llada; "
        "print(sorted({'torch', 'transformers'} & set(sys.modules))); "
        "lm_eval_llada.nothing"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
    assert "has no attribute 'nothing'" in done.stderr


def test_names_are_listed() -> None:
    assert {"load_model", "generate", "log_likelihood"} <= set(lm_eval_llada.__all__)
