"""Bad days: no memory, broken weights, lost ranks, and documents that name the mask token."""

from __future__ import annotations

import importlib
import math
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from lm_eval_llada.engine import preemption
from lm_eval_llada.engine.tokenization import Tokenization
from lm_eval_llada.harness.llada import LLaDALM
from tests.helpers.toy_requests import PAIRS, PROMPTS, choices, generations, instance

runs: Any = importlib.import_module("benchmarks.endurance.runs")

MASK_ID, MASK_NAME = 1, "<|mdm_mask|>"
ROLLING = [instance("loglikelihood_rolling", prompt) for prompt in PROMPTS]


def short_of_memory(lm: LLaDALM, most: int) -> LLaDALM:
    """A model whose memory holds so many sequences, on a device that says so as GPUs do."""
    forward = lm.runner.denoiser.forward

    def limited(input_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        if len(input_ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(input_ids, **kwargs)

    lm.runner.denoiser.forward = limited
    return lm


@pytest.mark.parametrize("batch_size", [4, "auto"])
def test_out_of_memory_halves_the_batch_and_changes_no_answer(make, caplog, batch_size) -> None:
    settings = {"temperature": 0.7, "batch_size": batch_size}
    full, short = make(**settings), short_of_memory(make(**settings), 1)
    assert short.generate_until(generations(PROMPTS)) == full.generate_until(generations(PROMPTS))
    assert "do not fit into the memory of cpu; going on with" in caplog.text
    scores = [[value for value, _ in lm.loglikelihood(choices(PAIRS))] for lm in (full, short)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)
    rolling = [lm.loglikelihood_rolling(ROLLING) for lm in (full, short)]
    assert rolling[0] == pytest.approx(rolling[1], rel=1e-5)


def test_each_halving_is_told_once_and_kept_for_the_batches_after_it(make, caplog) -> None:
    lm = short_of_memory(make(batch_size=4), 2)
    lm.generate_until(generations(PROMPTS * 3))
    assert len([line for line in caplog.messages if "do not fit" in line]) == 1


def test_not_even_one_sequence_in_memory_ends_the_run_with_what_to_do(make, tmp_path) -> None:
    lm = short_of_memory(make(answers_dir=str(tmp_path)), 0)
    with pytest.raises(MemoryError, match="1 sequences of .* do not fit .*dtype=bfloat16"):
        lm.generate_until(generations(PROMPTS))


def test_another_error_of_the_device_is_not_taken_for_missing_memory(make) -> None:
    lm = make(batch_size=4)

    def broken(input_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    lm.runner.denoiser.forward = broken
    with pytest.raises(RuntimeError, match="illegal memory access"):
        lm.generate_until(generations(PROMPTS))


@pytest.fixture
def poisoned(random_checkpoint: Path, tmp_path: Path) -> Callable[[float], Path]:
    """Writes a checkpoint with one weight that is not a number."""

    def write(value: float) -> Path:
        folder = Path(shutil.copytree(random_checkpoint, tmp_path / str(value)))
        tensors = load_file(folder / "model.safetensors")
        tensors["model.transformer.blocks.1.attn_out.weight"][3, 5] = value
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return write


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["texts", "sampled texts", "scores", "rolling"])
def test_a_broken_weight_stops_the_run_and_keeps_no_answer(
    make, poisoned, tmp_path, value, kind
) -> None:
    answers = tmp_path / "answers"
    lm = make(pretrained=str(poisoned(value)), answers_dir=str(answers))
    ask: Callable[[], Any] = {
        "texts": lambda: lm.generate_until(generations(PROMPTS)),
        "sampled texts": lambda: lm.generate_until(generations(PROMPTS, temperature=1.0)),
        "scores": lambda: lm.loglikelihood(choices(PAIRS)),
        "rolling": lambda: lm.loglikelihood_rolling(ROLLING),
    }[kind]
    with pytest.raises(ValueError, match="NaN or infinite") as error:
        ask()
    assert "dtype" in str(error.value) and "rope" in str(error.value)
    assert runs.num_kept(tmp_path) == 0


# --- a document that names the mask token ---------------------------------------------------------

DOCUMENT = "The rain fell. Diffusion models write {} for a gap. Nobody spoke."


@pytest.fixture(scope="module")
def text(make: Callable[..., LLaDALM]) -> Tokenization:
    return make()._text


@pytest.mark.parametrize(
    "written",
    [
        MASK_NAME,
        MASK_NAME * 3,
        f"{MASK_NAME} {MASK_NAME}",
        f"<|mdm_{MASK_NAME}mask|>",
        f"{MASK_NAME[:6]}{MASK_NAME}",
        f"{MASK_NAME}{MASK_NAME[6:]}",
        f"\n{MASK_NAME}\n",
    ],
)
def test_the_name_of_the_mask_token_is_ordinary_text(text, written) -> None:
    for whole in (written, DOCUMENT.format(written), written + DOCUMENT, DOCUMENT + written):
        ids = text.encode(whole)
        assert MASK_ID not in ids
        assert text.tokenizer.decode(ids) == whole


def as_ordinary(lm: LLaDALM, whole: str) -> list[int]:
    """The ids of a text by a tokenizer that knows no mask token, cut where the package cuts."""
    parts, half = whole.split(MASK_NAME), len(MASK_NAME) // 2
    pieces = [parts[0]]
    for part in parts[1:]:
        pieces[-1] += MASK_NAME[:half]
        pieces.append(MASK_NAME[half:] + part)
    encode = lm.tokenizer.backend_tokenizer.encode
    return [i for piece in pieces for i in encode(piece, add_special_tokens=False).ids]


def test_a_document_that_names_the_mask_token_keeps_its_score(make) -> None:
    lm = make(likelihood="mc", mc_num=4)
    context, target = DOCUMENT.format(MASK_NAME), " The old house"
    ids = [as_ordinary(lm, context), as_ordinary(lm, context + target)]
    plain = [((context, target), ids[0], ids[1][len(ids[0]) :])]
    assert lm.loglikelihood(choices([(context, target)])) == lm._loglikelihood_tokens(plain)
    # A gap there, as there would be without the care, gives another score.
    gap = [
        lm.tokenizer.encode(words, add_special_tokens=False)
        for words in (context, context + target)
    ]
    assert MASK_ID in gap[0]
    other = lm._loglikelihood_tokens([((context, target), gap[0], gap[1][len(gap[0]) :])])
    assert other[0][0] != pytest.approx(lm.loglikelihood(choices([(context, target)]))[0][0])


def test_a_target_that_names_the_mask_token_has_a_finite_score(make) -> None:
    lm = make(mc_num=4)
    pairs = [("The key is", f" {MASK_NAME} or not"), ("", MASK_NAME), ("One <|mdm_", "mask|> two")]
    for (value, _), pair in zip(lm.loglikelihood(choices(pairs)), pairs, strict=True):
        assert math.isfinite(value), pair
    (value,) = lm.loglikelihood_rolling([instance("loglikelihood_rolling", MASK_NAME * 2)])
    assert math.isfinite(value)


def test_a_text_is_generated_beside_a_document_that_names_the_mask_token(make) -> None:
    lm, seen = make(), []
    forward = lm.runner.denoiser.forward

    def counted(input_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        seen.append(int((input_ids == MASK_ID).sum()))
        return forward(input_ids, **kwargs)

    lm.runner.denoiser.forward = counted
    lm.generate_until(generations([DOCUMENT.format(MASK_NAME)], gen_length=4))
    assert seen == [4, 3, 2, 1]


def test_chats_and_examples_that_name_the_mask_token_hold_none(make) -> None:
    lm = make()
    lm.tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    )
    try:
        example = DOCUMENT.format(MASK_NAME)
        turns = [
            {"role": "system", "content": example},
            *({"role": "user", "content": example}, {"role": "assistant", "content": MASK_NAME})
            * 2,
            {"role": "user", "content": "And this?"},
        ]
        for opened in (True, False):
            prompt = lm.apply_chat_template(turns, add_generation_prompt=opened)
            assert prompt.count(MASK_NAME) == 5
            assert MASK_ID not in lm.tok_encode(prompt)
    finally:
        lm.tokenizer.chat_template = None


@pytest.mark.parametrize("is_special", [True, False])
@pytest.mark.parametrize("normalized", [True, False])
def test_mask_tokens_of_other_names_and_kinds_are_ordinary_text_too(
    make, random_checkpoint, tmp_path, is_special, normalized
) -> None:
    from tokenizers import normalizers
    from transformers import AddedToken

    folder = Path(shutil.copytree(random_checkpoint, tmp_path / "other"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase()]
    )
    name = "[gap]"
    token = AddedToken(name, special=is_special, normalized=normalized, lstrip=True)
    tokenizer.add_tokens([token], special_tokens=is_special)
    tokenizer.save_pretrained(folder)
    mask_token_id = tokenizer.convert_tokens_to_ids(name)
    config = make()._checkpoint.config
    changed = type(config)(**{**config.to_dict(), "mask_token_id": mask_token_id,
                              "vocab_size": 700, "embedding_size": 700})  # fmt: skip
    text = Tokenization(str(folder), changed)
    assert text.mask_token_id == mask_token_id != MASK_ID
    # By normalization, other spellings of the name can become the token as well.
    for written in (name, name.upper(), "［gap］", f"a {name}  {name}{name}", "[GAP][gap]"):
        assert mask_token_id not in text.encode(DOCUMENT.format(written)), written


# --- real processes -------------------------------------------------------------------------------


def wait_until(is_so: Callable[[], bool], process: Any, output: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, runs.printed(output).read_text()[-3000:]
        time.sleep(0.02)


@pytest.mark.slow
def test_sigterm_ends_a_process_with_its_own_code_and_a_rerun_completes_it(tmp_path) -> None:
    setting = runs.Setting(num_documents=8)
    expected = runs.run_whole(setting, tmp_path / "whole", 1)
    output = tmp_path / "told"
    process = runs.start(setting, output, 1)
    wait_until(lambda: runs.num_kept(output) > 0, process, output, 300)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == preemption.EXIT_CODE
    assert "stopped by SIGTERM" in runs.printed(output).read_text()
    assert 0 < runs.num_kept(output) < runs.NUM_ANSWERS * setting.num_documents
    found = runs.run_whole(setting, output, 2)
    assert runs.largest_difference(expected, found) <= 1e-5


FAILING = """
import os, sys
sys.path.insert(0, {folder!r})
import lm_eval_llada.engine.runner as runner

if os.environ["RANK"] == "1":
    def fail(*args, **kwargs):
        raise ValueError("the reason is on rank 1")
    runner.generate = fail
exec(compile(open({entry!r}).read(), {entry!r}, "exec"))
"""


@pytest.mark.slow
def test_one_failing_rank_ends_all_within_a_minute_and_says_why(tmp_path) -> None:
    entry = runs.HERE / "traced_run.py"
    script = tmp_path / "failing.py"
    script.write_text(FAILING.format(folder=str(runs.HERE), entry=str(entry)))
    output = tmp_path / "run"
    process = runs.start(runs.Setting(num_documents=40, entry=script), output, 3)

    def has_failed() -> bool:
        return "the reason is on rank 1" in runs.printed(output).read_text()

    wait_until(has_failed, process, output, 300)
    assert process.wait(60) != 0
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert "lm-eval-llada: error: the reason is on rank 1" in runs.printed(output).read_text()


@pytest.mark.slow
def test_three_ranks_with_one_document_each_finish(tmp_path) -> None:
    # With fewer the harness itself stops: it wants a document of every task on every rank.
    setting = runs.Setting(num_documents=3)
    one = runs.run_whole(setting, tmp_path / "one", 1)
    three = runs.run_whole(setting, tmp_path / "three", 3)
    assert runs.largest_difference(one, three) <= 1e-5
    assert runs.work(tmp_path / "three")["num_ranks"] == 3
