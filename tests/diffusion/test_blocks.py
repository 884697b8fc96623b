"""Decoding block by block beside a cache, against a loop that reads everything anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.modeling import as_denoiser
from tests.helpers.block_loops import plain_block_generate, whole_logits
from tests.helpers.llada_models import make_model, tokens
from tests.helpers.toys import RandomNetwork
from tests.helpers.toys import denoiser as denoiser_of

MASK = 50
RULES = {
    "start": BlockRules(4),
    "prompt": BlockRules(4, grid="prompt"),
    "causal_prefix": BlockRules(4, grid="prompt", prefix="causal"),
    "previous": BlockRules(4, first_token="previous", reveal="sub_blocks", sub_block_length=2),
    "causal_first": BlockRules(4, grid="prompt", prefix="causal", first_token="causal"),
    "quota": BlockRules(6, reveal="quota"),
    "of_one": BlockRules(1),
    "longer_than_the_text": BlockRules(32),
}
LENGTHS = (0, 1, 3, 4, 9, 17, 22, 8)
OPTIONS = {
    "one_a_step": {},
    "few_steps": {"steps": 5},
    "threshold": {"threshold": 0.2},
    "threshold_and_steps": {"threshold": 0.3, "steps": 4},
    "temperature": {"temperature": 0.8},
}
EDITING = {
    "one_a_step": {"editing_threshold": 0.05},
    "threshold": {"editing_threshold": 0.1, "threshold": 0.2},
    "nothing_is_likely_enough": {"editing_threshold": 0.9999, "threshold": 0.3},
}


def prompts() -> list[torch.Tensor]:
    return [tokens(1, length, seed=length)[0] % MASK for length in LENGTHS]


def model_and_denoiser(rules: BlockRules):
    model = make_model(n_kv_heads=2)
    return model, replace(as_denoiser(model, mask_token_id=MASK), blocks=rules)


# Every rule in two ways, and every way under the rules that a step goes by.
CASES = [
    (rules, options)
    for rules in RULES
    for options in OPTIONS
    if options in ("one_a_step", "temperature") or rules in ("start", "previous", "quota")
]


@pytest.mark.parametrize(("rules", "options"), CASES)
def test_texts_are_those_of_the_loop_without_a_cache_in_any_company(rules, options):
    chosen = SamplingOptions(gen_length=7, **OPTIONS[options])
    model, denoiser = model_and_denoiser(RULES[rules])
    seeds = list(range(len(LENGTHS)))
    expected = [
        plain_block_generate(model, RULES[rules], prompt, chosen, MASK, seed)
        for prompt, seed in zip(prompts(), seeds, strict=True)
    ]
    for size in (1, 3, 8):
        texts = []
        for first in range(0, len(LENGTHS), size):
            some = slice(first, first + size)
            texts += generate(denoiser, prompts()[some], chosen, seeds=seeds[some])
        assert [text.tolist() for text in texts] == expected


def test_the_causal_mode_takes_the_likeliest_next_token_each_time():
    model, denoiser = model_and_denoiser(RULES["causal_first"])
    for prompt in prompts()[1:4]:
        x = prompt
        for _ in range(6):
            row = whole_logits(model, RULES["causal_first"], x, len(x), None)[-1]
            row[MASK] = -torch.inf
            x = torch.cat([x, row.argmax()[None]])
        options = SamplingOptions(gen_length=6, generation="ar")
        (text,) = generate(denoiser, [prompt], options)
        assert text.tolist() == x[len(prompt) :].tolist()


def test_a_text_that_has_ended_is_read_no_further():
    _, denoiser = model_and_denoiser(BlockRules(4))
    prompt = tokens(8)
    (whole,) = generate(denoiser, [prompt], SamplingOptions(gen_length=24))
    num_passes = denoiser.stats.num_passes
    end = int(whole[6])
    is_over = lambda decided: end in decided.tolist()  # noqa: E731
    (ended,) = generate(denoiser, [prompt], SamplingOptions(gen_length=24), ends=[is_over])
    assert denoiser.stats.num_passes - num_passes < num_passes / 2
    num_decided = int((ended != MASK).cumprod(0).sum())
    assert ended[:num_decided].tolist() == whole[:num_decided].tolist()
    options = SamplingOptions(gen_length=24, stop_at_eos=True)
    (stopped,) = generate(denoiser, [prompt], options, eos_token_id=end)
    first = whole.tolist().index(end)
    assert stopped.tolist() == whole[:first].tolist() + [end] * (24 - first)


def test_random_remasking_draws_as_many_as_a_step_reveals():
    _, denoiser = model_and_denoiser(BlockRules(4))
    options = SamplingOptions(gen_length=9, steps=5, remasking="random")
    alone = [generate(denoiser, [p], options, seeds=[i])[0] for i, p in enumerate(prompts())]
    together = generate(denoiser, prompts(), options, seeds=range(len(LENGTHS)))
    for one, other in zip(alone, together, strict=True):
        assert one.tolist() == other.tolist()
        assert MASK not in one


REFUSED = {
    "cache=dual": ("exact, costs one prefill and is always on", {"cache": "dual"}),
    "block_length=8": ("made for blocks of 4", {"block_length": 8}),
    "cfg_scale=1": ("never seen a finished block of them", {"cfg_scale": 1}),
    "alg=entropy": ("use alg=none", {"alg": "entropy"}),
    "generation=ar": ("also predicts the next token", {"generation": "ar"}),
}


@pytest.mark.parametrize("named", REFUSED)
def test_what_blocks_do_not_have_is_refused(named):
    _, denoiser = model_and_denoiser(BlockRules(4))
    reason, options = REFUSED[named]
    with pytest.raises(ValueError, match=f"{named}.*{reason}"):
        generate(denoiser, [tokens(5)], SamplingOptions(gen_length=4, **options))


def test_a_causal_mode_is_for_models_that_have_one():
    toy = denoiser_of(RandomNetwork(), 12)
    with pytest.raises(ValueError, match="generation=ar needs a model"):
        generate(toy, [tokens(5) % 12], SamplingOptions(gen_length=4, generation="ar"))
    _, causal = model_and_denoiser(RULES["causal_first"])
    options = SamplingOptions(gen_length=4, generation="ar", threshold=0.9)
    with pytest.raises(ValueError, match="generation=ar takes the tokens one after the other"):
        generate(causal, [tokens(5)], options)


@pytest.mark.parametrize("options", EDITING)
@pytest.mark.parametrize("rules", ["start", "prompt", "quota"])
def test_edited_texts_are_those_of_the_loop_without_a_cache_in_any_company(rules, options):
    chosen = SamplingOptions(gen_length=10, **EDITING[options])
    model, denoiser = model_and_denoiser(RULES[rules])
    some = prompts()[1::2]
    expected = [plain_block_generate(model, RULES[rules], prompt, chosen, MASK) for prompt in some]
    for size in (1, 4):
        texts = []
        for first in range(0, len(some), size):
            texts += generate(denoiser, some[first : first + size], chosen)
        assert [text.tolist() for text in texts] == expected
    if options == "nothing_is_likely_enough":
        assert expected == [
            plain_block_generate(
                model, BlockRules(RULES[rules].block_length, grid=RULES[rules].grid), prompt,
                SamplingOptions(gen_length=10, threshold=0.3), MASK,
            )
            for prompt in some
        ]  # fmt: skip


def test_editing_needs_blocks_that_are_read_at_their_own_rows():
    options = SamplingOptions(gen_length=4, editing_threshold=0.5)
    _, denoiser = model_and_denoiser(RULES["previous"])
    with pytest.raises(ValueError, match="this model decides its tokens once"):
        generate(denoiser, prompts()[:1], options)
    with pytest.raises(ValueError, match="this model decides its tokens once"):
        generate(as_denoiser(make_model(), mask_token_id=MASK), prompts()[:1], options)
    with pytest.raises(ValueError, match="temperature=0.5 cannot be combined"):
        SamplingOptions(editing_threshold=0.5, temperature=0.5)
