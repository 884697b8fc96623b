"""What is read of a config.json without transformers is what the whole config says."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lm_eval_llada.checkpoints.names import TINY_MODELS
from lm_eval_llada.modeling import load_config
from lm_eval_llada.modeling.rope_numbers import rope_numbers


def written(folder, **values) -> str:
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return str(folder)


CAUSAL = ("tiny-llama", "tiny-ruler-causal")


@pytest.mark.parametrize("name", [name for name in TINY_MODELS if name not in CAUSAL])
def test_shipped_models_are_read_at_once(name):
    config = load_config(name)
    assert rope_numbers(name) == (config.rope_theta, config.head_dim, config.train_length)


OTHERS = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "vocab_size": 101,
    "max_position_embeddings": 256,
    "rope_theta": 3e4,
}


@pytest.mark.parametrize("model_type", ["illada", "Dream", "a2d-qwen2", "a2d-llama"])
def test_other_families_are_read_by_their_own_names(tmp_path, model_type):
    folder = written(tmp_path, **OTHERS, model_type=model_type)
    config = load_config(folder)
    assert config.train_length == {"illada": 256, "Dream": 2048}.get(model_type, 1024)
    assert rope_numbers(folder) == (config.rope_theta, config.head_dim, config.train_length)


def test_heads_of_a_size_of_their_own_are_left_to_the_config(tmp_path):
    folder = written(tmp_path, **OTHERS, model_type="a2d-qwen3")
    assert (rope_numbers(folder), load_config(folder).head_dim) == (None, 128)


NATIVE = {"model_type": "llada", "d_model": 64, "n_heads": 4, "max_sequence_length": 128}


@pytest.mark.parametrize(
    "values",
    [
        {**NATIVE, "rope_theta": 1e5},
        {**NATIVE, "rope_parameters": {"rope_type": "default", "rope_theta": 2e4}},
        {**NATIVE, "train_length": 32},
        {
            **NATIVE,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ],
)
def test_bases_and_trained_contexts_are_found_wherever_they_stand(tmp_path, values):
    folder = written(tmp_path, **values)
    config = load_config(folder)
    assert rope_numbers(folder) == (config.rope_theta, config.head_dim, config.train_length)


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "gpt2"},
        {**NATIVE, "n_heads": 5},
        {**NATIVE, "rope_theta": "large"},
        {**NATIVE, "alibi": True},
        {**NATIVE, "rope_parameters": {"rope_type": "spiral"}},
        {**NATIVE, "train_length": 0.5},
    ],
)
def test_what_the_config_refuses_is_left_to_it(tmp_path, values):
    folder = written(tmp_path, **values)
    assert rope_numbers(folder) is None
    with pytest.raises(ValueError, match=r"config\.json"):
        load_config(folder)


def test_the_command_rope_imports_neither_pytorch_nor_transformers():
    code = (
        "import sys; from lm_eval_llada.cli.main import main; "
        "status = main(['rope', '--model_args', 'pretrained=tiny-ultra']); "
        "print(status, sorted({'torch', 'transformers', 'datasets'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_the_classes_are_known_to_transformers_from_the_first_name_on():
    code = (
        "from lm_eval_llada.modeling import load_config; from transformers import AutoConfig, "
        "AutoModel; config = AutoConfig.for_model('llada', d_model=32, n_heads=2, n_layers=1, "
        "vocab_size=64); print(type(AutoModel.from_config(config)).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "LLaDAForMaskedLM"
