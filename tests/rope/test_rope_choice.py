"""RopeChoice: what it refuses, what it resolves to, and how transformers reads the result."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from lm_eval_llada.rope import (
    METHODS,
    ResolvedRope,
    RopeChoice,
    describe,
    ntk_scale,
    resolve,
)

HEAD = {"rope_theta": 500000, "head_dim": 128, "train_length": 4096}
FACTOR_METHODS = ("linear", "dynamic", "yarn", "longrope", "llama3")
LONG_FACTOR = [1 + 0.05 * n for n in range(64)]


def _resolved(method: str | None, target: int = 16384, **kwargs) -> ResolvedRope:
    if method == "longrope":
        kwargs = {"extra": {"long_factor": LONG_FACTOR}} | kwargs
    return resolve(RopeChoice(method, target_length=target, **kwargs), **HEAD)


def _config(resolved: ResolvedRope) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=256,
        num_attention_heads=2,
        head_dim=128,
        max_position_embeddings=resolved.max_position_embeddings,
        rope_parameters=resolved.rope_parameters,
    )


def _inv_freq(theta: float, head_dim: int = 128) -> list[float]:
    return [theta ** (-2 * n / head_dim) for n in range(head_dim // 2)]


def _assert_close(computed: torch.Tensor, expected: list[float]) -> None:
    # transformers computes frequencies in fp32, whose power is good to about 1e-5.
    torch.testing.assert_close(computed, torch.tensor(expected), rtol=2e-5, atol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", [8192, 16384, 20000])
def test_transformers_accepts_the_parameters_without_a_warning(method, target, caplog):
    logger = logging.getLogger("transformers.modeling_rope_utils")
    logger.addHandler(caplog.handler)
    try:
        config = _config(_resolved(method, target))
        config.validate_rope()
    finally:
        logger.removeHandler(caplog.handler)
    assert caplog.messages == []
    assert config.rope_parameters == _resolved(method, target).rope_parameters


def test_every_method_with_a_factor_is_one_that_transformers_computes():
    assert set(FACTOR_METHODS) <= set(ROPE_INIT_FUNCTIONS)
    assert {"none", "ntk", "diffusion_ntk", "ntk_fixed", *FACTOR_METHODS} == set(METHODS)
    for method in FACTOR_METHODS:
        assert _resolved(method).rope_parameters["rope_type"] == method


@pytest.mark.parametrize("method", ["none", "ntk", "diffusion_ntk", "ntk_fixed"])
def test_base_methods_are_the_default_rotation_with_another_base(method):
    resolved = _resolved(method)
    assert resolved.rope_parameters["rope_type"] == "default"
    embedding = LlamaRotaryEmbedding(_config(resolved))
    _assert_close(embedding.inv_freq, _inv_freq(resolved.rope_scale * 500000))
    assert embedding.attention_scaling == 1


def test_ntk_fixed_divides_the_slowest_frequency_in_transformers_by_the_factor():
    before = LlamaRotaryEmbedding(_config(_resolved("none"))).inv_freq
    after = LlamaRotaryEmbedding(_config(_resolved("ntk_fixed"))).inv_freq
    assert (before[-1] / after[-1]).item() == pytest.approx(4, rel=1e-4)
    assert after[0] == before[0]


def test_linear_divides_every_frequency_by_the_factor():
    inv_freq, attention = ROPE_INIT_FUNCTIONS["linear"](_config(_resolved("linear")))
    _assert_close(inv_freq, [frequency / 4 for frequency in _inv_freq(5e5)])
    assert attention == 1


def test_dynamic_leaves_the_trained_context_alone_and_grows_the_base_beyond_it():
    config = _config(_resolved("dynamic"))
    assert config.max_position_embeddings == 4096
    inv_freq, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, seq_len=4096)
    _assert_close(inv_freq, _inv_freq(5e5))
    inv_freq, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, seq_len=16384)
    _assert_close(inv_freq, _inv_freq(5e5 * (4 * 4 - 3) ** (128 / 126)))


def test_yarn_blends_by_turns_and_tempers_attention():
    inv_freq, attention = ROPE_INIT_FUNCTIONS["yarn"](_config(_resolved("yarn")))

    def pair_with(turns: float) -> float:
        return 64 * math.log(4096 / (turns * 2 * math.pi)) / math.log(5e5)

    low, high = math.floor(pair_with(32)), math.ceil(pair_with(1))
    expected = []
    for n, frequency in enumerate(_inv_freq(5e5)):
        blend = min(1, max(0, (n - low) / (high - low)))
        expected.append(frequency * (1 - blend) + frequency / 4 * blend)
    _assert_close(inv_freq, expected)
    assert attention == pytest.approx(0.1 * math.log(4) + 1)


def test_llama3_divides_slow_frequencies_keeps_fast_ones_and_blends_between():
    inv_freq, attention = ROPE_INIT_FUNCTIONS["llama3"](_config(_resolved("llama3")))
    expected = []
    for frequency in _inv_freq(5e5):
        turns = 4096 * frequency / (2 * math.pi)
        keep = min(1, max(0, (turns - 1) / (4 - 1)))
        expected.append(frequency * keep + frequency / 4 * (1 - keep))
    _assert_close(inv_freq, expected)
    assert attention == 1


def test_longrope_uses_its_factors_beyond_the_trained_context_only():
    config = _config(_resolved("longrope"))
    short, attention = ROPE_INIT_FUNCTIONS["longrope"](config, seq_len=4096)
    _assert_close(short, _inv_freq(5e5))
    long, _ = ROPE_INIT_FUNCTIONS["longrope"](config, seq_len=4097)
    _assert_close(long, [f / by for f, by in zip(_inv_freq(5e5), LONG_FACTOR, strict=True)])
    assert attention == pytest.approx(math.sqrt(1 + math.log(4) / math.log(4096)))


def test_further_keys_reach_transformers():
    resolved = _resolved("yarn", extra={"beta_fast": 16, "attention_factor": 1})
    assert resolved.rope_parameters["beta_fast"] == 16
    assert resolved.rope_parameters["beta_slow"] == 1
    assert ROPE_INIT_FUNCTIONS["yarn"](_config(resolved))[1] == 1.0
    short = _resolved("longrope", extra={"long_factor": LONG_FACTOR, "short_factor": [2.0] * 64})
    inv_freq, _ = ROPE_INIT_FUNCTIONS["longrope"](_config(short))
    _assert_close(inv_freq, [frequency / 2 for frequency in _inv_freq(5e5)])


def test_rope_parameters_are_a_new_dict_each_time():
    # transformers fills in keys of the dict it is given.
    resolved = _resolved("yarn")
    resolved.rope_parameters["factor"] = 99
    assert resolved.rope_parameters["factor"] == 4


@pytest.mark.parametrize("method", FACTOR_METHODS)
def test_a_target_inside_the_trained_context_gives_factor_one_and_a_note(method):
    resolved = _resolved(method, 2000)
    assert resolved.factor == 1
    assert resolved.max_position_embeddings == 4096
    assert "within the trained context" in resolved.notes[0]


def test_method_defaults_to_ntk_with_a_target_or_scale_and_to_none_without():
    assert RopeChoice().effective_method == "none"
    assert RopeChoice(train_length=512).effective_method == "none"
    assert RopeChoice(target_length=8192).effective_method == "ntk"
    assert RopeChoice(scale=14).effective_method == "ntk"
    assert resolve(RopeChoice(), **HEAD).rope_parameters["rope_theta"] == 500000


@pytest.mark.parametrize("method", ["ntk", "diffusion_ntk", "ntk_fixed", None])
def test_an_explicit_scale_is_used_as_it_is(method):
    resolved = resolve(RopeChoice(method, scale=14), **HEAD)
    assert resolved.rope_scale == 14
    assert resolved.rope_theta == 7e6
    assert resolved.factor is None
    assert resolved.max_position_embeddings == 4096


def test_an_explicit_scale_goes_with_a_target_as_long_as_the_trained_context():
    resolved = resolve(RopeChoice(scale=4, target_length=4096), **HEAD)
    assert resolved.rope_scale == 4


def test_an_explicit_scale_that_falls_short_of_its_target_says_so():
    resolved = resolve(RopeChoice(scale=14, target_length=32768), **HEAD)
    assert any("16623.7 tokens, short of target_length=32768" in note for note in resolved.notes)
    assert resolve(RopeChoice(target_length=32768), **HEAD).notes == ()


def test_a_given_trained_length_takes_the_place_of_the_checkpoints():
    resolved = resolve(RopeChoice(target_length=32768, train_length=8192), **HEAD)
    assert resolved.rope_scale == ntk_scale(500000, 128, 8192, 32768)
    assert resolved.train_length == 8192


def test_diffusion_aware_scale_is_noted_beside_the_other():
    notes = _resolved("diffusion_ntk", 131072).notes
    assert any("ntk would give λ = 870.342" in note for note in notes)
    assert not any("ntk would give" in note for note in _resolved("diffusion_ntk", 4096).notes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "nkt"}, "got 'nkt'. Did you mean 'ntk'"),
        ({"method": "diffusion-ntk"}, "Did you mean 'diffusion_ntk'"),
        ({"scale": 0.5}, "rope_scale must be a number >= 1; got 0.5"),
        ({"scale": math.nan}, "rope_scale must be a number >= 1; got nan"),
        ({"scale": "14"}, "rope_scale must be a number >= 1; got '14'"),
        ({"scale": True}, "rope_scale must be a number >= 1; got True"),
        ({"target_length": 0}, "target_length must be a whole number >= 1; got 0"),
        ({"target_length": 8192.5}, "target_length must be a whole number >= 1; got 8192.5"),
        ({"target_length": 8192, "train_length": 6}, "train_length must be a whole number >= 7"),
        ({"target_length": 8192, "d_crit": 0}, "d_crit must be a number > 0; got 0"),
        ({"target_length": 8192, "round_scale": "false"}, "round_scale must be true or false"),
        ({"force": 1}, "force must be true or false; got 1"),
        ({"method": "ntk"}, "rope_method='ntk' needs target_length or rope_scale"),
        ({"method": "linear"}, "rope_method='linear' needs target_length."),
        ({"method": "none", "scale": 4}, "rope_scale=4 is λ"),
        ({"method": "linear", "scale": 4}, "Other methods take their factor from target_length"),
        ({"method": "yarn", "target_length": 8192, "d_crit": 73}, "d_crit=73 has no effect"),
        ({"method": "ntk_fixed", "scale": 4, "d_crit": 73}, "d_crit=73 has no effect"),
        ({"d_crit": 73}, "d_crit=73 has no effect with rope_method='none'"),
        ({"scale": 13.6, "round_scale": True}, "give rope_scale=14"),
        ({"method": "yarn", "target_length": 8192, "round_scale": True}, "round_scale rounds λ"),
        ({"method": "longrope", "target_length": 8192}, "needs long_factor"),
        ({"target_length": 8192, "extra": {"beta_fast": 4}}, "'ntk' takes no further keys"),
    ],
)
def test_a_wrong_choice_stops_with_its_reason(arguments, message):
    with pytest.raises(ValueError) as caught:
        RopeChoice(**arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("method", "extra", "message"),
    [
        ("yarn", {"beta_fas": 4}, "Did you mean 'beta_fast'"),
        ("yarn", {"beta_fast": 1}, "beta_fast must be greater than beta_slow; got 1 and 1"),
        ("yarn", {"truncate": 1}, "truncate must be true or false"),
        ("yarn", {"attention_factor": -1}, "attention_factor must be a number > 0"),
        ("llama3", {"high_freq_factor": 0.5}, "must be greater than low_freq_factor"),
        (
            "longrope",
            {"long_factor": 4},
            "long_factor must be a list of numbers or a file that holds it; got 4",
        ),
        ("longrope", {"long_factor": [1, 0]}, "long_factor[1] must be a number > 0; got 0"),
    ],
)
def test_a_wrong_further_key_stops_with_its_reason(method, extra, message):
    with pytest.raises(ValueError) as caught:
        RopeChoice(method, target_length=8192, extra=extra)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "head", "message"),
    [
        ({"scale": 4, "target_length": 2048}, {}, "shorter than the trained context of 4096"),
        ({"target_length": 8192, "d_crit": 129}, {}, "d_crit=129 exceeds head_dim=128"),
        ({"target_length": 8192, "d_crit": 0.01}, {}, "beyond the range of a float"),
        ({"scale": 1e306}, {}, "rope_scale * rope_theta must be a number"),
        ({}, {"head_dim": 63}, "head_dim must be even"),
        ({}, {"rope_theta": 1}, "rope_theta must be a number > 1; got 1"),
        ({}, {"train_length": 3}, "train_length must be a whole number >= 7; got 3"),
        ({"method": "ntk_fixed", "target_length": 8192}, {"head_dim": 2}, "head_dim must be"),
        (
            {"method": "longrope", "target_length": 8192, "extra": {"long_factor": [1.0] * 63}},
            {},
            "long_factor must have head_dim / 2 = 64 numbers; got 63",
        ),
    ],
)
def test_a_choice_that_does_not_fit_the_checkpoint_stops(arguments, head, message):
    with pytest.raises(ValueError) as caught:
        resolve(RopeChoice(**arguments), **(HEAD | head))
    assert message in str(caught.value)


def test_description_names_scale_critical_dimension_and_reach():
    lines = describe(resolve(RopeChoice(target_length=16384, round_scale=True), **HEAD))
    text = "\n".join(lines)
    assert "rope_scale (λ): 14, rope_theta 500000 -> 7e+06" in text
    assert "d_crit: 64 of 128 dimensions" in text
    assert "reach: 16623.7 tokens" in text
    assert "λ = 13.5991 is rounded up to 14." in text


@pytest.mark.parametrize("method", METHODS)
def test_description_is_one_line_an_entry_for_every_method(method):
    lines = describe(_resolved(method))
    assert len(lines) >= 3
    assert all(line and "\n" not in line and "None" not in line for line in lines)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"method": "ntk", "d_crit": 4.5, "target_length": 3819}, "frequencies in float32 become"),
        ({"target_length": 10**400}, "target_length must be at most"),
        ({"method": "ntk", "target_length": 9, "extra": {"": 1, 1: 2}}, "takes no further keys"),
    ],
)
def test_numbers_that_no_rotation_can_hold_are_errors(choice, message):
    with pytest.raises(ValueError, match=message):
        resolve(RopeChoice(**choice), rope_theta=1e4, head_dim=64, train_length=512)
