"""Checkpoints: what loads, what is written back, and how much memory that takes."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

import lm_eval_llada
from lm_eval_llada.modeling import (
    LLaDAConfig,
    LLaDAForMaskedLM,
    load_config,
    load_model,
)
from lm_eval_llada.rope import RopeChoice
from tests.helpers.llada_checkpoints import OFFICIAL_CONFIG, logits, make_checkpoint, write_config
from tests.helpers.llada_models import SHAPES, assert_close, make_model, tokens


@pytest.fixture
def folder(tmp_path) -> Path:
    make_checkpoint(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def same_tensors(folder: Path, model: LLaDAForMaskedLM) -> bool:
    written: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        written |= load_file(file)
    expected = model.state_dict()
    return written.keys() == expected.keys() and all(
        torch.equal(written[name], expected[name]) for name in expected
    )


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize(
    "changes", [{}, {"weight_tying": True}, {"n_kv_heads": 2, "include_qkv_bias": True}]
)
def test_a_saved_checkpoint_reopens_with_the_same_logits_and_names(tmp_path, changes, shards):
    original = make_checkpoint(tmp_path / "a", **changes)
    loaded = load_model(tmp_path / "a", device="cpu")
    assert torch.equal(logits(loaded), logits(original)) and not loaded.training
    loaded.save_pretrained(tmp_path / "b", max_shard_size="20KB" if shards else "1GB")
    assert (tmp_path / "b" / "model.safetensors.index.json").exists() == shards
    assert len(list((tmp_path / "b").glob("*.safetensors"))) > 1 or not shards
    assert same_tensors(tmp_path / "b", original)
    assert torch.equal(logits(load_model(tmp_path / "b", device="cpu")), logits(original))


def test_the_official_config_loads_without_remote_code_and_keeps_its_keys(folder, tmp_path):
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    assert type(config) is LLaDAConfig
    assert (config.rope_theta, config.head_dim, config.hidden_size) == (5e5, 8, 32)
    for auto in (AutoModel, AutoModelForMaskedLM):
        model = auto.from_pretrained(folder, trust_remote_code=False)
        assert type(model) is LLaDAForMaskedLM
    model.save_pretrained(tmp_path / "saved")
    written = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert "auto_map" not in written  # no file that it names is at hand to come along
    ours = {"architectures", "transformers_version", "auto_map"}
    for key, value in OFFICIAL_CONFIG.items():
        assert key in ours or written[key] == value, key


def test_names_of_transformers_read_and_set_the_official_values():
    config = LLaDAConfig(
        hidden_size=40, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=3,
        intermediate_size=50, max_position_embeddings=128, tie_word_embeddings=True,
    )  # fmt: skip
    assert (config.d_model, config.n_heads, config.n_kv_heads, config.n_layers) == (40, 4, 2, 3)
    assert (config.mlp_hidden_size, config.max_sequence_length) == (50, 128)
    assert config.weight_tying and config.tie_word_embeddings and config.train_length == 128


def test_an_extended_checkpoint_writes_its_base_at_both_places_and_is_recognised(folder, tmp_path):
    scaled = load_model(folder, rope=RopeChoice(scale=4.0), device="cpu")
    assert not torch.equal(logits(scaled), logits(load_model(folder, device="cpu")))
    scaled.save_pretrained(tmp_path / "extended")
    written = json.loads((tmp_path / "extended" / "config.json").read_text())
    assert written["rope_theta"] == written["rope_parameters"]["rope_theta"] == 2e6
    again = load_model(tmp_path / "extended", device="cpu")
    assert torch.equal(logits(again), logits(scaled))
    with pytest.raises(ValueError, match="extended already"):
        load_model(tmp_path / "extended", rope=RopeChoice(scale=4.0), device="cpu")


def test_a_base_changed_after_loading_cannot_be_saved_in_one_place_only():
    config = LLaDAConfig(**OFFICIAL_CONFIG)
    config.rope_theta = 7e5
    assert config.rope_parameters["rope_theta"] == config.to_dict()["rope_theta"] == 7e5
    config.rope_parameters = {"rope_type": "default", "rope_theta": 8e5}
    assert config.rope_theta == config.to_dict()["rope_theta"] == 8e5


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_dtype_and_attention_are_what_was_asked_for(folder, dtype):
    model = load_model(folder, dtype=dtype, device="cpu", attn_implementation="eager")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == "eager"
    assert load_model(folder, device="cpu").dtype == torch.float32


def test_a_device_map_places_blocks_and_keeps_the_logits(folder):
    placed = {"model.transformer.wte": "cpu", "model.transformer.blocks": "cpu"}
    placed |= {"model.transformer.ln_f": "cpu", "model.transformer.ff_out": "cpu", "rotary": "cpu"}
    model = load_model(folder, device_map=placed)
    assert torch.equal(logits(model), logits(load_model(folder, device="cpu")))


def test_new_tokens_are_saved_and_reopen(folder, tmp_path):
    model = load_model(folder, device="cpu")
    model.resize_token_embeddings(64, mean_resizing=False)
    model.save_pretrained(tmp_path / "resized")
    again = load_model(tmp_path / "resized", device="cpu")
    assert (again.config.vocab_size, again.config.embedding_size) == (64, 64)
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("num_tokens", [60, 120])
@pytest.mark.parametrize("shape", ["mha", "tied"])
def test_the_head_keeps_its_tokens_when_their_number_changes(tmp_path, shape, num_tokens):
    model, ids = make_model(**SHAPES[shape]), tokens(2, 7)
    kept = model(ids).logits[..., :num_tokens].detach()
    model.resize_token_embeddings(num_tokens)
    resized = model(ids).logits
    assert resized.shape[-1] == num_tokens
    # A matrix of another size may be multiplied in another order.
    assert_close(resized[..., : kept.shape[-1]], kept)
    model.save_pretrained(tmp_path)
    for read in (load_model, LLaDAForMaskedLM.from_pretrained):
        assert_close(read(tmp_path)(ids).logits, resized)


def anonymous_memory() -> int:
    """Bytes of this process that no file backs; what is mapped from a file can be dropped."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if "RssAnon" in line) * 1024


def peak_copies(read: Callable[[], LLaDAForMaskedLM]) -> float:
    """Most memory held while a model is read, in sizes of that model."""
    gc.collect()
    # What malloc keeps of freed memory would count as held before, and be used again unseen.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    before, peak, done = anonymous_memory(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, anonymous_memory())
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    model = read()
    done.set()
    thread.join()
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return (max(peak, anonymous_memory()) - before) / size


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' /proc")
def test_loading_holds_one_copy_of_the_weights(folder, tmp_path):
    # Matrices of over 32 MB, which malloc returns to the system as soon as they are freed.
    write_config(tmp_path, d_model=1024, n_layers=1, mlp_hidden_size=9216)
    with torch.device("meta"):
        empty = LLaDAForMaskedLM(load_config(tmp_path))
    weights = {name: torch.ones(tensor.shape) for name, tensor in empty.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    del weights

    def whole_file() -> LLaDAForMaskedLM:
        content = load((tmp_path / "model.safetensors").read_bytes())
        empty.to_empty(device="cpu").load_state_dict(content)
        time.sleep(0.05)  # both copies are there, and are looked at even on a busy machine
        return empty

    load_model(folder, device="cpu")  # what the first loading of all imports is not weights
    assert peak_copies(lambda: load_model(tmp_path, device="cpu")) < 1.1
    assert peak_copies(lambda: load_model(tmp_path, dtype="bfloat16", device="cpu")) < 1.1
    # The measure does see second copies: reading the file whole holds two.
    assert peak_copies(whole_file) > 1.6


TENSOR_PARALLEL = """
import sys, torch
from lm_eval_llada.modeling import load_model

folder, out = sys.argv[1:]
ids = torch.arange(22).view(2, 11)
mask = torch.ones_like(ids)
mask[0, 7:] = 0
rows = torch.tensor([[1, 3], [0, 0], [0, 6]])
shared, whole = load_model(folder, tp=2), load_model(folder, device="cpu")
with torch.no_grad():
    for chosen in (None, rows):
        expected = whole(ids, attention_mask=mask, rows=chosen).logits
        torch.testing.assert_close(
            shared(ids, attention_mask=mask, rows=chosen).logits, expected, atol=1e-4, rtol=1e-4
        )
local = shared.model.transformer["blocks"][0].q_proj.weight.to_local()
assert local.shape == (16, 32), local.shape
shared.save_pretrained(out)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_tensor_parallel_ranks_give_the_same_logits(tmp_path):
    original = make_checkpoint(tmp_path / "checkpoint", n_kv_heads=2)
    script = tmp_path / "run.py"
    script.write_text(TENSOR_PARALLEL)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", str(script)]
    command += [str(tmp_path / "checkpoint"), str(tmp_path / "saved")]
    root = str(Path(lm_eval_llada.__file__).parents[1])
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": root}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    assert same_tensors(tmp_path / "saved", original)


@pytest.mark.parametrize("name", ["_attn_implementation", "attn_implementation"])
@pytest.mark.parametrize("own", ["eager", "flash_attention_2", "flash_attention_3"])
def test_how_to_attend_is_not_for_the_config_to_say(folder, name, own):
    write_config(folder, **{name: own})
    for asked in ("sdpa", "eager"):
        model = load_model(folder, device="cpu", attn_implementation=asked)
        assert model.config._attn_implementation == asked
