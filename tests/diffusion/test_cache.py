"""Cached passes and cached decoding against plain loops that keep what each layer has read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lm_eval_llada.diffusion.denoiser import DenoiserStats
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.engine.keys import plain_settings
from lm_eval_llada.modeling import (
    KeyValueCache,
    LLaDAConfig,
    LLaDAForMaskedLM,
    apply_rope,
    as_denoiser,
)
from lm_eval_llada.modeling import block as block_module
from lm_eval_llada.rope import RopeChoice
from tests.helpers.attention import packed_attention
from tests.helpers.llada_models import ROWS, SHAPES, assert_close, make_model, plain_forward, tokens

MASK, EOS = 96, 0
LENGTHS = (17, 12, 17)
FIRST, WIDTH = (5, 3, 8), 6


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def changed(ids: Tensor) -> Tensor:
    """The same sequences with other tokens inside the windows and outside."""
    other = tokens(*ids.shape, seed=9)
    return torch.where(torch.arange(ids.shape[1]) % 2 == 0, other, ids)


def plain_window_logits(model: LLaDAForMaskedLM, ids: Tensor, is_padded: bool) -> list[Tensor]:
    """Logits of each window of changed(ids) after a pass over ids, sequence by sequence."""
    logits = []
    for b, first in enumerate(FIRST):
        length = LENGTHS[b] if is_padded else ids.shape[1]
        window, kept = range(first, first + WIDTH), {}
        plain_forward(model, ids[b, :length], kept)
        whole = plain_forward(model, changed(ids)[b, :length], kept, window)
        logits.append(whole[first : first + WIDTH])
    return logits


def cached_window_logits(
    model: LLaDAForMaskedLM, ids: Tensor, is_padded: bool, rows: Tensor | None = None
) -> Tensor:
    mask = (torch.arange(ids.shape[1]) < torch.tensor(LENGTHS)[:, None]).long()
    cache, mask = KeyValueCache(), mask if is_padded else None
    model(ids, attention_mask=mask, cache=cache)
    positions = torch.stack([torch.arange(first, first + WIDTH) for first in FIRST])
    windows = changed(ids).gather(1, positions)
    return model(
        windows, attention_mask=mask, position_ids=positions, rows=rows, cache=cache
    ).logits


@pytest.mark.parametrize("shape", SHAPES)
def test_a_window_reads_its_own_tokens_and_the_kept_rest(shape):
    model, ids = make_model(**SHAPES[shape]), tokens(3, 17)
    expected = plain_window_logits(model, ids, is_padded=True)
    assert_close(cached_window_logits(model, ids, is_padded=True), torch.stack(expected))


@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize("implementation", ["sdpa", "eager", "flex_attention", "flash_attention_2"])
def test_every_attention_reads_windows_and_rows_of_them(implementation, is_padded, monkeypatch):
    model, ids = make_model(n_kv_heads=2), tokens(3, 17)
    expected = plain_window_logits(model, ids, is_padded)
    monkeypatch.setitem(
        ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_attention_2", packed_attention
    )
    model.config._attn_implementation = implementation
    rows = torch.tensor([[2, 13], [0, 5], [1, 4], [2, 8], [0, 9]])
    picked = torch.stack([expected[b][position - FIRST[b]] for b, position in rows.tolist()])
    with torch.compiler.set_stance("force_eager"):
        assert_close(cached_window_logits(model, ids, is_padded), torch.stack(expected))
        assert_close(cached_window_logits(model, ids, is_padded, rows), picked)


def test_a_window_over_unchanged_tokens_gives_the_exact_logits():
    model, ids, cache = make_model(), tokens(2, 11), KeyValueCache()
    exact = model(ids, cache=cache).logits
    positions = torch.arange(3, 8).expand(2, -1)
    again = model(ids[:, 3:8], position_ids=positions, cache=cache).logits
    assert_close(again, exact[:, 3:8])


def test_a_cache_forgets_sequences_that_left():
    model, ids, cache = make_model(), tokens(3, 11), KeyValueCache()
    exact = model(ids, cache=cache).logits
    cache.keep(torch.tensor([2, 0]))
    positions = torch.arange(3, 8).expand(2, -1)
    again = model(ids[[2, 0], 3:8], position_ids=positions, cache=cache).logits
    assert_close(again, exact[[2, 0], 3:8])


def test_what_a_cache_cannot_do_is_an_error():
    model, ids, cache = make_model(), tokens(2, 6), KeyValueCache()
    with pytest.raises(ValueError, match="only one of them"):
        model(ids, document_ids=torch.zeros_like(ids), cache=cache)
    model(ids, cache=cache)
    with pytest.raises(ValueError, match=r"position_ids must be \(batch, seq\), here \(2, 3\)"):
        model(ids[:, :3], cache=cache)
    dynamic, _ = apply_rope(
        LLaDAConfig(**model.config.to_dict()), RopeChoice(method="dynamic", target_length=256)
    )
    with pytest.raises(ValueError, match="cache cannot be combined with rope type 'dynamic'"):
        LLaDAForMaskedLM(dynamic)(ids, cache=KeyValueCache())


def test_an_mlp_in_parts_computes_the_same(monkeypatch):
    model, ids = make_model(), tokens(3, 17)
    whole = model(ids).logits
    calls = []
    model.model.transformer["blocks"][0].ff_proj.register_forward_hook(
        lambda module, given, output: calls.append(len(given[0]))
    )
    # 80 numbers of 4 bytes a row.
    monkeypatch.setattr(block_module, "MLP_CHUNK_BYTES", 20 * 320)
    assert_close(model(ids).logits, whole, 1e-5)
    assert calls == [20, 20, 11]


def plain_cached_text(
    model: LLaDAForMaskedLM, prompt: Tensor, options: SamplingOptions
) -> list[int]:
    """One prompt, guidance by hand: the rules of the caches spelled out."""
    length, first, shift = options.gen_length, len(prompt), int(model.config.shift)
    x, revealed = torch.cat([prompt, torch.full((length,), MASK)]), []
    for start in range(0, length, options.block_length):
        end, kept, blind_kept = min(start + options.block_length, length), {}, {}
        for step in range(end - start):
            window = None
            if step % (options.refresh_every or length):
                stop = end if options.cache == "dual" else length
                window = range(first + start, first + stop)
                if options.entry == "delayed":
                    window = [p for p in window if x[p] == MASK or p in revealed]
                # The row before a token predicts it.
                window = sorted({q for p in window for q in (p, p - shift)})
            logits = plain_forward(model, x, kept, window)
            if options.cfg_scale:
                blind = x.clone()
                blind[:first] = MASK
                base = plain_forward(model, blind, blind_kept, window)
                logits = base + (options.cfg_scale + 1) * (logits - base)
            logits[:, MASK] = -torch.inf
            masked = [p for p in range(first + start, first + end) if x[p] == MASK]
            if not masked:
                break
            sure, choice = logits.softmax(-1).roll(shift, 0).max(-1)
            above = [p for p in masked if sure[p] >= (options.threshold or 2)]
            revealed = above or [max(masked, key=lambda p: float(sure[p]))]
            x[revealed] = choice[revealed]
    return x[first:].tolist()


CACHED = {
    "prefix": SamplingOptions(gen_length=9, block_length=4, cache="prefix"),
    "dual": SamplingOptions(gen_length=9, block_length=4, cache="dual"),
    "refreshed": SamplingOptions(gen_length=8, block_length=8, cache="dual", refresh_every=3),
    "guided": SamplingOptions(gen_length=8, block_length=4, cache="dual", cfg_scale=0.5),
}
DELAYED = {
    "dual": SamplingOptions(gen_length=9, block_length=5, cache="dual"),
    "prefix": SamplingOptions(gen_length=9, block_length=4, cache="prefix"),
    "refreshed": SamplingOptions(gen_length=7, block_length=7, cache="dual", refresh_every=4),
    "guided": SamplingOptions(gen_length=8, block_length=4, cache="dual", cfg_scale=0.5),
    # Texts of a batch reveal unequal numbers of tokens, so that their windows differ in size.
    "sure": SamplingOptions(gen_length=12, block_length=6, cache="dual", threshold=0.3),
}
DELAYED = {name: replace(options, entry="delayed") for name, options in DELAYED.items()}
PROMPTS = [tokens(length, seed=length) for length in (5, 2, 9)]


def decode(model, prompts, options, *, stats=None, **kwargs) -> list[list[int]]:
    texts = generate(
        as_denoiser(model, mask_token_id=MASK, stats=stats), prompts, options, **kwargs
    )
    return [text.tolist() for text in texts]


@pytest.mark.parametrize("options", CACHED.values(), ids=CACHED)
def test_cached_texts_equal_a_plain_loop_in_every_company(options):
    model = make_model(n_layers=2)
    expected = [plain_cached_text(model, prompt, options) for prompt in PROMPTS]
    assert decode(model, PROMPTS, options) == expected
    assert [decode(model, [prompt], options)[0] for prompt in PROMPTS] == expected


@pytest.mark.parametrize(
    ("shape", "name"),
    [*(("llada", name) for name in DELAYED), ("dream", "dual"), ("dream", "sure")],
)
def test_tokens_enter_the_cache_one_step_after_their_reveal(shape, name):
    model, options = make_model(n_layers=2, **ROWS[shape]), DELAYED[name]
    expected = [plain_cached_text(model, prompt, options) for prompt in PROMPTS]
    assert decode(model, PROMPTS, options) == expected
    assert decode(model, PROMPTS[::-1], options) == expected[::-1]
    assert [decode(model, [prompt], options)[0] for prompt in PROMPTS] == expected


def test_tokens_that_entered_the_cache_are_not_read_again():
    model, stats = make_model(n_layers=2), DenoiserStats()
    options = SamplingOptions(gen_length=8, block_length=4, cache="dual", entry="delayed")
    decode(model, PROMPTS[:1], options, stats=stats)
    # Whole passes of 13, then windows of 3, 2 and 1 masks with one revealed in the step before.
    assert stats.num_tokens == 2 * (13 + 4 + 3 + 2)


def test_delayed_entry_is_asked_for_and_named():
    model, options = make_model(n_layers=2), DELAYED["dual"]
    plain = replace(options, entry="block")
    assert decode(model, PROMPTS, options) != decode(model, PROMPTS, plain)
    with pytest.raises(ValueError, match="entry=delayed says .* cache=none does not have"):
        SamplingOptions(entry="delayed")
    with pytest.raises(ValueError, match="cache=prompt does not have; use cache=dual"):
        SamplingOptions(entry="delayed", cache="prompt")
    with pytest.raises(ValueError, match="entry must be one of block, delayed; got 'late'"):
        SamplingOptions(entry="late", cache="dual")
    assert options.approximations == ["cache=dual", "entry=delayed"]
    assert "entry" not in plain_settings(replace(options, entry="block"))
    assert plain_settings(options)["entry"] == "delayed"


def test_the_caches_are_approximations_and_one_refreshed_every_step_is_exact():
    model = make_model(n_layers=2)
    sizes = {"gen_length": 12, "block_length": 6}
    exact = decode(model, PROMPTS, SamplingOptions(**sizes))
    dual = decode(model, PROMPTS, SamplingOptions(**sizes, cache="dual"))
    prefix = decode(model, PROMPTS, SamplingOptions(**sizes, cache="prefix"))
    assert len({str(texts) for texts in (exact, dual, prefix)}) == 3
    fresh = SamplingOptions(**sizes, cache="prefix", refresh_every=1)
    assert decode(model, PROMPTS, fresh) == exact


@pytest.mark.parametrize("cfg_scale", [0.0, 0.5])
def test_texts_that_end_leave_a_cached_batch_and_change_nothing(cfg_scale):
    model = make_model(n_layers=2)
    options = SamplingOptions(
        gen_length=12, block_length=6, cache="dual", cfg_scale=cfg_scale, steps=12
    )
    whole = decode(model, PROMPTS, options)
    at = [3, 12, 1]
    ends = [lambda decided, n=n: len(decided) >= n for n in at]
    stats = DenoiserStats()
    short = decode(model, PROMPTS, options, ends=ends, stats=stats)
    for text, full, n in zip(short, whole, at, strict=True):
        decided = [i for i, token in enumerate(text) if token != MASK]
        assert len(decided) >= n and text[:n] == full[:n]
        assert all(text[i] == full[i] for i in decided)
    assert stats.num_sequences < 3 * 12 * (2 if cfg_scale else 1)


def test_passes_after_the_first_of_a_block_read_the_window_only():
    model, stats = make_model(n_layers=2), DenoiserStats()
    decode(model, PROMPTS[:1], CACHED["dual"], stats=stats)
    # Blocks of 4, 4 and 1 tokens after a prompt of 5: whole passes of 14, then windows of 4.
    assert stats.num_tokens == 3 * 14 + 2 * 3 * 4
    stats = DenoiserStats()
    decode(model, PROMPTS[:1], CACHED["prefix"], stats=stats)
    assert stats.num_tokens == 3 * 14 + 3 * 9 + 3 * 5


@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("prompts", [PROMPTS, [tokens(0), *PROMPTS], [tokens(0)]])
def test_a_window_right_after_a_fill_gives_the_logits_of_the_exact_pass(shape, prompts):
    model, cache = make_model(**ROWS[shape]), KeyValueCache()
    denoiser = as_denoiser(model, mask_token_id=MASK)
    assert denoiser.shift == (shape == "dream")
    lengths = [len(prompt) for prompt in prompts]
    sequences = [torch.cat([prompt, torch.full((6,), MASK)]) for prompt in prompts]
    for start, end in ((0, 3), (3, 6)):
        positions = [torch.arange(n + start, n + end) for n in lengths]
        windows = [range(n + start, n + end) for n in lengths]
        exact = denoiser.logits(sequences, positions, lengths)
        assert_close(denoiser.logits(sequences, positions, lengths, cache=cache), exact, 1e-5)
        again = denoiser.logits(sequences, positions, lengths, cache=cache, windows=windows)
        assert_close(again, exact, 1e-5)
        cache = KeyValueCache()
