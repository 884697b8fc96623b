"""What becomes of model_args and generation_kwargs, and how requests are batched."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.diffusion.sampler import SamplingOptions
from lm_eval_llada.engine.arguments import (
    ModelArguments,
    known_names,
    parse_model_args,
)
from lm_eval_llada.engine.batching import Batcher, shortest_first
from lm_eval_llada.engine.device_memory import DeviceMemory, Taken
from lm_eval_llada.engine.ranks import (
    Ranks,
    choose_device,
    join_ranks,
    own_gpu_memory,
)
from lm_eval_llada.engine.requests import (
    RequestSeeds,
    content_seed,
    fit_prompt,
    generation_settings,
)
from lm_eval_llada.engine.tokenization import checked_mask_token
from lm_eval_llada.harness.runlog import RunLog, merge_logs
from lm_eval_llada.modeling import LLaDAConfig
from tests.helpers.toy_tokenizer import toy_tokenizer

NAMES = {
    "pretrained": "tiny-llada",
    "tokenizer": "org/name",
    "revision": "main",
    "dtype": "bfloat16",
    "device": "cpu",
    "attn_implementation": "eager",
    "device_map": "auto",
    "batch_size": 8,
    "max_batch_size": 16,
    "max_length": 4096,
    "truncation": "left",
    "rope_method": "diffusion_ntk",
    "target_length": 16384,
    "train_length": 4096,
    "d_crit": 73,
    "round_scale": True,
    "force_rope": True,
    "steps": 16,
    "gen_length": 32,
    "block_length": 32,
    "remasking": "random",
    "temperature": 0.5,
    "cfg_scale": 1.5,
    "stop_at_eos": True,
    "suppress_eos": False,
    "mc_num": 64,
    "likelihood": "mc",
    "is_check_greedy": False,
    "seed": 7,
    "add_bos_token": True,
    "data_dir": ".",
    "length_unit": "cl100k",
}


def test_every_name_is_accepted_as_a_value_and_as_a_string() -> None:
    parsed = parse_model_args(NAMES)
    assert parse_model_args({name: str(value) for name, value in NAMES.items()}) == parsed
    assert (parsed.rope.method, parsed.rope.d_crit) == ("diffusion_ntk", 73)
    assert (parsed.sampling.cfg_scale, parsed.likelihood.cfg_scale) == (1.5, 1.5)
    assert parsed.likelihood.method == "mc"
    assert parsed.requests.add_bos_token is True
    # `tp` contradicts device_map, and rope_scale the test's target; they are names all the same.
    assert set(known_names()) >= set(NAMES) | {"tp", "rope_scale"}


def test_nothing_given_is_the_defaults() -> None:
    assert parse_model_args({}) == ModelArguments()


def test_further_rope_keys_pass_through() -> None:
    arguments = {"rope_method": "yarn", "target_length": 1024, "rope_beta_fast": 16}
    assert parse_model_args(arguments).rope.extra == {"beta_fast": 16}


def test_the_name_none_is_a_method_and_not_nothing() -> None:
    arguments = parse_model_args({"rope_method": "none", "target_length": 2048})
    assert arguments.rope.method == "none"


@pytest.mark.parametrize(
    ("model_args", "message"),
    [
        ({"rope_scal": 4}, "no 'rope_scal'. Did you mean 'rope_scale'"),
        ({"mc_nums": 4}, "Did you mean 'mc_num'"),
        ({"dtype": "float8"}, "dtype must be one of auto, float32, bfloat16, float16"),
        ({"remasking": "entropy"}, "remasking must be one of low_confidence, random"),
        ({"truncation": "right"}, "truncation must be one of middle, left, error"),
        ({"rope_method": "ntkk"}, "Did you mean 'ntk'"),
        ({"likelihood": "exact"}, "must be one of auto, mc, enumerate"),
        (
            {"attn_implementation": "flash"},
            "must be one of sdpa, eager, flex_attention, flash_attention_2",
        ),
        ({"length_unit": "words"}, "length_unit must be one of model, cl100k"),
        ({"gen_length": 0}, "gen_length must be .* 1; got 0"),
        ({"gen_length": "many"}, "gen_length must be an integer; got 'many'"),
        ({"gen_length": 12.5}, "gen_length must be an integer; got 12.5"),
        ({"temperature": True}, "temperature must be a number"),
        ({"temperature": -1}, "temperature must be"),
        ({"is_check_greedy": "maybe"}, "is_check_greedy must be true or false"),
        ({"batch_size": 0}, "batch_size must be auto or an integer"),
        ({"batch_size": "big"}, "batch_size must be auto or an integer"),
        ({"max_length": 0}, "max_length must be at least 1"),
        ({"data_dir": "/no/such/folder"}, "data_dir='/no/such/folder' is not an existing folder"),
        ({"tp": 2, "device_map": "auto"}, "give only one of them"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed(model_args, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_model_args(model_args)


DEFAULTS = SamplingOptions(steps=32, gen_length=64, temperature=0.5, block_length=16)


@pytest.mark.parametrize(
    ("gen_kwargs", "changes"),
    [
        ({}, {}),
        ({"max_gen_toks": 8}, {"gen_length": 8}),
        ({"max_new_tokens": 8, "until": ["x"]}, {"gen_length": 8}),
        ({"max_gen_toks": 8, "gen_length": 4}, {"gen_length": 4}),
        ({"do_sample": False}, {"temperature": 0.0}),
        ({"do_sample": True}, {}),
        ({"temperature": "0.25"}, {"temperature": 0.25}),
        ({"steps": "4", "remasking": "random"}, {"steps": 4, "remasking": "random"}),
        ({"do_sample": False, "top_p": 0.9, "num_beams": 1}, {"temperature": 0.0}),
    ],
)
def test_a_request_overrides_model_args(gen_kwargs, changes) -> None:
    plan = generation_settings(gen_kwargs, DEFAULTS)
    assert plan.options == dataclasses.replace(DEFAULTS, **changes)


@pytest.mark.parametrize(
    ("gen_kwargs", "message"),
    [
        ({"step": 4}, "no 'step'. Did you mean 'steps'"),
        ({"top_p": 0.9}, "top_p=0.9 is not available"),
        ({"num_beams": 4}, "num_beams=4 is not available"),
        ({"gen_length": 0}, "gen_length must be"),
        ({"ignore_eos": "perhaps"}, "ignore_eos must be true or false"),
    ],
)
def test_a_wrong_generation_setting_is_an_error(gen_kwargs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generation_settings(gen_kwargs, DEFAULTS)


def test_a_tokenizer_without_the_mask_token_is_an_error() -> None:
    config = LLaDAConfig(vocab_size=1000, d_model=8, n_heads=2, n_layers=1, mask_token_id=900)
    with pytest.raises(ValueError, match="id 900, but the tokenizer 'toy' has no such token"):
        checked_mask_token(toy_tokenizer(), config, "toy")


def test_stops_come_from_a_string_or_a_list() -> None:
    assert generation_settings({"until": "\n"}, DEFAULTS).until == ("\n",)
    assert generation_settings({"until": ["\n", "", "Q:"]}, DEFAULTS).until == ("\n", "Q:")


def test_seeds_depend_on_content_and_on_nothing_else() -> None:
    seeds = RequestSeeds(1)
    first = seeds.next(("task", 0), "generate_until", "text", repeats=2)
    assert first == RequestSeeds(1).next(("other", 5), "generate_until", "text", repeats=2)
    assert first == content_seed(1, "generate_until", "text")
    others = [
        seeds.next(("task", 0), "generate_until", "text", repeats=2),
        content_seed(2, "generate_until", "text"),
        content_seed(1, "loglikelihood", "text"),
        content_seed(1, "generate_until", "text", ""),
    ]
    assert len({first, *others}) == 5


@given(
    st.lists(st.integers(0, 99), max_size=30),
    st.integers(1, 10),
    st.integers(11, 40),
    st.sampled_from(["left", "middle"]),
)
def test_a_fitted_prompt_fills_the_room_it_has(prompt, reserved, max_length, how) -> None:
    kept = fit_prompt(prompt, reserved, max_length, how, "request")
    room = max_length - reserved
    assert len(kept) == min(len(prompt), room)
    if how == "left":
        assert kept == prompt[len(prompt) - len(kept) :]
    else:
        half = len(kept) // 2
        assert kept == prompt[:half] + prompt[len(prompt) - (len(kept) - half) :]


def test_logs_of_ranks_add_up_without_counting_a_sample_twice() -> None:
    logs = [RunLog(num_passes=2, seconds=1.0), RunLog(num_passes=3, seconds=2.0)]
    logs[0].saw_prompt("task", (0,), 5)
    logs[1].saw_prompt("task", (0,), 5)
    logs[1].saw_prompt("task", (1,), 0)
    summary = merge_logs(logs).summary()
    assert summary["truncation"]["task"]["requests"] == 2
    assert summary["truncation"]["task"]["tokens_dropped"] == 5
    assert summary["work"]["forward_passes"] == 5
    assert summary["work"]["seconds"] == 2.0


MEMORY = DeviceMemory(torch.device("cpu"))


class Memory:
    """Runs batches of up to so many tokens, and remembers their sizes."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.sizes: list[int] = []

    def __call__(self, batch: list[int], size: int) -> list[int]:
        assert len(batch) <= size
        if max(batch) * size > self.tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.sizes.append(len(batch))
        return [-item for item in batch]


def process(batcher: Batcher, items: list[int], memory: Memory) -> list[tuple[int, int]]:
    ordered = shortest_first(items, lambda item: item)
    batches = batcher.process(ordered, lambda item: (item, item), memory)
    return [pair for batch in batches for pair in batch]


@given(st.lists(st.integers(1, 100), max_size=20), st.integers(100, 1000))
def test_auto_halves_until_batches_fit_and_loses_nothing(items: list[int], tokens: int) -> None:
    batcher = Batcher(None, None, MEMORY, lambda length, rows: 1)
    results = process(batcher, items, Memory(tokens))
    assert sorted(results) == sorted((item, -item) for item in items)


def test_auto_uses_the_memory_there_is() -> None:
    batcher, memory = Batcher(None, 8, MEMORY, lambda length, rows: 1), Memory(10**6)
    process(batcher, [10] * 20, memory)
    assert memory.sizes == [8, 8, 4]


def test_a_size_that_was_asked_for_halves_too_with_a_warning(caplog) -> None:
    batcher, memory = Batcher(4, None, MEMORY, lambda length, rows: 1), Memory(100)
    results = process(batcher, [50] * 4, memory)
    assert sorted(results) == [(50, -50)] * 4
    assert memory.sizes == [2, 2]
    assert "4 sequences of 50 tokens do not fit" in caplog.text
    assert "going on with 2" in caplog.text


@pytest.mark.parametrize("fixed", [4, None])
def test_what_cannot_fit_is_said_in_one_sentence(fixed) -> None:
    batcher = Batcher(fixed, None, MEMORY, lambda length, rows: 1)
    with pytest.raises(MemoryError, match="do not fit into the memory of cpu; use dtype=bfloat16"):
        process(batcher, [50] * 4, Memory(10))


class CountedMemory(DeviceMemory):
    """A device with a thousand bytes, of which every batch takes 20 for each token."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.tokens = 0

    def free(self) -> int:
        return 1000

    @contextmanager
    def watched(self):
        taken = Taken()
        yield taken
        taken.num_bytes = 20 * self.tokens


def test_auto_goes_by_the_memory_that_batches_have_taken() -> None:
    memory = CountedMemory()
    # Estimated: 10 bytes a token, so 60 tokens in 60 % of the memory. Measured: 20, so 42 in 85 %.
    batcher = Batcher(None, None, memory, lambda length, rows: 10 * length)
    sizes = []

    def run(batch: list[int], size: int) -> list[int]:
        sizes.append(len(batch))
        memory.tokens = sum(batch)
        return batch

    process(batcher, [1] * 200, run)
    assert sizes == [60, 42, 42, 42, 14]


def test_other_errors_pass_through_a_batch() -> None:
    def fail(batch: list[int], size: int) -> list[int]:
        raise RuntimeError("something else")

    batcher = Batcher(None, None, MEMORY, lambda length, rows: 1)
    with pytest.raises(RuntimeError, match="something else"):
        list(batcher.process([1], lambda item: (1, 1), fail))


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cpu:x"])
def test_an_unknown_device_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="device="):
        choose_device(name)


def test_one_process_is_rank_0_of_1(monkeypatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    ranks = join_ranks()
    assert ranks == Ranks(0, 1)
    assert ranks.gather_object("x") == ["x"]
    assert ranks.all_gather(torch.tensor(3)).tolist() == 3


@pytest.mark.parametrize(("local_rank", "own"), [(0, {0, 1, 2, 3}), (1, {4, 5, 6, 7})])
def test_ranks_that_spread_models_part_the_gpus_of_a_node(monkeypatch, local_rank, own) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70, 80))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    assert own_gpu_memory() == {gpu: 70 if gpu in own else 0 for gpu in range(8)}
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert own_gpu_memory() is None
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "9")
    with pytest.raises(ValueError, match="start at most 8"):
        own_gpu_memory()
