"""`verify`: what is right passes, and each kind of fault fails the check that is there for it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lm_eval_llada.cli import verify as command
from lm_eval_llada.engine.arguments import parse_model_args
from lm_eval_llada.engine.tokenization import Tokenization
from lm_eval_llada.modeling import LLaDAForMaskedLM, load_config
from lm_eval_llada.verify import checkpoint_checks, model_checks, official_logits
from lm_eval_llada.verify.checkpoint_checks import VerifyOptions, unchecked, verify
from lm_eval_llada.verify.logit_comparison import (
    TOLERANCES,
    Tolerance,
    compare_logits,
    masked_prompts,
)
from lm_eval_llada.verify.model_checks import FAILED, PASSED, SKIPPED, Check
from tests.helpers.llada_checkpoints import OFFICIAL_CONFIG, make_checkpoint
from tests.helpers.published_llada import PUBLISHED
from tests.helpers.toy_tokenizer import toy_tokenizer

SIZES = {
    **dict.fromkeys(("vocab_size", "embedding_size"), 600),
    **{"max_sequence_length": 128, "mask_token_id": 1, "eos_token_id": 0, "pad_token_id": 0},
    "auto_map": {"AutoConfig": "published.Config", "AutoModel": "published.Model"},
}


def make_published(folder: Path) -> Path:
    """A checkpoint as it is published: config, weights, tokenizer and code."""
    make_checkpoint(folder, **SIZES)
    toy_tokenizer().save_pretrained(folder)
    (folder / "published.py").write_text(PUBLISHED, encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return make_published(tmp_path / "checkpoint")


def checks_of(pretrained: object, official: object = None, **changes: object) -> dict[str, Check]:
    """Checks by name, with no needles for models that have learned nothing."""
    names = {"needles": 0, "prompts": 2, "length": None}
    options = {name: changes.pop(name, value) for name, value in names.items()}
    if official is not None:
        options |= {"official": True, "official_python": str(official)}
    model_args = {"pretrained": str(pretrained), "dtype": "float32", "device": "cpu", **changes}
    checks = verify(parse_model_args(model_args), VerifyOptions(**options))
    return {check.name: check for check in checks}


def outcomes(checks: dict[str, Check]) -> dict[str, str]:
    return {name: check.outcome for name, check in checks.items()}


def test_the_shipped_model_passes_every_check_that_needs_no_consent():
    checks = checks_of("tiny-llada", dtype="auto", needles=1, length=600)
    passed = ["config", "files", "weights", "copy", "rows", "padding", "needles", "precision"]
    passed += ["finite at 512", "finite at 600"]
    assert outcomes(checks) == {**dict.fromkeys(passed, PASSED), "official": SKIPPED}
    assert "rope_theta 10000" in checks["config"].detail
    assert "'<|mdm_mask|>' at id 1" in checks["files"].detail
    assert "38 tensors" in checks["weights"].detail
    assert "1 of 1 found at 512 tokens" in checks["needles"].detail
    assert "bfloat16 against float32" in checks["precision"].detail


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> tuple[dict[str, Check], tuple[torch.Tensor, str]]:
    """The checks of a scaled checkpoint beside its code, and what that code answered.

    The one child that really runs here, since it takes seconds to start.
    """
    root = tmp_path_factory.mktemp("published")
    answers = []

    def remember(*question: object) -> tuple[torch.Tensor, str]:
        answers.append(official_logits.official_logits(*question))
        return answers[-1]

    with pytest.MonkeyPatch.context() as patch:
        # Where transformers copies published code before it runs it.
        patch.setenv("HF_MODULES_CACHE", str(root / "modules"))
        patch.setattr(checkpoint_checks, "official_logits", remember)
        folder = make_published(root / "checkpoint")
        checks = checks_of(folder, official=sys.executable, rope_scale=4)
    return checks, answers[0]


def test_published_code_agrees_under_a_scaled_rotation_too(published):
    checks, _ = published
    assert FAILED not in outcomes(checks).values()
    assert "2 prompts of up to 128 tokens against Model, transformers" in checks["official"].detail
    assert "rope_theta 2e+06 (λ = 4)" in checks["files"].detail


@pytest.mark.parametrize("tensor", [None, "k_proj", "ff_norm"])
def test_another_rotation_or_weight_than_the_published_one_is_found(
    folder, published, monkeypatch, tensor
):
    monkeypatch.setattr(checkpoint_checks, "official_logits", lambda job, python: published[1])
    if tensor is not None:
        name = f"model.transformer.blocks.1.{tensor}.weight"
        change_weights(folder, lambda tensors: tensors[name].mul_(1.05))
    checks = checks_of(folder, official=sys.executable, rope_scale=4.4 if tensor is None else 4)
    assert [name for name, found in outcomes(checks).items() if found == FAILED] == ["official"]


def test_a_failing_child_is_reported_by_its_last_lines(folder, tmp_path):
    python = tmp_path / "python"
    lines = "".join(f"echo line {number}\n" for number in range(20))
    python.write_text(f"#!/bin/sh\n{lines}exit 3\n", encoding="utf-8")
    python.chmod(0o755)
    check = checks_of(folder, official=python)["official"]
    assert check.outcome == FAILED
    assert "code 3" in check.detail
    assert check.detail.endswith("line 18\nline 19")
    assert "line 11" not in check.detail


def test_a_checkpoint_without_code_cannot_be_compared_with_it():
    check = checks_of("tiny-llada", official=sys.executable)["official"]
    assert (check.outcome, "auto_map" in check.detail) == (FAILED, True)


def test_a_rotation_that_the_published_code_lacks_is_not_compared(folder):
    more = {"rope_method": "linear", "target_length": 256}
    check = checks_of(folder, official=sys.executable, **more)["official"]
    assert (check.outcome, "'linear'" in check.detail) == (SKIPPED, True)


def test_what_a_method_does_to_short_prompts_is_said(folder):
    more = {"rope_method": "yarn", "target_length": 256}
    assert "yarn multiplies the logits" in checks_of(folder, **more)["files"].detail


def test_disagreeing_rope_fields_fail_and_end_the_checks(folder):
    values = {**OFFICIAL_CONFIG, **SIZES, "rope_parameters": {"rope_theta": 1e6}}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    checks = checks_of(folder)
    assert outcomes(checks) == {"config": FAILED}
    assert "disagree" in checks["config"].detail


def test_a_tokenizer_without_the_mask_token_fails_the_files(folder):
    values = {**OFFICIAL_CONFIG, **SIZES, "mask_token_id": 300}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    checks = checks_of(folder)
    assert outcomes(checks) == {"config": PASSED, "files": FAILED}
    assert "ordinary token" in checks["files"].detail


def change_weights(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_missing_tensor_fails_the_files(folder):
    change_weights(folder, lambda tensors: tensors.pop("model.transformer.ln_f.weight"))
    check = checks_of(folder)["files"]
    assert (check.outcome, "ln_f" in check.detail) == (FAILED, True)


def test_a_nan_among_the_weights_is_named(folder):
    change_weights(
        folder, lambda tensors: tensors["model.transformer.ln_f.weight"].fill_(torch.nan)
    )
    checks = checks_of(folder)
    assert outcomes(checks) == {"config": PASSED, "files": PASSED, "weights": FAILED}
    assert "model.transformer.ln_f.weight" in checks["weights"].detail


def test_logits_beyond_the_dtype_are_not_finite(folder):
    name = "model.transformer.ff_out.weight"
    change_weights(folder, lambda tensors: tensors[name].mul_(3e4))
    checks = checks_of(folder, dtype="float16")
    assert checks["weights"].outcome == PASSED
    assert checks["finite at 128"].outcome == FAILED
    assert "NaN or infinite" in checks["finite at 128"].detail


def ignore_mask(forward):
    def without(self, input_ids, attention_mask=None, **rest):
        return forward(self, input_ids, **rest)

    return without


def shift_rows(forward):
    def shifted(self, input_ids, rows=None, **rest):
        rows = None if rows is None else (rows - torch.tensor([0, 1])).clamp(min=0)
        return forward(self, input_ids, rows=rows, **rest)

    return shifted


@pytest.mark.parametrize(("fault", "found_by"), [(ignore_mask, "padding"), (shift_rows, "rows")])
def test_a_fault_of_the_forward_pass_is_found(folder, monkeypatch, fault, found_by):
    monkeypatch.setattr(LLaDAForMaskedLM, "forward", fault(LLaDAForMaskedLM.forward))
    checks = checks_of(folder)
    assert checks[found_by].outcome == FAILED
    assert "allowed" in checks[found_by].detail


def test_a_copy_that_answers_otherwise_is_found(folder, monkeypatch):
    def load_another(path, **how):
        model = LLaDAForMaskedLM.from_pretrained(path)
        model.get_output_embeddings().weight.data += 1e-3
        return model

    monkeypatch.setattr(model_checks, "load_model", load_another)
    assert checks_of(folder)["copy"].outcome == FAILED


def test_large_weights_are_not_copied(folder, monkeypatch):
    monkeypatch.setattr(model_checks, "_LARGEST_COPY", 1)
    check = checks_of(folder)["copy"]
    assert (check.outcome, "not written a second time" in check.detail) == (SKIPPED, True)


def test_untrained_weights_find_no_needle(folder):
    values = {**OFFICIAL_CONFIG, **SIZES, "max_sequence_length": 256}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    check = checks_of(folder, needles=2)["needles"]
    assert (check.outcome, check.detail.split(";")[0]) == (FAILED, "0 of 2 found at 256 tokens")


def test_float32_is_left_out_where_it_does_not_fit(folder, monkeypatch):
    assert checks_of(folder)["precision"].outcome == SKIPPED
    monkeypatch.setattr(model_checks, "get_max_memory", lambda: {"cpu": 5})
    check = checks_of(folder, dtype="bfloat16")["precision"]
    assert (check.outcome, "5.00B are free on cpu" in check.detail) == (SKIPPED, True)


def test_prompts_have_their_lengths_and_rows_are_masks():
    text = Tokenization("tiny-llada", load_config("tiny-llada"))
    prompts, again = (masked_prompts(text, 3, 20_000) for _ in range(2))
    assert [len(prompt.ids) for prompt in prompts] == [6666, 13333, 20000]
    shares = [float((prompt.ids == text.mask_token_id).float().mean()) for prompt in prompts]
    assert shares == pytest.approx([0.25, 0.5, 0.75], abs=1e-3)
    for prompt, other in zip(prompts, again, strict=True):
        assert torch.equal(prompt.ids, other.ids)
        assert set(prompt.ids[prompt.rows].tolist()) == {text.mask_token_id}
        assert len(prompt.rows.unique()) == 64


@given(seed=st.integers(0, 2**31), scale=st.sampled_from([1e-2, 1.0, 32.0]))
def test_tolerances_do_not_depend_on_the_scale_of_logits(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    expected, noise = torch.randn(2, 5, 40, generator=generator)
    found = expected + 0.01 * noise
    tolerance = Tolerance(mean=0.1, largest=0.1, same_top=0.0)
    difference = compare_logits(scale * found, scale * expected)
    assert difference.is_within(tolerance)
    assert difference.mean == pytest.approx(scale * float(0.01 * noise.abs().mean()), rel=1e-2)
    assert not difference.is_within(Tolerance(mean=1e-3, largest=1.0, same_top=0.0))
    assert not difference.is_within(Tolerance(mean=1.0, largest=1e-3, same_top=0.0))


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_equal_logits_agree_and_nan_or_another_choice_never_do(dtype):
    logits = torch.randn(8, 30, generator=torch.Generator().manual_seed(0))
    assert compare_logits(logits, logits).is_within(TOLERANCES[dtype])
    broken = logits.clone()
    broken[3, 4] = torch.nan
    assert not compare_logits(broken, logits).is_within(TOLERANCES[dtype])
    assert not compare_logits(-logits, logits).is_within(TOLERANCES[dtype])
    with pytest.raises(ValueError, match=r"\(8, 29\) against \(8, 30\)"):
        compare_logits(logits[:, :29], logits)


def test_what_remains_open_is_said(folder):
    arguments = parse_model_args({"pretrained": str(folder), "device": "cpu"})
    phrases = unchecked(arguments, VerifyOptions(length=900))
    for part in ("on the CPU", "longer than 900", "official code", "tensor parallelism"):
        assert any(part in phrase for phrase in phrases)
    assert not any("official" in p for p in unchecked(arguments, VerifyOptions(official=True)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": 0}, "prompts must be a whole number >= 1"),
        ({"needles": -1}, "needles must be a whole number >= 0"),
        ({"length": 0}, "length must be a whole number >= 1"),
        ({"official_python": "no-such-python"}, "no interpreter that can be started"),
    ],
)
def test_wrong_options_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        VerifyOptions(**options)


def test_a_wrong_checkpoint_or_a_spread_one_stops_at_once(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        checks_of(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="use device_map=auto"):
        checks_of("tiny-llada", tp=2)


def run(*arguments: str) -> None:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    namespace = parser.parse_args(["verify", *arguments])
    namespace.func(namespace)


def test_the_command_tells_a_failure_by_its_exit_code(folder, capsys):
    run("--model_args", f"pretrained={folder},dtype=float32", "device=cpu", "--needles", "0")
    printed = capsys.readouterr().out
    assert "pass  weights: " in printed
    assert "not checked: agreement with the official code" in printed
    assert printed.endswith("10 checks, 0 failed\n")
    (folder / "config.json").unlink()
    with pytest.raises(SystemExit) as ended:
        run("--model_args", f"pretrained={folder}", "--needles", "0")
    assert ended.value.code == 1 and "FAIL  config: " in capsys.readouterr().out


def test_the_command_refuses_arguments_that_do_not_exist():
    with pytest.raises(ValueError, match="Did you mean 'pretrained'"):
        run("--model_args", "pretraind=tiny-llada")


def test_blocks_beside_their_cache_are_held_against_one_pass(folder, monkeypatch):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "block_length": 8}))
    checks = checks_of(folder)
    assert checks["blocks"].outcome == PASSED
    assert "blocks of 8, the last of 64 tokens beside a cache" in checks["blocks"].detail
    whole = model_checks.whole_logits
    monkeypatch.setattr(model_checks, "whole_logits", lambda *given: -whole(*given))
    assert checks_of(folder)["blocks"].outcome == FAILED
