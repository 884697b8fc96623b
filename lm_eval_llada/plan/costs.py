"""Operations, hours and memory of the requests of a run, on given hardware."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from lm_eval_llada.diffusion.sampling_options import (
    CACHES,
    PROMPT_CACHE_ONLY,
    SamplingOptions,
)
from lm_eval_llada.engine.arguments import ModelArguments, parse_model_args
from lm_eval_llada.modeling import LLaDAConfig, apply_rope, find_config
from lm_eval_llada.modeling.block_cost import run_bytes, score_work, text_work
from lm_eval_llada.modeling.cost import Work
from lm_eval_llada.modeling.prompt_memory import prompt_peak_bytes
from lm_eval_llada.plan.hardware import Hardware
from lm_eval_llada.plan.requests import Request, TaskPlan
from lm_eval_llada.rope import ResolvedRope

GB = 1e9
_TERA = 1e12
_MOST_DEVICES = 64
_MOST_SEQUENCES = 64

CACHE_WAYS: dict[str, dict[str, Any]] = {
    **{cache: {"cache": cache} for cache in CACHES},
    "prompt, prompt_chunk=256, keep=0.125": {
        "cache": "prompt",
        "prompt_chunk": 256,
        "keep": 0.125,
    },
}
"""Ways to keep keys and values that a plan compares, and what sets them."""


_DEFAULTS: dict[str, Any] = {item.name: item.default for item in fields(SamplingOptions)}


@dataclass(frozen=True)
class CostModel:
    """A run's requests and all that their cost depends on.

    Attributes:
        config: Of the model.
        itemsize: Bytes of a number of the model.
        arguments: From model_args.
        hardware: What the run will run on.
    """

    config: LLaDAConfig
    itemsize: int
    arguments: ModelArguments
    hardware: Hardware

    def work(self, request: Request, cache: str | None = None) -> Work:
        """Operations of a request, under another cache than its own if one is named."""
        if request.sampling is None:
            return score_work(
                self.config,
                request.prompt_length,
                request.target_length,
                self.arguments.likelihood,
                check_greedy=self.arguments.requests.is_check_greedy,
            )
        options = under(request.sampling, cache)
        return text_work(self.config, request.prompt_length, options)

    def hours(self, plan: TaskPlan, cache: str | None = None) -> float:
        """Hours of a task on the process that gets most of its requests."""
        work = self.total(plan, cache)
        share = math.ceil(plan.num_requests / self.hardware.num_processes) / plan.num_requests
        devices = self.arguments.loading.tp or 1
        return work.flops * share / (self.hardware.tflops * _TERA * devices * 3600)

    def total(self, plan: TaskPlan, cache: str | None = None) -> Work:
        """Operations of a task."""
        works = (self.work(request, cache) * n for request, n in plan.requests.items())
        return sum(works, Work())

    def memory(
        self,
        request: Request,
        *,
        cache: str | None = None,
        batch_size: int | None = None,
        num_devices: int | None = None,
        itemsize: int | None = None,
    ) -> int:
        """Peak bytes on a GPU, with some of the settings changed.

        Args:
            request: The longest of a batch.
            cache: In place of the request's own, one of `CACHE_WAYS`.
            batch_size: In place of the run's; that of auto is 1, the least that it can be.
            num_devices: GPUs that share a model, in place of tp's.
            itemsize: In place of the model's.
        """
        options = self.arguments
        sampling, rows = request.sampling, request.target_length
        if sampling is not None:
            block_length = self.config.block_length or sampling.block_length
            rows = min(block_length or sampling.gen_length, sampling.gen_length)
        scale = options.likelihood.cfg_scale if sampling is None else sampling.cfg_scale
        texts = batch_size or options.requests.fixed_batch_size or 1
        if sampling is not None:
            sampling = under(sampling, cache)
        if sampling is not None and sampling.cache == "prompt":
            return prompt_peak_bytes(
                self.config,
                request.prompt_length,
                sampling,
                itemsize or self.itemsize,
                batch_size=texts * (2 if scale else 1),
                num_devices=num_devices or options.loading.tp or 1,
            )
        return run_bytes(
            self.config,
            request.length,
            rows,
            itemsize or self.itemsize,
            batch_size=texts * (2 if scale else 1),
            is_cached=sampling is not None and sampling.cache != "none",
            num_devices=num_devices or options.loading.tp or 1,
            attention=options.loading.attn_implementation,
            # Guidance adds a copy of the same length, which needs no padding.
            is_padded=texts > 1,
        )

    def fits(self, request: Request, **changes: Any) -> bool:
        """Whether `memory` stays within that of a GPU."""
        return self.memory(request, **changes) <= self.hardware.memory_gb * GB

    def most_sequences(self, request: Request, **changes: Any) -> int:
        """The largest batch of such requests that fits, of up to 64; 0 if none does."""
        sizes = range(1, _MOST_SEQUENCES + 1)
        return sum(self.fits(request, **{**changes, "batch_size": size}) for size in sizes)

    def ways_to_fit(self, request: Request, cache: str) -> Iterator[str]:
        """Changes that make a request fit, each with the memory it then takes.

        Args:
            request: One that does not fit.
            cache: What it is to keep between steps.
        """
        is_cached = cache != "none" and self.config.blocks is None
        batch_size = self.arguments.requests.fixed_batch_size or 1
        changes: dict[str, dict[str, Any]] = {}
        if is_cached:
            changes["cache=none"] = {"cache": "none"}
        if batch_size > 1:
            changes["batch_size=1"] = {"batch_size": 1}
        if is_cached and batch_size > 1:
            changes["cache=none with batch_size=1"] = {"cache": "none", "batch_size": 1}
        if self.itemsize > 2:
            changes["dtype=bfloat16"] = {"itemsize": 2}
        for name, counts in (
            ("tp={}", [n for n in self._device_counts if self.config.n_kv_heads % n == 0]),
            ("device_map=auto over {} GPUs", self._device_counts),
        ):
            found = self._fewest_devices(request, cache, counts)
            if found is not None:
                alone = " with batch_size=1" if "batch_size" in found else ""
                changes[name.format(found["num_devices"]) + alone] = found
        for name, change in changes.items():
            change = {"cache": cache, **change}
            if self.fits(request, **change):
                yield f"{name} ({self.memory(request, **change) / GB:.1f} GB)"
        if (length := self._longest(request, cache)) is not None:
            yield f"at most {length:,} tokens as it is"

    @property
    def _device_counts(self) -> range:
        return range((self.arguments.loading.tp or 1) + 1, _MOST_DEVICES + 1)

    def _fewest_devices(
        self, request: Request, cache: str, counts: Iterable[int]
    ) -> dict[str, Any] | None:
        """The first of some numbers of GPUs that is enough, for one sequence where it has to be."""
        changes: list[dict[str, int]] = [{}]
        if not self.fits(request, cache=cache, batch_size=1):
            changes.append({"batch_size": 1})
        for change in changes:
            for num_devices in counts:
                if self.fits(request, cache=cache, num_devices=num_devices, **change):
                    return {"num_devices": num_devices, **change}
        return None

    def _longest(self, request: Request, cache: str) -> int | None:
        """Tokens of the longest sequence with such a target that fits; None if none does."""
        shortest, longest = 0, request.prompt_length
        if not self.fits(replace(request, prompt_length=0), cache=cache):
            return None
        while longest - shortest > 1:
            middle = (shortest + longest) // 2
            if self.fits(replace(request, prompt_length=middle), cache=cache):
                shortest = middle
            else:
                longest = middle
        return shortest + request.target_length


def under(options: SamplingOptions, cache: str | None) -> SamplingOptions:
    """The options with another of `CACHE_WAYS`; as they are where it is None or their own."""
    if cache is None or cache == options.cache:
        return options
    neutral = {name: _DEFAULTS[name] for name in (*PROMPT_CACHE_ONLY, "refresh_every", "entry")}
    return replace(options, **{**neutral, **CACHE_WAYS[cache]})


def checked_rope(model_args: Mapping[str, Any]) -> ResolvedRope:
    """The position embeddings that model_args ask for, from a config or a known shape alone.

    Raises:
        ValueError: If one is wrong or the checkpoint's shape is not known.
    """
    arguments = parse_model_args(model_args)
    config, _ = find_config(arguments.loading.pretrained, arguments.loading.revision)
    return apply_rope(config, arguments.rope)[1]
