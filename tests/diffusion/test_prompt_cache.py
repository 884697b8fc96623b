"""Decoding beside kept prompts against plain loops that say which keys each query may see."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lm_eval_llada.diffusion.denoiser import Denoiser, DenoiserStats, PromptReading
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.engine.arguments import answer_fingerprint, parse_model_args
from lm_eval_llada.engine.keys import plain_settings
from lm_eval_llada.modeling import (
    LLaDAForMaskedLM,
    PromptCache,
    as_denoiser,
    prompt_attention,
    prompt_cache,
    prompt_pass,
)
from tests.helpers.llada_models import ROWS, SHAPES, assert_close, make_model, plain_forward, tokens

MASK = 96
PAGE, NUM_FIRST, NUM_LAST = 4, 3, 5
LENGTHS = (11, 1, 18)
PROMPTS = [tokens(length, seed=length) for length in LENGTHS]


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch):
    for module in (prompt_attention, prompt_cache):
        monkeypatch.setattr(module, "PAGE", PAGE)
    monkeypatch.setattr(prompt_attention, "NUM_FIRST", NUM_FIRST)
    monkeypatch.setattr(prompt_pass, "NUM_LAST", NUM_LAST)
    monkeypatch.setattr(prompt_pass, "_PART_ROWS", {"cpu": 7})
    with torch.no_grad():
        yield


class PlainPrompt:
    """One sequence, its prompt read once: rules of `cache=prompt` spelled out row by row."""

    def __init__(self, model: LLaDAForMaskedLM, num_prompt: int, options: SamplingOptions) -> None:
        self.model, self.num_prompt, self.options = model, num_prompt, options
        self.group = model.config.n_heads // model.config.n_kv_heads
        self.kept: dict[int, Tensor] = {}
        self.shares: dict[tuple[int, int], Tensor] = {}

    def logits(self, x: Tensor, block: range, *, is_fill: bool, is_first: bool) -> Tensor:
        num_prompt, chunk, keep = self.num_prompt, self.options.prompt_chunk, self.options.keep
        old_shares = self.shares
        if is_first:
            self.shares = {}

        def weigh(layer: int, head: int, scores: Tensor) -> Tensor:
            allowed = torch.ones_like(scores, dtype=torch.bool)
            for row in range(max(0, num_prompt - NUM_LAST) if is_fill and chunk else 0):
                near = range((row // chunk - 1) * chunk, (row // chunk + 2) * chunk)
                for key in range(len(x)):
                    is_shared = key < NUM_FIRST or key >= num_prompt - NUM_LAST
                    allowed[row, key] = is_shared or key in near
            shared = (layer, head // self.group)
            num_pages = num_prompt // PAGE
            if not is_first and keep:
                order = sorted(range(num_pages), key=lambda n: -float(old_shares[shared][n]))
                for page in order[math.ceil(num_pages * keep) :]:
                    allowed[:, page * PAGE : (page + 1) * PAGE] = False
            weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
            if is_first:
                given = weights[block.start : block.stop, : num_pages * PAGE].sum(0)
                sums = given.view(num_pages, PAGE).sum(-1)
                self.shares[shared] = self.shares.get(shared, 0) + sums
            return weights

        window = None if is_fill else range(num_prompt, len(x))
        return plain_forward(self.model, x, self.kept, window, weigh)


def plain_text(model: LLaDAForMaskedLM, prompt: Tensor, options: SamplingOptions) -> list[int]:
    """One prompt, one token a step."""
    length, first = options.gen_length, len(prompt)
    x = torch.cat([prompt, torch.full((length,), MASK)])
    plain, blind = (PlainPrompt(model, first, options) for _ in range(2))
    for number, start in enumerate(range(0, length, options.block_length)):
        end = min(start + options.block_length, length)
        block = range(first + start, first + end)
        for step in range(end - start):
            is_fill = step == 0 and number % (options.prompt_refresh or length) == 0
            how = {"is_fill": is_fill, "is_first": step == 0}
            logits = plain.logits(x, block, **how)
            if options.cfg_scale:
                unseen = x.clone()
                unseen[:first] = MASK
                base = blind.logits(unseen, block, **how)
                logits = base + (options.cfg_scale + 1) * (logits - base)
            logits[:, MASK] = -torch.inf
            sure = logits.softmax(-1).max(-1)
            best = max((p for p in block if x[p] == MASK), key=lambda p: float(sure.values[p]))
            x[best] = sure.indices[best]
    return x[first:].tolist()


def decode(model, prompts, options, **kwargs) -> list[list[int]]:
    texts = generate(as_denoiser(model, mask_token_id=MASK), prompts, options, **kwargs)
    return [text.tolist() for text in texts]


BASE = SamplingOptions(gen_length=5, block_length=3, cache="prompt")
KNOBS = {
    "plain": {},
    "chunks": {"prompt_chunk": 2},
    "pages": {"keep": 0.3},
    "both": {"prompt_chunk": 4, "keep": 0.5},
    "refreshed": {"prompt_chunk": 3, "keep": 0.5, "prompt_refresh": 2},
    "guided": {"keep": 0.5, "cfg_scale": 0.5},
}


@pytest.mark.parametrize("knobs", KNOBS.values(), ids=KNOBS)
def test_texts_equal_a_plain_loop_in_every_company(knobs):
    model, options = make_model(n_layers=2, n_kv_heads=2), replace(BASE, **knobs)
    expected = [plain_text(model, prompt, options) for prompt in PROMPTS]
    assert decode(model, PROMPTS, options) == expected
    assert [decode(model, [prompt], options)[0] for prompt in PROMPTS] == expected
    assert decode(model, PROMPTS[::-1], options) == expected[::-1]


def test_every_knob_changes_texts_that_it_should():
    model = make_model(n_layers=2, n_kv_heads=2)
    texts = {str(decode(model, PROMPTS, replace(BASE, **knobs))) for knobs in KNOBS.values()}
    exact = decode(model, PROMPTS, replace(BASE, cache="none"))
    assert len(texts | {str(exact)}) == len(KNOBS) + 1


@pytest.mark.parametrize("shape", SHAPES)
def test_windows_read_their_own_tokens_and_the_kept_prompt(shape):
    model, prompt = make_model(**SHAPES[shape]), PROMPTS[2]
    options = replace(BASE, prompt_chunk=4, keep=0.5)
    plain, cache = PlainPrompt(model, 18, options), PromptCache([18], PromptReading(4, 0.5))
    cache.start_block(0, 3)
    x = torch.cat([prompt, tokens(5, seed=3)])
    rows = torch.tensor([[0, p] for p in (22, 18, 20)])
    for step in range(3):
        block = range(18, 21)
        expected = plain.logits(x, block, is_fill=step == 0, is_first=step == 0)
        given = {} if step == 0 else {"position_ids": torch.arange(18, 23)[None]}
        ids = x[None] if step == 0 else x[None, 18:]
        assert_close(model(ids, rows=rows, cache=cache, **given).logits, expected[rows[:, 1]])
        x[18 + step] = step + 1


@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("prompts", [PROMPTS, [tokens(0), *PROMPTS], [tokens(0)]])
def test_without_chunks_and_pages_the_first_step_of_a_text_is_exact(shape, prompts):
    model = make_model(**ROWS[shape])
    denoiser = as_denoiser(model, mask_token_id=MASK)
    lengths = [len(prompt) for prompt in prompts]
    sequences = [torch.cat([prompt, torch.full((6,), MASK)]) for prompt in prompts]
    positions = [torch.arange(n, n + 4) for n in lengths]
    windows = [range(n, n + 6) for n in lengths]
    cache = denoiser.prompt_cache(lengths, PromptReading())
    exact = denoiser.logits(sequences, positions, lengths)
    assert_close(denoiser.logits(sequences, positions, lengths, cache=cache), exact, 1e-5)
    # A prompt that has seen the same tokens is as good as one that is read again.
    again = denoiser.logits(sequences, positions, lengths, cache=cache, windows=windows)
    assert_close(again, exact, 1e-5)


def test_chunks_that_reach_everywhere_are_exact_and_short_prompts_are_whole():
    model = make_model(n_layers=2)
    wide = replace(BASE, prompt_chunk=24)
    assert decode(model, PROMPTS, wide) == decode(model, PROMPTS, BASE)
    some = [prompt[:PAGE] for prompt in PROMPTS]
    assert decode(model, some, replace(BASE, keep=0.01)) == decode(model, some, BASE)


def test_a_prompt_is_read_once_and_every_later_pass_reads_the_text():
    model, stats = make_model(n_layers=2), DenoiserStats()
    denoiser = as_denoiser(model, mask_token_id=MASK, stats=stats)
    generate(denoiser, PROMPTS[:1], BASE)
    assert stats.num_tokens == (11 + 5) + 4 * 5
    stats.num_tokens = 0
    generate(denoiser, PROMPTS[:1], replace(BASE, prompt_refresh=1))
    assert stats.num_tokens == 2 * (11 + 5) + 3 * 5


@pytest.mark.parametrize("knobs", [{"cfg_scale": 0.5}, {"keep": 0.5}, {"threshold": 0.05}])
def test_texts_that_finish_a_block_early_or_end_change_no_other(knobs):
    model, options = make_model(n_layers=2), replace(BASE, **knobs)
    alone = [decode(model, [prompt], options)[0] for prompt in PROMPTS]
    assert decode(model, PROMPTS, options) == alone
    at = [2, 5, 1]
    ends = [lambda decided, n=n: len(decided) >= n for n in at]
    for text, full, n in zip(decode(model, PROMPTS, options, ends=ends), alone, at, strict=True):
        assert text[:n] == full[:n]
        assert all(token in (MASK, full[i]) for i, token in enumerate(text))


def kept_bytes(cache: PromptCache) -> int:
    layers = [layer for text in cache.texts for layer in text.layers.values()]
    return sum(layer._whole.nbytes for layer in layers)


def test_a_narrower_type_halves_what_is_kept_and_moves_logits_little():
    model, prompt, sizes = make_model(), PROMPTS[2], {}
    denoiser = as_denoiser(model, mask_token_id=MASK)
    sequence = torch.cat([prompt, torch.full((2,), MASK)])
    logits = {}
    for dtype in ("auto", "float32", "bfloat16", "float8_e4m3fn"):
        cache = denoiser.prompt_cache([18], PromptReading(dtype=dtype))
        given = ([sequence], [torch.tensor([18])], [18])
        first = denoiser.logits(*given, cache=cache)
        logits[dtype] = denoiser.logits(*given, cache=cache, windows=[range(18, 20)])
        assert_close(first, denoiser.logits(*given), 1e-5)
        sizes[dtype] = kept_bytes(cache)
    assert torch.equal(logits["float32"], logits["auto"])
    for dtype, most in (("bfloat16", 0.1), ("float8_e4m3fn", 2.0)):
        assert 0 < float((logits[dtype] - logits["auto"]).abs().max()) < most
    assert sizes["auto"] == sizes["float32"]
    assert sizes["bfloat16"] * 20 == sizes["auto"] // 2 * 18
    assert sizes["float8_e4m3fn"] * 2 == sizes["bfloat16"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep": 0.5}, "keep=0.5 belongs to cache=prompt, not to cache=none"),
        ({"cache": "dual", "prompt_chunk": 64}, "prompt_chunk=64 belongs to cache=prompt"),
        ({"cache": "prefix", "cache_dtype": "bfloat16"}, "cache_dtype=bfloat16 belongs to"),
        ({"cache": "prompt", "keep": 1.5}, "at most 1; got 1.5"),
        ({"cache": "prompt", "keep": 0}, "keep must be"),
        ({"cache": "prompt", "prompt_chunk": 0}, "prompt_chunk must be a whole number >= 1"),
        ({"cache": "prompt", "prompt_refresh": 0}, "prompt_refresh must be"),
        ({"cache": "prompt", "cache_dtype": "int8"}, "float8_e4m3fn; got 'int8'"),
        ({"cache": "prompt", "refresh_every": 2}, "use prompt_refresh"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SamplingOptions(**settings)


def test_what_a_cache_of_prompts_cannot_read_is_refused():
    model, ids, rows = make_model(), tokens(1, 9), torch.tensor([[0, 8]])
    with pytest.raises(ValueError, match="needs input_ids and rows"):
        model(ids, cache=PromptCache([6], PromptReading()))
    with pytest.raises(ValueError, match="hands out no hidden states"):
        model(ids, rows=rows, cache=PromptCache([6], PromptReading()), output_hidden_states=True)
    with pytest.raises(ValueError, match="padding on the right only"):
        left = torch.tensor([[0, *[1] * 8]])
        model(ids, attention_mask=left, rows=rows, cache=PromptCache([6], PromptReading()))
    cache = PromptCache([6], PromptReading())
    model(ids, rows=rows, cache=cache)
    with pytest.raises(ValueError, match=r"start at \[7\], and prompts are kept up to \[6\]"):
        model(ids[:, 7:], position_ids=torch.tensor([[7, 8]]), rows=rows, cache=cache)
    with pytest.raises(ValueError, match="by whole sequences, without position_ids"):
        places = torch.arange(9)[None]
        model(ids, position_ids=places, rows=rows, cache=PromptCache([6], PromptReading()))
    toy = Denoiser(lambda input_ids, **_: torch.zeros(1, 8), mask_token_id=7)
    with pytest.raises(ValueError, match="give it new_prompt_cache"):
        generate(toy, [tokens(3)], BASE)


def test_answers_are_kept_under_the_knobs_that_are_set_and_results_name_them():
    knobs = ("prompt_chunk", "keep", "prompt_refresh", "cache_dtype")
    assert not set(knobs) & set(plain_settings(SamplingOptions(cache="prompt")))
    given = {"cache": "prompt", "prompt_chunk": "64", "keep": "0.25", "cache_dtype": "bfloat16"}
    arguments = parse_model_args(given)
    assert arguments.sampling.approximations == [
        *("cache=prompt", "prompt_chunk=64", "keep=0.25", "cache_dtype=bfloat16")
    ]
    digests = {
        answer_fingerprint(parse_model_args({"cache": "prompt", **changes}), "tiny-llada")
        for changes in ({}, {"keep": 0.5}, {"prompt_chunk": 64}, {"prompt_refresh": 1})
    }
    assert len(digests) == 4
