"""A loaded model at work on many jobs: answers come batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TypeVar, cast

from torch import Tensor

from lm_eval_llada.diffusion.denoiser import DenoiserStats
from lm_eval_llada.diffusion.estimates import by_context
from lm_eval_llada.diffusion.likelihood import (
    LikelihoodOptions,
    rolling_log_likelihoods,
    rolling_windows,
    scored_pairs,
)
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.engine.answers import Answer
from lm_eval_llada.engine.batching import Batcher, Progress, shortest_first
from lm_eval_llada.engine.device_memory import DeviceMemory
from lm_eval_llada.engine.jobs import Generation, Job, Score, Target
from lm_eval_llada.engine.loading import Checkpoint
from lm_eval_llada.modeling import LLaDAForMaskedLM, as_denoiser
from lm_eval_llada.modeling.block_cost import sequence_bytes

Done = TypeVar("Done")


@dataclass
class Runner:
    """Calls of `sampler` and `likelihood` for one model.

    Attributes:
        checkpoint: What was loaded, under the arguments of the run.
        model: Loaded, on its device.
        batch_sizes: The largest batch of each kind of request.
    """

    checkpoint: Checkpoint
    model: LLaDAForMaskedLM
    batch_sizes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Makes the denoiser, the memory and the batcher."""
        arguments, self.text = self.checkpoint.arguments, self.checkpoint.text
        self.denoiser = as_denoiser(
            self.model,
            mask_token_id=self.text.mask_token_id,
            pad_token_id=self.text.tokenizer.pad_token_id,
        )
        # Ranks that hold a model together have to run the same batches.
        is_even = arguments.loading.tp is not None
        self.memory = DeviceMemory(self.model.device, is_even=is_even)
        self._batcher = Batcher(
            arguments.requests.fixed_batch_size,
            arguments.requests.max_batch_size,
            self.memory,
            partial(sequence_bytes, self.checkpoint.config, itemsize=self.model.dtype.itemsize),
        )

    @property
    def stats(self) -> DenoiserStats:
        """Work done so far."""
        return self.denoiser.stats

    def answers(
        self, kind: str, jobs: Sequence[Job], progress: Progress
    ) -> Iterator[list[tuple[Job, Answer]]]:
        """Jobs with their answers, batch by batch, in the order in which they are done.

        Args:
            kind: Of the jobs, one of `jobs.KINDS`.
            jobs: In any order and under any mix of settings.
            progress: Told of every pass and every finished job.

        Raises:
            MemoryError: If not even one sequence fits.
        """
        if kind == "generate_until":
            for batch in self.texts(cast("Sequence[Generation]", jobs), progress):
                yield [(job, self._text_of(job, tokens)) for job, tokens in batch]
            return
        score = self.scores if kind == "loglikelihood" else self.rolling_scores
        for scored in score(cast("Sequence[Target]", jobs), progress):
            yield [*scored]

    def _text_of(self, job: Generation, tokens: Tensor) -> str:
        settings = job.settings
        return self.text.text_of(tokens.tolist(), settings.until, ignore_eos=settings.ignore_eos)

    def texts(
        self, jobs: Sequence[Generation], progress: Progress
    ) -> Iterator[list[tuple[Generation, Tensor]]]:
        """Jobs with their tokens, int64 (num_decided,), batch by batch.

        Tokens that its text could not hold any more were not decided.

        Args:
            jobs: As of `answers`.
            progress: As of `answers`.

        Raises:
            MemoryError: If not even one sequence fits.
        """
        groups: dict[SamplingOptions, list[Generation]] = {}
        for job in shortest_first(jobs, lambda job: len(job.prompt)):
            groups.setdefault(job.settings.options, []).append(job)
        for options, group in groups.items():
            yield from self._texts(options, group, progress)

    def _texts(
        self, options: SamplingOptions, jobs: Sequence[Generation], progress: Progress
    ) -> Iterator[list[tuple[Generation, Tensor]]]:
        copies = 2 if options.cfg_scale else 1
        num_rows = min(options.block_length or options.gen_length, options.gen_length)

        def measure(job: Generation) -> tuple[int, int]:
            return copies * (len(job.prompt) + options.gen_length), copies * num_rows

        def generated(batch: Sequence[Generation], size: int) -> list[Tensor]:
            texts = generate(
                self.denoiser,
                [job.prompt for job in batch],
                options,
                seeds=[job.seed for job in batch],
                ends=[partial(self._has_ended, job) for job in batch],
                eos_token_id=self.text.eos_token_id,
            )
            return [self._decided(text) for text in texts]

        # Most passes of a cache read a window alone, and no padding of the prompts; nor do blocks.
        is_padded = options.cache == "none" and self.denoiser.blocks is None
        batches = self._batcher.process(jobs, measure, generated, is_padded=is_padded)
        yield from self._counted("generate_until", batches, progress)

    def _has_ended(self, job: Generation, decided: Tensor) -> bool:
        settings = job.settings
        return self.text.is_final(decided.tolist(), settings.until, ignore_eos=settings.ignore_eos)

    def _decided(self, text: Tensor) -> Tensor:
        """The tokens before the first that was left undecided because the text had ended."""
        return text[: int((text != self.text.mask_token_id).cumprod(0).sum())]

    def scores(
        self, jobs: Sequence[Target], progress: Progress
    ) -> Iterator[list[tuple[Target, Score]]]:
        """Jobs with their scores, batch by batch.

        Args:
            jobs: In any order.
            progress: As of `answers`.

        Raises:
            MemoryError: If not even one sequence fits.
        """
        options = self.checkpoint.arguments.likelihood
        copies = 2 if options.cfg_scale else 1

        def measure(group: Sequence[Target]) -> tuple[int, int]:
            num_rows = max(len(job.target) for job in group)
            return copies * (len(group[0].prefix) + num_rows), copies * num_rows

        def scored(
            batch: Sequence[Sequence[Target]], size: int
        ) -> list[list[tuple[Target, Score]]]:
            return self._score(batch, replace(options, batch_size=size))

        def num_masks(group: Sequence[Target]) -> int:
            lengths = [len(job.target) for job in group]
            # Of options of one length, the fully masked form is read once.
            num_shared = len(lengths) - len(set(lengths))
            return sum(map(options.num_masks, lengths)) - num_shared

        pairs = [(job.prefix, job.target) for job in jobs]
        groups = [[jobs[i] for i in group] for group in by_context(pairs, options)]
        # With blocks a pass holds prefixes, and what is to be read of each comes to few rows.
        counted = num_masks if self.denoiser.blocks is None else None
        batches = self._batcher.process(shortest_first(groups, measure), measure, scored, counted)
        flat = ([pair for _, results in batch for pair in results] for batch in batches)
        yield from self._counted("loglikelihood", flat, progress)

    def _score(
        self, groups: Sequence[Sequence[Target]], options: LikelihoodOptions
    ) -> list[list[tuple[Target, Score]]]:
        jobs = [job for group in groups for job in group]
        results = scored_pairs(
            self.denoiser,
            [(job.prefix, job.target) for job in jobs],
            options,
            seeds=[job.seed for job in jobs],
            check_greedy=self.checkpoint.arguments.requests.is_check_greedy,
            eos_token_id=self.text.eos_token_id,
        )
        scores = iter([(job, Score.of(*result)) for job, result in zip(jobs, results, strict=True)])
        return [list(islice(scores, len(group))) for group in groups]

    def rolling_scores(
        self, jobs: Sequence[Target], progress: Progress
    ) -> Iterator[list[tuple[Target, Score]]]:
        """Jobs with the scores of whole texts, read window by window; batch by batch.

        Args:
            jobs: In any order; all have the same prefix, which every text starts from.
            progress: As of `answers`.

        Raises:
            MemoryError: If not even one window fits.
        """
        options = self.checkpoint.arguments.likelihood
        copies, max_length = 2 if options.cfg_scale else 1, self.checkpoint.max_length

        def measure(job: Target) -> tuple[int, int]:
            longest = copies * min(len(job.prefix) + len(job.target), max_length)
            return longest, longest

        def scored(batch: Sequence[Target], size: int) -> list[Score]:
            estimates = rolling_log_likelihoods(
                self.denoiser,
                [job.target for job in batch],
                replace(options, batch_size=size),
                max_length=max_length,
                prefix=batch[0].prefix,
                seeds=[job.seed for job in batch],
            )
            return [Score.of(estimate, False) for estimate in estimates]

        def num_masks(job: Target) -> int:
            num_given = len(job.prefix)
            windows = rolling_windows(num_given + len(job.target), max_length, num_given=num_given)
            return sum(options.num_masks(end - begin) for _, begin, end in windows)

        ordered = shortest_first(jobs, lambda job: len(job.target))
        counted = num_masks if self.denoiser.blocks is None else None
        batches = self._batcher.process(ordered, measure, scored, counted)
        yield from self._counted("loglikelihood_rolling", batches, progress)

    def _counted(
        self, kind: str, batches: Iterator[list[Done]], progress: Progress
    ) -> Iterator[list[Done]]:
        """Passes batches on, keeping the books."""
        self.stats.on_forward = progress.read
        for batch in batches:
            self.batch_sizes[kind] = max(self.batch_sizes.get(kind, 0), self._batcher.last_size)
            yield batch
            progress.done(len(batch))
