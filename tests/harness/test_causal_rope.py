"""Every causal class of transformers under a user's choice: scaled as asked, or refused."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig

from lm_eval_llada.harness.causal_rope import (
    causal_rope,
    check_rotation,
    open_config,
    scaled_config,
)
from lm_eval_llada.rope import RopeChoice, ntk_scale
from tests.helpers.causal_models import (
    TRAINED,
    logits_of,
    random_model,
    rotary_types,
    tiny_config,
)
from tests.helpers.family_checkpoints import CONFIGS, FAMILY_IDS

# With partial rotation, sections, or any key beside type and base, in transformers 5.23.
FLAT = (
    "bamba", "glm", "glm4", "glm4_moe", "gpt_neox", "gpt_neox_japanese", "hunyuan_v1_dense",
    "hunyuan_v1_moe", "minimax_m2", "nemotron", "persimmon", "phi", "phi3", "phimoe",
    "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "qwen4_exp_text", "recurrent_gemma",
    "stablelm",
)  # fmt: skip
EXTENDED = ("apertus", "cwm", "gpt_oss", "ministral3")
BY_LAYER_TYPE = (
    "beam", "deepseek_v4", "dots3_note_text", "gemma3_text", "gemma3n_text", "gemma4_text",
    "gemma4_unified_text", "laguna", "lfm3", "mellum", "mimo_v2_flash", "modernbert-decoder",
    "olmo3", "zaya",
)  # fmt: skip
FURTHER = {*FLAT, *EXTENDED, *BY_LAYER_TYPE}
UNBUILDABLE = {
    "blt": "its byte hashes and four parts have 4.6 billion parameters",
    "dbrx": "transformers 5.23 itself cannot build it: its attention config has no rope_theta",
    "phi4_multimodal": "its vision and speech parts have 870 million parameters",
}
SOURCE_WORDS = re.compile(
    r"partial_rotary_factor|rotary_pct|mrope|llama_4_scaling|short_mscale|\balpha\b"
)
UNIT = {
    "ntk": {"scale": 1.0},
    "linear": {"target_length": 32},
    "dynamic": {"target_length": 32},
    "yarn": {"target_length": 32},
}
# Checkpoints may hold what a class has no default for.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_neox, all of a head": ("gpt_neox", {"partial_rotary_factor": 1.0}),
    "phi, 0.4": ("phi", {"partial_rotary_factor": 0.4}),
    "ministral3, not extended": (
        "ministral3",
        {"llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 32},
    ),
    "qwen3_5, sections": (
        "qwen3_5_text",
        {"mrope_section": [1, 1, 0], "mrope_interleaved": True, "partial_rotary_factor": 0.25},
    ),
}


def scaled(config: PreTrainedConfig, choice: RopeChoice, like: Any) -> Any:
    rope = causal_rope(config, choice)
    model = random_model(scaled_config(config, rope), like)
    check_rotation(model, rope)
    return model


def unit_choices(config: PreTrainedConfig) -> dict[str, RopeChoice]:
    """Every method with λ or the factor at 1."""
    train_length = None if hasattr(config, "max_position_embeddings") else TRAINED
    return {
        method: RopeChoice(method, train_length=train_length, **settings)
        for method, settings in UNIT.items()
    }


def assert_unit_scales_change_nothing(config: PreTrainedConfig) -> list[str]:
    """The methods that were refused; all others give the unscaled logits to the bit."""
    plain = random_model(config)
    expected = logits_of(plain)
    refused = []
    for method, choice in unit_choices(config).items():
        try:
            model = scaled(config, choice, plain)
        except ValueError as error:
            assert re.search(r"rope_type='\w+'|one for each of \w+|RoPE types", str(error)), error
            assert ". " not in str(error), error
            refused.append(method)
            continue
        assert torch.equal(logits_of(model), expected), method
    return refused


@pytest.mark.parametrize("model_type", FLAT)
def test_a_scale_of_one_gives_the_unscaled_logits_to_the_bit(model_type):
    refused = assert_unit_scales_change_nothing(tiny_config(model_type))
    # Microsoft's two know longrope alone, Google's none.
    assert refused == (["dynamic"] if model_type in ("phi3", "phimoe", "recurrent_gemma") else [])


@pytest.mark.parametrize("name", VARIANTS)
def test_a_scale_of_one_keeps_the_further_keys_of_a_checkpoint(name):
    model_type, keys = VARIANTS[name]
    parameters = {"rope_type": "default", "rope_theta": 1e6, **keys}
    config = tiny_config(model_type, rope_parameters=parameters)
    assert assert_unit_scales_change_nothing(config) == []
    plain = random_model(config)
    unit = scaled(config, RopeChoice("ntk", scale=1.0), plain)
    assert torch.equal(logits_of(unit, TRAINED), logits_of(plain, TRAINED))
    rope = causal_rope(config, RopeChoice("ntk", scale=3.0))
    assert scaled_config(config, rope).rope_parameters == {
        **config.rope_parameters,
        "rope_theta": 3e6,
    }


@pytest.mark.parametrize("model_type", [*EXTENDED, *BY_LAYER_TYPE])
def test_rotations_that_are_not_one_unstretched_base_are_refused(model_type):
    config = tiny_config(model_type)
    reason = "extended already" if model_type in EXTENDED else "one for each of"
    for choice in unit_choices(config).values():
        with pytest.raises(ValueError, match=reason):
            causal_rope(config, choice)


@pytest.mark.slow
def test_the_classes_with_further_keys_are_all_here():
    found = set()
    for model_type in rotary_types():
        config = CONFIG_MAPPING[model_type]()
        source = inspect.getsource(inspect.getmodule(type(config)))
        has_more = config.rope_parameters.keys() - {"rope_type", "rope_theta"}
        if has_more or SOURCE_WORDS.search(source):
            found.add(model_type)
    found.add("hunyuan_v1_dense")  # reads `alpha` in its modeling code only
    assert found - UNBUILDABLE.keys() == FURTHER


@pytest.mark.slow
def test_a_scale_of_one_changes_no_class_at_all():
    others = set(rotary_types()) - UNBUILDABLE.keys() - FURTHER
    assert len(others) > 60
    refused = {t: assert_unit_scales_change_nothing(tiny_config(t)) for t in sorted(others)}
    # These two have no rotation unless their configuration asks for one.
    assert {t for t, methods in refused.items() if methods} == {"granitemoehybrid", "zamba2"}


@pytest.mark.slow
@pytest.mark.parametrize("model_type", UNBUILDABLE)
def test_classes_that_are_not_run(model_type):
    with pytest.raises((ValueError, AttributeError)):
        random_model(tiny_config(model_type))
    pytest.skip(UNBUILDABLE[model_type])


@pytest.mark.parametrize("model_type", ["gpt_neox", "glm4", "stablelm", "qwen3_next", "mixtral"])
def test_lambda_slows_the_rotated_dimensions_and_nothing_else(model_type):
    config = tiny_config(model_type)
    plain = random_model(config)
    model = scaled(config, RopeChoice("ntk", scale=5.0), plain)

    def frequencies(of: Any) -> torch.Tensor:
        return next(b for n, b in of.named_buffers() if n.endswith("rotary_emb.inv_freq"))

    before, after = frequencies(plain), frequencies(model)
    pairs = torch.arange(len(before)) / len(before)
    torch.testing.assert_close(before / after, 5.0**pairs, rtol=1e-5, atol=0)
    assert float((logits_of(model) - logits_of(plain)).abs().max()) > 1e-4


@pytest.mark.parametrize("method", ["linear", "dynamic", "yarn"])
@pytest.mark.parametrize("model_type", ["gpt_neox", "mixtral"])
def test_methods_with_a_factor_run_where_heads_rotate_partly_or_have_no_size(method, model_type):
    config = tiny_config(model_type)
    plain = random_model(config)
    model = scaled(config, RopeChoice(method, target_length=256), plain)
    same = torch.equal(logits_of(model, TRAINED), logits_of(plain, TRAINED))
    assert same is (method == "dynamic")
    assert bool(logits_of(model, 80).isfinite().all())


def test_lambda_and_the_critical_dimension_are_those_of_the_rotated_dimensions():
    # Pythia's: a quarter of heads of 64, trained on 2048 tokens.
    config = CONFIG_MAPPING["gpt_neox"](
        hidden_size=512, num_attention_heads=8, max_position_embeddings=2048
    )
    rope = causal_rope(config, RopeChoice(target_length=8192))
    assert (rope.head_dim, rope.d_crit) == (16, 12)
    assert rope.rope_scale == pytest.approx(ntk_scale(1e4, 16, 2048, 8192))
    assert rope.rope_scale == pytest.approx((8192 / (2 * torch.pi)) ** (16 / 12) / 1e4)
    assert "only 16 of the 64 dimensions of a head are rotated." in rope.notes


def test_a_class_that_keeps_other_frequencies_is_refused():
    config = tiny_config("granite_swa")
    with pytest.raises(ValueError, match="GraniteSWARotaryEmbedding keeps other frequencies"):
        scaled(config, RopeChoice("ntk", scale=5.0), random_model(config))


def test_a_class_without_a_trained_context_asks_for_it():
    config = tiny_config("recurrent_gemma")
    with pytest.raises(ValueError, match="names no trained context; give train_length"):
        causal_rope(config, RopeChoice(scale=2.0))
    assert causal_rope(config, RopeChoice(scale=2.0, train_length=64)).train_length == 64


def test_a_length_that_other_keys_go_by_is_not_replaced():
    keys = {"llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 16}
    parameters = {"rope_type": "default", "rope_theta": 1e6, **keys}
    config = tiny_config("ministral3", rope_parameters=parameters)
    rope = causal_rope(config, RopeChoice("yarn", target_length=256, train_length=64))
    with pytest.raises(ValueError, match="its llama_4_scaling_beta may go by; drop train_length"):
        scaled_config(config, rope)


@pytest.mark.parametrize("kind", ["yarn", "longrope", "llama3"])
def test_the_trained_context_is_what_was_stretched(kind):
    keys: dict[str, Any] = {"factor": 4.0, "original_max_position_embeddings": 16}
    keys |= {
        "longrope": {"long_factor": [2.0] * 8, "short_factor": [1.0] * 8},
        "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    }.get(kind, {})
    parameters = {"rope_type": kind, "rope_theta": 1e4, **keys}
    config = tiny_config("llama", rope_parameters=parameters)
    assert causal_rope(config, RopeChoice()).train_length == 16


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            "rope_scaling={'type': 'linear', 'factor': 2.0} and rope_parameters=",
        ),
        ({"rope_scaling": {"rope_type": "default"}}, "disagree"),
        ({"rope_theta": 5e5}, "rope_theta=500000.0 and rope_parameters['rope_theta']=10000.0"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 and rope_parameters["),
    ],
    ids=str,
)
def test_rope_fields_that_disagree_are_an_error(tmp_path, fields, message):
    own = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}
    values = tiny_config("llama", rope_parameters=own).to_dict() | fields
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError) as caught:
        open_config(str(tmp_path))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_theta": 1e4},
        {"rope_scaling": {"type": "default", "rope_theta": 1e4}},
        {"rope_scaling": {"rope_type": "default"}, "rope_theta": 1e4},
        {"rope_scaling": None},
    ],
    ids=str,
)
def test_rope_fields_that_say_the_same_are_read(tmp_path, fields):
    own = {"rope_type": "default", "rope_theta": 1e4}
    values = tiny_config("llama", rope_parameters=own).to_dict() | fields
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert open_config(str(tmp_path)).rope_parameters["rope_theta"] == 1e4


@pytest.mark.parametrize("family", FAMILY_IDS)
def test_a_masked_diffusion_checkpoint_is_sent_to_its_own_model(tmp_path, family):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[family]))
    with pytest.raises(ValueError, match=r"model_type='.*'\); use --model llada"):
        open_config(str(tmp_path))
