"""Measures what keeping prompts saves at long contexts, in time, memory and score.

    python -m benchmarks.long_context                      # all cases, about an hour of one core
    python -m benchmarks.long_context --only growth random_16k
    python -m benchmarks.long_context --table              # what has been found

Sides of a case run in this process on the same weights, in turns (A B A B), on one thread in
float32; time is CPU seconds, the median of the repeats. `prefix` is `cache=prefix`, `prompt` is
`cache=prompt` with `prompt_chunk=256,keep=0.125`, unless a case says otherwise. Random weights have
the proportions of `tiny-llada` (4 layers, width 256); P is that of `benchmarks.speed` (8 layers,
width 512). Needles are those of `niah`, 44 samples at eleven depths, read by `tiny-ultra`; a sample
is right if the number asked for is in the text. Peak memory is what a fresh process adds to its
resident set beyond the weights, see `benchmarks.speed`.

Each case is a line of JSON, written at once, in the place of an older one.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from torch import Tensor

from benchmarks.json_lines import read_records
from benchmarks.long_likelihood import likelihood_case
from benchmarks.speed_measure import added_peak, peak_apart
from benchmarks.speed_models import random_model, random_prompts
from lm_eval_llada.checkpoints.provenance import machine, package_commit
from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.modeling import (
    LLaDAConfig,
    LLaDAForMaskedLM,
    as_denoiser,
    load_config,
    load_model,
)
from lm_eval_llada.modeling.cost import cache_bytes
from lm_eval_llada.modeling.packed import pack_weights
from lm_eval_llada.tasks.niah.scores import niah_exact
from lm_eval_llada.tasks.niah.single import build_niah

OUTPUT = Path(__file__).resolve().parent / "results" / "long_context.jsonl"
LEAN: dict[str, Any] = {"cache": "prompt", "prompt_chunk": 256, "keep": 0.125}
PREFIX: dict[str, Any] = {"cache": "prefix"}
_SCORED: dict[str, dict[str, Any]] = {
    "prefix": PREFIX,
    "prompt": LEAN,
    "prompt_bfloat16": {**LEAN, "cache_dtype": "bfloat16"},
    "prompt_float8_e4m3fn": {**LEAN, "cache_dtype": "float8_e4m3fn"},
}
_DEPTHS = tuple(range(0, 101, 10))
_GROWTH = (1024, 2048, 4096, 8192, 16384, 32768)

Row = dict[str, Any]


def timed(sides: Mapping[str, Callable[[], Any]], repeats: int) -> tuple[Row, dict[str, Any]]:
    """Median CPU seconds of each side, run in turns, and what each gave the last time."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    outcomes: dict[str, Any] = {}
    for _ in range(repeats):
        for name, run in sides.items():
            start = time.process_time()
            outcomes[name] = run()
            seconds[name].append(time.process_time() - start)
    return {name: median(spent) for name, spent in seconds.items()}, outcomes


@cache
def random_tiny() -> LLaDAForMaskedLM:
    """Random weights in the proportions of tiny-llada, always the same."""
    torch.manual_seed(0)
    values = load_config("tiny-llada").to_dict() | {"init_std": 0.08}
    return LLaDAForMaskedLM(LLaDAConfig(**values)).eval()


def texts_of(
    model: LLaDAForMaskedLM, prompts: Sequence[Tensor], **settings: Any
) -> list[list[int]]:
    """Texts one at a time."""
    options = SamplingOptions(**settings)
    return [generate(as_denoiser(model), [prompt], options)[0].tolist() for prompt in prompts]


def random_case(length: int, repeats: int, **settings: Any) -> Row:
    """A text of random weights: `prompt` against `prefix`."""
    model = random_tiny()
    prompts = random_prompts(model, [length - settings["gen_length"]])
    sides = {
        name: partial(texts_of, model, prompts, **settings, **cache)
        for name, cache in (("prefix", PREFIX), ("prompt", LEAN))
    }
    texts_of(model, [prompts[0][:512]], **settings, **LEAN)
    seconds, texts = timed(sides, repeats)
    pairs = zip(texts["prefix"][0], texts["prompt"][0], strict=True)
    same = sum(one == other for one, other in pairs) / settings["gen_length"]
    return {"seconds": seconds, "speed_up": _ratio(seconds), "equal_tokens": same, "target": 5}


class Needles:
    """44 needles at 4,096 tokens, four for each depth, and the model that reads them."""

    def __init__(self, gen_length: int, num_blocks: int, distractors: int) -> None:
        """Build the samples and load the model."""
        self.model = load_model("tiny-ultra", dtype="float32")
        self.sizes = {"gen_length": gen_length, "block_length": gen_length // num_blocks}
        self._tokenizer = load_tokenizer(None, "tiny-ultra", None)
        self._samples = build_niah(
            self._tokenizer,
            length=4096,
            gen_length=gen_length,
            depths=_DEPTHS,
            repeats=4,
            num_distractors=distractors,
        )
        self.prompts = [_ids(self._tokenizer, sample["prompt"]) for sample in self._samples]

    def score(self, **cache: Any) -> Row:
        """How many are answered right."""
        right, start = 0, time.process_time()
        for sample, prompt in zip(self._samples, self.prompts, strict=True):
            text = _until_newline(self.model, self._tokenizer, prompt, **self.sizes, **cache)
            right += niah_exact(text, sample["answer"]) > 0
        seconds = time.process_time() - start
        return {"right": right, "samples": len(self.prompts), "seconds": seconds}


def needle_case(
    repeats: int,
    *,
    distractors: int,
    gen_length: int,
    target: float,
    num_blocks: int = 1,
) -> Row:
    """Needles at 4,096 tokens: time of whole texts on four samples, scores on all."""
    needles = Needles(gen_length, num_blocks, distractors)
    model, sizes, few = needles.model, needles.sizes, needles.prompts[5:44:11]
    sides = {
        name: partial(texts_of, model, few, **sizes, **cache)
        for name, cache in (("prefix", PREFIX), ("prompt", LEAN))
    }
    texts_of(model, few[:1], **sizes, **LEAN)
    seconds, _ = timed(sides, repeats)
    scores = {name: needles.score(**cache) for name, cache in _SCORED.items()}
    return {"seconds": seconds, "speed_up": _ratio(seconds), "scores": scores, "target": target}


def exact_case(_: int, *, gen_length: int = 16, num_blocks: int = 1, distractors: int = 0) -> Row:
    """What the exact mode answers where `needle_case` asks the others: a full pass a step."""
    return {"scores": {"exact": Needles(gen_length, num_blocks, distractors).score()}}


def _ids(tokenizer: Any, text: str) -> Tensor:
    return torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])


def _until_newline(model: LLaDAForMaskedLM, tokenizer: Any, prompt: Tensor, **settings: Any) -> str:
    """The text up to its first line break, beyond which nothing is decoded."""

    def has_ended(decided: Tensor) -> bool:
        return "\n" in tokenizer.decode(decided.tolist())

    options, denoiser = SamplingOptions(**settings), as_denoiser(model)
    (text,) = generate(denoiser, [prompt], options, ends=[has_ended])
    known = text[: int((text != denoiser.mask_token_id).cumprod(0).sum())]
    return str(tokenizer.decode(known.tolist())).split("\n")[0]


def growth_case(repeats: int) -> Row:
    """CPU seconds of the pass over a prompt and of a step, and peak memory, by length."""
    model, rows = random_tiny(), []
    texts_of(model, random_prompts(model, [512]), gen_length=32, **LEAN)
    for length in _GROWTH:
        prompts = random_prompts(model, [length - 32])
        sides = {
            "pass": partial(texts_of, model, prompts, gen_length=32, steps=1, **LEAN),
            "text": partial(texts_of, model, prompts, gen_length=32, **LEAN),
        }
        seconds, _ = timed(sides, repeats if length < _GROWTH[-1] else 1)
        peak = peak_apart(Path(__file__), ["--peak-of", f"growth:{length}"])
        per_step = (seconds["text"] - seconds["pass"]) / 31
        rows.append(
            {
                "length": length,
                "pass": seconds["pass"],
                "step": per_step,
                "token": seconds["text"] / 32,
                "peak_mib": peak / 2**20,
                "kv_mib": cache_bytes(model.config, length, 4) / 2**20,
            }
        )
        print(rows[-1], file=sys.stderr, flush=True)
    by_length = {row["length"]: row["pass"] for row in rows}
    exponent = math.log(by_length[32768] / by_length[4096]) / math.log(8)
    return {"rows": rows, "exponent_4k_to_32k": exponent, "target": 1.15}


def kernels_case(repeats: int) -> Row:
    """Packed weights against plain ones on P: the exact mode, and steps under `cache=dual`."""
    plain = random_model("P")
    packed = copy.deepcopy(plain)
    pack_weights(packed)
    prompts, rows = random_prompts(plain, [512]), {}
    for name, settings in (("exact", {"gen_length": 16}), ("dual", {"gen_length": 64})):
        cache = {} if name == "exact" else {"cache": "dual"}
        sides = {
            kind: partial(texts_of, model, prompts, **settings, **cache)
            for kind, model in (("plain", plain), ("packed", packed))
        }
        for run in sides.values():
            run()
        seconds, texts = timed(sides, repeats)
        pairs = zip(texts["plain"][0], texts["packed"][0], strict=True)
        rows[name] = {
            "seconds": seconds,
            "speed_up": seconds["plain"] / seconds["packed"],
            "equal_tokens": sum(one == other for one, other in pairs) / settings["gen_length"],
        }
    return {"rows": rows}


_MEMORY_SIDES: dict[str, dict[str, Any]] = {
    "prefix": PREFIX,
    "prompt": LEAN,
    "prompt_whole": {"cache": "prompt", "prompt_chunk": 256},
    "prompt_bfloat16": {**LEAN, "cache_dtype": "bfloat16"},
}


def memory_case(repeats: int) -> Row:
    """Peak memory of P at 8,192 tokens, as a share of its keys and values in float32."""
    kept = cache_bytes(random_model("P").config, 8192, 4)
    peaks = {name: peak_apart(Path(__file__), ["--peak-of", name]) for name in _MEMORY_SIDES}
    shares = {name: peak / kept for name, peak in peaks.items()}
    return {"kv_mib": kept / 2**20, "peak_over_kv": shares, "target": 1.3}


def print_peak(name: str) -> None:
    """Print the peak of one side, in bytes; for a process of its own."""
    kind, _, length = name.partition(":")
    model = random_tiny() if kind == "growth" else random_model("P")
    settings = LEAN if kind == "growth" else _MEMORY_SIDES[kind]
    prompts = random_prompts(model, [int(length or 8192) - 32])
    run = partial(texts_of, model, prompts, gen_length=32, steps=3, **settings)
    print(added_peak(model, run))


CASES: dict[str, Callable[..., Row]] = {
    "random_16k": lambda n: random_case(16_384, n, gen_length=32),
    "needles_4k": partial(needle_case, distractors=0, gen_length=16, target=2),
    "needles_4k_distractors": partial(needle_case, distractors=3, gen_length=16, target=2),
    "needles_4k_blocks": partial(needle_case, distractors=0, gen_length=32, num_blocks=4, target=3),
    "needles_4k_exact": exact_case,
    "needles_4k_distractors_exact": partial(exact_case, distractors=3),
    "needles_4k_blocks_exact": partial(exact_case, gen_length=32, num_blocks=4),
    "growth": growth_case,
    "memory_8k": memory_case,
    "kernels": kernels_case,
    "likelihood_2000": partial(likelihood_case, num_questions=200),
}


def _ratio(seconds: Mapping[str, float]) -> float:
    return seconds["prefix"] / seconds["prompt"]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CASES)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--questions", type=int, help="of the likelihood case (200)")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--peak-of", metavar="NAME", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    if arguments.peak_of:
        print_peak(arguments.peak_of)
        return
    rows = {row["name"]: row for row in read_records(arguments.output)}
    for name in () if arguments.table else arguments.only or CASES:
        changes = {}
        if arguments.questions is not None and name.startswith("likelihood"):
            changes["num_questions"] = arguments.questions
        found = CASES[name](arguments.repeats, **changes)
        run = {"repeats": arguments.repeats, "machine": machine(), "commit": package_commit()}
        rows[name] = {"name": name, **found, "run": run}
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{json.dumps(rows[one])}\n" for one in CASES if one in rows)
        arguments.output.write_text(text, encoding="utf-8")
        print(json.dumps(rows[name]), flush=True)
    if arguments.table:
        print("\n".join(map(json.dumps, rows.values())))


if __name__ == "__main__":
    main()
