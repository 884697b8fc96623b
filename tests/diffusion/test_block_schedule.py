"""The block schedule, and options that generation refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.diffusion.denoiser import Denoiser
from lm_eval_llada.diffusion.sampler import (
    SamplingOptions,
    block_schedule,
    generate,
)
from tests.helpers.sampling import MASK, NETWORK, PROMPTS, run

# --- schedule -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gen_length", "block_length", "steps", "expected"),
    [
        # LLaDA's rule where it applies: steps // num_blocks in each block.
        (8, 4, 4, [(0, 4, [2, 2]), (4, 8, [2, 2])]),
        (6, 3, 4, [(0, 3, [2, 1]), (3, 6, [2, 1])]),
        (4, 4, 4, [(0, 4, [1, 1, 1, 1])]),
        # The last block takes the remainder and its share of the steps.
        (10, 4, 5, [(0, 4, [2, 2]), (4, 8, [2, 2]), (8, 10, [2])]),
        (7, 3, 7, [(0, 3, [1, 1, 1]), (3, 6, [1, 1, 1]), (6, 7, [1])]),
        # At least one step a block, never more steps than tokens, one block at most gen_length.
        (6, 2, 1, [(0, 2, [2]), (2, 4, [2]), (4, 6, [2])]),
        (3, 2, 99, [(0, 2, [1, 1]), (2, 3, [1])]),
        (3, 64, None, [(0, 3, [1, 1, 1])]),
    ],
)
def test_block_schedule_golden(gen_length, block_length, steps, expected):
    options = SamplingOptions(gen_length=gen_length, block_length=block_length, steps=steps)
    assert block_schedule(options) == expected


@given(
    gen_length=st.integers(1, 200),
    block_length=st.integers(1, 250),
    steps=st.none() | st.integers(1, 300),
)
def test_block_schedule_covers_all_tokens_in_the_steps_given(gen_length, block_length, steps):
    blocks = block_schedule(
        SamplingOptions(gen_length=gen_length, block_length=block_length, steps=steps)
    )
    assert [start for start, _, _ in blocks] == list(range(0, gen_length, block_length))
    assert blocks[-1][1] == gen_length
    for start, end, counts in blocks:
        assert sum(counts) == end - start
        assert max(counts) - min(counts) <= 1
        assert min(counts) >= 1, "no step is wasted"
    wanted = min(steps or gen_length, gen_length)
    assert sum(len(counts) for _, _, counts in blocks) == max(wanted, len(blocks))


@given(num_blocks=st.integers(1, 8), block_length=st.integers(1, 32), data=st.data())
def test_block_schedule_is_lladas_where_everything_divides(num_blocks, block_length, data):
    steps_each = data.draw(st.integers(1, block_length))
    blocks = block_schedule(
        SamplingOptions(
            gen_length=num_blocks * block_length,
            block_length=block_length,
            steps=num_blocks * steps_each,
        )
    )
    assert [len(counts) for _, _, counts in blocks] == [steps_each] * num_blocks


# --- wrong input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gen_length": 0}, "gen_length must be a whole number >= 1; got 0"),
        ({"steps": 0}, "steps must be"),
        ({"steps": 2.0}, "steps must be"),
        ({"block_length": -1}, "block_length must be"),
        ({"remasking": "low_confidense"}, "Did you mean 'low_confidence'"),
        ({"temperature": -0.1}, "temperature must be"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"cfg_scale": float("inf")}, "cfg_scale must be"),
        ({"stop_at_eos": True, "suppress_eos": True}, "set only one"),
    ],
)
def test_wrong_options_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SamplingOptions(**settings)


def test_randomness_without_seeds_is_refused():
    for options in (SamplingOptions(temperature=1.0), SamplingOptions(remasking="random")):
        with pytest.raises(ValueError, match="pass one seed for each prompt"):
            run(PROMPTS, options)


def test_a_wrong_number_of_seeds_is_refused():
    with pytest.raises(ValueError, match="one seed for each of 8 requests; got 2"):
        run(PROMPTS, SamplingOptions(), [1, 2])


def test_eos_options_need_the_eos_token():
    for name in ("stop_at_eos", "suppress_eos"):
        with pytest.raises(ValueError, match="need eos_token_id"):
            generate(Denoiser(NETWORK, MASK), PROMPTS, SamplingOptions(**{name: True}))


@pytest.mark.parametrize("prompt", [torch.zeros(1, 3, dtype=torch.long), torch.zeros(3)])
def test_a_prompt_that_is_not_a_row_of_ids_is_refused(prompt):
    with pytest.raises(ValueError, match="Each prompt must be a 1-D tensor of token ids"):
        run([prompt], SamplingOptions())


def test_no_prompts_give_no_texts():
    assert run([], SamplingOptions()) == []
