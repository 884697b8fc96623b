"""Hidden states, attention weights and given embeddings, as transformers' models have them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lm_eval_llada.modeling import LLaDAForMaskedLM
from lm_eval_llada.modeling.cache import KeyValueCache
from tests.helpers.llada_models import SHAPES, assert_close, make_model, tokens

BATCH, LENGTH, LAYERS, HEADS, WIDTH = 3, 7, 3, 4, 48


def eager_model(**changes) -> LLaDAForMaskedLM:
    model = make_model(**changes)
    model.set_attn_implementation("eager")
    return model


def plain_weights(model: LLaDAForMaskedLM, layer: int, stream: Tensor) -> Tensor:
    """Softmax of scores of one head and one pair of positions at a time, from a residual stream."""
    config, block = model.config, model.model.transformer["blocks"][layer]
    normed, size = block.attn_norm(stream), config.head_dim
    query, key = (p(normed).unflatten(-1, (-1, size)) for p in (block.q_proj, block.k_proj))
    group = config.n_heads // config.n_kv_heads

    def turned(x: Tensor, position: int) -> Tensor:
        pairs = torch.complex(*x.chunk(2, dim=-1))
        angles = position * config.rope_theta ** (-2 * torch.arange(size // 2) / size)
        return pairs * torch.polar(torch.ones_like(angles), angles)

    scores = torch.empty(len(stream), config.n_heads, LENGTH, LENGTH)
    for n, head, i, j in torch.cartesian_prod(*map(torch.arange, scores.shape)).tolist():
        one, other = turned(query[n, i, head], i), turned(key[n, j, head // group], j)
        scores[n, head, i, j] = (one * other.conj()).real.sum() / math.sqrt(size)
    return scores.softmax(-1)


@pytest.mark.parametrize("shape", ["gqa", "tied", "one_layer", "all_biases"])
def test_hidden_states_go_from_the_embeddings_to_what_the_head_reads(shape):
    model, ids = make_model(**SHAPES[shape]), tokens(BATCH, LENGTH)
    parts = model.model.transformer
    output = model(ids, output_hidden_states=True)
    states = output.hidden_states
    assert len(states) == model.config.n_layers + 1
    assert all(state.shape == (BATCH, LENGTH, WIDTH) for state in states)
    assert torch.equal(states[0], parts["wte"](ids))
    head = parts["wte"].weight if model.config.weight_tying else parts["ff_out"].weight
    bias = None if model.config.weight_tying else parts["ff_out"].bias
    assert torch.equal(torch.nn.functional.linear(states[-1], head, bias), output.logits)
    cos, sin = model.rotary(LENGTH, ids.device)
    for block, before, after in zip(parts["blocks"], states[:-1], states[1:], strict=True):
        stream, _ = block(before, cos, sin)
        assert torch.equal(parts["ln_f"](stream) if after is states[-1] else stream, after)


def test_asking_changes_no_bit_of_the_logits():
    model, ids = eager_model(n_kv_heads=2), tokens(BATCH, LENGTH)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    for keywords in ({}, {"attention_mask": mask}, {"rows": torch.tensor([[2, 5], [0, 1]])}):
        plain = model(ids, **keywords)
        asked = model(ids, **keywords, output_hidden_states=True, output_attentions=True)
        assert torch.equal(asked.logits, plain.logits)
        assert plain.keys() == {"logits"}
        assert tuple(asked.keys()) == ("logits", "hidden_states", "attentions")


def test_attentions_are_what_a_plain_softmax_gives():
    model, ids = eager_model(n_kv_heads=2), tokens(BATCH, LENGTH)
    with torch.no_grad():
        output = model(ids, output_hidden_states=True, output_attentions=True)
        assert len(output.attentions) == LAYERS
        for layer, weights in enumerate(output.attentions):
            assert weights.shape == (BATCH, HEADS, LENGTH, LENGTH)
            assert_close(weights, plain_weights(model, layer, output.hidden_states[layer]))


@pytest.mark.parametrize("by", ["padding", "documents"])
def test_attentions_are_zero_where_nothing_is_seen(by):
    model, ids = eager_model(), tokens(BATCH, LENGTH)
    real = torch.tensor([[1] * 7, [1, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1]]).bool()
    keywords = {"attention_mask": real} if by == "padding" else {"document_ids": real.long()}
    seen = real[:, :, None] & real[:, None]
    if by == "documents":
        seen = real[:, :, None] == real[:, None]
    for weights in model(ids, **keywords, output_attentions=True).attentions:
        assert (weights.movedim(1, -1)[~seen] == 0).all()
        assert (weights.movedim(1, -1)[seen] > 0).all()
        assert_close(weights.sum(-1), seen.any(-1)[:, None].expand(-1, HEADS, -1).float())
    alone = model(ids[1:2, :4], output_attentions=True).attentions
    for one, all_of_them in zip(
        alone, model(ids, **keywords, output_attentions=True).attentions, strict=True
    ):
        assert_close(all_of_them[1:2, :, :4, :4], one)


def test_rows_shorten_the_last_of_either():
    model, ids = eager_model(n_kv_heads=2), tokens(BATCH, LENGTH)
    rows = torch.tensor([[2, 6], [0, 3], [2, 0], [0, 3]])
    asked = {"output_hidden_states": True, "output_attentions": True}
    full, some = model(ids, **asked), model(ids, rows=rows, **asked)
    batch, position = rows.unbind(1)
    for name in ("hidden_states", "attentions"):
        for one, other in zip(full[name][:-1], some[name][:-1], strict=True):
            assert_close(one, other)
    assert_close(some.hidden_states[-1], full.hidden_states[-1][batch, position])
    assert_close(some.attentions[-1], full.attentions[-1][batch, :, position])
    none = model(ids, rows=rows[:0], **asked)
    assert none.logits.shape == (0, 97)
    assert none.hidden_states[-1].shape == (0, WIDTH)
    assert none.attentions[-1].shape == (0, HEADS, LENGTH)


@pytest.mark.parametrize("implementation", ["sdpa", "eager", "flex_attention"])
def test_no_rows_fill_a_cache_all_the_same(implementation):
    model, ids = make_model(), tokens(2, LENGTH)
    model.set_attn_implementation(implementation)
    cache, none = KeyValueCache(), torch.zeros(0, 2, dtype=torch.int64)
    with torch.no_grad():
        assert model(ids, rows=none, cache=cache).logits.shape == (0, 97)
    assert cache.is_filled


def test_a_window_attends_to_all_keys_of_its_cache():
    model, ids = eager_model(n_kv_heads=2), tokens(2, LENGTH)
    cache = KeyValueCache()
    with torch.no_grad():
        full = model(ids, cache=cache, output_attentions=True)
        window = torch.tensor([[2, 3], [4, 5]])
        seen = model(
            ids.gather(1, window), position_ids=window, cache=cache, output_attentions=True
        )
    for one, other in zip(full.attentions, seen.attentions, strict=True):
        assert other.shape == (2, HEADS, 2, LENGTH)
        for n in range(2):
            assert_close(other[n], one[n][:, window[n]])


def test_the_config_asks_where_the_call_does_not():
    model, ids = eager_model(), tokens(1, LENGTH)
    model.config.output_hidden_states = model.config.output_attentions = True
    assert model(ids).keys() == {"logits", "hidden_states", "attentions"}
    assert model(ids, output_hidden_states=False, output_attentions=False).keys() == {"logits"}
    as_tuple = model(ids, labels=ids, return_dict=False)
    as_dict = model(ids, labels=ids)
    assert tuple(as_dict.keys()) == ("loss", "logits", "hidden_states", "attentions")
    for one, other in zip(as_tuple, as_dict.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_some_hidden_states_are_kept_by_their_numbers():
    model, ids = make_model(), tokens(1, LENGTH)
    every = model(ids, output_hidden_states=True).hidden_states
    for choice, numbers in ((0, {0}), (-1, {3}), ([1, -2], {1, 2})):
        some = model(ids, output_hidden_states=choice).hidden_states
        assert {n for n, state in enumerate(some) if state is not None} == numbers
        assert all(torch.equal(some[n], every[n]) for n in numbers)
    with pytest.raises(ValueError, match="from -4 to 3; got 4"):
        model(ids, output_hidden_states=[0, 4])


@pytest.mark.parametrize("implementation", ["sdpa", "flex_attention"])
def test_attentions_are_refused_by_functions_that_never_hold_them(implementation):
    model = make_model()
    model.set_attn_implementation(implementation)
    with pytest.raises(ValueError, match=f"attn_implementation=eager; got {implementation}"):
        model(tokens(1, LENGTH), output_attentions=True)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_embeddings_stand_in_for_tokens(implementation):
    model, ids = make_model(n_kv_heads=2), tokens(BATCH, LENGTH)
    model.set_attn_implementation(implementation)
    embeds = model.get_input_embeddings()(ids)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    rows = torch.tensor([[2, 6], [0, 3]])
    for keywords in ({}, {"attention_mask": mask}, {"rows": rows}, {"document_ids": mask}):
        given = model(inputs_embeds=embeds, **keywords)
        assert torch.equal(given.logits, model(ids, **keywords).logits)
    other = model(inputs_embeds=torch.zeros_like(embeds)).logits
    assert (other - model(ids).logits).abs().max() > 1e-3


def test_gradients_reach_embeddings_states_and_weights():
    model, ids = eager_model(), tokens(1, LENGTH)
    embeds = model.get_input_embeddings()(ids).detach().requires_grad_()
    output = model(inputs_embeds=embeds, output_hidden_states=True, output_attentions=True)
    kept = (*output.hidden_states[1:], *output.attentions)
    for tensor in kept:
        tensor.retain_grad()
    output.logits[0, 0, 0].backward()
    assert all(tensor.grad is not None and tensor.grad.any() for tensor in (embeds, *kept))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_keeps_outputs_and_gradients(use_reentrant):
    model, ids = eager_model().train(), tokens(2, LENGTH)
    asked = {"labels": ids, "output_hidden_states": True, "output_attentions": True}
    results = []
    for _ in range(2):
        model.zero_grad()
        output = model(ids, **asked)
        output.loss.backward()
        results.append((output, {n: p.grad.clone() for n, p in model.named_parameters()}))
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    (plain, plain_gradients), (again, gradients) = results
    for name in ("hidden_states", "attentions"):
        assert len(again[name]) == len(plain[name])
        assert all(map(torch.equal, again[name], plain[name]))
    torch.testing.assert_close(gradients, plain_gradients, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({}, "exactly one of input_ids and inputs_embeds; got neither"),
        (
            {"input_ids": torch.ones(1, 2, dtype=torch.int64), "inputs_embeds": torch.ones(1)},
            "exactly one of input_ids and inputs_embeds; got both",
        ),
        ({"inputs_embeds": torch.ones(2, 5, 47)}, r"\(batch, seq, 48\) .* got \(2, 5, 47\)"),
        ({"inputs_embeds": torch.ones(2, 0, 48)}, r"not empty; got \(2, 0, 48\)"),
        ({"inputs_embeds": torch.ones(5, 48)}, r"got \(5, 48\)"),
    ],
)
def test_inputs_that_do_not_fit_are_named(keywords, message):
    with pytest.raises(ValueError, match=message):
        make_model()(**keywords)
