"""Packed weights compute what plain ones do but for the last bits, and only where asked for."""

from __future__ import annotations

import pytest
import torch

from lm_eval_llada.engine.arguments import answer_fingerprint, parse_model_args
from lm_eval_llada.modeling.packed import PackedLinear, pack_weights
from tests.helpers.llada_models import SHAPES, assert_close, make_model, tokens
from tests.helpers.toy_requests import PROMPTS, generations


@pytest.mark.parametrize("shape", SHAPES)
def test_packed_weights_give_the_same_logits(shape):
    model, ids = make_model(**SHAPES[shape]), tokens(2, 19)
    rows = torch.tensor([[1, 4], [0, 18]])
    with torch.inference_mode():
        whole, some = model(ids).logits, model(ids, rows=rows).logits
        assert pack_weights(model) > 0
        assert_close(model(ids).logits, whole)
        assert_close(model(ids, rows=rows).logits, some)
        assert model(ids, rows=rows[:0]).logits.shape == (0, some.shape[1])
        layer = next(m for m in model.modules() if isinstance(m, PackedLinear))
        width = model.config.d_model
        assert layer(torch.zeros(0, width)).shape == (0, layer.out_features)


def test_a_run_has_them_by_name(make, monkeypatch):
    requests = generations(PROMPTS, ignore_eos=True)
    packed = make(dtype="float32", kernels="packed")
    assert any(isinstance(m, PackedLinear) for m in packed.runner.model.modules())
    assert packed.generate_until(requests) == make(dtype="float32").generate_until(requests)
    with pytest.raises(ValueError, match="needs dtype=float32 on device=cpu; this model is in bf"):
        make(dtype="bfloat16", kernels="packed").generate_until(requests[:1])


def test_answers_are_kept_apart_and_what_does_not_go_together_is_refused():
    digests = {
        answer_fingerprint(parse_model_args(given), "tiny-llada")
        for given in ({}, {"kernels": "default"}, {"kernels": "packed"})
    }
    assert len(digests) == 2
    for wrong in ({"tp": 2}, {"device_map": "auto"}):
        with pytest.raises(ValueError, match="kernels=packed runs a whole model on a CPU"):
            parse_model_args({"kernels": "packed", **wrong})
    with pytest.raises(ValueError, match="kernels must be one of default, packed; got 'fast'"):
        parse_model_args({"kernels": "fast"})
