"""The loss of post-training: what is masked, what it weighs, and what it costs to compute."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.modeling import LLaDAConfig
from lm_eval_llada.posttrain import loss as loss_module
from lm_eval_llada.posttrain.loss import (
    ObjectiveOptions,
    collate,
    kept_length,
    noise_sample,
    sample_generator,
)
from lm_eval_llada.posttrain.model import LLaDAForPosttraining
from lm_eval_llada.posttrain.packing import PADDING_DOCUMENT, Packed
from tests.helpers.llada_models import SIZES, assert_close, make_model, tokens

MASK, PAD = 96, 95
LENGTH = 24


def packed(seed: int = 1, documents: list[int] | None = None) -> Packed:
    ids = None
    if documents is not None:
        ids = torch.repeat_interleave(torch.arange(len(documents)), torch.tensor(documents))
    return Packed(tokens(LENGTH, seed=seed), ids)


def noised(index: int = 0, options: ObjectiveOptions | None = None, pack: Packed | None = None):
    options = options or ObjectiveOptions(short_share=0)
    return noise_sample(pack or packed(), options, seed=5, index=index, mask_token_id=MASK)


def trained_model(**changes) -> LLaDAForPosttraining:
    model = LLaDAForPosttraining(LLaDAConfig(**{**SIZES, **changes}))
    model.load_state_dict(make_model(**changes).state_dict())
    return model


def batch_of(*packs: Packed, options: ObjectiveOptions | None = None) -> dict[str, torch.Tensor]:
    return collate([noised(i, options, pack) for i, pack in enumerate(packs)], PAD)


def loss_of(model: LLaDAForPosttraining, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    batch = dict(batch)
    return model(**{k: v for k, v in batch.items() if k != "num_items"}).loss / batch["num_items"]


def plain_loss(model, sample) -> float:
    """LLaDA's loss of one sample, in loops: sum of -log p / t over masks, then over the length."""
    logits = model(sample.xt[None]).logits[0].double()
    total = 0.0
    for position in range(len(sample.x0)):
        if sample.xt[position] == MASK:
            log_p = logits[position].log_softmax(0)[sample.x0[position]]
            total += float(sample.weight[position]) * -float(log_p)
    return total


@torch.no_grad()
def test_the_loss_is_that_of_a_plain_loop_over_the_global_batch() -> None:
    model, packs = trained_model(), [packed(seed) for seed in (1, 2, 3)]
    samples = [noised(i, pack=pack) for i, pack in enumerate(packs)]
    expected = sum(plain_loss(model, sample) for sample in samples) / (3 * LENGTH)
    assert float(loss_of(model, batch_of(*packs))) == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_the_unweighted_loss_is_the_mean_over_masked_tokens() -> None:
    model, options = trained_model(), ObjectiveOptions(loss="unweighted", short_share=0)
    packs = [packed(1), packed(2)]
    samples = [noised(i, options, pack) for i, pack in enumerate(packs)]
    num_masked = sum(int((sample.xt == MASK).sum()) for sample in samples)
    expected = sum(plain_loss(model, sample) for sample in samples) / num_masked
    batch = batch_of(*packs, options=options)
    assert int(batch["num_items"]) == num_masked
    assert float(loss_of(model, batch)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("rows_at_once", [1, 3, 10**6])
@pytest.mark.parametrize("shape", [{}, {"weight_tying": True}], ids=["untied", "tied"])
def test_gradients_of_the_rows_are_those_of_all_logits(monkeypatch, rows_at_once, shape) -> None:
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", rows_at_once * SIZES["vocab_size"])
    by_rows, by_all = trained_model(**shape), trained_model(**shape)
    batch = batch_of(packed(1), packed(2))
    loss_of(by_rows, batch).backward()
    logits = by_all(batch["input_ids"]).logits.float()
    picked = logits[batch["rows"][:, 0], batch["rows"][:, 1]]
    losses = F.cross_entropy(picked, batch["targets"], reduction="none")
    ((batch["weights"] * losses).sum() / batch["num_items"]).backward()
    for ours, full in zip(by_rows.parameters(), by_all.parameters(), strict=True):
        assert_close(ours.grad, full.grad)


def test_no_logits_of_all_rows_exist_at_once(monkeypatch) -> None:
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", 4 * SIZES["vocab_size"])
    model, heights = trained_model(), []
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda _module, _inputs, output: heights.append(len(output)))
    batch = batch_of(packed(1), packed(2))
    loss_of(model, batch).backward()
    assert max(heights) <= 4
    # Each part is made once for the loss and once for its gradient.
    assert sum(heights) == 2 * len(batch["rows"])


@torch.no_grad()
def test_documents_one_by_one_weigh_as_with_a_mask_and_not_as_one_text() -> None:
    model = trained_model()
    batch = batch_of(packed(1, [10, 14]), packed(2, [3, 4, 17]))
    losses = {}
    for model.by_document in (False, True):
        losses[model.by_document] = float(loss_of(model, batch))
    assert losses[True] == pytest.approx(losses[False], rel=1e-4)
    del batch["document_ids"]
    assert float(loss_of(model, batch)) != pytest.approx(losses[True], rel=1e-3)


def test_a_single_document_needs_no_document_ids() -> None:
    assert "document_ids" not in batch_of(packed(1, [LENGTH]), packed(2))
    assert "document_ids" in batch_of(packed(1, [LENGTH]), packed(2, [4, 20]))


@torch.no_grad()
def test_padding_changes_no_loss_and_is_never_masked() -> None:
    model = trained_model()
    document_ids = torch.zeros(LENGTH, dtype=torch.int64)
    document_ids[15:] = PADDING_DOCUMENT
    long, short = packed(1), Packed(packed(2).input_ids, document_ids)
    samples = [noised(0, pack=long), noised(1, pack=short)]
    batch = collate(samples, PAD)
    assert batch["attention_mask"].sum(dim=1).tolist() == [LENGTH, 15]
    assert int(batch["num_items"]) == LENGTH + 15
    assert int((samples[1].xt == MASK)[15:].sum()) == 0
    alone = [samples[0], type(samples[1])(*(part[:15] for part in samples[1][:4]), 15)]
    expected = sum(plain_loss(model, sample) for sample in alone) / (LENGTH + 15)
    assert float(loss_of(model, batch)) == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def test_without_targets_it_is_the_model_it_was() -> None:
    ids, rows = tokens(2, 9), torch.tensor([[1, 3], [0, 8]])
    assert_close(trained_model()(ids, rows=rows).logits, make_model()(ids, rows=rows).logits)


def test_a_batch_without_masks_still_has_a_gradient_of_zero() -> None:
    model = trained_model()
    sample = noised()
    unmasked = sample._replace(xt=sample.x0, weight=torch.zeros(LENGTH))
    loss_of(model, collate([unmasked], PAD)).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


@given(st.integers(0, 2**40), st.integers(0, 10**6))
def test_a_sample_is_a_function_of_seed_and_index(seed: int, index: int) -> None:
    torch.manual_seed(index)  # the global state has no part in it
    options = ObjectiveOptions(short_share=0.5, block_share=0.5, block_length=5)
    one, two = (
        noise_sample(packed(1, [9, 15]), options, seed=seed, index=index, mask_token_id=MASK)
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(one[:4], two[:4], strict=True))
    changed = (one.xt != one.x0) & (one.xt != MASK)
    assert not changed.any()
    assert torch.equal(one.weight > 0, one.xt == MASK)


def test_samples_of_other_indices_or_seeds_are_masked_differently() -> None:
    seen = {
        tuple(sample_numbers)
        for seed in range(20)
        for index in range(20)
        for sample_numbers in [torch.rand(2, generator=sample_generator(seed, index)).tolist()]
    }
    assert len(seen) == 400


def test_every_position_weighs_one_on_average() -> None:
    # Masked with probability t and weighing 1/t; t from 0.2 on keeps the variance small.
    options = ObjectiveOptions(eps=0.2, short_share=0)
    total = sum(noised(index, options).weight for index in range(800)) / 800
    assert_close(total, torch.ones(LENGTH), 0.2)
    assert abs(float(total.mean()) - 1) < 0.03


def test_a_block_weighs_as_much_as_a_whole_sample() -> None:
    options = ObjectiveOptions(eps=0.2, short_share=0, block_share=1, block_length=6)
    samples = [noised(index, options, packed(1, [10, 14])) for index in range(800)]
    ends = torch.stack([sample.weight for sample in samples]).mean(0)
    assert bool((ends[:4] == 0).all()) and bool((ends[10:18] == 0).all())
    assert bool((ends[4:10] > 0).all()) and bool((ends[18:] > 0).all())
    assert abs(float(ends.sum()) - LENGTH) < 1.5


def test_the_ends_of_all_documents_of_a_sample_are_masked_together() -> None:
    options = ObjectiveOptions(eps=0.99, short_share=0, block_share=1, block_length=6)
    sample = noised(0, options, packed(1, [10, 14]))
    assert bool((sample.weight[4:10] > 0).any()) and bool((sample.weight[18:] > 0).any())


def test_short_samples_have_every_length_equally_often() -> None:
    options = ObjectiveOptions(short_share=1)
    lengths = [kept_length(8, options, sample_generator(0, index)) for index in range(2000)]
    counts = torch.bincount(torch.tensor(lengths), minlength=9)[1:]
    # Five standard deviations of a count with mean 250.
    assert counts.min() > 175 and counts.max() < 325


def test_the_given_share_of_samples_is_shortened() -> None:
    options = ObjectiveOptions(short_share=0.1)
    lengths = [kept_length(10**6, options, sample_generator(1, index)) for index in range(3000)]
    share = sum(length < 10**6 for length in lengths) / 3000
    assert abs(share - 0.1) < 5 * math.sqrt(0.1 * 0.9 / 3000)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "weigthed"}, "loss must be one of weighted, unweighted.*Did you mean 'weighted'"),
        ({"eps": 0}, "eps must be a number > 0; got 0"),
        ({"eps": 1.0}, "eps must be less than 1; got 1.0"),
        ({"short_share": 1.5}, "short_share must be at most 1; got 1.5"),
        ({"block_length": 0}, "block_length must be a whole number >= 1; got 0"),
    ],
)
def test_wrong_objectives_are_refused(values, message) -> None:
    with pytest.raises(ValueError, match=message):
        ObjectiveOptions(**values)
