"""A checkpoint, checked and then loaded, at work on many requests: results come batch by batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.diffusion.denoiser import DenoiserStats
from lm_eval_llada.diffusion.likelihood import (
    Estimate,
    LikelihoodOptions,
    rolling_log_likelihoods,
    rolling_windows,
    scored_pairs,
)
from lm_eval_llada.diffusion.mask_plans import by_context
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.engine.arguments import ModelArguments
from lm_eval_llada.engine.batching import (
    Batcher,
    Progress,
    shortest_first,
)
from lm_eval_llada.engine.device_memory import DeviceMemory, bound_kernel_caches
from lm_eval_llada.engine.ranks import own_gpu_memory
from lm_eval_llada.engine.requests import GenerationPlan
from lm_eval_llada.engine.tokenization import Tokenization
from lm_eval_llada.modeling import (
    KeyValueCache,
    LLaDAConfig,
    LLaDAForMaskedLM,
    apply_rope,
    load_config,
    load_model,
    make_denoiser,
)
from lm_eval_llada.modeling.cost import activation_bytes
from lm_eval_llada.modeling.weights import check_weights
from lm_eval_llada.rope import ResolvedRope

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint under the arguments of a run: all that is known before its weights are read.

    Attributes:
        location: Folder or hub id.
        config: Of the model, with its position embeddings scaled.
        rope: How they are scaled.
        text: Its tokenizer.
    """

    location: str
    config: LLaDAConfig
    rope: ResolvedRope
    text: Tokenization


def open_checkpoint(arguments: ModelArguments) -> Checkpoint:
    """Check a checkpoint without reading weights, though the headers of local weight files are.

    Args:
        arguments: Name the checkpoint, its tokenizer and its scaling.

    Raises:
        ValueError: If the checkpoint is not there or incomplete, or does not fit the arguments or
            its tokenizer.
    """
    loading = arguments.loading
    config = load_config(loading.pretrained, revision=loading.revision)
    config, rope = apply_rope(config, arguments.rope)
    location = resolve_checkpoint(loading.pretrained)
    if Path(location).is_dir():
        check_weights(location, config)
    text = Tokenization(
        loading.tokenizer or loading.pretrained,
        config,
        revision=None if loading.tokenizer else loading.revision,
        add_bos_token=arguments.requests.add_bos_token,
    )
    return Checkpoint(location, config, rope, text)


def load_runner(arguments: ModelArguments, checkpoint: Checkpoint, device: torch.device) -> Runner:
    """Read the weights.

    Args:
        arguments: Those the checkpoint was opened with.
        checkpoint: From `open_checkpoint`.
        device: Where the model goes, unless it is spread over several.
    """
    loading, requests = arguments.loading, arguments.requests
    is_whole = loading.device_map is None and loading.tp is None
    bound_kernel_caches()
    model = load_model(
        loading.pretrained,
        rope=arguments.rope,
        dtype=loading.dtype,
        device=device if is_whole else None,
        attn_implementation=loading.attn_implementation,
        device_map=loading.device_map,
        revision=loading.revision,
        tp=loading.tp,
        quantization=loading.quantization,
        max_memory=None if loading.device_map is None else own_gpu_memory(),
    )
    return Runner(
        model,
        checkpoint.config,
        checkpoint.text,
        batch_size=requests.fixed_batch_size,
        max_batch_size=requests.max_batch_size,
        is_even=loading.tp is not None,
    )


@dataclasses.dataclass(frozen=True)
class Generation:
    """A text to generate.

    Attributes:
        index: Place among the requests.
        prompt: Token ids, int64 (length,).
        plan: How to generate.
        seed: Of its random numbers.
    """

    index: int
    prompt: Tensor
    plan: GenerationPlan
    seed: int


@dataclasses.dataclass(frozen=True)
class Target:
    """Tokens to score.

    Attributes:
        index: Place among the requests.
        prefix: What comes before, int64 (length,).
        target: Token ids, int64 (length,).
        seed: Of its masks.
    """

    index: int
    prefix: Tensor
    target: Tensor
    seed: int


Item = TypeVar("Item", Generation, Target)


@dataclasses.dataclass
class Runner:
    """Calls of `sampler` and `likelihood` for one model.

    Attributes:
        model: Loaded, on its device.
        config: Of the model.
        text: Its tokenizer.
        batch_size: Sequences in a pass, None for as many as fit.
        max_batch_size: The most that may be chosen then.
        is_even: Whether several ranks have to run the same batches.
        stats: Work done so far.
        batch_sizes: The largest batch of each kind of request.
    """

    model: LLaDAForMaskedLM
    config: LLaDAConfig
    text: Tokenization
    batch_size: int | None = None
    max_batch_size: int | None = None
    is_even: bool = False
    stats: DenoiserStats = dataclasses.field(default_factory=DenoiserStats)
    batch_sizes: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the denoiser, the memory and the batcher."""
        self._denoise = make_denoiser(self.model)
        self.memory = DeviceMemory(self.model.device, is_even=self.is_even)
        self._batcher = Batcher(
            self.batch_size,
            self.max_batch_size,
            self.memory,
            partial(activation_bytes, self.config, itemsize=self.model.dtype.itemsize),
        )

    def texts(
        self, items: Sequence[Generation], progress: Progress
    ) -> Iterator[list[tuple[int, Tensor]]]:
        """Generate; yields batches of indices of requests and their tokens, int64 (num_decided,).

        Tokens that its text could not hold any more were not decided.

        Args:
            items: In any order and under any mix of options.
            progress: Told of every pass and every finished request.

        Raises:
            MemoryError: If not even one sequence fits.
        """
        groups: dict[SamplingOptions, list[Generation]] = {}
        for item in shortest_first(items, lambda item: len(item.prompt)):
            groups.setdefault(item.plan.options, []).append(item)
        for options, group in groups.items():
            yield from self._texts(options, group, progress)

    def _texts(
        self, options: SamplingOptions, items: Sequence[Generation], progress: Progress
    ) -> Iterator[list[tuple[int, Tensor]]]:
        copies = 2 if options.cfg_scale else 1
        num_rows = min(options.block_length or options.gen_length, options.gen_length)

        def measure(item: Generation) -> tuple[int, int]:
            return copies * (len(item.prompt) + options.gen_length), copies * num_rows

        def run(batch: Sequence[Generation], size: int) -> list[Tensor]:
            texts = generate(
                self._denoise,
                [item.prompt for item in batch],
                options,
                seeds=[item.seed for item in batch],
                ends=[partial(self._has_ended, item.plan) for item in batch],
                new_cache=KeyValueCache,
                eos_token_id=self.text.eos_token_id,
                **self._common,
            )
            return [self._decided(text) for text in texts]

        # Most passes of a cache read a window alone, and no padding of the prompts.
        is_padded = options.cache == "none"
        batches = self._batcher.process(items, measure, run, is_padded=is_padded)
        yield from self._counted("generate_until", batches, progress)

    def _has_ended(self, plan: GenerationPlan, decided: Tensor) -> bool:
        return self.text.is_final(decided.tolist(), plan.until, ignore_eos=plan.ignore_eos)

    def _decided(self, text: Tensor) -> Tensor:
        """The tokens before the first that was left undecided because the text had ended."""
        return text[: int((text != self.text.mask_token_id).cumprod(0).sum())]

    def scores(
        self,
        items: Sequence[Target],
        options: LikelihoodOptions,
        progress: Progress,
        *,
        check_greedy: bool,
    ) -> Iterator[list[tuple[int, tuple[Estimate, bool]]]]:
        """Score targets; yields batches of indices, log-likelihoods and greedy checks.

        Args:
            items: In any order.
            options: How to estimate; its batch size is not used.
            progress: Told of every pass and every finished request.
            check_greedy: Whether to find out if greedy decoding gives the target; else False is
                reported.

        Raises:
            MemoryError: If not even one sequence fits.
        """
        copies = 2 if options.cfg_scale else 1

        def measure(group: Sequence[Target]) -> tuple[int, int]:
            num_rows = max(len(item.target) for item in group)
            return copies * (len(group[0].prefix) + num_rows), copies * num_rows

        def run(
            batch: Sequence[Sequence[Target]], size: int
        ) -> list[list[tuple[Target, tuple[Estimate, bool]]]]:
            sized = dataclasses.replace(options, batch_size=size)
            return self._score(batch, sized, check_greedy)

        def num_masks(group: Sequence[Target]) -> int:
            lengths = [len(item.target) for item in group]
            # Of options of one length, the fully masked form is read once.
            num_shared = len(lengths) - len(set(lengths))
            return sum(map(options.num_masks, lengths)) - num_shared

        pairs = [(item.prefix, item.target) for item in items]
        groups = [[items[i] for i in group] for group in by_context(pairs, options)]
        batches = self._batcher.process(shortest_first(groups, measure), measure, run, num_masks)
        flat = ([result for _, results in batch for result in results] for batch in batches)
        yield from self._counted("loglikelihood", flat, progress)

    def _score(
        self, groups: Sequence[Sequence[Target]], options: LikelihoodOptions, check_greedy: bool
    ) -> list[list[tuple[Target, tuple[Estimate, bool]]]]:
        items = [item for group in groups for item in group]
        results = scored_pairs(
            self._denoise,
            [(item.prefix, item.target) for item in items],
            options,
            seeds=[item.seed for item in items],
            check_greedy=check_greedy,
            **self._common,
        )
        scored = zip(items, results, strict=True)
        return [list(islice(scored, len(group))) for group in groups]

    def rolling_scores(
        self,
        items: Sequence[Target],
        options: LikelihoodOptions,
        progress: Progress,
        *,
        max_length: int,
    ) -> Iterator[list[tuple[int, Estimate]]]:
        """Score whole texts window by window; yields batches of indices and log-likelihoods.

        Args:
            items: In any order; all have the same prefix, which every text starts from.
            options: How to estimate; its batch size is not used.
            progress: Told of every pass and every finished request.
            max_length: Tokens of a window.

        Raises:
            MemoryError: If not even one window fits.
        """
        copies = 2 if options.cfg_scale else 1

        def measure(item: Target) -> tuple[int, int]:
            longest = copies * min(len(item.prefix) + len(item.target), max_length)
            return longest, longest

        def run(batch: Sequence[Target], size: int) -> list[Estimate]:
            sized = dataclasses.replace(options, batch_size=size)
            return self._roll(batch, sized, max_length)

        def num_masks(item: Target) -> int:
            num_given = len(item.prefix)
            windows = rolling_windows(num_given + len(item.target), max_length, num_given=num_given)
            return sum(options.num_masks(end - begin) for _, begin, end in windows)

        ordered = shortest_first(items, lambda item: len(item.target))
        results = self._batcher.process(ordered, measure, run, num_masks)
        yield from self._counted("loglikelihood_rolling", results, progress)

    def _roll(
        self, batch: Sequence[Target], options: LikelihoodOptions, max_length: int
    ) -> list[Estimate]:
        return rolling_log_likelihoods(
            self._denoise,
            [item.target for item in batch],
            options,
            max_length=max_length,
            prefix=batch[0].prefix,
            seeds=[item.seed for item in batch],
            **self._common,
        )

    @property
    def _common(self) -> dict[str, Any]:
        """What every call of `sampler` and `likelihood` takes."""
        return {
            "mask_token_id": self.text.mask_token_id,
            "pad_token_id": self.text.tokenizer.pad_token_id,
            "device": self.model.device,
            "stats": self.stats,
        }

    def _counted(
        self, kind: str, batches: Iterator[list[tuple[Item, Result]]], progress: Progress
    ) -> Iterator[list[tuple[int, Result]]]:
        """Pass batches on under the indices of their requests, keeping the books."""
        self.stats.on_forward = progress.read
        for batch in batches:
            self.batch_sizes[kind] = max(self.batch_sizes.get(kind, 0), self._batcher.last_size)
            yield [(item.index, result) for item, result in batch]
            progress.done(len(batch))
