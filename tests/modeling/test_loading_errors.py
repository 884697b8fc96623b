"""The one clear error that each kind of damage and each wrong argument ends with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

import lm_eval_llada.modeling.loading as loading
import lm_eval_llada.modeling.model as model_module
from lm_eval_llada.modeling import load_config, load_model
from tests.helpers.llada_checkpoints import make_checkpoint, write_config


@pytest.fixture
def folder(tmp_path) -> Path:
    make_checkpoint(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
            r"rope_theta=500000.0 and rope_parameters\['rope_theta'\]=1000000.0 disagree",
        ),
        ({"rope_scaling": {"rope_type": "linaer", "factor": 2.0}}, "Did you mean 'linear'"),
        (
            {
                "rope_scaling": {"rope_type": "linear", "factor": 2.0},
                "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
            },
            "rope_scaling={.*} and rope_parameters={.*} disagree",
        ),
        (
            {"rope_parameters": {"rope_theta": 500000.0, "llama_4_scaling_beta": 0.1}},
            "rope_parameters holds llama_4_scaling_beta, which the native LLaDA model does not",
        ),
        ({"partial_rotary_factor": 0.5}, "rope_parameters holds partial_rotary_factor"),
        ({"rope_theta": 0.5}, "rope_theta must be a finite number above 1"),
        ({"alibi": True}, "alibi=True is not supported"),
        ({"block_group_size": 2}, "block_group_size=2 is not supported"),
        ({"n_kv_heads": 3}, "n_heads=4 is not a multiple of n_kv_heads=3"),
        ({"n_heads": 5}, "d_model=32 must be an even multiple of n_heads=5"),
        ({"embedding_size": 59}, "embedding_size=59 is smaller than vocab_size=60"),
        ({"mask_token_id": 60}, "mask_token_id=60 is outside the 60 tokens"),
        ({"n_layers": 0}, "n_layers must be a whole number of at least 1"),
        ({"head_dim": 16}, "head_dim=16 is not d_model / n_heads = 8"),
        (
            {"model_type": "llama"},
            "model_type='llama'; this model reads 'llada', .*--model hf_rope",
        ),
    ],
)
def test_a_config_that_cannot_be_run_is_an_error_naming_the_file(folder, changes, message):
    write_config(folder, **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_config(folder)
    assert "config.json" in str(error.value)


def rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_missing_surplus_and_misshapen_tensors_are_all_named(folder):
    block = "model.transformer.blocks.1"

    def change(tensors):
        del tensors[f"{block}.ff_norm.weight"]
        tensors["model.transformer.lora.weight"] = torch.zeros(1)
        tensors[f"{block}.q_proj.weight"] = torch.zeros(32, 16)
        tensors["model.transformer.ln_f.weight"] = torch.zeros(32, dtype=torch.int8)

    rewrite(folder, change)
    with pytest.raises(ValueError) as error:
        load_model(folder, device="cpu")
    message = str(error.value)
    assert f"1 missing: {block}.ff_norm.weight" in message
    assert "1 surplus: model.transformer.lora.weight" in message
    assert f"1 misshapen: {block}.q_proj.weight (32, 16) instead of (32, 32)" in message
    assert "1 not floating point: model.transformer.ln_f.weight I8" in message


def test_many_problems_are_counted_rather_than_listed_in_full(folder):
    write_config(folder, n_layers=4)
    with pytest.raises(ValueError, match=r"18 missing: .* and 12 more"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("damage", ["cut", "header", "empty"])
def test_damaged_safetensors_are_one_error_naming_the_file(folder, damage):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-100], "header": b"x" * 99 + content, "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated or corrupt .*download"):
        load_model(folder, device="cpu")


def test_files_that_are_not_there_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        load_model(tmp_path / "nowhere", device="cpu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no config\.json"):
        load_model(tmp_path / "empty", device="cpu")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has neither model\.safetensors nor"):
        load_model(folder, device="cpu")
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not valid JSON"):
        load_model(folder, device="cpu")


def test_a_missing_shard_and_a_leftover_single_file_are_errors(folder, tmp_path):
    sharded = tmp_path / "sharded"
    load_model(folder, device="cpu").save_pretrained(sharded, max_shard_size="20KB")
    shutil.copy(folder / "model.safetensors", sharded)
    with pytest.raises(ValueError, match="delete whichever is older"):
        load_model(sharded, device="cpu")
    (sharded / "model.safetensors").unlink()
    shard = sorted(sharded.glob("*-00002-of-*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(ValueError, match=f"names 1 missing files: {shard.name}"):
        load_model(sharded, device="cpu")


def test_a_hub_id_that_cannot_be_fetched_is_an_error_naming_it():
    with pytest.raises(ValueError, match="'nobody/nothing' at revision 'v2' is no local folder"):
        load_config("nobody/nothing", revision="v2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "float61"}, "dtype must be one of auto, float32.*got 'float61'"),
        ({"attn_implementation": "spda"}, "Did you mean 'sdpa'"),
        ({"device": "gpu7"}, "device='gpu7' is not a device"),
        ({"device": "cpu", "device_map": "auto"}, "only one of device, device_map and tp"),
        ({"tp": 2, "device": None}, "tp=2 needs as many ranks or a multiple, but 1 run"),
        ({"tp": 0, "device": None}, "tp must be a whole number of at least 1"),
    ],
)
def test_wrong_arguments_stop_before_anything_is_read(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "not looked at", **{"device": "cpu", **arguments})


def test_flash_attention_says_how_to_install_it(folder, monkeypatch):
    monkeypatch.setattr(model_module, "is_flash_attn_2_available", lambda: False)
    install = r'pip install -e "\.\[flash\]"'
    with pytest.raises(ImportError, match=install):
        load_model(folder, attn_implementation="flash_attention_2", device="cpu")
    with pytest.raises(ImportError, match=install):
        AutoModel.from_pretrained(folder, attn_implementation="flash_attention_2")
    with pytest.raises(ImportError, match=install):
        load_model(folder, device="cpu").set_attn_implementation("flash_attention_2")
    monkeypatch.setattr(model_module, "is_flash_attn_2_available", lambda: True)
    with pytest.raises(ValueError, match="flash_attention_2 has no float32"):
        load_model(folder, attn_implementation="flash_attention_2", dtype="float32", device="cpu")


@pytest.mark.parametrize(
    ("quantization", "error", "message"),
    [
        ("3bit", ValueError, "quantization must be one of none, 8bit, 4bit"),
        ("4bit", ImportError, "pip install bitsandbytes"),
    ],
)
def test_a_quantization_that_cannot_be_is_an_error(quantization, error, message, monkeypatch):
    monkeypatch.setattr(loading, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(error, match=message):
        load_model("tiny-llada", quantization=quantization)


def test_quantization_and_memory_limits_reach_transformers(monkeypatch):
    given = {}
    monkeypatch.setattr(loading, "is_bitsandbytes_available", lambda: True)
    monkeypatch.setattr(loading, "BitsAndBytesConfig", dict)
    monkeypatch.setattr(
        loading.LLaDAForMaskedLM, "from_pretrained", lambda folder, **kwargs: given.update(kwargs)
    )
    load_model("tiny-llada", device_map="auto", quantization="8bit", max_memory={0: 5, 1: 0})
    assert given["quantization_config"] == {"load_in_8bit": True}
    assert given["max_memory"] == {0: 5, 1: 0} and given["device_map"] == "auto"
