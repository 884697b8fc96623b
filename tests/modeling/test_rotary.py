"""The rotation's laws, and what each way of scaling it does to the model."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lm_eval_llada.modeling import (
    LLaDAConfig,
    LLaDAForMaskedLM,
    apply_rope,
)
from lm_eval_llada.modeling.rotary import LLaDARotaryEmbedding, rotate
from lm_eval_llada.rope import RopeChoice
from tests.helpers.llada_models import SIZES, assert_close, make_model, plain_forward, tokens


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@settings(max_examples=30)
@given(
    st.integers(0, 4000),
    st.integers(0, 4000),
    st.integers(0, 4000),
    st.sampled_from([1e4, 5e5]),
)
def test_rotated_dot_products_depend_only_on_the_difference_of_positions(i, j, shift, theta):
    config = LLaDAConfig(**{**SIZES, "rope_theta": theta, "d_model": 64, "n_heads": 1})
    rotary = LLaDARotaryEmbedding(config)
    query, key = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(0)).unbind()

    def dot(first: int, second: int) -> Tensor:
        cos, sin = rotary(2, torch.device("cpu"), torch.tensor([[first, second]]))
        turned = rotate(torch.stack([query, key])[None], cos[:, :, None], sin[:, :, None])
        return turned[0, 0, 0] @ turned[0, 1, 0]

    # An angle of up to 8,000 radians is rounded by up to 0.0003 in float32.
    torch.testing.assert_close(dot(i + shift, j + shift), dot(i, j), atol=0.02, rtol=0)
    torch.testing.assert_close(dot(i, i), query[0] @ key[0], atol=1e-4, rtol=0)


def test_rotation_turns_split_halves():
    state = torch.zeros(1, 1, 1, 4)
    state[..., 0] = 1.0
    quarter = torch.tensor([math.pi / 2, 0.3])
    turned = rotate(state, quarter.cos(), quarter.sin())
    torch.testing.assert_close(turned.flatten(), torch.tensor([0.0, 0, 1, 0]), atol=1e-6, rtol=0)


def frequencies(choice: RopeChoice, **changes) -> tuple[Tensor, LLaDARotaryEmbedding]:
    config, _ = apply_rope(LLaDAConfig(**{**SIZES, **changes}), choice)
    rotary = LLaDARotaryEmbedding(config)
    return torch.tensor(rotary.inv_freq, dtype=torch.float64), rotary


def base_frequencies(theta: float, head_dim: int = 12) -> Tensor:
    return theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)


def test_ntk_runs_with_lambda_times_the_base():
    found, _ = frequencies(RopeChoice(scale=4.0))
    torch.testing.assert_close(found, base_frequencies(4e4), rtol=1e-6, atol=0)
    config, resolved = apply_rope(LLaDAConfig(**SIZES), RopeChoice(target_length=256))
    assert config.rope_theta == resolved.rope_theta == resolved.rope_scale * 1e4 > 1e4
    assert (config.train_length, config.max_sequence_length) == (64, 256)


def test_linear_divides_every_frequency_by_the_factor():
    found, rotary = frequencies(RopeChoice(method="linear", target_length=256))
    torch.testing.assert_close(found, base_frequencies(1e4) / 4, rtol=1e-6, atol=0)
    assert rotary.attention_factor == 1.0


def test_yarn_scales_cosines_by_its_attention_factor():
    found, rotary = frequencies(RopeChoice(method="yarn", target_length=256))
    assert rotary.attention_factor == pytest.approx(0.1 * math.log(4) + 1)
    cos, sin = rotary(3, torch.device("cpu"))
    torch.testing.assert_close(cos[0, 0], torch.full((6,), rotary.attention_factor))
    assert (cos**2 + sin**2).allclose(torch.tensor(rotary.attention_factor**2))
    # The fastest pair is left as it is, the slowest is interpolated.
    assert found[0] == 1.0
    assert found[-1].item() == pytest.approx(base_frequencies(1e4)[-1].item() / 4, rel=1e-6)


def test_a_rope_choice_reaches_the_logits():
    model, ids = make_model(), tokens(1, 30)
    config, _ = apply_rope(model.config, RopeChoice(scale=8.0))
    scaled = LLaDAForMaskedLM(config).eval()
    scaled.load_state_dict(model.state_dict())
    assert_close(scaled(ids).logits[0], plain_forward(scaled, ids[0]))
    assert (scaled(ids).logits - model(ids).logits).abs().max() > 1e-2


def test_dynamic_scaling_starts_beyond_the_trained_context_and_ignores_the_batch():
    choice = RopeChoice(method="dynamic", target_length=64)
    config, _ = apply_rope(LLaDAConfig(**{**SIZES, "max_sequence_length": 16}), choice)
    plain = make_model(max_sequence_length=16)
    dynamic = LLaDAForMaskedLM(config).eval()
    dynamic.load_state_dict(plain.state_dict())
    ids = tokens(2, 40)
    mask = torch.ones_like(ids)
    mask[0, 16:] = 0
    batched = dynamic(ids, attention_mask=mask).logits
    assert_close(batched[0, :16], plain(ids[:1, :16]).logits[0])
    assert_close(batched[1], dynamic(ids[1:]).logits[0])
    assert_close(dynamic(ids[:1, :16]).logits, plain(ids[:1, :16]).logits)
    assert (dynamic(ids).logits - plain(ids).logits).abs().max() > 1e-2
    with pytest.raises(
        ValueError, match="document_ids cannot be combined with rope type 'dynamic'"
    ):
        dynamic(ids, document_ids=mask)


def test_an_extended_checkpoint_is_not_scaled_again_unless_forced():
    once, _ = apply_rope(LLaDAConfig(**SIZES), RopeChoice(scale=4.0))
    with pytest.raises(ValueError, match="extended already .rope_scale=4.*force_rope=true"):
        apply_rope(once, RopeChoice(scale=4.0))
    assert apply_rope(once, RopeChoice())[0].rope_theta == 4e4
    twice, _ = apply_rope(once, RopeChoice(scale=2.0, force=True))
    assert (twice.rope_theta, twice.rope_scale, once.rope_theta) == (8e4, 8.0, 4e4)


@pytest.mark.parametrize("kind", ["yarn", "longrope", "llama3"])
def test_the_trained_context_of_a_stretched_config_is_what_was_stretched(kind):
    keys = {"factor": 4.0, "original_max_position_embeddings": 24}
    keys |= {
        "longrope": {"long_factor": [2.0] * 4, "short_factor": [1.0] * 4},
        "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    }.get(kind, {})
    parameters = {"rope_type": kind, "rope_theta": 1e4, **keys}
    sizes = {**SIZES, "max_sequence_length": 96, "rope_theta": None}
    config = LLaDAConfig(**sizes, rope_parameters=parameters)
    assert config.train_length == 24
    assert apply_rope(config, RopeChoice())[1].train_length == 24
    assert LLaDAConfig(**config.to_dict()).train_length == 24
    assert LLaDAConfig(**sizes, rope_parameters=parameters, train_length=48).train_length == 48


def test_longrope_leaves_short_prompts_alone_at_an_attention_factor_of_one():
    plain = make_model()
    ids = tokens(2, 20)
    expected = plain(ids).logits
    for further, same in (({}, False), ({"attention_factor": 1.0}, True)):
        extra = {"long_factor": [2.0] * 6, **further}
        choice = RopeChoice("longrope", target_length=128, train_length=24, extra=extra)
        config, _ = apply_rope(LLaDAConfig(**plain.config.to_dict()), choice)
        model = LLaDAForMaskedLM(config).eval()
        model.load_state_dict(plain.state_dict())
        assert torch.equal(model(ids).logits, expected) is same
