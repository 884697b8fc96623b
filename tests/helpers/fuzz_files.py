"""Families of fuzzed texts and files: prompts, tokenizers, weights, configs, indices, corpora."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from lm_eval_llada.engine.tokenization import Tokenization
from lm_eval_llada.harness.llada import LLaDALM
from lm_eval_llada.modeling import load_config, load_model
from lm_eval_llada.modeling.loading import check_weights
from lm_eval_llada.tasks.longbench.samples import longbench_dataset
from lm_eval_llada.tasks.niah.single import niah_dataset
from lm_eval_llada.tasks.perplexity.samples import perplexity_dataset
from lm_eval_llada.tasks.ruler.samples import ruler_dataset
from tests.helpers.fuzz_oracle import Family, fresh_folder, json_values, mutated
from tests.helpers.fuzz_settings import checkpoint, corpora
from tests.helpers.toy_requests import choices, generations, instance
from tests.helpers.toy_tokenizer import toy_tokenizer

MASK_ID, MASK_NAME = 1, "<|mdm_mask|>"

# --- prompts --------------------------------------------------------------------------------------

_SCRAPS = st.sampled_from(
    [MASK_NAME, MASK_NAME[:6], MASK_NAME[6:], "<|endoftext|>", "<|startoftext|>", "\0", "\ufeff",
     "\u202eabc\u202c", "שלום", "مرحبا", "👩‍👩‍👧", "🇩🇪", "\ud83d", "\udfff", "\r\n", "\u2028", " ",
     "a" * 50, "é", "e\u0301", "\x1b[31m", "{{ text }}", "%s", "\uffff", "𝕏"]
)  # fmt: skip
PROMPTS = st.lists(_SCRAPS | st.text(st.characters(), max_size=20), max_size=6).map("".join)


@lru_cache(maxsize=1)
def model() -> LLaDALM:
    """The random model at work, with the least that a request can cost."""
    return LLaDALM(
        pretrained=str(checkpoint()), device="cpu", mc_num=1, likelihood="mc", batch_size=4
    )


def run_prompt(value: tuple[str, str]) -> None:
    lm, (context, continuation) = model(), value
    ids = lm.tok_encode(context)
    assert MASK_ID not in ids
    special = {0, 1, 2}
    if not special & set(ids):
        assert lm.tokenizer.decode(ids) == context
    (text,) = lm.generate_until(generations([context], gen_length=2, steps=1), disable_tqdm=True)
    assert isinstance(text, str)
    ((score, _),) = lm.loglikelihood(choices([(context, continuation)]), disable_tqdm=True)
    rolling = [instance("loglikelihood_rolling", context)]
    (whole,) = lm.loglikelihood_rolling(rolling, disable_tqdm=True)
    assert math.isfinite(score) and score <= 0 and math.isfinite(whole) and whole <= 0


def prompt_words(value: tuple[str, str]) -> list[str]:
    return ["half a character"]


# --- tokenizers -----------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def tokenizer_files() -> dict[str, Any]:
    """The JSON files of the tokenizer."""
    names = ("tokenizer.json", "tokenizer_config.json")
    return {name: json.loads((checkpoint() / name).read_text()) for name in names}


def _config_changes() -> st.SearchStrategy[dict[str, Any]]:
    names = ("eos_token", "pad_token", "bos_token", "mask_token", "model_max_length",
             "tokenizer_class", "chat_template", "added_tokens_decoder", "add_prefix_space",
             "additional_special_tokens", "extra_special_tokens")  # fmt: skip
    values = json_values() | st.sampled_from(["[new]", "{% if %}", "{{ x", "LlamaTokenizer", "a"])
    return st.dictionaries(st.sampled_from(names), st.just(...) | values, max_size=3)


TOKENIZERS = st.tuples(
    _config_changes(),
    st.none()
    | st.integers(0, 300).map(lambda size: b"{" * (size % 3) + b'"' * size)
    | mutated(
        {
            name: tokenizer_files()["tokenizer.json"][name]
            for name in (
                "version",
                "added_tokens",
                "normalizer",
                "pre_tokenizer",
                "decoder",
                "post_processor",
            )
        }  # fmt: skip
    ),
)


def run_tokenizer(value: tuple[dict[str, Any], Any]) -> None:
    changes, damage = value
    with fresh_folder() as name:
        folder = Path(name)
        config = {**tokenizer_files()["tokenizer_config.json"], **changes}
        config = {key: setting for key, setting in config.items() if setting is not ...}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        whole = tokenizer_files()["tokenizer.json"]
        if isinstance(damage, bytes):
            (folder / "tokenizer.json").write_bytes(damage)
        else:
            (folder / "tokenizer.json").write_text(json.dumps({**whole, **(damage or {})}))
        text = Tokenization(name, load_config(checkpoint()))
        ids = text.encode(f"One {MASK_NAME}<|endoftext|> two")
        assert MASK_ID not in ids and all(isinstance(token, int) for token in ids)
        assert isinstance(text.text_of(ids, ["x"], ignore_eos=False), str)
        assert text.tokenizer.pad_token_id is not None
        if text.tokenizer.chat_template is not None:
            text.chat_prompt([{"role": "user", "content": "Which?"}], True)


# --- checkpoints ----------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def weights() -> bytes:
    """The content of the weight file."""
    return (checkpoint() / "model.safetensors").read_bytes()


_NAMES = tuple(load_file(checkpoint() / "model.safetensors"))
_DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.complex64)
_HEADERS = st.one_of(
    st.binary(max_size=60),
    st.builds(lambda size, rest: size.to_bytes(8, "little") + rest,
              st.integers(0, 80) | st.sampled_from([2**31, 2**63 - 1, 2**64 - 1]),
              st.binary(max_size=60)),
    mutated({"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).map(
        lambda header: (lambda text: len(text).to_bytes(8, "little") + text)(
            json.dumps(header).encode()
        ) + bytes(16)
    ),
)  # fmt: skip
WEIGHTS = st.one_of(
    st.tuples(st.just("cut"), st.integers(0, len(weights()) - 1)),
    st.tuples(st.just("header"), _HEADERS),
    st.tuples(st.just("flip"), st.integers(0, 3000), st.integers(1, 255)),
    st.tuples(st.just("tensors"), st.dictionaries(
        st.sampled_from(_NAMES) | st.text(min_size=1, max_size=5),
        st.none() | st.tuples(st.lists(st.integers(0, 40), max_size=3), st.sampled_from(_DTYPES)),
        min_size=1, max_size=3,
    )),
)  # fmt: skip


def run_weights(value: tuple[Any, ...]) -> None:
    with fresh_folder() as name:
        folder = Path(name)
        shutil.copy(checkpoint() / "config.json", folder)
        (folder / "model.safetensors").write_bytes(damaged(*value))
        check_weights(folder, load_config(folder))
        loaded = load_model(folder, device="cpu")
        assert loaded.num_parameters() > 0


def damaged(kind: str, *how: Any) -> bytes:
    """The weight file, damaged."""
    content = weights()
    if kind == "cut":
        return content[: how[0]]
    if kind == "header":
        return bytes(how[0])
    if kind == "flip":
        place, mask = how
        return content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]
    tensors = load_file(checkpoint() / "model.safetensors")
    for tensor, change in how[0].items():
        tensors.pop(tensor, None)
        if change is not None:
            tensors[tensor] = torch.ones(change[0], dtype=change[1])
    return save(tensors, metadata={"format": "pt"})


_CONFIG = json.loads((checkpoint() / "config.json").read_text())
_ROPES = st.sampled_from(
    [{"rope_type": "linear"}, {"rope_type": "yarn", "factor": 2.0}, {"rope_type": []},
     {"rope_type": "llama3", "factor": 2}, {"rope_type": "dynamic", "factor": -1.0},
     {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
     {"type": "longrope", "factor": 2.0, "short_factor": [1.0], "long_factor": 3}]
)  # fmt: skip
# A model of a billion layers is not wrong, and only takes too long to describe.
_NUMBERS = st.integers(-2, 64) | st.sampled_from([0.5, -1.0, 1e300, True, "32"])
_ANY = json_values() | _NUMBERS | st.sampled_from([2**31, 2**62, 2**70])
_SIZE_NAMES = [
    "n_layers", "num_hidden_layers", "d_model", "n_heads", "n_kv_heads", "mlp_hidden_size",
    "vocab_size", "embedding_size", "hidden_size", "mlp_ratio", "head_dim",
]  # fmt: skip
CONFIGS = st.tuples(
    st.lists(st.sampled_from(sorted(_CONFIG)), max_size=3),
    st.dictionaries(st.sampled_from(_SIZE_NAMES), _NUMBERS, max_size=2),
    st.dictionaries(
        st.sampled_from(
            [*sorted(set(_CONFIG) - set(_SIZE_NAMES)), "rope_scaling", "hidden_act", "torch_dtype"]
        ) | st.text(max_size=6),
        _ANY, max_size=3,
    ),
    st.sampled_from(["rope_parameters", "rope_scaling", "", "", "", ""]).flatmap(
        lambda name: st.fixed_dictionaries({name: _ROPES} if name else {})
    ),
    st.sampled_from(
        [*[{}] * 20, *({name: 2**40} for name in ("d_model", "vocab_size", "max_sequence_length"))]
    ),
)  # fmt: skip


def run_config(value: tuple[Any, ...]) -> None:
    left_out, *changes = value
    with fresh_folder() as name:
        folder = Path(name)
        config = {key: setting for key, setting in _CONFIG.items() if key not in left_out}
        for change in changes:
            config |= change
        (folder / "config.json").write_text(json.dumps(config))
        shutil.copy(checkpoint() / "model.safetensors", folder)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(checkpoint() / file, folder)
        lm = LLaDALM(pretrained=name, device="cpu")
        assert lm.max_length >= 1
        (text,) = lm.generate_until(generations(["One."], gen_length=2, steps=1), disable_tqdm=True)
        assert isinstance(text, str)


_INDEX_FILES = st.sampled_from(
    ["model.safetensors", "other.safetensors", "missing.safetensors", "../outside.safetensors",
     "/etc/passwd", "", ".", "sub/model.safetensors", "config.json", "a\0b", "x" * 300]
)  # fmt: skip
INDICES = st.one_of(
    st.binary(max_size=20),
    json_values(),
    st.fixed_dictionaries(
        {"weight_map": json_values() | st.dictionaries(
            st.sampled_from(_NAMES) | st.text(max_size=4), _INDEX_FILES | json_values(), max_size=3
        )}
    ),
    st.tuples(
        st.just("other.safetensors") | _INDEX_FILES, st.just({"total_size": 1}) | json_values()
    ).map(
        lambda given: {"weight_map": dict.fromkeys(_NAMES, given[0]), "metadata": given[1]}
    ),
)  # fmt: skip


def run_index(value: Any) -> None:
    with fresh_folder() as name:
        folder = Path(name) / "checkpoint"
        folder.mkdir()
        shutil.copy(checkpoint() / "config.json", folder)
        for place in (folder / "other.safetensors", Path(name) / "outside.safetensors"):
            place.write_bytes(weights())
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        (folder / "model.safetensors.index.json").write_bytes(content)
        check_weights(folder, load_config(folder))
        files = set(value["weight_map"].values())
        assert files == {"other.safetensors"}, f"weights are read from {files}"
        assert load_model(folder, device="cpu").num_parameters() > 0


# --- corpora --------------------------------------------------------------------------------------

_NEEDLE = {"needle": "The best thing in Rome is a walk.", "retrieval_question": "What is the best "
           "thing in Rome? Please answer in the format 'The best thing in Rome is ______.'",
           "arg2": "walk", "arg1": "Rome", "language": "English"}  # fmt: skip
_BASES: dict[str, tuple[str, Any, Callable[[str], Any]]] = {
    "longbench": (
        "longbench/trec.jsonl",
        [{"input": "Which?", "context": "Some words. " * 9, "answers": ["a"],
          "all_classes": ["a", "b"], "dataset": "trec", "_id": "x", "length": 3}] * 2,
        lambda folder: longbench_dataset(
            dataset="trec", prompt_length=200, tokenizer=toy_tokenizer(), data_dir=folder
        ),
    ),
    "essays": (
        "needlebench/PaulGrahamEssays.jsonl",
        [{"title": "", "text": "Some words of an essay. " * 30}] * 2,
        lambda folder: ruler_dataset(
            ruler_task="niah_single_2", length=300, num_samples=1, tokenizer=toy_tokenizer(),
            data_dir=folder, generation_kwargs={"gen_length": 32},
        ),
    ),
    "needles": (
        "needlebench/needles.jsonl",
        [{**_NEEDLE, "arg2": f"walk {i}", "needle": f"The best thing in Rome is a walk {i}."}
         for i in range(3)],
        lambda folder: niah_dataset(
            length=300, repeats=1, depths=[50], needles="needlebench", tokenizer=toy_tokenizer(),
            data_dir=folder, generation_kwargs={"gen_length": 64},
        ),
    ),
    **{
        task: (
            f"ruler/{file}",
            json.loads((Path(corpora()) / "ruler" / file).read_text()),
            lambda folder, task=task: ruler_dataset(  # type: ignore[misc]
                ruler_task=task, length=1200, num_samples=1, tokenizer=toy_tokenizer(),
                data_dir=folder, generation_kwargs={"gen_length": 32},
            ),
        )
        for task, file in (("qa_1", "dev-v2.0.json"), ("qa_2", "hotpot_dev_distractor_v1.json"))
    },
    "pg19": (
        "ppl/pg19.txt",
        None,
        lambda folder: perplexity_dataset(
            lengths=[64], chunk_length=16, text="pg19", tokenizer=toy_tokenizer(), data_dir=folder
        ),
    ),
}  # fmt: skip


def _content(name: str) -> st.SearchStrategy[bytes]:
    file, base, _ = _BASES[name]
    garbage = st.binary(max_size=40) | st.text(max_size=40).map(str.encode)
    if base is None:
        whole = ("Some words of a book. " * 40).encode()
        return garbage | st.text(min_size=100, max_size=400).map(str.encode) | st.builds(
            lambda place, byte: whole[:place] + byte + whole[place:],
            st.integers(0, len(whole)), st.binary(max_size=3),
        )  # fmt: skip
    is_lines = file.endswith("l")

    def written(value: Any) -> bytes:
        rows = value if is_lines and isinstance(value, list) else [value]
        return "\n".join(map(json.dumps, rows)).encode()

    small = base[:2] if isinstance(base, list) and not is_lines else base
    whole = written(base)
    cut = st.integers(0, len(whole)).map(lambda place: whole[:place])
    return st.one_of(mutated(base), mutated(small), json_values()).map(written) | cut | garbage


CORPORA = st.sampled_from(sorted(_BASES)).flatmap(
    lambda name: st.tuples(st.just(name), _content(name))
)


def run_corpus(value: tuple[str, bytes]) -> None:
    name, content = value
    file, _, make = _BASES[name]
    with fresh_folder() as folder:
        path = Path(folder) / file
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        (samples,) = make(folder).values()
        assert len(samples) > 0
        for sample in samples:
            prompt = sample.get("prompt", sample.get("input", sample.get("context")))
            assert isinstance(prompt, str) and prompt


def corpus_words(value: tuple[str, bytes]) -> list[str]:
    file = Path(_BASES[value[0]][0])
    return [file.name, file.stem, "length", "document", "needle", "gen_length", "answer"]


def _nothing(value: Any) -> Iterable[str]:
    return ()


FAMILIES = [
    Family("prompts", st.tuples(PROMPTS, PROMPTS), run_prompt, prompt_words, 1),
    Family("tokenizers", TOKENIZERS, run_tokenizer, _nothing, 0.5),
    Family("weights", WEIGHTS, run_weights, lambda _: ["model.safetensors", "weights"], 1),
    Family("configs", CONFIGS, run_config, _nothing, 1),
    Family("indices", INDICES, run_index, _nothing, 1),
    Family("corpora", CORPORA, run_corpus, corpus_words, 1),
]
