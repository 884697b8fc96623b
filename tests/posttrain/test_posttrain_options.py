"""The YAML file of a run: names, values, overrides, and what is refused before anything loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lm_eval_llada.posttrain.options import (
    PosttrainOptions,
    options_from,
    read_options,
)
from lm_eval_llada.posttrain.trainer import training_arguments

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
LEAST = {"output": "somewhere", "training": {"max_steps": 2}}


def read(text: str, tmp_path: Path, *overrides: str) -> PosttrainOptions:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return read_options(path, overrides)


@pytest.mark.parametrize("name", ["ultrallada_128k", "tiny_ultra"])
def test_the_configurations_are_read(name: str) -> None:
    options = read_options(CONFIGS / f"{name}.yaml")
    assert options.rope.effective_method == "diffusion_ntk"
    assert options.data.strategy == "adaptive"


def test_the_paper_s_settings_stand_in_its_configuration() -> None:
    options = read_options(CONFIGS / "ultrallada_128k.yaml")
    training = options.training
    assert (options.data.source, options.data.length) == ("pg19", 65536)
    assert options.rope.target_length == 131072
    assert (training["max_steps"], training["optim"][:5]) == (600, "adamw")
    per_gpu = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
    assert 8 * per_gpu * options.data.length == 2**22  # about four million on eight GPUs
    # A choice of ours is told from one of the paper's.
    assert (CONFIGS / "ultrallada_128k.yaml").read_text().count("[paper]") >= 8


def test_names_of_the_rope_section_are_those_of_model_args() -> None:
    section = {
        "rope_method": "yarn",
        "target_length": 2048,
        "train_length": 512,
        "force_rope": True,
        "rope_beta_fast": 16,
    }
    rope = options_from({**LEAST, "rope": section, "data": {"strategy": "eod"}}).rope
    assert (rope.method, rope.target_length, rope.train_length) == ("yarn", 2048, 512)
    assert rope.force is True
    assert rope.extra == {"beta_fast": 16}
    scaled = options_from({**LEAST, "rope": {"rope_scale": 4, "d_crit": 40}}).rope
    assert (scaled.effective_method, scaled.scale, scaled.d_crit) == ("ntk", 4, 40)


def test_overrides_replace_values_and_are_yaml(tmp_path) -> None:
    options = read(
        "output: a\ntraining: {max_steps: 3}\nlora:\n",
        tmp_path,
        *("output=b", "training.max_steps=7", "training.learning_rate=1e-4"),
        *("data.length=64", "evaluation.lengths=[32, 64]", "lora.r=4"),
    )
    assert (options.output, options.data.length) == ("b", 64)
    assert options.training == {"max_steps": 7, "learning_rate": 1e-4}
    assert options.evaluation.lengths == (32, 64)
    assert options.lora == {"r": 4}


@pytest.mark.parametrize("written", ["1e-4", "1.0e-4", "1E-4", "0.0001", "+1e-4", "1.e-4"])
def test_numbers_are_numbers_however_they_are_written(tmp_path, written) -> None:
    options = read(f"output: a\ntraining: {{max_steps: 1, learning_rate: {written}}}", tmp_path)
    assert options.training["learning_rate"] == 1e-4


def test_no_is_a_word_and_true_is_not(tmp_path) -> None:
    text = "output: a\ntraining: {max_steps: 1, save_strategy: no, bf16: true, tf32: False}"
    assert read(text, tmp_path).training == {
        "max_steps": 1,
        "save_strategy": "no",
        "bf16": True,
        "tf32": False,
    }


def test_settings_reach_the_trainer_and_ours_win(tmp_path) -> None:
    values = {
        "output": str(tmp_path),
        "seed": 9,
        "evaluation": {"every": 5},
        "training": {"max_steps": 2, "adam_beta2": 0.5, "use_cpu": True},
    }
    args = training_arguments(options_from(values))
    assert (args.max_steps, args.adam_beta2, args.seed) == (2, 0.5, 9)
    assert (args.eval_strategy, args.eval_steps) == ("steps", 5)
    assert args.ignore_data_skip and not args.logging_nan_inf_filter


def test_what_does_not_change_the_samples_is_no_part_of_a_run_s_identity() -> None:
    one = options_from(LEAST)
    other = options_from({**LEAST, "output": "b", "data": {"num_workers": 1, "by_document": False}})
    assert one.identity() == other.identity()
    assert options_from({**LEAST, "seed": 1}).identity() != one.identity()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outptu": 1}, "Did you mean 'output'?"),
        ({"output": None}, "output is missing"),
        ({"seed": -1}, "seed must be a whole number >= 0; got -1"),
        ({"dtype": "bf16"}, "dtype must be one of auto, float32, bfloat16, float16; got 'bf16'"),
        ({"pretrained": "tiny-lada"}, "Did you mean 'tiny-llada'?"),
        ({"attn_implementation": "flash"}, "attn_implementation must be one of"),
        ({"training": {}}, "training.max_steps must be a whole number >= 1; got None"),
        ({"training": {"max_steps": 1, "lerning_rate": 1}}, "Did you mean 'learning_rate'?"),
        ({"training": {"max_steps": 1, "learning_rate": "fast"}}, "learning_rate must be a number"),
        ({"training": {"max_steps": 1, "output_dir": "x"}}, "training.output_dir cannot be set"),
        ({"training": {"max_steps": 1, "seed": 1}}, "set the seed at the top level"),
        ({"training": [1]}, "The section training must hold names and values; got [1]"),
        ({"rope": {"rope_metod": "ntk"}}, "Did you mean 'rope_method'?"),
        ({"rope": {"rope_method": "ntk"}}, "rope_method='ntk' needs target_length or rope_scale"),
        ({"rope": {"rope_method": "dynamic", "target_length": 9}}, "use strategy=eod"),
        ({"data": {"strategy": "pack"}}, "strategy must be one of concat, adaptive, eod"),
        ({"data": {"lenght": 8}}, "Did you mean 'length'?"),
        ({"data": {"source": "pg19", "needle_share": 0.1}}, "needle_share=0.1 is for source=tiny"),
        ({"data": {"num_workers": 2}}, "num_workers must be 0 or 1"),
        ({"data": {"by_document": "yes"}}, "by_document must be true or false; got 'yes'"),
        ({"objective": {"los": "weighted"}}, "Did you mean 'loss'?"),
        ({"evaluation": {"every": 0}}, "every must be a whole number >= 1; got 0"),
        ({"evaluation": {"lengths": [4]}}, "evaluation.lengths must be a whole number >= 9; got 4"),
        ({"evaluation": {"depths": [101]}}, "depths must be a list of percentages"),
    ],
)
def test_wrong_settings_are_refused_by_name(changes, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        options_from({**LEAST, **changes})


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("- 1", (), "must hold names and values; got list"),
        ("a: [", (), "is not YAML"),
        ("output: a", ("training.max_steps",), "Expected name=value"),
        ("output: a", ("output.x=1",), "output is a value and holds no names"),
    ],
)
def test_wrong_files_and_overrides_are_refused(tmp_path, text, overrides, message) -> None:
    with pytest.raises(ValueError, match=message):
        read(text, tmp_path, *overrides)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing.yaml"):
        read_options(tmp_path / "nothing.yaml")
