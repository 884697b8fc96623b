"""The cost model against PyTorch's own count of operations, live storage, and known numbers."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from lm_eval_llada.diffusion.likelihood import (
    LikelihoodOptions,
    log_likelihoods,
    scored_pairs,
)
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.modeling import (
    KeyValueCache,
    LLaDAConfig,
    as_denoiser,
)
from lm_eval_llada.modeling import block as block_module
from lm_eval_llada.modeling.cost import (
    Work,
    activation_bytes,
    cache_bytes,
    generation_work,
    likelihood_work,
    num_parameters,
    pass_work,
    peak_bytes,
)
from lm_eval_llada.modeling.prompt_memory import prompt_peak_bytes
from tests.helpers.llada_models import ROWS, SHAPES, SIZES, make_model, tokens

LLADA_8B = LLaDAConfig(mlp_hidden_size=12288)
GIB = 2**30


def counted(function) -> int:
    """Operations of matrix products that PyTorch sees; eager attention is made of those."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_pass_costs_what_pytorch_counts(shape: str) -> None:
    model = make_model(**SHAPES[shape])
    model.set_attn_implementation("eager")
    ids = tokens(1, 23)
    rows = torch.tensor([[0, position] for position in (3, 4, 11, 20)])
    work = pass_work(model.config, 23, 4)
    assert work.flops == counted(lambda: model(ids, rows=rows))
    assert pass_work(model.config, 23, 23).flops == counted(lambda: model(ids))


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_have_as_many_numbers_as_the_model(shape: str) -> None:
    model = make_model(**SHAPES[shape])
    assert num_parameters(model.config) == sum(p.numel() for p in model.parameters())


DECODING = {
    "exact": SamplingOptions(gen_length=12),
    "blocks": SamplingOptions(gen_length=11, block_length=4, steps=7),
    "random": SamplingOptions(gen_length=12, steps=5, remasking="random"),
    "guidance": SamplingOptions(gen_length=6, cfg_scale=1.5),
    "prefix": SamplingOptions(gen_length=12, block_length=4, cache="prefix"),
    "dual": SamplingOptions(gen_length=12, block_length=4, cache="dual"),
    "refreshed": SamplingOptions(gen_length=12, block_length=6, cache="dual", refresh_every=4),
    "delayed": SamplingOptions(
        gen_length=12, block_length=6, cache="dual", refresh_every=5, entry="delayed"
    ),
    "delayed_prefix": SamplingOptions(gen_length=12, steps=5, cache="prefix", entry="delayed"),
    "guided_prefix": SamplingOptions(gen_length=8, block_length=4, cache="prefix", cfg_scale=0.5),
    "parallel_at_its_slowest": SamplingOptions(gen_length=8, block_length=4, steps=2, threshold=1),
}


@pytest.mark.parametrize("options", DECODING.values(), ids=DECODING)
def test_decoding_costs_what_pytorch_counts(options: SamplingOptions) -> None:
    model = make_model(n_kv_heads=2, n_layers=2)
    model.set_attn_implementation("eager")

    def run() -> None:
        generate(
            as_denoiser(model, mask_token_id=96),
            [tokens(17)],
            options,
            seeds=[3],
        )

    assert generation_work(model.config, 17, options).flops == counted(run)


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"keep": 0.3},
        {"keep": 0.3, "prompt_refresh": 2, "cfg_scale": 0.5},
        {"keep": 1, "steps": 5},
        {"remasking": "random"},
    ],
)
def test_decoding_beside_kept_prompts_costs_what_pytorch_counts(knobs) -> None:
    model = make_model(n_kv_heads=2, n_layers=2)
    options = SamplingOptions(gen_length=11, block_length=4, cache="prompt", **knobs)

    def run() -> None:
        # The kernel that is made of products of matrices, which are what is counted.
        with sdpa_kernel(SDPBackend.MATH):
            generate(as_denoiser(model, mask_token_id=96), [tokens(400)], options, seeds=[3])

    assert generation_work(model.config, 400, options).flops == counted(run)


def test_chunks_are_counted_as_if_none_were_at_an_end() -> None:
    model = make_model(n_kv_heads=2, n_layers=2)
    options = SamplingOptions(gen_length=4, cache="prompt", prompt_chunk=16, keep=0.5)

    def run() -> None:
        with sdpa_kernel(SDPBackend.MATH):
            generate(as_denoiser(model, mask_token_id=96), [tokens(640)], options)

    foreseen = generation_work(model.config, 640, options).flops
    assert 0.98 * foreseen < counted(run) <= foreseen
    whole = generation_work(model.config, 640, replace(options, prompt_chunk=None)).flops
    assert foreseen < 0.7 * whole


@pytest.mark.parametrize(("target", "mc_num"), [(1, 128), (3, 7), (3, 128)])
def test_enumerating_costs_what_pytorch_counts(target: int, mc_num: int) -> None:
    model = make_model(n_kv_heads=2, n_layers=2)
    model.set_attn_implementation("eager")
    options = LikelihoodOptions(mc_num=mc_num, batch_size=1)

    def run() -> None:
        pair = (tokens(9), tokens(target, seed=4))
        scored_pairs(as_denoiser(model, mask_token_id=96), [pair], options)

    work = likelihood_work(model.config, 9, target, options, check_greedy=True)
    assert work.flops == pytest.approx(counted(run), rel=1e-12)
    assert work.num_passes == 2**target - 1


@pytest.mark.parametrize("check_greedy", [False, True])
def test_drawn_masks_cost_no_more_than_foreseen(check_greedy: bool) -> None:
    model = make_model(n_layers=1)
    model.set_attn_implementation("eager")
    options = LikelihoodOptions(mc_num=24, method="mc", batch_size=1)
    target = tokens(8, seed=2)

    def run() -> None:
        scored_pairs(
            as_denoiser(model, mask_token_id=96),
            [(tokens(20), target)],
            options,
            seeds=[7],
            check_greedy=check_greedy,
        )

    foreseen = likelihood_work(model.config, 20, 8, options, check_greedy=check_greedy).flops
    assert 0.6 * foreseen < counted(run) <= foreseen


def test_a_target_too_long_to_enumerate_is_refused_as_in_a_run() -> None:
    model = make_model()
    options = LikelihoodOptions(method="enumerate")
    with pytest.raises(ValueError, match="Only targets of 1 to 7 tokens"):
        likelihood_work(model.config, 4, 8, options)
    with pytest.raises(ValueError, match="Only targets of 1 to 7 tokens"):
        log_likelihoods(as_denoiser(model, mask_token_id=96), [(tokens(4), tokens(8))], options)


def test_an_empty_target_costs_nothing() -> None:
    assert likelihood_work(LLADA_8B, 100, 0, LikelihoodOptions(), check_greedy=True) == Work()


class LiveStorage(TorchDispatchMode):
    """Bytes of the storage that operations have made and nothing has freed yet, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {
            t.untyped_storage()._cdata
            for t in tree_iter((args, kwargs))
            if isinstance(t, torch.Tensor)
        }
        result = function(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                self._saw(tensor.untyped_storage(), given)
        return result

    def _saw(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key = storage._cdata
        if key in given or key in self._known:
            return
        self._known.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._freed, key, storage.nbytes())

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


# A size at which streams, chunks of the MLP, and attention of more than one block all show.
MEMORY_SIZES = {**SIZES, "d_model": 256, "n_heads": 8, "mlp_hidden_size": 768, "n_layers": 3}
MEMORY_SHAPES = {
    "mha": {},
    "gqa": {"n_kv_heads": 2},
    **{name: ROWS[name] for name in ("dream", "a2d_llama", "llada_moe", "llada2_moe")},
    "a2d_qwen3": {**ROWS["a2d_qwen3"], "head_dim": 64},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", MEMORY_SHAPES)
@pytest.mark.parametrize("is_chunked", [False, True])
def test_activations_stay_within_the_estimate_and_near_it(
    monkeypatch, dtype: torch.dtype, shape: str, is_chunked: bool
) -> None:
    length, num_rows = 512, 16
    if is_chunked:
        chunk = 64 * 768 * dtype.itemsize
        monkeypatch.setattr(block_module, "MLP_CHUNK_BYTES", chunk)
        monkeypatch.setattr("lm_eval_llada.modeling.cost.MLP_CHUNK_BYTES", chunk)
    model = make_model(**{**MEMORY_SIZES, **MEMORY_SHAPES[shape]}).to(dtype)
    rows = torch.tensor([[0, position] for position in range(num_rows)])
    ids = tokens(1, length)
    with torch.no_grad(), LiveStorage() as live:
        model(ids, rows=rows)
    estimate = activation_bytes(model.config, length, num_rows, dtype.itemsize)
    assert live.peak <= 1.02 * estimate
    # Of experts, the estimate has one that gets all tokens.
    assert live.peak >= (0.6 if model.config.num_experts else 0.75) * estimate


def test_a_full_cache_holds_the_keys_and_values_of_every_layer() -> None:
    model = make_model(n_kv_heads=2)
    cache = KeyValueCache()
    with torch.no_grad():
        model(tokens(1, 19), cache=cache)
    held = [tensor.nbytes for pair in cache._layers.values() for tensor in pair]
    assert cache_bytes(model.config, 19, 4) == sum(held)


def test_llada_8b_has_its_published_size_and_cache() -> None:
    assert num_parameters(LLADA_8B) == 8_015_581_184
    assert cache_bytes(LLADA_8B, 131_072, 2) == 64 * GIB


def test_a_pass_of_llada_8b_over_128k_tokens_by_hand() -> None:
    tokens_read, rows, width = 131_072, 16, 4096
    layer = 2 * (4 * width**2 + 3 * width * 12288)
    work = pass_work(LLADA_8B, tokens_read, rows)
    last = tokens_read * 4 * width**2 + rows * (layer - 4 * width**2)
    head = rows * 2 * width * 126_464
    assert work.linear == 31 * tokens_read * layer + last + head
    assert work.attention == 4 * width * tokens_read * (31 * tokens_read + rows)
    assert work.flops == pytest.approx(1.0507e16, rel=1e-4)


def test_a_full_cache_at_128k_does_not_fit_80_gb_but_an_exact_pass_does() -> None:
    exact = peak_bytes(LLADA_8B, 131_072, 16, 2)
    cached = peak_bytes(LLADA_8B, 131_072, 16, 2, is_cached=True)
    assert 16.03e9 < exact < 35e9
    assert cached - exact == 64 * GIB
    assert cached > 80e9
    assert peak_bytes(LLADA_8B, 131_072, 16, 2, is_cached=True, num_devices=2) < 80e9


@given(
    length=st.integers(1, 4000),
    gen_length=st.integers(1, 64),
    block_length=st.integers(1, 64),
    steps=st.integers(1, 80),
)
def test_a_cache_never_costs_more_and_reads_as_often(
    length: int, gen_length: int, block_length: int, steps: int
) -> None:
    exact = SamplingOptions(gen_length=gen_length, block_length=block_length, steps=steps)
    config = LLaDAConfig(**SIZES)
    works = [
        generation_work(config, length, replace(exact, cache=cache))
        for cache in ("none", "prefix", "dual", "prompt")
    ]
    assert works[0].flops >= works[1].flops >= works[2].flops
    assert works[0].flops >= works[3].flops
    assert len({work.num_passes for work in works}) == 1
    # A full pass at every step is no approximation any more.
    every = replace(exact, cache="dual", refresh_every=1)
    assert generation_work(config, length, every) == works[0]


def test_attention_kernels_that_keep_pairs_are_counted() -> None:
    config, length = LLaDAConfig(**SIZES), 1000
    lean = activation_bytes(config, length, 1, 4)
    eager = activation_bytes(config, length, 1, 4, attention="eager")
    assert eager - lean == config.n_heads * 12 * length**2
    assert activation_bytes(config, length, 1, 4, attention="flash_attention_2") == lean


@pytest.mark.parametrize("n_kv_heads", [8, 2])
def test_a_padded_batch_stays_within_the_estimate_without_a_mask_of_tokens_by_tokens(
    n_kv_heads: int,
) -> None:
    model, lengths = make_model(**MEMORY_SIZES, n_kv_heads=n_kv_heads), (2048, 2040, 1500)
    mask = torch.arange(lengths[0]) < torch.tensor(lengths)[:, None]
    rows = torch.tensor([[sequence, i] for sequence in range(3) for i in range(16)])
    with torch.no_grad(), LiveStorage() as live:
        model(tokens(3, lengths[0]), attention_mask=mask.long(), rows=rows)
    estimate = 3 * activation_bytes(model.config, lengths[0], 16, 4, is_padded=True)
    assert 0.6 * estimate <= live.peak <= 1.02 * estimate


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
@pytest.mark.parametrize("keep", [None, 0.25])
def test_decoding_beside_kept_prompts_stays_within_the_estimate(
    monkeypatch, dtype: str, keep
) -> None:
    # Of the parts of a CPU, as below. A GPU's are larger.
    monkeypatch.setattr("lm_eval_llada.modeling.prompt_memory.MANY_ROWS", 512)
    model, length = make_model(**MEMORY_SIZES), 4096
    options = SamplingOptions(
        gen_length=16, cache="prompt", prompt_chunk=256, keep=keep, cache_dtype=dtype, steps=3
    )
    with torch.no_grad(), LiveStorage() as live:
        generate(as_denoiser(model, mask_token_id=96), [tokens(length)], options)
    weights = num_parameters(model.config) * 4
    estimate = prompt_peak_bytes(model.config, length, options, 4) - weights
    assert 0.4 * estimate <= live.peak <= 1.02 * estimate
    # Little is held beside keys and values; of another type, those of one of the three layers.
    if dtype == "auto":
        kept = cache_bytes(model.config, length, 4)
        assert live.peak <= (1.6 if keep is None else 1.8) * kept


def test_a_prompt_of_128k_fits_80_gb_where_it_is_kept_in_one_byte_a_number() -> None:
    lean = {"gen_length": 64, "block_length": 32, "cache": "prompt", "prompt_chunk": 256}
    lean |= {"keep": 0.125}
    peaks = {
        (length, dtype): prompt_peak_bytes(
            LLADA_8B, length, SamplingOptions(**lean, cache_dtype=dtype), 2
        )
        for length in (32_768, 131_072)
        for dtype in ("auto", "float8_e4m3fn")
    }
    assert peaks[32_768, "auto"] < 40e9
    assert peaks[131_072, "float8_e4m3fn"] < 80e9 < peaks[131_072, "auto"]
    work = generation_work(LLADA_8B, 131_072, SamplingOptions(**lean))
    exact = generation_work(LLADA_8B, 131_072, SamplingOptions(gen_length=64, block_length=32))
    assert work.flops < exact.flops / 200


@pytest.mark.parametrize("name", ["batch_size", "num_devices"])
def test_a_number_below_one_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a whole number >= 1; got 0"):
        peak_bytes(LLaDAConfig(**SIZES), 10, 1, 4, **{name: 0})
