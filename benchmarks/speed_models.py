"""The models that speed.py runs, and the two ways it calls them: plain loops and the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from benchmarks.cost_model import MODEL
from benchmarks.speed_measure import Outcome, Side
from lm_eval_llada.diffusion.denoiser import DenoiserStats
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.engine.batching import Progress
from lm_eval_llada.engine.jobs import Generation
from lm_eval_llada.engine.requests import GenerationSettings
from lm_eval_llada.harness.llada import LLaDALM
from lm_eval_llada.modeling import LLaDAConfig, LLaDAForMaskedLM, as_denoiser
from tests.helpers.plain_loops import Denoise, plain_generate, whole_forward
from tests.helpers.toy_requests import generations

VOCABULARIES = {"P": MODEL.vocab_size, "V": 126_464}
_INIT_STD = 0.08
"""Large enough for attention to tell positions apart; masked ones would all be alike otherwise."""


@dataclass(frozen=True)
class Scale:
    """How much of each case is run.

    Attributes:
        num_questions: Of the likelihood cases.
        num_needles: Of each length and depth.
        shrink: Divides the lengths of prompts; anything but 1 is only a trial.
    """

    num_questions: int = 200
    num_needles: int = 5
    shrink: int = 1

    def length(self, num_tokens: int) -> int:
        """A prompt length at this scale."""
        return max(8, num_tokens // self.shrink)


@cache
def random_model(name: str) -> LLaDAForMaskedLM:
    """Model P or V, always with the same weights."""
    vocab_size = VOCABULARIES[name]
    config = MODEL.to_dict() | {"vocab_size": vocab_size, "embedding_size": vocab_size}
    torch.manual_seed(0)
    config |= {"mask_token_id": vocab_size - 1, "init_std": _INIT_STD}
    return LLaDAForMaskedLM(LLaDAConfig(**config)).eval()


@cache
def tiny(target_length: int | None = None, **settings: Any) -> LLaDALM:
    """The shipped model behind lm-eval's interface, under NTK if a target length is given."""
    if target_length is not None:
        settings |= {"rope_method": "ntk", "target_length": target_length}
    return LLaDALM(pretrained="tiny-llada", dtype="float32", device="cpu", **settings)


def random_prompts(model: LLaDAForMaskedLM, lengths: Sequence[int]) -> list[Tensor]:
    """Prompts of ordinary tokens, always the same."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randint(8, model.config.vocab_size - 8, (n,), generator=generator) for n in lengths
    ]


def counted(denoise: Denoise, stats: DenoiserStats) -> Denoise:
    """The same denoiser, with its calls counted."""

    def call(input_ids: Tensor, *, attention_mask: Tensor | None) -> Tensor:
        stats.record(len(input_ids), input_ids.numel(), input_ids.numel())
        return denoise(input_ids, attention_mask=attention_mask)

    return call


def plain_texts(
    model: LLaDAForMaskedLM, prompts: Sequence[Tensor], options: SamplingOptions
) -> Outcome:
    """Tokens by the plain loop."""
    stats, mask_token_id = DenoiserStats(), as_denoiser(model).mask_token_id
    denoise = counted(whole_forward(model), stats)
    texts = [
        plain_generate(denoise, prompt, options, mask_token_id=mask_token_id) for prompt in prompts
    ]
    return Outcome(texts, sum(map(len, texts)), stats)


def plain_side(
    model: LLaDAForMaskedLM, prompts: Sequence[Tensor], options: SamplingOptions
) -> Side:
    """The plain loop as one side of a comparison."""
    return Side(
        "plain loop",
        lambda: plain_texts(model, prompts, options),
        lambda: plain_texts(model, prompts[:1], replace(options, steps=2)),
    )


def generate_side(
    label: str, model: LLaDAForMaskedLM, prompts: Sequence[Tensor], options: SamplingOptions
) -> Side:
    """`sampler.generate`, one prompt at a time, as one side of a comparison."""

    def run(options: SamplingOptions) -> Outcome:
        stats, texts = DenoiserStats(), []
        for prompt in prompts:
            texts += generate(as_denoiser(model, stats=stats), [prompt], options)
        return Outcome([text.tolist() for text in texts], sum(map(len, texts)), stats)

    return Side(label, lambda: run(options), lambda: run(replace(options, steps=2)))


def batched_side(batch_size: int, prompts: Sequence[Tensor], options: SamplingOptions) -> Side:
    """Tokens by the harness' model, which orders prompts and forms the batches."""
    runner = tiny(batch_size=batch_size).runner

    def run(options: SamplingOptions) -> Outcome:
        runner.denoiser.stats = DenoiserStats()
        settings = GenerationSettings(options, ignore_eos=True)
        jobs = [Generation(prompt, settings, seed=0) for prompt in prompts]
        with Progress(len(jobs), "", shown=False) as progress:
            texts = dict(pair for batch in runner.texts(jobs, progress) for pair in batch)
        outputs = [texts[job].tolist() for job in jobs]
        return Outcome(outputs, sum(map(len, outputs)), runner.stats)

    return Side(f"batch {batch_size}", lambda: run(options), lambda: run(replace(options, steps=2)))


def harness_side(label: str, lm: LLaDALM, prompts: Sequence[str], **gen_kwargs: Any) -> Side:
    """`generate_until` as one side of a comparison; outputs are texts."""

    def run(**changes: Any) -> Outcome:
        lm.runner.denoiser.stats = DenoiserStats()
        requests = generations(list(prompts), **gen_kwargs, **changes)
        texts = lm.generate_until(requests, disable_tqdm=True)
        return Outcome(texts, sum(len(lm.tok_encode(text)) for text in texts), lm.runner.stats)

    return Side(label, run, lambda: run(steps=2))
