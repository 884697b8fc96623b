"""Scores a model by RULER's kinds of task, reduced to a length of a few hundred tokens.

    python -m lm_eval_llada.tiny.ruler_evaluation --pretrained my-ruler --length 512 --samples 30

The samples are the package's own, of the original's wording and with the words that evaluation
draws from; `CELLS` says what is reduced. A score is the mean share of references in the output, 0
to 100, as RULER has it, followed by its standard error. `--state` reads a run that is still going
on, `--rope-method` and `--target-length` extend the context.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from transformers import LlamaForCausalLM

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.modeling import LLaDAForMaskedLM, as_denoiser, load_model
from lm_eval_llada.modeling.families import is_masked
from lm_eval_llada.modeling.weight_files import read_json
from lm_eval_llada.rope import RopeChoice
from lm_eval_llada.tasks.niah.single import build_niah
from lm_eval_llada.tasks.ruler import build_ruler
from lm_eval_llada.tasks.ruler.options import SYNTHETIC_QUESTIONS
from lm_eval_llada.tasks.ruler.scores import string_match_all
from lm_eval_llada.tiny.corpus import read_corpus
from lm_eval_llada.tiny.export import wrap_tokenizer
from lm_eval_llada.tiny.train import Trainer
from lm_eval_llada.tiny.training_options import TrainingOptions

TOKENS_PER_BATCH = 8192


@dataclass(frozen=True)
class Cell:
    """One kind of task.

    Attributes:
        task: of RULER; `niah` for the package's own needles.
        gen_length: tokens of the output.
        settings: what differs from the original's, or from single needles.
    """

    task: str
    gen_length: int
    settings: Mapping[str, Any] = field(default_factory=dict)


_NOISE = {"type_haystack": "noise"}

CELLS: Mapping[str, Cell] = {
    "niah": Cell("niah", 16),
    "distractors": Cell("niah", 16, {"num_distractors": 3}),
    "single": Cell("niah_single_1", 8),
    "keys": Cell("niah_multikey_1", 8, _NOISE),
    "needles": Cell("niah_multikey_2", 8),
    "values": Cell("niah_multivalue", 24, _NOISE),
    "queries": Cell("niah_multiquery", 64, _NOISE),
    "vt": Cell("vt", 20, {"num_hops": 2, "num_examples": 0}),
    "cwe": Cell("cwe", 28, {"num_cw": 3, "num_examples": 0}),
    "fwe": Cell("fwe", 28),
    "qa": Cell(SYNTHETIC_QUESTIONS, 16),
}
"""By kind: four keys, values or queries in noise, two hops, three common words."""

Answerer = Callable[[Sequence[str], int], list[str]]
"""From prompts and the tokens of an output to the outputs."""


def build_samples(tokenizer: Any, kind: str, length: int, number: int) -> list[dict[str, Any]]:
    """Samples of a kind, each with `prompt` and `references`."""
    cell = CELLS[kind]
    if cell.task == "niah":
        depths = tuple(range(0, 101, 10))
        repeats = math.ceil(number / len(depths))
        made = build_niah(
            tokenizer,
            length=length,
            gen_length=cell.gen_length,
            depths=depths,
            repeats=repeats,
            **cell.settings,
        )
        return [{"prompt": s["prompt"], "references": [s["answer"]]} for s in made]
    made = build_ruler(
        tokenizer,
        task=cell.task,
        length=length,
        gen_length=cell.gen_length,
        num_samples=number,
        settings=cell.settings,
    )
    return [{"prompt": s["input"] + s["gen_prefix"], "references": s["outputs"]} for s in made]


def score(answer: Answerer, samples: Sequence[dict[str, Any]], gen_length: int) -> list[float]:
    """The score of each sample, 0 to 100."""
    outputs = answer([sample["prompt"] for sample in samples], gen_length)
    return [
        string_match_all(output, sample["references"])
        for output, sample in zip(outputs, samples, strict=True)
    ]


def make_answerer(
    model: LLaDAForMaskedLM | LlamaForCausalLM, tokenizer: Any, length: int, **options: Any
) -> Answerer:
    """Greedy decoding, one token a step for a diffusion model unless `options` decode otherwise."""
    size = max(1, TOKENS_PER_BATCH // length)

    def answer(prompts: Sequence[str], gen_length: int) -> list[str]:
        outputs: list[str] = []
        for first in range(0, len(prompts), size):
            batch = [
                torch.tensor(tokenizer(prompt)["input_ids"])
                for prompt in prompts[first : first + size]
            ]
            if isinstance(model, LlamaForCausalLM):
                found = _generate_causal(model, batch, gen_length)
            else:
                found = _generate_masked(model, batch, gen_length, options)
            outputs += [tokenizer.decode(ids, skip_special_tokens=True) for ids in found]
        return outputs

    return answer


def _generate_masked(
    model: LLaDAForMaskedLM, prompts: list[torch.Tensor], gen_length: int, options: dict[str, Any]
) -> list[list[int]]:
    settings = SamplingOptions(gen_length=gen_length, **options)
    outputs = generate(as_denoiser(model), prompts, settings)
    return [[int(token) for token in output] for output in outputs]


def _generate_causal(
    model: LlamaForCausalLM, prompts: list[torch.Tensor], gen_length: int
) -> list[list[int]]:
    # One by one: padding in front would move positions.
    # A mixin that the type of the class does not show.
    decode: Any = model
    return [
        decode.generate(
            prompt[None],
            attention_mask=torch.ones_like(prompt)[None],
            max_new_tokens=gen_length,
            do_sample=False,
        )[0, len(prompt) :].tolist()
        for prompt in prompts
    ]


def _open(arguments: argparse.Namespace) -> tuple[LLaDAForMaskedLM | LlamaForCausalLM, Any]:
    if arguments.state:
        state = torch.load(arguments.state, weights_only=False)
        trainer = Trainer(TrainingOptions(**state["options"]), read_corpus())
        trainer.load_state_dict(state)
        print(f"step {trainer.step}", flush=True)
        model: Any = trainer.model.eval()
        return model, wrap_tokenizer(trainer.tokenizer)
    folder = resolve_checkpoint(arguments.pretrained)
    tokenizer = load_tokenizer(folder)
    if not is_masked(read_json(Path(folder) / "config.json")):
        return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32), tokenizer
    choice = RopeChoice(method=arguments.rope_method, target_length=arguments.target_length)
    return load_model(folder, rope=choice, dtype=arguments.dtype), tokenizer


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pretrained", help="name or folder of a checkpoint")
    source.add_argument("--state", type=Path, help="state.pt of a run")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--samples", type=int, default=30)
    parser.add_argument("--kinds", nargs="*", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--rope-method", default="none")
    parser.add_argument("--target-length", type=int)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--show", type=int, default=0, help="outputs to print of each kind")
    arguments = parser.parse_args()
    model, tokenizer = _open(arguments)
    answer = make_answerer(model, tokenizer, arguments.length)
    for kind in arguments.kinds:
        samples = build_samples(tokenizer, kind, arguments.length, arguments.samples)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            scores = score(answer, samples, CELLS[kind].gen_length)
            shown = answer([s["prompt"] for s in samples[: arguments.show]], CELLS[kind].gen_length)
        error = stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0
        line = {"kind": kind, **asdict(CELLS[kind]), "length": arguments.length}
        line |= {"samples": len(scores), "score": round(fmean(scores), 1)}
        print(json.dumps({**line, "standard_error": round(error, 1)}), flush=True)
        for output, sample in zip(shown, samples, strict=False):
            print("   ", sample["references"], repr(output))


if __name__ == "__main__":
    main()
