"""Families of fuzzed settings: rope arguments, model_args, generation_kwargs, task metadata."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from hypothesis import strategies as st

from lm_eval_llada.diffusion.sampler import SamplingOptions, block_schedule
from lm_eval_llada.engine.arguments import known_names
from lm_eval_llada.engine.requests import generation_settings
from lm_eval_llada.harness.llada import LLaDALM
from lm_eval_llada.modeling import (
    LLaDAConfig,
    LLaDAForMaskedLM,
    apply_rope,
)
from lm_eval_llada.modeling.rotary import LLaDARotaryEmbedding
from lm_eval_llada.rope import (
    METHODS,
    RopeChoice,
    describe,
)
from lm_eval_llada.tasks.longbench.samples import longbench_dataset
from lm_eval_llada.tasks.niah.multi import niah_multi_dataset
from lm_eval_llada.tasks.niah.single import niah_dataset
from lm_eval_llada.tasks.perplexity.samples import perplexity_dataset
from lm_eval_llada.tasks.ruler.options import RULER_TASKS
from lm_eval_llada.tasks.ruler.samples import ruler_dataset
from tests.helpers.fuzz_oracle import Family, named, settings_of, wild
from tests.helpers.ruler_corpora import write_corpora
from tests.helpers.toy_tokenizer import toy_tokenizer

_SIZES: dict[str, Any] = {"d_model": 32, "n_layers": 2, "n_heads": 4, "mlp_hidden_size": 48}
_TOKENS: dict[str, Any] = {
    "mask_token_id": 1,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "bos_token_id": 2,
}


@lru_cache(maxsize=1)
def checkpoint() -> Path:
    """Folder of a random model with its tokenizer."""
    folder = Path(mkdtemp(prefix="fuzz_checkpoint_"))
    torch.manual_seed(0)
    config = LLaDAConfig(vocab_size=600, max_sequence_length=128, **_SIZES, **_TOKENS)
    LLaDAForMaskedLM(config).save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return folder


@lru_cache(maxsize=1)
def corpora() -> str:
    """Folder with essays and the files of RULER's questions."""
    return str(write_corpora(Path(mkdtemp(prefix="fuzz_corpora_"))))


# --- rope -----------------------------------------------------------------------------------------

_FACTORS = st.floats(0.5, 100)
ROPE = {
    "method": st.sampled_from(METHODS),
    "scale": st.floats(1, 1e6) | st.integers(1, 500),
    "target_length": st.integers(1, 2**21),
    "train_length": st.integers(7, 2**18),
    "d_crit": st.floats(0.1, 200),
    "round_scale": st.booleans(),
    "extra": st.dictionaries(
        st.sampled_from(["beta_fast", "beta_slow", "attention_factor", "truncate",
                         "low_freq_factor", "high_freq_factor", "mscale", "mscale_all_dim"]),
        _FACTORS | st.booleans() | wild(), max_size=3,
    ) | st.fixed_dictionaries({"long_factor": st.lists(_FACTORS, min_size=3, max_size=5)}),
}  # fmt: skip
_HEADS = st.tuples(
    st.floats(1.001, 1e12) | st.sampled_from([1e4, 5e5]),
    st.sampled_from([2, 4, 8, 32]),
    st.integers(1, 2**18),
)


def run_rope(value: tuple[dict[str, Any], tuple[float, int, int]]) -> None:
    given, (rope_theta, n_heads, train_length) = value
    if not isinstance(given.get("extra", {}), dict):
        return  # model_args make a dict of it, always
    sizes = {**_SIZES, "d_model": 64, "n_heads": n_heads, "n_kv_heads": n_heads}
    sizes |= {"rope_theta": rope_theta, "max_sequence_length": train_length}
    config = LLaDAConfig(**sizes)
    scaled, resolved = apply_rope(config, RopeChoice(**given))
    assert resolved.rope_scale >= 1 and math.isfinite(resolved.rope_theta)
    assert resolved.reach is None or 0 < resolved.reach < math.inf
    assert all("\n" not in line for line in describe(resolved))
    rotary = LLaDARotaryEmbedding(scaled)
    assert all(math.isfinite(turn) and turn > 0 for turn in rotary.inv_freq)
    assert math.isfinite(rotary.attention_factor) and rotary.attention_factor > 0
    cos, sin = rotary(64, torch.device("cpu"))
    assert bool(cos.isfinite().all() and sin.isfinite().all())


def rope_words(value: tuple[dict[str, Any], tuple[float, int, int]]) -> list[str]:
    extra = value[0].get("extra")
    keys = extra if isinstance(extra, dict) else ()
    return [
        *named(value[0]),
        *map(str, keys),
        *map(repr, keys),
        "rope_theta",
        "train_length",
        "head_dim",
    ]


# --- model_args -----------------------------------------------------------------------------------

_WORDS = st.sampled_from(
    ["auto", "mc", "enumerate", "none", "ntk", "yarn", "dual", "prefix", "random", "float32",
     "bfloat16", "left", "middle", "error", "sdpa", "eager", "cpu", "cuda", "mps", "meta", "model",
     "tiny-llada", "cl100k", "flex_attention", "flash_attention_2", "cuda:99", "tiny_llada", "."]
)  # fmt: skip
_GOOD: dict[str, list[Any]] = {
    "dtype": ["float32", "bfloat16"], "device": ["cpu", "auto"], "attn_implementation": ["eager"],
    "batch_size": [1, "auto", "auto:4"], "max_batch_size": [8], "max_length": [64, "4096"],
    "truncation": ["left", "middle", "error"], "add_bos_token": [True], "seed": [0, 7, -1],
    "rope_method": ["none", "ntk", "diffusion_ntk", "linear", "yarn"], "rope_scale": [1, 4.5],
    "target_length": [64, 256, 4096], "train_length": [64], "d_crit": [6, 7.5],
    "force_rope": [True],
    "steps": [4], "gen_length": [8], "block_length": [4], "remasking": ["random"],
    "temperature": [0, 0.5], "cfg_scale": [0.5], "mc_num": [2], "likelihood": ["mc", "auto"],
    "is_check_greedy": [False], "cache": ["prefix", "dual", "prompt"], "threshold": [0.9],
    "suppress_eos": [True], "stop_at_eos": [True], "refresh_every": [2], "data_dir": ["."],
}  # fmt: skip
_ODD = st.integers(1, 300) | st.floats(0, 3) | st.booleans() | _WORDS
MODEL_ARGS = {
    name: st.sampled_from(_GOOD[name]) if name in _GOOD else _ODD
    for name in (*known_names(), "rope_scal", "trust_remote_code")
}


def run_model_args(given: dict[str, Any]) -> None:
    lm = LLaDALM(**{"pretrained": str(checkpoint()), **given})
    assert lm.max_length >= 1 and lm.max_gen_toks >= 1
    assert math.isfinite(lm.rope.rope_theta) and len(lm._owner) == 64


def model_args_words(given: dict[str, Any]) -> list[str]:
    # Further keys of a rope method are named without their beginning.
    return [*named(given), *(name.removeprefix("rope_") for name in given)]


# --- generation_kwargs ----------------------------------------------------------------------------

GEN_KWARGS = {
    "gen_length": st.integers(1, 300),
    "max_gen_toks": st.integers(1, 300),
    "max_new_tokens": st.integers(1, 300) | st.just("16"),
    "steps": st.integers(1, 300),
    "block_length": st.integers(1, 300),
    "remasking": st.sampled_from(["random", "low_confidence", "low"]),
    "temperature": st.floats(0, 2),
    "cfg_scale": st.floats(0, 2),
    "do_sample": st.booleans(),
    "until": st.lists(st.text(max_size=3), max_size=3) | st.text(max_size=3),
    "ignore_eos": st.booleans(),
    "threshold": st.floats(0, 1),
    "factor": st.floats(0, 3),
    "cache": st.sampled_from(["none", "dual", "prefix", "prompt"]),
    "prompt_chunk": st.integers(1, 64),
    "keep": st.floats(0, 1.5),
    "cache_dtype": st.sampled_from(["auto", "bfloat16", "int8"]),
    "refresh_every": st.integers(1, 9),
    "entry": st.sampled_from(["block", "delayed", "late"]),
    "stop_at_eos": st.booleans(),
    "suppress_eos": st.booleans(),
    "top_p": st.floats(0, 1),
    "top_k": st.integers(-1, 50),
    "alg": st.sampled_from(["none", "entropy", "origin", "entropi"]),
    "alg_temp": st.floats(0, 2),
    "num_beams": st.integers(1, 4),
    "repetition_penalty": st.just(1.0),
    "until_": st.just("x"),
}


def run_gen_kwargs(given: dict[str, Any]) -> None:
    before = repr(given)
    plan = generation_settings(given, SamplingOptions(gen_length=32))
    assert repr(given) == before and hash(plan) == hash(plan)
    assert all(isinstance(stop, str) and stop for stop in plan.until)
    assert isinstance(plan.ignore_eos, bool)
    if plan.options.gen_length <= 4096 and not plan.options.is_parallel:
        steps = [len(counts) for _, _, counts in block_schedule(plan.options)]
        assert 1 <= sum(steps) <= plan.options.gen_length


# --- metadata -------------------------------------------------------------------------------------

_COMMON = {
    "length_unit": st.sampled_from(["model", "models"]),
    "data_seed": st.integers(0, 99),
    "add_bos_token": st.booleans(),
    "apply_chat_template": st.booleans(),
    "generation_kwargs": st.fixed_dictionaries({"gen_length": st.integers(1, 64)}),
    "gen_kwargs": st.fixed_dictionaries({"gen_length": st.integers(1, 64)}),
    "data_dir": st.sampled_from([corpora(), "/nowhere"]),
}
_NEEDLES = {
    **_COMMON,
    "length": st.integers(1, 300),
    "repeats": st.integers(1, 3),
    "depths": st.lists(st.sampled_from([0, 10, 50, 55, 100, -1]), max_size=3),
    "haystack": st.sampled_from(["noise", "essays", "needlebench"]),
    "needles": st.sampled_from(["auto", "numbers", "needlebench"]),
    "num_distractors": st.integers(0, 3),
    "wording": st.sampled_from(["own", "needlebench", "needelbench"]),
    "template": st.sampled_from(["{context} {stem}", "{question}", "{", "{context!z}"]),
    "buffer": st.integers(0, 200),
    "repeat": st.just(1),
}
_RULER = {
    **_COMMON,
    "ruler_task": st.sampled_from(RULER_TASKS),
    "length": st.integers(1, 300),
    "num_samples": st.integers(1, 3),
    "output_budget": st.integers(1, 64),
    "settings": st.dictionaries(
        st.sampled_from(["num_needle_k", "num_needle_v", "num_chains", "num_hops", "alpha"]),
        st.integers(0, 4) | st.floats(0, 4) | wild(), max_size=2,
    ),
    "template": st.sampled_from(["{context} {query}", "{context}", "{", "{x}", "{context!z}"]),
    "answer_prefix": st.text(max_size=4),
    "answer_newlines": st.integers(0, 3),
}  # fmt: skip
_PERPLEXITY = {
    **_COMMON,
    "lengths": st.lists(st.integers(1, 300), max_size=3),
    "text": st.sampled_from(["heldout", "heldoubt", "/nowhere", "pg19"]),
    "chunk_length": st.integers(1, 64),
    "num_chunks": st.integers(1, 3),
    "num_documents": st.integers(1, 2),
}
_GENERATION = {"generation_kwargs": {"gen_length": 32}}
_BASES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "niah": (niah_dataset, {"length": 200, "repeats": 1, "depths": [50], **_GENERATION}),
    "niah_multi": (niah_multi_dataset, {"length": 300, "repeats": 1, "depths": [0, 100],
                                        "generation_kwargs": {"gen_length": 120}}),
    "ruler": (ruler_dataset, {"ruler_task": "niah_single_1", "length": 250, "num_samples": 1,
                              "data_dir": corpora(), **_GENERATION}),
    "perplexity": (perplexity_dataset, {"lengths": [128, 256], "chunk_length": 32}),
    "longbench": (longbench_dataset, {"dataset": "hotpotqa", "prompt_length": 100,
                                      "data_dir": corpora()}),
}  # fmt: skip
_LONGBENCH = {**_COMMON, "dataset": st.sampled_from(["trec", "hotpotqa", "hotpot"]),
              "prompt_length": st.integers(1, 300), "num_samples": st.integers(1, 3),
              "template": st.sampled_from(["{context}", "{input}", "{", "{x}"]),
              "wording": st.sampled_from(["trec", "qasper", "qaspr"]),
              "part_words": st.sampled_from(["qasper", "x"]),
              "ending": st.text(max_size=2)}  # fmt: skip


def run_metadata(value: tuple[str, dict[str, Any]]) -> None:
    name, given = value
    make, base = _BASES[name]
    settings = {**base, **given}
    # A sample of any length is a right one; those of a million tokens only take their time.
    _skip_huge(settings)
    samples = make(tokenizer=toy_tokenizer(), **settings)["test"]
    assert len(samples) > 0
    for sample in samples:
        room = settings.get("prompt_length", sample.get("length", math.inf))
        if not settings.get("buffer") and name != "perplexity":
            assert sample["num_tokens"] + sample.get("gen_length", 0) <= room


def _skip_huge(settings: dict[str, Any]) -> None:
    for name in ("length", "repeats", "num_samples", "num_distractors", "num_chunks"):
        value = settings.get(name)
        if isinstance(value, int) and value > 1000:
            settings[name] = 1000 if name == "length" else 2
    extra = settings.get("settings")
    if isinstance(extra, dict):
        settings["settings"] = {
            key: 5 if isinstance(value, int | float) and value > 100 else value
            for key, value in extra.items()
        }


def metadata_words(value: tuple[str, dict[str, Any]]) -> list[str]:
    name, given = value
    numbers = given.get("settings")
    names = list(numbers) if isinstance(numbers, dict) else []
    keys = [form for name in names for form in (repr(name), str(name))]
    return [*named(given), *_BASES[name][1], *keys, "needlebench", "chat template", "gen_length"]


_METADATA = st.one_of(
    *(
        st.tuples(st.just(name), settings_of(plausible))
        for name, plausible in (
            *(("niah", _NEEDLES), ("niah_multi", _NEEDLES), ("ruler", _RULER)),
            *(("perplexity", _PERPLEXITY), ("longbench", _LONGBENCH)),
        )
    )
)

FAMILIES = [
    Family("rope", st.tuples(settings_of(ROPE), _HEADS), run_rope, rope_words, 2),
    Family("model_args", settings_of(MODEL_ARGS), run_model_args, model_args_words, 1),
    Family("gen_kwargs", settings_of(GEN_KWARGS), run_gen_kwargs, named, 2),
    Family("metadata", _METADATA, run_metadata, metadata_words, 1),
]
