"""What a method does beside its frequencies, and its further keys, from files and as text."""

from __future__ import annotations

import json

import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lm_eval_llada.rope import ResolvedRope, RopeChoice, describe, ntk_scale, resolve

HEAD = {"rope_theta": 500000, "head_dim": 128, "train_length": 4096}
LONG_FACTOR = [1 + 0.05 * n for n in range(64)]


def resolved(method: str, target: int = 16384, **extra) -> ResolvedRope:
    if method == "longrope":
        extra = {"long_factor": LONG_FACTOR, **extra}
    return resolve(RopeChoice(method, target_length=target, extra=extra), **HEAD)


@pytest.mark.parametrize("method", ["yarn", "llama3", "linear"])
def test_at_factor_one_nothing_is_computed_anew(method):
    assert resolved(method, 4096).rope_parameters == {"rope_type": "default", "rope_theta": 500000}


@pytest.mark.parametrize("target", [2048, 8192, 131072])
@pytest.mark.parametrize(
    ("method", "extra"),
    [
        ("yarn", {}),
        ("yarn", {"mscale": 0.7, "mscale_all_dim": 1.1}),
        ("yarn", {"attention_factor": 1.3}),
        ("longrope", {}),
        ("longrope", {"attention_factor": 1.0}),
        ("linear", {}),
        ("dynamic", {}),
    ],
)
def test_the_attention_factor_is_the_one_that_transformers_computes(method, extra, target):
    rope = resolved(method, target, **extra)
    if rope.rope_parameters["rope_type"] == "default":
        assert rope.attention_factor == 1
        return
    config = LlamaConfig(
        hidden_size=256,
        num_attention_heads=2,
        head_dim=128,
        max_position_embeddings=rope.max_position_embeddings,
        rope_parameters=rope.rope_parameters,
    )
    _, expected = ROPE_INIT_FUNCTIONS[method](config)
    assert rope.attention_factor == pytest.approx(expected)


def test_what_longrope_does_to_short_prompts_is_said():
    said = "\n".join(describe(resolved("longrope", 131072)))
    assert "multiplies the logits of attention by 1.41667 at every length" in said
    assert "rope_attention_factor=1.0 leaves them as they are" in said
    assert resolved("longrope", 131072, attention_factor=1).notes == ()


@pytest.mark.parametrize(
    ("theta", "before", "after"), [(1e4, 4080, 4081), (1e5, 4080, 4081), (1e6, 4080, 4081)]
)
def test_a_token_that_moves_lambda_far_is_said_from_both_sides(theta, before, after):
    def notes(train_length: int, **choice) -> str:
        rope = resolve(
            RopeChoice(target_length=32768, **choice),
            rope_theta=theta, head_dim=128, train_length=train_length,
        )  # fmt: skip
        return " ".join(rope.notes)

    there = ntk_scale(theta, 128, after, 32768)
    assert f"one token more of trained context, {after}, would give λ = {there:.6g}" in notes(
        before
    )
    assert f"one token less of trained context, {before}, would give" in notes(after)
    for length in (before - 1, after + 1):
        assert "one token" not in notes(length)
    for given in ({"d_crit": 60}, {"scale": 200.0}):
        assert "one token" not in notes(after, **given)


def test_the_jump_of_llada_is_at_4443():
    head = {"rope_theta": 5e5, "head_dim": 128}
    said = resolve(RopeChoice(target_length=16384), train_length=4443, **head).notes
    assert said == (
        "one token less of trained context, 4442, would give λ = 13.5991: the critical dimension "
        "jumps from 66 to 64 between the two.",
    )
    assert resolve(RopeChoice(target_length=16384), train_length=4096, **head).notes == ()


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(LONG_FACTOR),
        ",".join(map(repr, LONG_FACTOR)),
        "\n".join(f"{f:.18e}" for f in LONG_FACTOR),
        "\ufeff" + "; ".join(map(repr, LONG_FACTOR)) + "\n",
    ],
    ids=["json", "commas", "lines", "byte-order mark"],
)
def test_a_factor_list_may_be_a_file(tmp_path, text):
    path = tmp_path / "factors.csv"
    path.write_text(text, encoding="utf-8")
    choice = RopeChoice("longrope", target_length=8192, extra={"long_factor": str(path)})
    assert choice.extra["long_factor"] == LONG_FACTOR
    path.unlink()  # read once
    assert resolve(choice, **HEAD).rope_parameters["long_factor"] == LONG_FACTOR


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: [Errno 2]"),
        (b"factor\n1.0", "holds no list of numbers: could not convert string to float: 'factor'"),
        (b"[1.0, 2.0", "holds no list of numbers"),
        (b'["a", 2.0]', "long_factor[0] must be a number > 0; got 'a'"),
        (b"1.0 nan", "long_factor[1] must be a number > 0; got nan"),
        (b"1.0 -2", "long_factor[1] must be a number > 0; got -2.0"),
        (b"1.0 2.0", "must have head_dim / 2 = 64 numbers; got 2"),
        (b"", "must have head_dim / 2 = 64 numbers; got 0"),
        (b"\xff\xfe\x31", "cannot be read: 'utf-8' codec"),
    ],
)
def test_a_file_without_a_factor_list_stops_with_its_reason(tmp_path, content, message):
    path = tmp_path / "factors.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        resolve(
            RopeChoice("longrope", target_length=8192, extra={"long_factor": str(path)}), **HEAD
        )
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_may_come_as_text():
    extra = {"beta_fast": "1.6e1", "truncate": "false", "attention_factor": "1"}
    parameters = resolved("yarn", **extra).rope_parameters
    assert parameters["beta_fast"] == 16
    assert parameters["truncate"] is False
    assert parameters["attention_factor"] == 1
