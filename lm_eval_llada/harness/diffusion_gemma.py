"""`diffusion_gemma`: DiffusionGemma through transformers' own `generate`, one text a call.

The modelling and the decoding are transformers'. Ours are seeds that depend on a request alone, the
length asked for, the end of a text, and errors for what `generate` passes over in silence.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn, get_type_hints

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook, TemplateLM
from lm_eval.models.utils import postprocess_generated_text
from lm_eval.utils import simple_parse_args_string
from tqdm import tqdm

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.checkpoints.provenance import origin
from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.engine.arguments import (
    SAMPLING_NAMES,
    TRUNCATION,
    convert,
    unknown_name,
    with_run_settings,
)
from lm_eval_llada.engine.device_memory import peak_memory_bytes
from lm_eval_llada.engine.fingerprints import fingerprint, own_keys
from lm_eval_llada.engine.ranks import choose_device, place_of_process
from lm_eval_llada.engine.requests import RequestSeeds, fit_prompt
from lm_eval_llada.engine.stops import stops_of
from lm_eval_llada.errors import require_whole, unknown_choice
from lm_eval_llada.harness.runlog import RunLog
from lm_eval_llada.tasks.output_length import LENGTH_NAMES, output_length

# What `generate` takes and does nothing with, and the values by which tasks say no more than that
# they want no sampling of their own.
_PASSED_OVER: dict[str, tuple[Any, ...]] = {
    "do_sample": (None, False),
    "temperature": (None, 0),
    "top_k": (None, 0, -1),
    "top_p": (None, 1),
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "stop_strings": (None,),
    "min_new_tokens": (None, 0),
    "ignore_eos": (None, False),
}
# Of masked diffusion alone: how tasks of this package ask for its decoding.
_OF_MASKED_DIFFUSION = tuple(sorted({*SAMPLING_NAMES} - {*LENGTH_NAMES, *_PASSED_OVER}))
_TRUNCATION = tuple(how for how in TRUNCATION if how != "skip")
_IGNORED = ("batch_size", "max_batch_size", "trust_remote_code")
_logger = logging.getLogger("lm_eval_llada")


@dataclass(frozen=True)
class GemmaOptions:
    """What `--model_args` says.

    Attributes:
        pretrained: Folder or hub id.
        tokenizer: The same for the tokenizer; None means `pretrained`.
        revision: Branch, tag or commit on the hub.
        dtype: As transformers takes it; auto is what the checkpoint is stored in.
        device: A torch device, or auto: the GPU if there is one.
        device_map: Spread the model over devices, such as auto; not with `device`.
        max_length: Longest sequence, prompt and text together; None sets no limit.
        truncation: Which part of a longer prompt is dropped.
        seed: With a request's content, the seed of that request.
        gen_length: Tokens of a text where a task does not say.
        max_denoising_steps: Passes of a canvas at most; None for this and those below leaves it to
            the release.
        t_min: Temperature of the last step.
        t_max: Temperature of the first step.
        stability_threshold: Steps for which a canvas has to stay as it is to be done.
        confidence_threshold: Mean entropy below which it may be done, nats.

    Raises:
        ValueError: If a value is out of range.
    """

    pretrained: str
    tokenizer: str | None = None
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    device_map: str | None = None
    max_length: int | None = None
    truncation: str = "middle"
    seed: int = 2025
    gen_length: int = 256
    max_denoising_steps: int | None = None
    t_min: float | None = None
    t_max: float | None = None
    stability_threshold: int | None = None
    confidence_threshold: float | None = None

    def __post_init__(self) -> None:  # noqa: D105
        require_whole("gen_length", self.gen_length, 1)
        if self.max_length is not None:
            require_whole("max_length", self.max_length, 1)
        if self.truncation not in _TRUNCATION:
            raise unknown_choice("truncation", self.truncation, _TRUNCATION)

    @property
    def decoding(self) -> dict[str, Any]:
        """Arguments of `generate` beside the length."""
        names = ("max_denoising_steps", "t_min", "t_max", "stability_threshold",
                 "confidence_threshold")  # fmt: skip
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}


class DiffusionGemmaLM(TemplateLM):
    """DiffusionGemma under the harness' `LM` interface; it generates and scores nothing."""

    def __init__(self, **model_args: Any) -> None:
        """Check the arguments and read the tokenizer; weights are read by the first request.

        Args:
            **model_args: Fields of `GemmaOptions`.

        Raises:
            ValueError: If a name or a value is wrong, or several processes were started.
        """
        super().__init__()
        self.options = _parsed(model_args)
        if place_of_process().world_size > 1:
            raise ValueError(
                "--model diffusion_gemma runs in one process; start one, and spread the model by "
                "device_map=auto."
            )
        self._location = resolve_checkpoint(self.options.pretrained)
        self.tokenizer = load_tokenizer(
            self.options.tokenizer, self.options.pretrained, self.options.revision
        )
        self._log = RunLog()
        self._speeds: dict[str, list[float]] = {}

    @classmethod
    def create_from_arg_obj(  # type: ignore[override]
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> DiffusionGemmaLM:
        """Make the model from model_args and more; see `arguments.with_run_settings`."""
        return cls(**with_run_settings(arg_dict, additional_config))

    @classmethod
    def create_from_arg_string(  # type: ignore[override]
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> DiffusionGemmaLM:
        """As `create_from_arg_obj`, from `name=value,name=value`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @cached_property
    def model(self) -> Any:
        """The model with its weights, read on first use.

        Raises:
            ImportError: If transformers is too old to have its class.
        """
        try:
            from transformers import DiffusionGemmaForBlockDiffusion
        except ImportError as error:
            raise ImportError(
                "--model diffusion_gemma needs a transformers that has "
                "DiffusionGemmaForBlockDiffusion. Install it with: pip install -U transformers."
            ) from error
        options = self.options
        place: Any = options.device_map
        if place is None:
            place = {"": choose_device(options.device, local_rank=0, world_size=1)}
        model = DiffusionGemmaForBlockDiffusion.from_pretrained(
            self._location,
            revision=options.revision or "main",
            dtype=options.dtype,
            device_map=place,
        )
        return model.eval()

    @cached_property
    def end_token_ids(self) -> set[int]:
        """Tokens that end a text: those the release's generation config lists."""
        given = self.model.generation_config.eos_token_id
        if given is None:
            given = self.model.config.text_config.eos_token_id
        return {*(given if isinstance(given, list) else [given]), self.tokenizer.eos_token_id}

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate a text for each request, each in a call of its own under a seed of its own.

        Args:
            requests: With args (context, generation_kwargs).
            disable_tqdm: Whether to hide the progress bar.

        Returns:
            Texts in the order of the requests, cut at the first end token and at `until`.

        Raises:
            ValueError: If generation_kwargs ask for what `generate` passes over, or a prompt is too
                long and may not be cut.
        """
        seeds = RequestSeeds(self.options.seed)
        # Wrong ones stop the run before the first text.
        plans = [_plan(request.args[1], self.options.gen_length) for request in requests]
        unheard = {name for request in requests for name in request.args[1]} & {*_PASSED_OVER}
        if unheard:
            _logger.warning(
                "DiffusionGemma samples its canvases under a schedule of its own: %s of the tasks "
                "says nothing to it.",
                ", ".join(sorted(unheard)),
            )
        texts = []
        start = time.monotonic()
        pairs = zip(requests, plans, strict=True)
        for request, (length, until) in tqdm(pairs, total=len(requests), disable=disable_tqdm):
            task, sample = request.task_name or "", (request.doc_id, request.idx)
            context = request.args[0]
            seed = seeds.next((task, *sample), "generate_until", context, repeats=request.repeats)
            ids = self._prompt(request, length)
            tokens, speed = self.tokens(ids, length, seed)
            self._speeds.setdefault(task, []).append(speed)
            text = self.tokenizer.decode(self._until_end(tokens), skip_special_tokens=True)
            texts.append(postprocess_generated_text(str(text), list(until), None))
            self.cache_hook.add_partial("generate_until", request.args, texts[-1])
        self._log.seconds += time.monotonic() - start
        return texts

    def tokens(self, prompt: list[int], length: int, seed: int) -> tuple[list[int], float]:
        """The tokens that `generate` gives a prompt, and how many came of each of its passes.

        Its canvases are whole, so that more than `length` may come; those are cut off.

        Args:
            prompt: Token ids.
            length: Tokens to generate.
            seed: Of the random numbers, which are torch's global ones inside `generate`.
        """
        device = self.model.device
        gpus = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(gpus), torch.inference_mode():
            torch.manual_seed(seed)
            output = self.model.generate(
                torch.tensor([prompt], device=device),
                max_new_tokens=length,
                # Without it, 256 new tokens count as not given where a release has a max_length.
                max_length=len(prompt) + length,
                **self.options.decoding,
            )
        new = output.sequences[0, len(prompt) :].tolist()
        return new[:length], float(output.tokens_per_forward[0])

    def _until_end(self, tokens: list[int]) -> list[int]:
        """Tokens before the first that ends a text: raw ones follow it."""
        ends = self.end_token_ids
        return tokens[: next((i for i, token in enumerate(tokens) if token in ends), None)]

    def _prompt(self, request: Instance, length: int) -> list[int]:
        """The prompt beside the tokens it is for, cut if it has to be, and counted."""
        task = request.task_name or ""
        ids = self.tok_encode(request.args[0])
        what = f"{task} sample {request.doc_id}"
        kept = fit_prompt(ids, length, self.options.max_length, self.options.truncation, what)
        self._log.saw_prompt(task, (request.doc_id, request.idx), len(ids) - len(kept))
        return kept

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> NoReturn:
        """Refuse.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "DiffusionGemma starts from uniform noise and has no mask, so masked diffusion's bound "
            "on a likelihood does not exist for it; run tasks that generate."
        )

    loglikelihood_rolling = _loglikelihood_tokens = loglikelihood  # type: ignore[assignment]

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids of a text, without a second BOS where it has one, as chat prompts do."""
        bos = self.tokenizer.bos_token
        if add_special_tokens is None:
            add_special_tokens = bos is None or not string.startswith(bos)
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as a prompt, by the tokenizer's template."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    @property
    def tokenizer_name(self) -> str:
        """What the harness tells cached prompts apart by."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    @property
    def eot_token_id(self) -> int | None:  # type: ignore[override]
        """The token that ends a text."""
        return self.tokenizer.eos_token_id  # type: ignore[no-any-return]

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Take the harness' cache of answers, under keys that say whose they are."""
        super().set_cache_hook(cache_hook)
        values = dataclasses.asdict(self.options)
        for name in ("pretrained", "revision", "device", "device_map"):
            values.pop(name)
        own_keys(cache_hook, fingerprint(values, self._location, revision=self.options.revision))

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes into the results' `config`, `tokens_per_forward` by task."""
        options = self.options
        for line in self._log.truncation_lines(options.truncation, options.max_length):
            _logger.warning(line)
        info: dict[str, Any] = {"model_revision": options.revision}
        if "model" in self.__dict__:
            info["model_num_parameters"] = self.model.num_parameters()
            info["model_dtype"] = str(self.model.dtype)
            self._log.peak_memory_bytes = peak_memory_bytes(self.model.device)
        summary = self._log.summary()
        speeds = {task: sum(each) / len(each) for task, each in sorted(self._speeds.items())}
        info["diffusion_gemma"] = {
            **origin(self._location, options.revision),
            "arguments": dataclasses.asdict(options),
            "tokens_per_forward": speeds,
            "truncation": summary["truncation"],
            "seconds": self._log.seconds,
        }
        return info


def _parsed(model_args: Mapping[str, Any]) -> GemmaOptions:
    hints = get_type_hints(GemmaOptions)
    values = {}
    for name, value in model_args.items():
        if name in _PASSED_OVER:
            raise _no_such_choice(name, value)
        if name in hints:
            values[name] = convert(name, value, hints[name])
        elif name not in _IGNORED:
            raise unknown_name("model_args", name, tuple(hints))
    if "pretrained" not in values:
        raise ValueError("--model diffusion_gemma needs pretrained= among model_args.")
    return GemmaOptions(**values)


def _plan(gen_kwargs: Mapping[str, Any], default_length: int) -> tuple[int, tuple[str, ...]]:
    """Tokens to generate, and what ends a text before that.

    Raises:
        ValueError: If a name is unknown, or a value asks for what `generate` passes over.
    """
    known = (*LENGTH_NAMES, *_OF_MASKED_DIFFUSION, *_PASSED_OVER, "until")
    for name, value in gen_kwargs.items():
        if name not in known:
            raise unknown_name("generation_kwargs", name, known)
        if name in _PASSED_OVER and value not in _PASSED_OVER[name]:
            raise _no_such_choice(name, value)
    length = output_length(gen_kwargs)
    if length is None:
        length = default_length
    return length, stops_of(gen_kwargs.get("until"))


def _no_such_choice(name: str, value: Any) -> ValueError:
    return ValueError(
        f"{name}={value!r} has no effect on DiffusionGemma, whose canvases are sampled under a "
        "schedule of its own; drop it, or set t_min, t_max, max_denoising_steps, "
        "stability_threshold or confidence_threshold in model_args."
    )
