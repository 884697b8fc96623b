"""Plans for families beside LLaDA, whose shapes are known without the hub."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from lm_eval_llada.cli import main as cli
from lm_eval_llada.cli import plan as command
from lm_eval_llada.modeling import find_config
from lm_eval_llada.modeling.cost import num_parameters
from lm_eval_llada.plan.text import describe


def plan_of(folder: Path, *arguments: str) -> str:
    """What the command prints, once the arguments are completed as those of a run."""
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers(dest="command"))
    namespace = parser.parse_args(["plan", *arguments])
    cli.fill_in(namespace, folder)
    return describe(namespace)


def peak_of(text: str, cache: str) -> float:
    """Peak gigabytes of a row of the table of caches."""
    return float(next(line.split() for line in text.splitlines() if line.split()[:1] == [cache])[4])


# Layers x (keys and values) x heads x dimensions x bytes, and the parameters that the cards name.
GIB = 2**30
PUBLISHED = {
    "someone/iLLaDA-8B-Base": (32 * 2 * 8 * 128 * 2, "7,615,025,152"),
    "Dream-org/Dream-v0-Instruct-7B": (28 * 2 * 4 * 128 * 2, "7,615,616,512"),
}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("length", [32_768, 131_072])
def test_other_families_are_planned_with_and_without_caches(tmp_path, name, length) -> None:
    num_bytes, parameters = PUBLISHED[name]
    exact, cached = (
        plan_of(
            tmp_path,
            "--tasks",
            f"niah_{length}",
            "--model_args",
            f"pretrained={name},cache={cache}",
        )
        for cache in ("none", "prefix")
    )
    assert f"Model: {parameters} parameters in bfloat16, 15.2 GB of weights" in exact
    assert f"keys and values take {num_bytes // 1024} KiB a token" in exact
    assert f"a cache of {num_bytes * length / GIB:.1f} GiB" in cached
    assert ("rope_theta is not known here" in exact) == ("iLLaDA" in name)
    peaks = [peak_of(exact, cache) for cache in ("none", "prefix")]
    assert peaks[1] - peaks[0] == pytest.approx(num_bytes * length / 1e9, abs=0.2)


@pytest.mark.parametrize("name", ["DiffuCoder-7B-Instruct", "Dream-Coder-v0-Base-7B"])
def test_what_wears_dreams_weights_has_its_shape(name: str) -> None:
    config, _ = find_config(f"someone/{name}")
    assert (config.family, config.shift, config.train_length) == ("Dream", True, 2048)
    assert (config.d_model, config.n_kv_heads, config.include_qkv_bias) == (3584, 4, True)


def test_a_model_with_blocks_keeps_128k_on_one_gpu(tmp_path) -> None:
    name = "pretrained=nvidia/Nemotron-Labs-Diffusion-8B"
    text = plan_of(tmp_path, "--tasks", "niah_131072", "--model_args", name)
    assert "keys and values take 136 KiB a token" in text
    assert "a cache of 17.0 GiB" in text and "which fits 80 GB" in text
    name = "pretrained=inclusionAI/LLaDA2.0-mini"
    text = plan_of(tmp_path, "--tasks", "niah_32768", "--model_args", name)
    assert "16,255,643,392 parameters, 1,432,973,056 of them for a token," in text


def test_a_plan_attends_as_it_is_told(tmp_path) -> None:
    name = "pretrained=someone/Qwen3-0.6B-diffusion"
    for words, is_block in (("", False), (",attention=block,block_length=8", True)):
        text = plan_of(tmp_path, "--tasks", "niah_4096", "--model_args", name + words)
        assert ("causal between its blocks of 8" in text) == is_block


def test_parameters_of_published_shapes_are_those_of_their_cards() -> None:
    for name, billions in {
        "LLaDA-MoE-7B-A1B-Base": 7.36,
        "Qwen3-0.6B-diffusion-mdlm": 0.596,
    }.items():
        config, _ = find_config(f"someone/{name}")
        assert num_parameters(config) / 1e9 == pytest.approx(billions, abs=0.005)


def test_blocks_are_planned_with_their_exact_cache_and_128k_fits(tmp_path: Path) -> None:
    config = {
        **{"model_type": "llada", "d_model": 4096, "n_layers": 34, "n_heads": 32, "n_kv_heads": 8},
        **{"mlp_hidden_size": 14336, "vocab_size": 131_072, "max_sequence_length": 262_144},
        **{"rope_theta": 1e6, "mask_token_id": 100, "dtype": "bfloat16", "block_length": 32},
    }
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(config))
    asked = ("--tasks", "niah_131072", "--model_args")
    text = plan_of(tmp_path, *asked, f"pretrained={model}")
    assert "keys and values take 136 KiB a token" in text
    assert "a cache of 17.0 GiB (18.3 GB) for each sequence" in text
    assert "16 in blocks of 32, 16 steps, cache=exact" in text
    assert "which fits 80 GB" in text and "DOES NOT FIT" not in text
    # One cache is left to choose from, so that there is no table of them.
    assert "All tasks under each cache" not in text
    for wrong in ("cache=dual", "cache=prompt", "likelihood_cache=context"):
        with pytest.raises(ValueError, match=f"^{wrong} is an approximation"):
            plan_of(tmp_path, *asked, f"pretrained={model},{wrong}")
