"""Generation against a plain loop, and the rules it promises."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_llada.diffusion.denoiser import Denoiser, DenoiserStats
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from tests.helpers.sampling import (
    CASES,
    EOS,
    MASK,
    NETWORK,
    PROMPTS,
    SEEDS,
    VOCAB,
    plain_generate,
    run,
)
from tests.helpers.toys import FixedLogits, Recorder


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_generate_equals_a_plain_loop(options, batch_size):
    expected = [plain_generate(NETWORK, p, options, s) for p, s in zip(PROMPTS, SEEDS, strict=True)]
    got = []
    for first in range(0, len(PROMPTS), batch_size):
        part = slice(first, first + batch_size)
        got += run(PROMPTS[part], options, SEEDS[part])
    assert got == expected


def test_the_cases_decode_to_different_texts_and_meet_an_eos():
    # Otherwise the parity above would not tell the options apart.
    texts = {name: plain_generate(NETWORK, PROMPTS[0], o, 1) for name, o in CASES.items()}
    full_length = {tuple(text) for text in texts.values() if len(text) == 12}
    assert len(full_length) >= 4
    stopped = [plain_generate(NETWORK, p, CASES["stop_at_eos"], 1) for p in PROMPTS]
    assert any(text[-1] == EOS for text in stopped)


@pytest.mark.parametrize("name", ["random_temperature_blocks", "guidance_temperature"])
def test_texts_do_not_depend_on_order_or_company(name):
    options = CASES[name]
    forward = run(PROMPTS, options, SEEDS)
    backward = run(PROMPTS[::-1], options, SEEDS[::-1])
    alone = [run([p], options, [s])[0] for p, s in zip(PROMPTS, SEEDS, strict=True)]
    assert forward == backward[::-1] == alone


def test_the_seed_decides_a_random_text():
    options = SamplingOptions(gen_length=12, temperature=1.0)
    first, again, other = run([PROMPTS[0]] * 3, options, [1, 1, 2])
    assert first == again != other


def test_temperature_draws_from_the_softmax_of_scaled_logits():
    # exp(l) / (-log u)^T is Gumbel-max on l / T.
    logits = torch.tensor([[2.0, 1.0, 0.0, 5.0]])
    options = SamplingOptions(gen_length=1, temperature=2.0)
    num_draws = 4000
    texts = generate(
        Denoiser(FixedLogits(logits), 3),
        [torch.empty(0, dtype=torch.long)] * num_draws,
        options,
        seeds=range(num_draws),
    )
    shares = torch.bincount(torch.cat(texts), minlength=3) / num_draws
    expected = (logits[0, :3] / 2).softmax(dim=-1)
    assert (shares - expected).abs().max() < 5 * (0.25 / num_draws) ** 0.5


def test_huge_logits_do_not_overflow_the_noise():
    # exp(1000) is infinite in float64, hence the logarithmic form.
    logits = torch.tensor([[1000.0, 900.0, 0.0]])
    options = SamplingOptions(gen_length=1, temperature=1.0)
    assert run([PROMPTS[4]], options, [0], denoise=FixedLogits(logits.repeat(1, 3))) == [[0]]


# --- rules ----------------------------------------------------------------------------------------


def test_bf16_ties_near_one_are_resolved_in_fp32():
    # Position 1 is surer than position 0, which bf16 probabilities (1.0 both) cannot see.
    logits = torch.full((2, VOCAB), 0.0, dtype=torch.bfloat16)
    logits[0, 1], logits[1, 2] = 10.0, 11.0
    recorder = Recorder(FixedLogits(logits))
    assert logits.softmax(dim=-1).amax(dim=-1).tolist() == [1.0, 1.0]
    assert run([PROMPTS[4]], SamplingOptions(gen_length=2), denoise=recorder) == [[1, 2]]
    assert recorder.calls[1]["input_ids"].tolist() == [[MASK, 2]]


def test_equal_confidence_reveals_from_left_to_right():
    recorder = Recorder(FixedLogits(torch.zeros(6, VOCAB)))
    run([PROMPTS[4]], SamplingOptions(gen_length=6, steps=3), denoise=recorder)
    revealed = [(call["input_ids"][0] != MASK).tolist() for call in recorder.calls]
    assert revealed == [[False] * 6, [True] * 2 + [False] * 4, [True] * 4 + [False] * 2]


def test_the_mask_token_is_never_generated():
    logits = torch.zeros(4, VOCAB)
    logits[:, MASK] = 50.0
    logits[:, 3] = 1.0
    assert run([PROMPTS[4]], SamplingOptions(gen_length=4), denoise=FixedLogits(logits)) == [
        [3] * 4
    ]


def test_suppressed_eos_gives_way_to_the_next_best_token():
    logits = torch.zeros(4, VOCAB)
    logits[:, EOS], logits[:, 5] = 9.0, 4.0
    denoise = FixedLogits(logits)
    assert run([PROMPTS[4]], SamplingOptions(gen_length=4), denoise=denoise) == [[EOS] * 4]
    suppressed = SamplingOptions(gen_length=4, suppress_eos=True)
    assert run([PROMPTS[4]], suppressed, denoise=denoise) == [[5] * 4]


def test_stop_at_eos_saves_steps_and_leaves_the_batch():
    logits = torch.zeros(20, VOCAB)
    logits[:, 1] = 3.0
    logits[2, EOS] = 9.0  # third generated token of the empty prompt, in the prompt of the other
    options = SamplingOptions(gen_length=8, block_length=4, stop_at_eos=True)
    stats = DenoiserStats()
    recorder = Recorder(FixedLogits(logits))
    prompts = [PROMPTS[4], PROMPTS[0]]
    texts = run(prompts, options, denoise=recorder, stats=stats)
    assert texts == [[1, 1] + [EOS] * 6, [1] * 8]
    # EOS is the surest token, then the tokens before it are decided: three steps of eight.
    assert [len(call["input_ids"]) for call in recorder.calls] == [2] * 3 + [1] * 5
    assert stats.num_passes == 8


def test_an_eos_with_undecided_tokens_before_it_does_not_stop():
    logits = torch.zeros(4, VOCAB)
    logits[:, 1] = 1.0
    logits[3, EOS] = 9.0
    stats = DenoiserStats()
    options = SamplingOptions(gen_length=4, stop_at_eos=True)
    assert run([PROMPTS[4]], options, denoise=FixedLogits(logits), stats=stats) == [[1, 1, 1, EOS]]
    assert stats.num_passes == 4


def test_without_stop_at_eos_text_after_an_eos_is_kept():
    logits = torch.zeros(3, VOCAB)
    logits[:, 2] = 1.0
    logits[0, EOS] = 9.0
    text = run([PROMPTS[4]], SamplingOptions(gen_length=3), denoise=FixedLogits(logits))
    assert text == [[EOS, 2, 2]]


def test_logits_are_asked_only_for_masks_of_the_current_block():
    recorder, stats = Recorder(NETWORK), DenoiserStats()
    run(PROMPTS[:2], SamplingOptions(gen_length=6, block_length=3), denoise=recorder, stats=stats)
    for call in recorder.calls:
        for b, position in call["rows"].tolist():
            assert call["input_ids"][b, position] == MASK
    assert [len(call["rows"]) for call in recorder.calls] == [6, 4, 2, 6, 4, 2]
    assert recorder.calls[0]["rows"].tolist() == [[0, 5], [0, 6], [0, 7], [1, 1], [1, 2], [1, 3]]
    assert stats.num_rows == 24


def test_random_remasking_asks_only_for_what_it_reveals():
    stats = DenoiserStats()
    run(PROMPTS[:2], SamplingOptions(gen_length=6, remasking="random"), [1, 2], stats=stats)
    assert stats.num_rows == 2 * 6


def test_batches_are_padded_on_the_right_with_a_mask():
    # Left padding without a mask changed answers in public code.
    recorder = Recorder(NETWORK)
    run([PROMPTS[1], PROMPTS[2]], SamplingOptions(gen_length=2), denoise=recorder, pad_token_id=7)
    call = recorder.calls[0]
    assert call["attention_mask"].tolist() == [[1] * 3 + [0] * 8, [1] * 11]
    assert call["input_ids"][0].tolist() == [*PROMPTS[1].tolist(), MASK, MASK, *[7] * 8]
    unmasked = NETWORK(call["input_ids"], attention_mask=None, rows=call["rows"])
    masked = NETWORK(call["input_ids"], attention_mask=call["attention_mask"], rows=call["rows"])
    assert not torch.allclose(unmasked[:2], masked[:2]), "the toy must notice visible padding"


def test_padding_value_does_not_matter():
    options = SamplingOptions(gen_length=6)
    assert run(PROMPTS, options, pad_token_id=3) == run(PROMPTS, options, pad_token_id=None)


def test_settings_of_one_request_do_not_leak_into_the_next():
    # A public implementation clipped `steps` in place for a short request.
    options = SamplingOptions(gen_length=12, steps=12)
    before = dataclasses.asdict(options)
    expected = run(PROMPTS, options)
    run(PROMPTS, dataclasses.replace(options, gen_length=3))
    assert dataclasses.asdict(options) == before
    stats = DenoiserStats()
    assert run(PROMPTS, options, stats=stats) == expected
    assert stats.num_passes == 12
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.steps = 3


def test_a_mask_token_inside_a_prompt_is_left_alone():
    recorder = Recorder(NETWORK)
    (text,) = run([torch.tensor([1, MASK, 2])], SamplingOptions(gen_length=4), denoise=recorder)
    assert MASK not in text
    assert all(call["input_ids"][0, :3].tolist() == [1, MASK, 2] for call in recorder.calls)


def sampling_options():
    """Valid options of every kind, small enough to run."""
    return st.builds(
        SamplingOptions,
        steps=st.none() | st.integers(1, 12),
        gen_length=st.integers(1, 9),
        block_length=st.none() | st.integers(1, 12),
        remasking=st.sampled_from(["low_confidence", "random"]),
        temperature=st.sampled_from([0.0, 0.5, 2.0]),
        cfg_scale=st.sampled_from([0.0, 1.0]),
        stop_at_eos=st.booleans(),
    )


@settings(max_examples=30)
@given(options=sampling_options(), picks=st.lists(st.integers(0, 7), min_size=1, max_size=3))
def test_prompts_never_change_and_no_mask_survives(options, picks):
    prompts = [PROMPTS[i].clone() for i in picks]
    recorder, stats = Recorder(NETWORK), DenoiserStats()
    full = dataclasses.replace(options, stop_at_eos=False)
    for text in run(prompts, full, picks, denoise=recorder, stats=stats):
        assert len(text) == options.gen_length
        assert MASK not in text
    for call in recorder.calls:
        for prompt, row in zip(prompts, call["input_ids"], strict=False):
            assert row[: len(prompt)].tolist() == prompt.tolist()
    assert [p.tolist() for p in prompts] == [PROMPTS[i].tolist() for i in picks]
    for text in run(prompts, options, picks):
        assert len(text) == options.gen_length
        assert MASK not in text
