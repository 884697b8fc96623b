"""LongLLaDA's protocol for Dream, which its paper ran beside LLaDA."""

from __future__ import annotations

import argparse

import pytest

from lm_eval_llada.cli import main as cli
from lm_eval_llada.cli import plan as command
from lm_eval_llada.plan.costs import checked_rope
from lm_eval_llada.tasks.papers.protocols import fill_protocols

NIAH = ["longllada_niah_4000"]


@pytest.mark.parametrize(("family", "dtype"), [("Dream", "bfloat16"), ("LLaDA", "float16")])
def test_each_family_runs_in_the_type_of_the_paper(family: str, dtype: str) -> None:
    assert fill_protocols(NIAH, {}, family=family).model_args["dtype"] == dtype
    assert fill_protocols(NIAH, {"dtype": "float32"}, family=family).lines == (
        "longllada: the model arguments round_scale=true are filled in as the release ran; give "
        "your own to change them.",
        f"longllada: the results are not the protocol's, because of dtype=float32 ({dtype} there).",
    )


def test_what_a_family_does_not_say_is_the_protocols() -> None:
    assert fill_protocols(NIAH, {}, family="Dream").model_args["round_scale"] is True
    given = {"rope_scale": "5"}
    assert fill_protocols(NIAH, given, family="Dream").model_args == {**given, "dtype": "bfloat16"}
    of_ultrallada = fill_protocols(["ultrallada_niah"], {}, family="Dream").model_args
    assert of_ultrallada["dtype"] == "float16"


def test_dream_at_4k_has_the_papers_factor_and_type(tmp_path, capsys) -> None:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(dest="command"))
    model_args = "pretrained=Dream-org/Dream-v0-Base-7B,rope_method=ntk,target_length=4096"
    namespace = parser.parse_args(["plan", "--tasks", NIAH[0], "--model_args", model_args])
    cli.fill_in(namespace, tmp_path)
    assert "dtype=bfloat16, round_scale=true are filled in" in capsys.readouterr().err
    assert checked_rope(namespace.model_args).rope_scale == 5
