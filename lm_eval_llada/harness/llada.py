"""`llada`, the model that lm-evaluation-harness talks to: strings to tensors and back.

What the numbers are is decided elsewhere, in `sampler` and `likelihood`; this file turns requests
into their calls and keeps the harness' promises about order, ranks, caches and truncation.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook, TemplateLM
from torch import Tensor

from lm_eval_llada.checkpoints.provenance import origin
from lm_eval_llada.engine.answers import Answer, AnswerStore
from lm_eval_llada.engine.argument_text import read_pairs
from lm_eval_llada.engine.arguments import (
    ModelArguments,
    answer_fingerprint,
    with_run_settings,
)
from lm_eval_llada.engine.batching import Progress
from lm_eval_llada.engine.dispatch import Dispatcher
from lm_eval_llada.engine.fingerprints import own_keys, refuse_random_cache
from lm_eval_llada.engine.jobs import Arguments, Generation, Job, JobMaker, Score
from lm_eval_llada.engine.loading import load_weights, open_run
from lm_eval_llada.engine.ranks import choose_device, join_ranks, place_of_process
from lm_eval_llada.engine.requests import RequestSeeds, content_seed, generation_settings
from lm_eval_llada.engine.runner import Runner
from lm_eval_llada.harness import left_out
from lm_eval_llada.harness.runlog import RunLog, Sample, merge_logs

_logger = logging.getLogger("lm_eval_llada")


class LLaDALM(TemplateLM):
    """A LLaDA model under the harness' `LM` interface.

    Arguments, config, tokenizer and the headers of the weight files are checked on construction.
    The weights themselves are read when the first request needs them.
    """

    # Entered as `llada` by `registration`, not by the harness' decorator: that one fails where a
    # release that reads entry points has entered the name before.

    def __init__(self, **model_args: Any) -> None:
        """Checks everything that can be wrong, without loading weights.

        Args:
            **model_args: The names that `arguments.known_names()` lists; none is required.

        Raises:
            ValueError: If a name or a value is wrong, or the checkpoint is incomplete.
            ImportError: If an attention implementation is asked for that is not installed.
        """
        super().__init__()
        self._checkpoint = open_run(model_args)
        self.arguments: ModelArguments = self._checkpoint.arguments
        self._text, self.rope = self._checkpoint.text, self._checkpoint.rope
        self.tokenizer = self._text.tokenizer
        loading = self.arguments.loading
        # Ranks that share each layer act as one process.
        self._ranks = join_ranks(loading.tp)
        self._rank, self._world_size = self._ranks.rank, self._ranks.world_size
        place = self._place = place_of_process()
        for line in self._checkpoint.notes if place.rank == 0 else ():
            _logger.warning(line)
        self._device = choose_device(
            loading.device, local_rank=place.local_rank, world_size=self._world_size
        )
        self.left_out = left_out.LeftOut() if self.arguments.requests.truncation == "skip" else None
        self._log = RunLog(likelihood_approximations=self.arguments.likelihood.approximations)
        self._logs = [self._log]
        self._disable_tqdm = False

    @classmethod
    def create_from_arg_obj(  # type: ignore[override]
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> LLaDALM:
        """The model from model_args and more; see `arguments.with_run_settings`."""
        return cls(**with_run_settings(arg_dict, additional_config))

    @classmethod
    def create_from_arg_string(  # type: ignore[override]
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> LLaDALM:
        """As `create_from_arg_obj`, from `name=value,name=value`."""
        return cls.create_from_arg_obj(read_pairs(arg_string, "model_args"), additional_config)

    @cached_property
    def runner(self) -> Runner:
        """The model with its weights, read on first use."""
        return Runner(self._checkpoint, load_weights(self._checkpoint, self._device))

    @cached_property
    def _owner(self) -> str:
        """Digest of everything that answers depend on besides the request."""
        return answer_fingerprint(self.arguments, self._checkpoint.location)

    @cached_property
    def _jobs(self) -> JobMaker:
        # The digest reads all weights; keys that are not kept need not say whose they are.
        is_kept = self.arguments.requests.answers_folder is not None
        return JobMaker(self._owner if is_kept else "", self._checkpoint)

    @cached_property
    def _dispatcher(self) -> Dispatcher:
        folder, store = self.arguments.requests.answers_folder, None
        if folder is not None:
            # Ranks that share each layer all keep all answers. They read the same ones: none of
            # them can finish, and save, a batch before all have come to it.
            place = self._place
            store = AnswerStore(folder, place.rank, place.world_size)
        return Dispatcher(self._ranks, store, self._answering, self._finished, self._progress)

    def _answering(
        self, kind: str, jobs: Sequence[Job], progress: Progress
    ) -> Iterator[list[tuple[Job, Answer]]]:
        # Reads the weights where that is still to do.
        return self.runner.answers(kind, jobs, progress)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """A generated text for each request.

        Args:
            requests: With args (context, generation_kwargs); see `requests.generation_settings`.
            disable_tqdm: Whether to hide the progress bar.

        Returns:
            Texts in the order of the requests, cut at `until` and, unless `ignore_eos` is set, at
            the end-of-text token, without special tokens.

        Raises:
            ValueError: If generation_kwargs are wrong or a prompt is too long and may not be cut.
        """
        self._disable_tqdm = disable_tqdm
        seeds = RequestSeeds(self.arguments.requests.seed)
        jobs = [self._generation_job(request, seeds) for request in requests]
        asked = [job for job in jobs if job is not None]
        return left_out.with_gaps(
            jobs, map(str, self._answers("generate_until", asked)), left_out.NO_TEXT
        )

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """A log-likelihood and a greedy check for the continuation of each request.

        Args:
            requests: With args (context, continuation). An empty context is no context at all:
                unlike a causal model, this one needs no token to start from.
            disable_tqdm: Whether to hide the progress bar.

        Returns:
            Natural-log likelihood, summed over tokens, and whether greedy decoding gives the
            continuation, in the order of the requests.

        Raises:
            ValueError: If a context is too long and may not be cut.
        """
        encoded: list[Any] = []
        for request in requests:
            prefix, target = self._encode_pair(*request.args)
            kept = self._fitted(request, prefix, len(target))
            encoded.append(None if kept is None else (request.args, kept, target))
        asked = [i for i, one in enumerate(encoded) if one is not None]
        samples = [_task_and_sample(requests[i]) for i in asked]
        scores = self._score([encoded[i] for i in asked], samples, disable_tqdm)
        return left_out.with_gaps(encoded, scores, left_out.NO_SCORE)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """A log-likelihood for the whole text of each request, read window by window.

        Args:
            requests: With args (text,).
            disable_tqdm: Whether to hide the progress bar.

        Returns:
            Natural-log likelihoods, summed over tokens, in the order of the requests. Windows have
            `max_length` tokens, so a text is never cut.
        """
        self._disable_tqdm = disable_tqdm
        kind, prefix = "loglikelihood_rolling", _ids(self._text.prefix())
        jobs = []
        for request in requests:
            ids = _ids(self._text.encode(request.args[0], add_special_tokens=False))
            seed = content_seed(self.arguments.requests.seed, kind, request.args[0])
            jobs.append(self._jobs.target(kind, prefix, ids, seed, request.args))
        scores = self._scores(kind, jobs, [_task_and_sample(request) for request in requests])
        return [score.value for score in scores]

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        """As `loglikelihood`, for requests that are encoded already and never cut."""
        return self._score(requests, [("", (i,)) for i in range(len(requests))], disable_tqdm)

    def _score(
        self,
        encoded: list[tuple[tuple[str, str], list[int], list[int]]],
        samples: list[tuple[str, Sample]],
        disable_tqdm: bool,
    ) -> list[tuple[float, bool]]:
        self._disable_tqdm = disable_tqdm
        kind, run_seed = "loglikelihood", self.arguments.requests.seed
        jobs = []
        for strings, prefix, target in encoded:
            seed = content_seed(run_seed, kind, *strings)
            jobs.append(self._jobs.target(kind, _ids(prefix), _ids(target), seed, strings))
        return [(score.value, score.is_greedy) for score in self._scores(kind, jobs, samples)]

    def _scores(
        self, kind: str, jobs: Sequence[Job], samples: Sequence[tuple[str, Sample]]
    ) -> list[Score]:
        """The scores of this rank's jobs, their errors noted under task and sample."""
        scores = [Score.kept(answer) for answer in self._answers(kind, jobs)]
        for (task, sample), score in zip(samples, scores, strict=True):
            self._log.saw_stderr(task, sample, score.stderr)
        return scores

    def _answers(self, kind: str, jobs: Sequence[Job]) -> list[Answer]:
        """The answers of this rank's jobs, from disk or from whichever rank they were dealt to."""
        answers = self._dispatcher.answers(kind, jobs)
        self._count_work()
        return answers

    def _finished(self, kind: str, args: Arguments, answer: Answer) -> None:
        """Hands an answer to the harness' cache, in the form in which the harness gets it."""
        value: Any = answer
        if kind != "generate_until":
            score = Score.kept(answer)
            value = score[:2] if kind == "loglikelihood" else score.value
        self.cache_hook.add_partial(kind, args, value)

    def _generation_job(self, request: Instance, seeds: RequestSeeds) -> Generation | None:
        context, gen_kwargs = request.args
        task, sample = _task_and_sample(request)
        blocks = self._checkpoint.config.blocks
        settings = generation_settings(gen_kwargs, self.arguments.sampling, blocks)
        refuse_random_cache(self.cache_hook, gen_kwargs, is_random=settings.options.is_random)
        self._log.saw_settings(task, settings)
        prompt = self._fitted(request, self.tok_encode(context), settings.options.gen_length)
        if prompt is None:
            return None
        seed = seeds.next((task, *sample), "generate_until", context, repeats=request.repeats)
        return self._jobs.generation(_ids(prompt), settings, seed, request.args)

    def _fitted(self, request: Instance, prompt: list[int], num_reserved: int) -> list[int] | None:
        options = self.arguments.requests
        return left_out.fitted(request, prompt, num_reserved, options, self._log, self.left_out)

    def _progress(self, kind: str, total: int) -> Progress:
        shown = self._place.rank == 0 and not self._disable_tqdm
        return Progress(total, f"llada {kind}", shown=shown)

    def _count_work(self) -> None:
        if "runner" in self.__dict__:
            self._log.num_passes = self.runner.stats.num_passes
            self._log.num_tokens = self.runner.stats.num_tokens
            self._log.peak_memory_bytes = self.runner.memory.peak_bytes()
        self._log.seconds = self._dispatcher.seconds
        self._log.num_from_disk = self._dispatcher.num_from_disk

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids of a text; see `Tokenization.encode`."""
        return self._text.encode(string, add_special_tokens)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if context:
            return super()._encode_pair(context, continuation)
        return self._text.prefix(), self._text.encode(continuation, add_special_tokens=False)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as a prompt; see `Tokenization.chat_prompt`."""
        return self._text.chat_prompt(chat_history, add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template that conversations are put into: the named one, or the default for True."""
        if not chat_template:
            return None
        name = chat_template if isinstance(chat_template, str) else None
        return self._text.choose_template(name)

    @property
    def tokenizer_name(self) -> str:
        """What the harness tells cached prompts apart by."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    @property
    def eot_token_id(self) -> int | None:  # type: ignore[override]
        """The token that ends a text."""
        return self._text.eos_token_id

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence: `max_length`, else the target or trained context.

        Windows of rolling likelihoods are this long. Other requests are cut only to a `max_length`
        that was given, since running past the trained context is what this package is for.
        """
        return self._checkpoint.max_length

    @property
    def max_gen_toks(self) -> int:
        """Tokens to generate where a task does not say."""
        return self.arguments.sampling.gen_length

    @property
    def batch_size(self) -> int | str:
        """As in model_args."""
        return self.arguments.requests.batch_size

    @property
    def batch_sizes(self) -> dict[str, int]:
        """The largest batch size used for each kind of request, which the harness prints."""
        return self.runner.batch_sizes if "runner" in self.__dict__ else {}

    def all_gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all ranks, concatenated."""
        return self._ranks.all_gather(tensor)

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """The objects of all ranks on rank `dst`, None elsewhere.

        The harness gathers its metrics this way at the end of a run. The logs travel along, since
        it asks for `get_model_info` on rank 0 only, too late to gather anything.
        """
        self._dispatcher.wait_for("gather")
        self._count_work()
        gathered = self._ranks.gather_object((obj, self._log), dst)
        if gathered is None:
            return None
        self._logs = [log for _, log in gathered]
        return [other for other, _ in gathered]

    def barrier(self) -> None:
        """Waits for the other ranks, and works for them meanwhile."""
        self._dispatcher.wait_for("barrier")

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Takes the harness' cache of answers, under keys that say whose they are.

        Raises:
            ValueError: If ranks that have to do the same work would read different caches: the
                harness gives the same file to some ranks of different copies.
        """
        if self.arguments.loading.tp is not None and self._world_size > 1:
            raise ValueError(
                f"--use_cache cannot be combined with {self._world_size} copies over "
                f"tp={self.arguments.loading.tp} ranks each; use answers_dir, which keeps answers."
            )
        if self.left_out is not None:
            left_out.refuse_cache(cache_hook)
        super().set_cache_hook(cache_hook)
        own_keys(cache_hook, self._owner)

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes into the results' `config`; says which tasks were truncated."""
        log, requests = merge_logs(self._logs), self.arguments.requests
        for line in log.truncation_lines(requests.truncation, requests.max_length):
            _logger.warning(line)
        loading = self.arguments.loading
        info: dict[str, Any] = {"model_revision": loading.revision}
        if "runner" in self.__dict__:
            model = self.runner.model
            info["model_num_parameters"] = model.num_parameters()
            info["model_dtype"] = str(model.dtype)
        info["rope"] = dataclasses.asdict(self.rope)
        info["llada"] = {
            **origin(self._checkpoint.location, loading.revision, loading.peft),
            "arguments": dataclasses.asdict(self.arguments),
            "max_length": self.max_length,
            "num_ranks": self._world_size,
            **log.summary(),
        }
        return info


def _ids(tokens: list[int]) -> Tensor:
    return torch.tensor(tokens, dtype=torch.int64)


def _task_and_sample(request: Instance) -> tuple[str, Sample]:
    return request.task_name or "", (request.doc_id, request.idx)
