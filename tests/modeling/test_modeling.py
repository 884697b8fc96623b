"""The native model against a plain one, and the laws its rows, padding and documents obey."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_llada.modeling import (
    LLaDAConfig,
    LLaDAForMaskedLM,
    as_denoiser,
)
from tests.helpers.llada_models import (
    ROWS,
    SHAPES,
    SIZES,
    assert_close,
    at,
    make_model,
    plain_forward,
    tokens,
)


@pytest.fixture(scope="module")
def model() -> LLaDAForMaskedLM:
    return make_model(n_kv_heads=2)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("shape", SHAPES)
def test_forward_equals_a_plain_loop(shape):
    model, ids = make_model(**SHAPES[shape]), tokens(2, 11)
    expected = torch.stack([plain_forward(model, sequence) for sequence in ids])
    assert_close(model(ids).logits, expected)


def test_attention_sees_later_tokens(model):
    ids = tokens(1, 9)
    changed = ids.clone()
    changed[0, -1] += 1
    assert (model(ids).logits[0, 0] - model(changed).logits[0, 0]).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [*ROWS, "gqa", "tied", "all_biases", "one_layer"])
def test_rows_equal_the_full_logits_gathered(shape):
    model, ids = make_model(**SHAPES[shape]), tokens(3, 10)
    # Unsorted, uneven between sequences, one sequence absent, one row twice.
    rows = torch.tensor([[2, 9], [0, 3], [2, 0], [2, 5], [0, 3]])
    assert_close(model(ids, rows=rows).logits, at(model(ids).logits, rows))


@settings(max_examples=25)
@given(st.data())
def test_any_rows_equal_the_full_logits_gathered(model, data):
    batch, length = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    row = st.tuples(st.integers(0, batch - 1), st.integers(0, length - 1))
    rows = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=24)))
    ids = tokens(batch, length)
    assert_close(model(ids, rows=rows).logits, at(model(ids).logits, rows))


def test_rows_for_every_position_and_for_none(model):
    ids = tokens(2, 7)
    every = torch.cartesian_prod(torch.arange(2), torch.arange(7))
    assert_close(model(ids, rows=every).logits, model(ids).logits.flatten(0, 1))
    assert model(ids, rows=every[:0]).logits.shape == (0, 97)


def test_the_last_layer_works_on_the_rows_only(model):
    seen = {}
    block = model.model.transformer["blocks"][-1]
    names = ("k_proj", "q_proj", "attn_out", "ff_proj", "ff_out")
    hooks = [
        getattr(block, name).register_forward_hook(
            lambda _, inputs, output, name=name: seen.update({name: tuple(inputs[0].shape)})
        )
        for name in names
    ]
    head = model.model.transformer["ff_out"].register_forward_pre_hook(
        lambda _, inputs: seen.update(head=tuple(inputs[0].shape), dense=inputs[0].is_contiguous())
    )
    model(tokens(2, 8), rows=torch.tensor([[0, 1], [1, 7], [1, 2]]))
    for hook in (*hooks, head):
        hook.remove()
    assert seen["k_proj"] == (2, 8, 48)
    assert seen["q_proj"] == seen["attn_out"] == seen["ff_proj"] == seen["head"] == (3, 48)
    assert seen["ff_out"] == (3, 80)
    assert seen["dense"]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_logits(side, implementation):
    model = make_model(n_kv_heads=2)
    model.set_attn_implementation(implementation)
    lengths, width = [5, 9, 1], 9
    ids = tokens(3, width)
    mask = torch.zeros_like(ids)
    # Left padding keeps positions, so the angles differ but no difference of angles does.
    spans = [slice(0, n) if side == "right" else slice(width - n, width) for n in lengths]
    for index, span in enumerate(spans):
        mask[index, span] = 1
    logits = model(ids, attention_mask=mask).logits
    rows = mask.nonzero()
    assert_close(model(ids, attention_mask=mask, rows=rows).logits, at(logits, rows))
    for index, span in enumerate(spans):
        alone = model(ids[index : index + 1, span]).logits[0]
        assert_close(logits[index, span], alone)
        assert (model(ids).logits[index, span] - alone).abs().max() > 1e-3 or lengths[index] == 9


def test_documents_equal_running_them_separately(model):
    ids = tokens(2, 12)
    # Ids interleave, and need be neither small, consecutive nor positive.
    documents = torch.tensor([[7] * 5 + [-2] * 7, [0, 1] * 6])
    logits = model(ids, document_ids=documents).logits
    rows = torch.tensor([[1, 11], [0, 4], [1, 2], [0, 5]])
    assert_close(model(ids, document_ids=documents, rows=rows).logits, at(logits, rows))
    for sequence in range(2):
        for document in documents[sequence].unique():
            inside = (documents[sequence] == document).nonzero()[:, 0]
            alone = model(ids[sequence, inside][None], position_ids=inside).logits[0]
            assert_close(logits[sequence, inside], alone)


def test_documents_that_start_again_at_position_0_equal_short_sequences(model):
    ids = tokens(1, 12)
    positions = torch.cat([torch.arange(5), torch.arange(7)])[None]
    documents = torch.tensor([[0] * 5 + [1] * 7])
    logits = model(ids, document_ids=documents, position_ids=positions).logits
    alone = [model(part).logits for part in ids.split([5, 7], dim=1)]
    assert_close(logits, torch.cat(alone, dim=1), 1e-6 + 5e-5)


def test_documents_with_padding_keep_gradients_finite():
    model, ids = make_model(), tokens(1, 8)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 0, 0]])
    documents = torch.tensor([[9, 9, 0, 0, 1, 1, 8, 8]])
    rows = torch.tensor([[0, 3]])
    with torch.enable_grad():
        for chosen in (None, rows):
            model.zero_grad()
            inputs = {"attention_mask": mask, "document_ids": documents, "rows": chosen}
            model(ids, **inputs).logits.square().mean().backward()
            assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_bfloat16_is_close_and_rotates_with_float32_angles(model):
    ids, half = tokens(2, 40), make_model(n_kv_heads=2).to(torch.bfloat16)
    full, rounded = model(ids).logits, half(ids).logits
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - full).norm() / full.norm() < 0.05
    far = torch.arange(100_000, 100_040)
    angles = [m.rotary(40, torch.device("cpu"), far[None])[0] for m in (model, half)]
    assert angles[1].dtype == torch.float32 and torch.equal(*angles)


def official_names(n_layers: int) -> list[str]:
    per_block = ("attn_norm", "ff_norm", "q_proj", "k_proj", "v_proj", "attn_out", "ff_proj")
    return sorted(
        [f"model.transformer.{name}.weight" for name in ("wte", "ln_f", "ff_out")]
        + [
            f"model.transformer.blocks.{layer}.{name}.weight"
            for layer in range(n_layers)
            for name in (*per_block, "up_proj", "ff_out")
        ]
    )


@pytest.mark.parametrize("n_layers", [1, 3, 32])
def test_tensors_have_exactly_the_official_names(n_layers):
    with torch.device("meta"):
        names = sorted(LLaDAForMaskedLM(LLaDAConfig(**SIZES | {"n_layers": n_layers})).state_dict())
    assert names == official_names(n_layers)
    assert n_layers != 32 or len(names) == 291


def test_the_official_config_has_eight_billion_parameters():
    config = LLaDAConfig(mlp_hidden_size=12288, rope_theta=5e5)
    with torch.device("meta"):
        model = LLaDAForMaskedLM(config)
    d, layers, hidden, vocab = 4096, 32, 12288, 126464
    expected = 2 * vocab * d + d + layers * (4 * d * d + 3 * d * hidden + 2 * d)
    assert sum(p.numel() for p in model.parameters()) == expected == 8_015_581_184


@pytest.mark.parametrize("shape", ["gqa", "tied", "odd", "all_biases"])
def test_parameter_count_follows_from_the_config(shape):
    model = make_model(**SHAPES[shape])
    c = model.config
    d, kv, bias = c.d_model, c.n_kv_heads * c.head_dim, int(c.include_bias)
    norm = d * (1 + bias)
    block = 2 * (d + bias) * d + 2 * (d + bias) * kv + 2 * norm
    block += 2 * (d + bias) * c.mlp_hidden_size + (c.mlp_hidden_size + bias) * d
    head = 0 if c.weight_tying else (d + bias) * c.embedding_size
    expected = c.embedding_size * d + c.n_layers * block + norm + head
    assert sum(p.numel() for p in model.parameters()) == expected


def test_denoiser_gives_float32_rows_in_order_and_leaves_training_possible():
    model, ids = make_model().to(torch.bfloat16), tokens(2, 6)
    denoiser, every = as_denoiser(model, mask_token_id=96), [torch.arange(6)] * 2
    whole = denoiser.logits([*ids], every, [0, 0])
    some = denoiser.logits([*ids.flip(0)], [torch.tensor([5]), torch.tensor([2, 0])], [0, 0])
    assert whole.dtype == some.dtype == torch.float32
    assert whole.shape == (12, 97) and some.is_inference()
    assert_close(some, whole[[6 + 5, 2, 0]], 0.05)
    # Tables cached under inference_mode would make this backward fail.
    with torch.enable_grad():
        model(ids).logits.sum().backward()


def test_gradient_checkpointing_keeps_the_gradients():
    model, ids = make_model(), tokens(2, 9)
    rows, labels = torch.tensor([[0, 1], [1, 8]]), torch.tensor([5, 6])
    gradients = []
    with torch.enable_grad():
        for enabled in (False, True):
            if enabled:
                model.gradient_checkpointing_enable()
            model.train()
            model.zero_grad()
            model(ids, rows=rows, labels=labels).loss.backward()
            gradients.append(model.model.transformer["wte"].weight.grad.clone())
    assert gradients[0].abs().max() > 0
    assert_close(gradients[1], gradients[0], 1e-6)


def test_loss_is_the_mean_cross_entropy_of_the_labelled_positions(model):
    ids = tokens(2, 5)
    labels = torch.full_like(ids, -100)
    labels[0, 1], labels[1, 4] = 3, 4
    output = model(ids, labels=labels)
    log_p = output.logits.log_softmax(-1)
    assert_close(output.loss, -(log_p[0, 1, 3] + log_p[1, 4, 4]) / 2)
    as_tuple = model(ids, labels=labels, return_dict=False)
    assert_close(as_tuple[0], output.loss)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"rows": torch.tensor([[0, 9]])}, "rows name positions 9 to 9, outside sequences of 6"),
        ({"rows": torch.tensor([[2, 0]])}, "rows name sequences 2 to 2, outside a batch of 2"),
        ({"rows": torch.tensor([[0, -1]])}, "rows name positions -1 to -1"),
        ({"rows": torch.tensor([1, 2])}, r"rows must be \(num_rows, 2\)"),
        (
            {"attention_mask": torch.ones(2, 5)},
            r"attention_mask must have one value for each position, \(2, 6\)",
        ),
        ({"document_ids": torch.ones(1, 6)}, "document_ids must have one value for each position"),
        ({"position_ids": torch.arange(5)}, "position_ids must be"),
        ({"input_ids": tokens(6)}, "input_ids must be"),
    ],
)
def test_inputs_that_do_not_fit_are_errors(model, inputs, message):
    with pytest.raises(ValueError, match=message):
        model(**{"input_ids": tokens(2, 6), **inputs})
