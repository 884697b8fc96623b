"""What a run will ask of the model: how many requests of which lengths, before any data are read.

Tasks of ours have a fixed length in their metadata, so that neither samples nor a tokenizer are
needed. Other tasks are built as in a run, by the harness, for a model that only counts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.tasks import TaskManager

from lm_eval_llada.diffusion.likelihood import rolling_windows
from lm_eval_llada.diffusion.sampler import SamplingOptions
from lm_eval_llada.engine.arguments import ModelArguments
from lm_eval_llada.engine.requests import fit_prompt, generation_settings, is_left_out
from lm_eval_llada.harness.llada import LLaDALM
from lm_eval_llada.plan.task_names import file_settings, matches, single_tasks
from lm_eval_llada.tasks.generated.samples import GeneratedOptions
from lm_eval_llada.tasks.longbench.samples import LongBenchOptions
from lm_eval_llada.tasks.niah.options import NiahOptions
from lm_eval_llada.tasks.perplexity.samples import PerplexityOptions, chunk_ends
from lm_eval_llada.tasks.ruler.options import RulerOptions
from lm_eval_llada.tasks.settings import own_settings

# Documents of each dataset (LongBench, arXiv 2308.14508, table 1); all others have 200.
_LONGBENCH_SIZES = {"multifieldqa_en": 150, "lcc": 500, "repobench-p": 500}
_LONGBENCH_SIZE = 200


@dataclass(frozen=True)
class Request:
    """One request, as far as its cost depends on it.

    Attributes:
        prompt_length: Tokens before those that are generated or scored.
        target_length: Tokens to generate or to score.
        sampling: How to generate; None where tokens are scored.
    """

    prompt_length: int
    target_length: int
    sampling: SamplingOptions | None = None

    @property
    def length(self) -> int:
        """Tokens of the whole sequence."""
        return self.prompt_length + self.target_length


@dataclass(frozen=True)
class TaskPlan:
    """What a task asks.

    Attributes:
        name: Of the task.
        requests: How often each request comes.
        notes: What is not exact about them, a sentence each.
    """

    name: str
    requests: Mapping[Request, int]
    notes: tuple[str, ...] = ()

    @property
    def num_requests(self) -> int:
        """All of them."""
        return sum(self.requests.values())


@dataclass(frozen=True)
class RunPlan:
    """What a run asks.

    Attributes:
        tasks: Those that can be foreseen, in the order of a run.
        missing: A sentence for each of the others.
    """

    tasks: tuple[TaskPlan, ...]
    missing: tuple[str, ...] = ()


def plan_run(config: EvaluatorConfig, arguments: ModelArguments) -> RunPlan:
    """Find out what a run asks of the model.

    Raises:
        ValueError: If a task does not exist, or its settings are wrong.
    """
    manager, names = _find_tasks(config)
    planned: dict[str, TaskPlan] = {}
    missing = []
    for task in single_tasks(manager, names):
        if task in planned:
            continue
        settings = file_settings(manager, task)
        if _kind(settings) is None:
            found = _built(config, arguments, manager, task)
        else:
            found = _foreseen(config, arguments, manager, task, settings)
        if isinstance(found, str):
            missing.append(found)
        else:
            planned.update((plan.name, plan) for plan in found)
    return RunPlan(tuple(planned.values()), tuple(missing))


def _find_tasks(config: EvaluatorConfig) -> tuple[TaskManager, list[str]]:
    """The index that holds all named tasks, and their names without patterns."""
    listed = [config.tasks] if isinstance(config.tasks, str) else config.tasks
    wanted = [name for entry in listed for name in entry.split(",") if name]
    is_pattern = any(character in name for name in wanted for character in "*?[")
    missing: list[str] = []
    # The harness' own tasks are thousands of files; ours are found without listing them.
    for include_defaults in [True] if is_pattern else [False, True]:
        manager = TaskManager(
            include_path=config.include_path,  # type: ignore[arg-type]
            include_defaults=include_defaults,
            metadata=config.metadata,
        )
        found = {name: matches(manager, name) for name in wanted}
        missing = [name for name, tasks in found.items() if not tasks]
        if wanted and not missing:
            return manager, list(dict.fromkeys(name for names in found.values() for name in names))
    if not missing:
        raise ValueError("--tasks names no task.")
    raise ValueError(f"Tasks not found: {', '.join(missing)}")


def _kind(settings: Mapping[str, Any]) -> str | None:
    """Which of our sample makers a task uses, None for another."""
    # Functions that are not resolved are the name behind the folder of the file.
    maker = Path(str(settings.get("custom_dataset", ""))).name
    return maker if maker in _LENGTHS else None


def _foreseen(
    config: EvaluatorConfig,
    arguments: ModelArguments,
    manager: TaskManager,
    task: str,
    file: Mapping[str, Any],
) -> list[TaskPlan]:
    """A task of ours, from its settings alone."""
    kind, name = _kind(file) or "", str(file["task"])
    settings = {**(file.get("metadata") or {}), **(config.metadata or {})}
    notes = []
    if kind == _LONGBENCH:
        if arguments.tasks.data_dir is not None:
            built = _built(config, arguments, manager, task)
            if not isinstance(built, str):
                return built
            notes.append(built)
        notes.append(f"{name}: prompts have at most the tokens shown, documents as published.")
    sampling = None
    if file.get("output_type") == "generate_until":
        generation = {**(file.get("generation_kwargs") or {}), **(config.gen_kwargs or {})}
        sampling = generation_settings(generation, arguments.sampling).options
    if settings.get("length_unit") == "cl100k":
        notes.append(f"{name}: lengths are counted in cl100k tokens; the model's may differ.")
    lengths = _LENGTHS[kind](settings, sampling)
    requests: Counter[Request] = Counter()
    asked = arguments.requests
    for prompt, target in lengths[: _limit(config, name, len(lengths))]:
        if is_left_out(prompt + target, asked.max_length, asked.truncation):
            continue
        requests[_fitted(arguments, name, Request(prompt, target, sampling))] += 1
    return [TaskPlan(name, requests, tuple(notes))]


def _fitted(arguments: ModelArguments, task: str, request: Request) -> Request:
    """The request with its prompt cut as in a run."""
    options = arguments.requests
    prompt = fit_prompt(
        [0] * request.prompt_length,
        request.target_length,
        options.max_length,
        options.truncation,
        task,
    )
    return Request(len(prompt), request.target_length, request.sampling)


def _limit(config: EvaluatorConfig, task: str, num_samples: int) -> int:
    """How many samples of a task run, by the harness' rules."""
    if isinstance(config.samples, dict) and task in config.samples:
        return len(config.samples[task])
    if config.limit is None:
        return num_samples
    share = config.limit < 1
    return min(num_samples, math.ceil(num_samples * config.limit) if share else int(config.limit))


Lengths = list[tuple[int, int]]
"""Tokens before the target and tokens of the target, one pair a sample, in order."""


def _niah_lengths(settings: Mapping[str, Any], sampling: SamplingOptions | None) -> Lengths:
    options = _niah_options(settings, sampling)
    return _filled(options.length, options.gen_length, len(options.depths) * options.repeats)


def _niah_multi_lengths(settings: Mapping[str, Any], sampling: SamplingOptions | None) -> Lengths:
    options = _niah_options(settings, sampling)
    return _filled(options.length, options.gen_length, options.repeats)


def _niah_options(settings: Mapping[str, Any], sampling: SamplingOptions | None) -> NiahOptions:
    own = _own(settings, NiahOptions, "a NIAH task", without={"gen_length", "seed"})
    return NiahOptions(**{"length": None, **own, "gen_length": _gen_length(sampling)})


def _ruler_lengths(settings: Mapping[str, Any], sampling: SamplingOptions | None) -> Lengths:
    own = _own(settings, RulerOptions, "a RULER task", without={"task", "gen_length", "seed"})
    output = _gen_length(sampling)
    budget = settings.get("output_budget") or output
    own = {"length": None, **own, "task": settings.get("ruler_task"), "gen_length": budget}
    options = RulerOptions(**own)
    return [(options.length - budget, output)] * options.num_samples


def _generated_lengths(settings: Mapping[str, Any], sampling: SamplingOptions | None) -> Lengths:
    own = _own(settings, GeneratedOptions, "a generated task", without={"gen_length", "seed"})
    given = {"set": None, "length": None, **own, "gen_length": _gen_length(sampling)}
    options = GeneratedOptions(**given)
    return _filled(options.length, options.gen_length, options.num_samples)


def _longbench_lengths(settings: Mapping[str, Any], sampling: SamplingOptions | None) -> Lengths:
    own = _own(settings, LongBenchOptions, "a LongBench task")
    options = LongBenchOptions(**{"dataset": None, "prompt_length": None, **own})
    size = _LONGBENCH_SIZES.get(options.dataset, _LONGBENCH_SIZE)
    return [(options.prompt_length, _gen_length(sampling))] * (options.num_samples or size)


def _perplexity_lengths(settings: Mapping[str, Any], sampling: SamplingOptions | None) -> Lengths:
    own = _own(settings, PerplexityOptions, "a perplexity task")
    options = PerplexityOptions(**{**own, "lengths": tuple(own.get("lengths", ()))})
    chunk = options.chunk_length
    ends = [end for _, end in chunk_ends(options)]
    return [(end - chunk, chunk) for _ in range(options.num_documents) for end in ends]


def _filled(length: int, gen_length: int, num_samples: int) -> Lengths:
    return [(length - gen_length, gen_length)] * num_samples


def _gen_length(sampling: SamplingOptions | None) -> int:
    if sampling is None:
        raise ValueError("A task whose samples leave room for an output must generate one.")
    return sampling.gen_length


def _own(
    settings: Mapping[str, Any], options: type, what: str, without: Iterable[str] = ()
) -> dict[str, Any]:
    names = {field.name for field in fields(options)} - set(without)
    return own_settings(settings, names, what)


_LONGBENCH = "lm_eval_llada.tasks.longbench.samples.longbench_dataset"
_LENGTHS: dict[str, Callable[[Mapping[str, Any], SamplingOptions | None], Lengths]] = {
    "lm_eval_llada.tasks.niah.single.niah_dataset": _niah_lengths,
    "lm_eval_llada.tasks.niah.multi.niah_multi_dataset": _niah_multi_lengths,
    "lm_eval_llada.tasks.ruler.samples.ruler_dataset": _ruler_lengths,
    "lm_eval_llada.tasks.generated.samples.generated_dataset": _generated_lengths,
    _LONGBENCH: _longbench_lengths,
    "lm_eval_llada.tasks.perplexity.samples.perplexity_dataset": _perplexity_lengths,
}


def _built(
    config: EvaluatorConfig, arguments: ModelArguments, manager: TaskManager, task: str
) -> list[TaskPlan] | str:
    """What the harness asks for a task; a sentence where its data or tokenizer are not there."""
    from lm_eval import simple_evaluate

    try:
        model = _CountingLM(**{**config.model_args, "device": "cpu"})
        simple_evaluate(
            model=model,
            tasks=[task],
            task_manager=manager,
            num_fewshot=config.num_fewshot,
            limit=config.limit,
            samples=config.samples,  # type: ignore[arg-type]
            system_instruction=config.system_instruction,
            apply_chat_template=config.apply_chat_template,
            fewshot_as_multiturn=bool(config.fewshot_as_multiturn),
            gen_kwargs=config.gen_kwargs or None,
            metadata=config.metadata,
            predict_only=True,
            bootstrap_iters=0,
        )
    # A foreign task runs code of its own, which may raise anything.
    except Exception as error:  # noqa: BLE001
        reason = " ".join(str(error).split()) or type(error).__name__
        return f"{task}: its requests could not be built here ({reason})."
    return [TaskPlan(name, dict(requests)) for name, requests in model.asked.items()]


class _CountingLM(LLaDALM):
    """Answers nothing and writes down what it was asked; reads no weights."""

    def __init__(self, **model_args: Any) -> None:
        super().__init__(**model_args)
        self.asked: dict[str, Counter[Request]] = {}

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        for request in requests:
            context, generation = request.args
            blocks = self._checkpoint.config.blocks
            options = generation_settings(generation, self.arguments.sampling, blocks).options
            item = Request(len(self.tok_encode(context)), options.gen_length, options)
            task = request.task_name or ""
            self._note(task, _fitted(self.arguments, task, item))
        return [""] * len(requests)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        num_given = len(self._text.prefix())
        for request in requests:
            num_tokens = num_given + len(self._text.encode(request.args[0], False))
            windows = rolling_windows(num_tokens, self.max_length, num_given=num_given)
            for start, begin, end in windows:
                self._note(request.task_name or "", Request(begin - start, end - begin))
        return [0.0] * len(requests)

    def _score(
        self,
        encoded: list[tuple[tuple[str, str], list[int], list[int]]],
        samples: list[tuple[str, Any]],
        disable_tqdm: bool,
    ) -> list[tuple[float, bool]]:
        for (_, prefix, target), (task, _) in zip(encoded, samples, strict=True):
            self._note(task, Request(len(prefix), len(target)))
        return [(0.0, False)] * len(encoded)

    def _note(self, task: str, request: Request) -> None:
        self.asked.setdefault(task, Counter())[request] += 1
