"""The estimate of memory and time: its parts against counts that can be made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lm_eval_llada.modeling import LLaDAConfig
from lm_eval_llada.posttrain.estimate import (
    GIGABYTE,
    Estimate,
    Machine,
    estimate,
    this_machine,
)
from lm_eval_llada.posttrain.model import load_for_training
from lm_eval_llada.posttrain.options import options_from, read_options

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MACHINE = Machine(num_ranks=8, memory_gb=80, tflops=400)
NUM_PARAMETERS = 8_015_581_184  # of LLaDA-8B: 291 tensors of the official checkpoint
TRAINING = {"max_steps": 1, "per_device_train_batch_size": 1}


@pytest.fixture(scope="module")
def eight_billion(tmp_path_factory) -> Path:
    """Configuration of LLaDA-8B without its weights, which an estimate does not read."""
    folder = tmp_path_factory.mktemp("llada-8b")
    config = LLaDAConfig(
        mlp_hidden_size=12288, rope_theta=5e5, mask_token_id=126336, dtype="bfloat16"
    )
    config.save_pretrained(folder)
    return folder


def estimated(*overrides: str, machine: Machine = MACHINE, folder: Path) -> Estimate:
    values = (f"pretrained={folder}", "attn_implementation=sdpa", "data.by_document=true")
    path = CONFIGS / "ultrallada_128k.yaml"
    return estimate(read_options(path, [*values, *overrides]), machine)


def test_the_paper_s_run_is_of_the_size_the_paper_names(eight_billion) -> None:
    whole = estimated(folder=eight_billion)
    assert (whole.num_parameters, whole.num_trained) == (NUM_PARAMETERS, NUM_PARAMETERS)
    assert (whole.tokens_per_step, whole.max_steps) == (2**22, 600)


def test_states_are_sixteen_bytes_a_parameter_in_float32_shared_by_the_ranks(
    eight_billion,
) -> None:
    memory = estimated(folder=eight_billion).memory
    states = sum(memory[name] for name in ("weights", "gradients", "optimizer"))
    assert states == 16 * NUM_PARAMETERS / 8
    replicated = estimated("training.fsdp=null", folder=eight_billion).memory
    assert replicated["optimizer"] == 8 * memory["optimizer"]
    half = estimated("dtype=bfloat16", "training.optim=adamw_bnb_8bit", folder=eight_billion)
    assert half.memory["optimizer"] == 2 * NUM_PARAMETERS / 8


def test_checkpointing_keeps_one_state_a_layer_and_costs_a_third(eight_billion) -> None:
    kept = estimated(folder=eight_billion)
    whole = estimated("training.fsdp_config={}", folder=eight_billion)
    assert kept.flops_per_step == pytest.approx(whole.flops_per_step * 4 / 3)
    assert kept.memory["activations"] > 32 * 65536 * 4096 * 2
    assert kept.memory["activations"] < whole.memory["activations"] / 10


def test_memory_grows_in_proportion_to_length_but_for_a_dense_mask(eight_billion) -> None:
    def activations(length: int, by_document: str) -> float:
        memory = estimated(
            f"data.length={length}", f"data.by_document={by_document}", folder=eight_billion
        ).memory
        return memory["activations"] + memory.get("document mask", 0)

    assert activations(65536, "true") == 2 * activations(32768, "true")
    assert activations(65536, "false") > 2 * activations(32768, "false")


def test_flops_are_six_a_parameter_and_token_and_attention_s(eight_billion) -> None:
    # At one token attention is nothing; the head counts half, and the embedding is no product.
    tiny = estimated("data.length=2", "training.fsdp_config={}", folder=eight_billion)
    embedding = 126464 * 4096
    expected = 6 * (NUM_PARAMETERS - 1.5 * embedding)
    assert tiny.flops_per_step / tiny.tokens_per_step == pytest.approx(expected, rel=1e-3)
    # Each token: scores and sums over 65,536 others, 4 * width operations, forward and backward.
    long = estimated("training.fsdp_config={}", folder=eight_billion)
    attention = 3 * 4 * 65536 * 4096 * 32
    per_token = long.flops_per_step / long.tokens_per_step
    assert per_token == pytest.approx(expected + attention, rel=1e-3)


def test_the_lines_say_whether_it_fits_and_how_long_it_takes(eight_billion) -> None:
    whole = estimated(folder=eight_billion)
    seconds = whole.flops_per_step / (8 * 400e12)
    assert whole.seconds_per_step == pytest.approx(seconds)
    text = "\n".join(whole.lines())
    # A document may fill the sample, so that under `adaptive` the time is the most it can be.
    assert f"at most {seconds * 600 / 3600:.3g} h" in text
    concat = "\n".join(estimated("data.strategy=concat", folder=eight_billion).lines())
    assert f"about {seconds * 600 / 3600:.3g} h" in concat
    assert text.count("fits") == 1
    small = estimated(machine=Machine(8, 8, 400), folder=eight_billion)
    assert "DOES NOT FIT" in "\n".join(small.lines())
    assert small.memory_gb == sum(small.memory.values()) / GIGABYTE


def test_lora_trains_what_peft_makes_trainable(random_checkpoint) -> None:
    values = {
        "output": "unused",
        "pretrained": str(random_checkpoint),
        "lora": {"r": 2},
        "training": TRAINING,
    }
    options = options_from(values)
    found = estimate(options, MACHINE)
    model = load_for_training(options)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.num_trained == trained
    assert found.memory["gradients"] == 4 * trained
    assert found.memory["weights"] == 4 * sum(p.numel() for p in model.parameters())


def test_what_is_not_given_is_found_on_this_machine(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    found = this_machine()
    assert found.num_ranks == 4
    assert found.memory_gb > 0 and found.tflops > 0
    assert "measured" in found.note
    given = this_machine(tflops=2.0, memory_gb=3.0, num_ranks=1)
    assert given == Machine(1, 3.0, 2.0)
    assert torch.get_default_device().type == "cpu"
