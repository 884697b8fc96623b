"""Choosing tokens, and calling a model on unequal sequences: rows, padding, guidance, the shift."""

from __future__ import annotations

import math

import pytest
import torch

from lm_eval_llada.diffusion.choices import choose_tokens, most_confident
from lm_eval_llada.diffusion.denoiser import Denoiser, DenoiserStats, pad_right
from lm_eval_llada.diffusion.likelihood import LikelihoodOptions, scored_pairs
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from tests.helpers.toys import FixedLogits, KnownJoint, RandomNetwork, Recorder

MASK = 12

# --- choosing tokens ------------------------------------------------------------------------------


def test_ties_go_to_the_lower_position():
    confidence = torch.tensor([0.5, 0.9, 0.5, 0.9, 0.9])
    assert most_confident(confidence, 4).tolist() == [1, 3, 4, 0]
    assert most_confident(torch.ones(1000), 5).tolist() == [0, 1, 2, 3, 4]


def test_bf16_logits_are_compared_in_fp32():
    # softmax([8, 0, 0]) and softmax([9, 0, 0]) are both 1.0 in bf16; position 1 is the surer one.
    logits = torch.tensor([[8.0, 0, 0, 0], [9.0, 0, 0, 0]], dtype=torch.bfloat16)
    assert logits[:, :3].softmax(dim=-1)[:, 0].tolist() == [1.0, 1.0]
    predicted = Denoiser(FixedLogits(logits), mask_token_id=3).logits(
        [torch.tensor([3, 3])], [torch.tensor([0, 1])], [0]
    )
    assert predicted.dtype == torch.float32
    _, confidence = choose_tokens(predicted, [3])
    assert most_confident(confidence, 1).tolist() == [1]


def test_choosing_takes_the_argmax_of_the_allowed_tokens_and_renormalises():
    logits = torch.tensor([[1.0, 2.0, 9.0], [3.0, 0.0, 9.0]])
    tokens, confidence = choose_tokens(logits, [2])
    assert tokens.tolist() == [1, 0]
    assert confidence.tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-3))])
    assert logits[0, 2] == 9.0, "the denoiser's tensor is not written to"


def test_equal_logits_choose_the_lower_token():
    tokens, _ = choose_tokens(torch.zeros(2, 50), [0])
    assert tokens.tolist() == [1, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_an_error(bad):
    with pytest.raises(ValueError, match="NaN or infinite"):
        choose_tokens(torch.tensor([[0.0, bad, 1.0]]), [2])


# --- calling the denoiser -------------------------------------------------------------------------


def test_padding_is_on_the_right_and_masked():
    input_ids, attention_mask = pad_right([torch.tensor([1, 2, 3]), torch.tensor([4])], 9)
    assert input_ids.tolist() == [[1, 2, 3], [4, 9, 9]]
    assert attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_equal_lengths_need_no_padding_mask():
    assert pad_right([torch.tensor([1, 2]), torch.tensor([3, 4])], 9)[1] is None


@pytest.mark.parametrize("cfg_scale", [0.0, 1.5])
def test_rows_of_a_padded_batch_equal_full_passes_one_by_one(cfg_scale):
    network = RandomNetwork()
    sequences = [
        torch.tensor([1, MASK, 3, MASK, 5]),
        torch.tensor([MASK]),
        torch.tensor([2, 2, MASK]),
    ]
    positions = [torch.tensor([1, 3]), torch.tensor([0]), torch.tensor([2])]
    prompt_lengths = [1, 0, 2]
    got = Denoiser(network, MASK, cfg_scale=cfg_scale).logits(sequences, positions, prompt_lengths)
    expected = []
    for sequence, wanted, prompt_length in zip(sequences, positions, prompt_lengths, strict=True):
        logits = network(sequence[None], attention_mask=None)
        blind = sequence.clone()
        blind[:prompt_length] = MASK
        unconditional = network(blind[None], attention_mask=None)
        expected.append((unconditional + (cfg_scale + 1) * (logits - unconditional))[wanted])
    torch.testing.assert_close(got, torch.cat(expected), atol=1e-5, rtol=0)


def test_guidance_shares_one_pass_and_masks_only_the_prompt():
    recorder, stats = Recorder(RandomNetwork()), DenoiserStats()
    Denoiser(recorder, MASK, cfg_scale=1.0, stats=stats).logits(
        [torch.tensor([1, 2, MASK, 4]), torch.tensor([5, MASK])],
        [torch.tensor([2]), torch.tensor([1])],
        [2, 1],
    )
    (call,) = recorder.calls
    assert call["input_ids"][2].tolist() == [MASK, MASK, MASK, 4]
    assert call["input_ids"][3, :2].tolist() == [MASK, MASK]
    assert call["rows"].tolist() == [[0, 2], [1, 1], [2, 2], [3, 1]]
    assert (stats.num_passes, stats.num_sequences, stats.num_tokens) == (1, 4, 12)


def test_stats_count_real_tokens_and_report_each_pass():
    seen: list[int] = []
    stats = DenoiserStats(on_forward=seen.append)
    predictor = Denoiser(RandomNetwork(), MASK, stats=stats)
    for _ in range(2):
        predictor.logits(
            [torch.tensor([1, 2, MASK]), torch.tensor([MASK])],
            [torch.tensor([2]), torch.tensor([0])],
            [2, 0],
        )
    assert seen == [4, 4]
    assert (stats.num_passes, stats.num_tokens, stats.num_rows) == (2, 8, 4)


def test_a_denoiser_that_ignores_rows_is_an_error():
    def ignores_rows(input_ids, *, attention_mask, rows=None):
        return RandomNetwork()(input_ids, attention_mask=attention_mask)

    with pytest.raises(ValueError, match="asked for 1 rows and returned logits of shape"):
        Denoiser(ignores_rows, MASK).logits([torch.tensor([1, MASK])], [torch.tensor([1])], [1])


def test_the_known_joint_is_a_distribution_with_consistent_conditionals():
    joint = KnownJoint()
    total = sum(math.exp(joint.log_prob(state)) for state in joint.states)
    assert total == pytest.approx(1, abs=1e-12)
    logits = joint(torch.tensor([[0, 3, 3, 3]]), attention_mask=None, rows=torch.tensor([[0, 1]]))
    for symbol in range(3):
        expected = joint.log_prob(torch.tensor([symbol]), prefix=torch.tensor([0]))
        assert float(logits.log_softmax(dim=-1)[0, symbol]) == pytest.approx(expected, abs=1e-9)


# --- the shift ------------------------------------------------------------------------------------


class EarlierRows:
    """A network trained on from a causal one: its row p predicts the token at p + 1."""

    def __init__(self, network: RandomNetwork) -> None:
        self.network = network

    def __call__(self, input_ids, *, attention_mask, rows=None, **keywords):
        later = None if rows is None else rows + torch.tensor([0, 1])
        # Room for the last row, which predicts a token that is not there.
        longer = torch.nn.functional.pad(input_ids, (0, 1))
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self.network(
            longer, attention_mask=torch.nn.functional.pad(mask, (0, 1)), rows=later
        )


SHORT = [torch.tensor([1, 2, 3]), torch.tensor([4]), torch.tensor([5, 6, 7, 8, 9])]


def shifted(forward, **settings) -> Denoiser:
    return Denoiser(forward, MASK, shift=True, **settings)


@pytest.mark.parametrize("cfg_scale", [0.0, 1.5])
def test_with_a_shift_a_token_is_read_from_the_row_before_it_and_the_first_from_its_own(cfg_scale):
    network = RandomNetwork()
    sequences = [torch.tensor([MASK, MASK, 3, MASK]), torch.tensor([2, MASK])]
    positions = [torch.tensor([0, 1, 3]), torch.tensor([1])]
    before = [torch.tensor([0, 0, 2]), torch.tensor([0])]
    got = shifted(network).guided(cfg_scale).logits(sequences, positions, [1, 1])
    plain = Denoiser(network, MASK).guided(cfg_scale).logits(sequences, before, [1, 1])
    assert torch.equal(got, plain)


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(gen_length=6, block_length=4, steps=4),
        SamplingOptions(gen_length=5, cfg_scale=0.7, temperature=0.5),
    ],
)
def test_a_shifted_network_writes_the_texts_of_the_one_it_was_made_from(options):
    network, seeds = RandomNetwork(), [1, 2, 3]
    expected = generate(Denoiser(network, MASK), SHORT, options, seeds=seeds)
    got = generate(shifted(EarlierRows(network)), SHORT, options, seeds=seeds)
    assert [text.tolist() for text in got] == [text.tolist() for text in expected]


def test_a_shifted_network_scores_as_the_one_it_was_made_from():
    network = RandomNetwork()
    pairs = [
        (prefix, torch.tensor([1, 2, 3, 4, 5, 6, 7, 8][: 2 + i])) for i, prefix in enumerate(SHORT)
    ]
    options = LikelihoodOptions(mc_num=4)
    expected = scored_pairs(Denoiser(network, MASK), pairs, options, seeds=[1, 2, 3])
    got = scored_pairs(shifted(EarlierRows(network)), pairs, options, seeds=[1, 2, 3])
    for (one, match), (other, other_match) in zip(got, expected, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-5)
        assert match == other_match


class Kept:
    """What a `CachedNetwork` has read: the keys of each position."""

    def __init__(self) -> None:
        self.hidden = torch.empty(0, 0)

    @property
    def is_filled(self) -> bool:
        return self.key_length > 0

    @property
    def key_length(self) -> int:
        return self.hidden.shape[1]

    def keep(self, sequences) -> None:
        self.hidden = self.hidden[sequences]


class CachedNetwork(RandomNetwork):
    """A `RandomNetwork` that keeps its keys, and computes the rows of a window alone."""

    def __call__(self, input_ids, *, attention_mask, rows, position_ids=None, cache=None):
        if cache is None or position_ids is None:
            if cache is not None:
                places = self.positions[: input_ids.shape[1]]
                cache.hidden = self.embedding[input_ids] + places
            return super().__call__(input_ids, attention_mask=attention_mask, rows=rows)
        batch = torch.arange(len(input_ids))[:, None]
        cache.hidden[batch, position_ids] = self.embedding[input_ids] + self.positions[position_ids]
        at = rows[:, 1] - position_ids[rows[:, 0], 0]
        assert (at >= 0).all() and (at < input_ids.shape[1]).all(), "a row outside its window"
        scores = (cache.hidden @ self.query) @ (cache.hidden @ self.key).mT
        scores = scores / cache.hidden.shape[-1] ** 0.5
        if attention_mask is not None:
            scores = scores.masked_fill(attention_mask[:, None] == 0, -torch.inf)
        mixed = cache.hidden + scores.softmax(dim=-1) @ (cache.hidden @ self.value)
        return (torch.tanh(mixed) @ self.head).float()[rows[:, 0], rows[:, 1]]


EMPTY = torch.empty(0, dtype=torch.long)


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("prompts", [SHORT, [EMPTY, *SHORT], [EMPTY, EMPTY]])
@pytest.mark.parametrize(("start", "end"), [(0, 3), (0, 6), (3, 6)])
def test_a_window_right_after_a_fill_gives_the_logits_of_the_exact_pass(shift, prompts, start, end):
    recorder = Recorder(CachedNetwork())
    model, cache = Denoiser(recorder, MASK, shift=shift), Kept()
    sequences = [torch.cat([prompt, torch.full((6,), MASK)]) for prompt in prompts]
    lengths = [len(prompt) for prompt in prompts]
    positions = [torch.arange(n + start, n + end) for n in lengths]
    windows = [range(n + start, n + end) for n in lengths]
    exact = model.logits(sequences, positions, lengths)
    torch.testing.assert_close(model.logits(sequences, positions, lengths, cache=cache), exact)
    again = model.logits(sequences, positions, lengths, cache=cache, windows=windows)
    torch.testing.assert_close(again, exact)
    first = recorder.calls[-1]["position_ids"][:, 0].tolist()
    assert first == [max(n + start - shift, 0) for n in lengths]


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("cfg_scale", [0.0, 0.5])
def test_shifted_cached_texts_do_not_depend_on_company(cache, cfg_scale):
    options = SamplingOptions(gen_length=8, block_length=3, cache=cache, cfg_scale=cfg_scale)
    model = shifted(CachedNetwork(), new_cache=Kept)
    prompts = [EMPTY, *SHORT]
    together = [text.tolist() for text in generate(model, prompts, options)]
    assert together == [generate(model, [prompt], options)[0].tolist() for prompt in prompts]
