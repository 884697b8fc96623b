"""Every attention implementation and the compiler against sdpa, under every kind of mask."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lm_eval_llada.modeling.attention import attention_mask_for, locate_rows
from tests.helpers.attention import packed_attention
from tests.helpers.llada_models import assert_close, make_model, tokens


@pytest.fixture(scope="module")
def model():
    return make_model(n_kv_heads=2)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def all_cases() -> dict[str, dict[str, Tensor]]:
    mask = torch.ones(3, 13, dtype=torch.long)
    mask[0, 9:], mask[1, :4] = 0, 0
    documents = (torch.arange(13) // 5).expand(3, -1)
    rows = torch.tensor([[2, 1], [0, 8], [1, 4], [1, 12], [2, 7], [1, 6]])
    masks = {
        "plain": {},
        "padding": {"attention_mask": mask},
        "documents": {"document_ids": documents},
        "both": {"attention_mask": mask, "document_ids": documents},
    }
    return masks | {f"{name}_rows": {**case, "rows": rows} for name, case in masks.items()}


def real_logits(model, ids: Tensor, case: dict[str, Tensor]) -> Tensor:
    logits = model(ids, **case).logits
    if "rows" not in case and "attention_mask" in case:
        return logits[case["attention_mask"].bool()]
    return logits


@pytest.mark.parametrize("case", all_cases())
@pytest.mark.parametrize("implementation", ["eager", "flex_attention", "flash_attention_2"])
def test_every_attention_equals_sdpa(implementation, case, monkeypatch):
    model, ids, inputs = make_model(n_kv_heads=2), tokens(3, 13), all_cases()[case]
    expected = real_logits(model, ids, inputs)
    monkeypatch.setitem(
        ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_attention_2", packed_attention
    )
    model.config._attn_implementation = implementation
    # transformers compiles flex_attention; uncompiled it computes the same within a second.
    with torch.compiler.set_stance("force_eager"):
        assert_close(real_logits(model, ids, inputs), expected)


def unequal_batch() -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Sequences, the same padded on the right, their mask, and eight rows or more of each."""
    lengths = (37, 100, 64, 37, 20)
    sequences = [tokens(1, length, seed=i)[0] for i, length in enumerate(lengths)]
    ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    mask = (torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]).long()
    counts = (8, 16, 8, 8, 20)
    rows = [[b, i] for b, count in enumerate(counts) for i in range(count)]
    return sequences, ids, mask, torch.tensor(rows)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_companions_in_a_padded_batch_do_not_change_a_bit_in_bfloat16(implementation):
    # Masked padding changed last bits, and with them 12 of 100 sampled texts.
    model = make_model(n_kv_heads=2).to(torch.bfloat16)
    model.config._attn_implementation = implementation
    sequences, ids, mask, rows = unequal_batch()
    together = model(ids, attention_mask=mask, rows=rows).logits
    whole = model(ids, attention_mask=mask).logits
    for b, sequence in enumerate(sequences):
        own = rows[rows[:, 0] == b] * torch.tensor([0, 1])
        alone = model(sequence[None], rows=own).logits
        assert torch.equal(together[rows[:, 0] == b], alone)
        assert torch.equal(whole[b, : len(sequence)], model(sequence[None]).logits[0])


def test_attention_gets_what_it_gets_without_companions(model, monkeypatch):
    # Holds on any device; that equal calls give equal bits is up to its kernels.
    calls: list[tuple[int, int]] = []
    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def recorded(module, query, key, value, attention_mask, **kwargs):
        assert attention_mask is None
        calls.extend([(query.shape[2], key.shape[2])] * len(query))
        return sdpa(module, query, key, value, attention_mask, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", recorded)
    sequences, ids, mask, rows = unequal_batch()
    model(ids, attention_mask=mask, rows=rows)
    together = sorted(calls)
    calls.clear()
    for b, sequence in enumerate(sequences):
        model(sequence[None], rows=rows[rows[:, 0] == b] * torch.tensor([0, 1]))
    assert together == sorted(calls)


@pytest.mark.parametrize("case", ["plain", "both_rows"])
def test_a_whole_graph_can_be_captured_and_computes_the_same(model, case):
    # The eager backend tests capture alone; the slow test below runs the generated kernels.
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    ids, inputs = tokens(3, 13), all_cases()[case]
    assert_close(real_logits(compiled, ids, inputs), real_logits(model, ids, inputs))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["plain", "both_rows"])
def test_compiled_kernels_compute_the_same(model, case):
    torch._dynamo.reset()
    ids, inputs = tokens(3, 13), all_cases()[case]
    expected = real_logits(model, ids, inputs)
    assert_close(real_logits(torch.compile(model, fullgraph=True), ids, inputs), expected)
    flex = make_model(n_kv_heads=2)
    flex.set_attn_implementation("flex_attention")
    assert_close(real_logits(flex, ids, inputs), expected)


def test_with_documents_no_query_is_left_without_keys():
    mask = torch.tensor([[0, 0, 1, 1, 1, 0]]).bool()
    documents = torch.tensor([[9, 9, 0, 0, 1, 8]])
    hidden_states = torch.zeros(1, 6, 4)
    rows = locate_rows(torch.tensor([[0, 3], [0, 0]]), 1, 6)
    expected = torch.eye(6, dtype=torch.bool)
    expected[2, 3] = expected[3, 2] = True
    every = attention_mask_for("sdpa", hidden_states, hidden_states.shape[1], mask, documents, None)
    assert torch.equal(every[0, 0], expected)
    some = attention_mask_for("sdpa", hidden_states, hidden_states.shape[1], mask, documents, rows)
    assert torch.equal(some[0, 0], expected[[3, 0]])
