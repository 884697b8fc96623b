"""`hf_rope`, the causal baseline: the harness' own `hf` model with the rope arguments of `llada`.

Loading, batching and scoring stay the harness'. Ours are the position embeddings, the truncation
that `llada` has, and errors for names that nothing reads.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import simple_parse_args_string
from transformers import AutoConfig, PreTrainedConfig

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.checkpoints.provenance import origin
from lm_eval_llada.engine.arguments import (
    ModelArguments,
    parse_model_args,
    shared_names,
    unknown_name,
    with_run_settings,
)
from lm_eval_llada.engine.device_memory import peak_memory_bytes
from lm_eval_llada.engine.fingerprints import fingerprint, own_keys
from lm_eval_llada.engine.requests import causal_generation, fit_prompt
from lm_eval_llada.harness.runlog import RunLog
from lm_eval_llada.rope import (
    ResolvedRope,
    RopeChoice,
    resolve,
)

# Taken by transformers' from_pretrained, to which the harness hands on what it does not know.
_LOADING_NAMES = ("attn_implementation", "device_map", "load_in_4bit", "load_in_8bit")
# What changes how fast answers come, not what they are.
_SPEED = ("batch_size", "max_batch_size", "device", "device_map", "attn_implementation")
_DEFAULT_GEN_LENGTH = 128
_logger = logging.getLogger("lm_eval_llada")


class RopeLM(HFLM):
    """A causal model of transformers under NTK and the other ways to stretch its positions."""

    def __init__(self, **model_args: Any) -> None:
        """Check the arguments, then load the model with its positions stretched.

        Args:
            **model_args: Those of the harness' `hf` model, and of `llada` the rope arguments,
                `max_length`, `truncation` and the names that tasks read.

        Raises:
            ValueError: If a name or a value is wrong, or the checkpoint has no rotary embeddings
                to stretch, or is stretched already.
        """
        own, theirs = _split(model_args)
        self.arguments: ModelArguments = parse_model_args(own)
        self._pretrained = str(theirs.pop("pretrained"))
        self._location = resolve_checkpoint(self._pretrained)
        config = AutoConfig.from_pretrained(
            self._location, revision=str(theirs.get("revision") or "main")
        )
        self.rope = causal_rope(config, self.arguments.rope)
        if self.rope.method != "none":
            theirs["rope_parameters"] = self.rope.rope_parameters
            theirs["max_position_embeddings"] = self.rope.max_position_embeddings
        if theirs.get("tokenizer") is not None:
            theirs["tokenizer"] = resolve_checkpoint(str(theirs["tokenizer"]))
        # Everything that the harness' model was told, for the keys of its cache.
        self._told = {name: str(value) for name, value in theirs.items() if name not in _SPEED}
        self._log = RunLog()
        self._longest: int | None = None
        self._prompts: dict[tuple[str, int], list[int]] = {}
        self._current: list[Instance] = []
        super().__init__(pretrained=self._location, **theirs)
        self.model.register_forward_pre_hook(self._count_pass, with_kwargs=True)

    @classmethod
    def create_from_arg_obj(  # type: ignore[override]
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> RopeLM:
        """Make the model from model_args and more; see `arguments.with_run_settings`."""
        return cls(**with_run_settings(arg_dict, additional_config))

    @classmethod
    def create_from_arg_string(  # type: ignore[override]
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> RopeLM:
        """As `create_from_arg_obj`, from `name=value,name=value`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence: `max_length`, else the target or trained context.

        Windows of rolling likelihoods are this long. Other requests are cut only to a `max_length`
        that was given: while they run, this is the length of the longest of them.
        """
        given = self.arguments.requests.max_length
        return self._longest or given or max(self.rope.train_length, self.rope.target_length or 0)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate a text for each request.

        Args:
            requests: With args (context, generation_kwargs); what only masked diffusion reads
                among these is passed over.
            disable_tqdm: Whether to hide the progress bar.

        Returns:
            Texts in the order of the requests.

        Raises:
            ValueError: If a prompt is too long and may not be cut.
        """
        plain, longest = [], 1
        for request in requests:
            context, gen_kwargs = request.args
            kwargs = causal_generation(gen_kwargs, _DEFAULT_GEN_LENGTH)
            length = kwargs["max_gen_toks"]
            # There is no next token of nothing.
            ids = self.tok_encode(context) or [self.prefix_token_id]
            prompt = self._fitted(request, ids, length)
            self._prompts[context, length] = prompt
            longest = max(longest, len(prompt) + length)
            plain.append(dataclasses.replace(request, arguments=(context, kwargs), resps=[]))
        cache_hook: CacheHook = self.cache_hook  # type: ignore[has-type]
        self.cache_hook = CacheHook(None)
        try:
            with self._room_for(longest), self._timed():
                texts = super().generate_until(plain, disable_tqdm)
        finally:
            self.cache_hook = cache_hook
            self._prompts.clear()
        for request, text in zip(requests, texts, strict=True):
            # Under the request as the task wrote it, which is what the harness looks up.
            cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Padded token ids and attention mask of prompts, cut as `truncation` says.

        Args:
            strings: The prompts.
            padding_side: `left` or `right`.
            left_truncate_len: What the harness leaves for a prompt beside its output.
            truncation: Not read; prompts have been cut already.
        """
        length = self.max_length - (left_truncate_len or self.max_length)
        rows = [self._prompts.get((text, length)) or self.tok_encode(text) for text in strings]
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), int(self.tokenizer.pad_token_id))
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(rows):
            place = (
                slice(width - len(prompt), None) if padding_side == "left" else slice(len(prompt))
            )
            ids[row, place] = torch.tensor(prompt)
            mask[row, place] = 1
        return ids, mask

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Score the continuation of each request; see the harness' `TemplateLM`.

        Raises:
            ValueError: If a context is too long and may not be cut.
        """
        self._current = requests
        try:
            return super().loglikelihood(requests, disable_tqdm)
        finally:
            self._current = []

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        if not self._current:  # windows of a rolling likelihood, which are short enough
            with self._timed():
                return super()._loglikelihood_tokens(requests, disable_tqdm, **kwargs)
        fitted = [
            (texts, self._fitted(request, context, len(target)), target)
            for request, (texts, context, target) in zip(self._current, requests, strict=True)
        ]
        longest = max((len(context) + len(target) for _, context, target in fitted), default=1)
        with self._room_for(longest), self._timed():
            return super()._loglikelihood_tokens(fitted, disable_tqdm, **kwargs)

    def _fitted(self, request: Instance, prompt: list[int], num_reserved: int) -> list[int]:
        """The prompt beside the tokens it is for, cut if it has to be, and counted."""
        options, task = self.arguments.requests, request.task_name or ""
        what = f"{task} sample {request.doc_id}"
        kept = fit_prompt(prompt, num_reserved, options.max_length, options.truncation, what)
        self._log.saw_prompt(task, (request.doc_id, request.idx), len(prompt) - len(kept))
        return kept

    @contextmanager
    def _room_for(self, longest: int) -> Iterator[None]:
        """Keep the harness from cutting sequences of up to `longest` tokens."""
        self._longest = longest
        try:
            yield
        finally:
            self._longest = None

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.monotonic()
        yield
        self._log.seconds += time.monotonic() - start

    def _count_pass(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the books before a forward pass of the model."""
        input_ids = args[0] if args else kwargs["input_ids"]
        mask = kwargs.get("attention_mask")
        self._log.num_passes += 1
        # With keys and values kept, the mask covers more than what is read.
        read = input_ids if mask is None or mask.shape != input_ids.shape else mask.nonzero()[:, 0]
        self._log.num_tokens += read.numel()

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Take the harness' cache of answers, under keys that say whose they are."""
        super().set_cache_hook(cache_hook)
        values = {
            "model": "hf_rope",
            "rope": dataclasses.asdict(self.rope),
            "requests": dataclasses.asdict(self.arguments.requests),
            "dtype": str(self.model.dtype),
            "hf": self._told,
        }
        revision = self._told.get("revision")
        own_keys(cache_hook, fingerprint(values, self._location, revision=revision))

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes into the results' `config`, with the positions as they are."""
        requests = self.arguments.requests
        for line in self._log.truncation_lines(requests.truncation, requests.max_length):
            _logger.warning(line)
        info: dict[str, Any] = super().get_model_info()
        info["rope"] = dataclasses.asdict(self.rope)
        self._log.peak_memory_bytes = peak_memory_bytes(self.model.device)
        summary = self._log.summary()
        info["hf_rope"] = {
            **origin(self._location, self._told.get("revision")),
            "max_length": self.max_length,
            "truncation": summary["truncation"],
            "work": summary["work"],
        }
        return info


def causal_rope(config: PreTrainedConfig, choice: RopeChoice) -> ResolvedRope:
    """The position embeddings of a causal checkpoint under a user's choice.

    Args:
        config: Of the checkpoint.
        choice: What was asked for.

    Raises:
        ValueError: If the model has no rotary embeddings, or is stretched already and
            `choice.force` is not set, or the numbers contradict each other.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    if "rope_theta" not in parameters:
        raise ValueError(
            f"A model of type {config.model_type!r} has no rotary position embeddings with one "
            f"base, so rope arguments mean nothing to it; use --model hf."
        )
    heads = config.hidden_size // config.num_attention_heads
    rope = resolve(
        choice,
        rope_theta=parameters["rope_theta"],
        head_dim=getattr(config, "head_dim", None) or heads,
        train_length=parameters.get("original_max_position_embeddings")
        or config.max_position_embeddings,
    )
    rope_type = parameters.get("rope_type", "default")
    if rope.method != "none" and rope_type != "default" and not choice.force:
        raise ValueError(
            f"This checkpoint is extended already (rope_type={rope_type!r}), and rope_method="
            f"{rope.method!r} would take its place; drop the rope arguments, or set "
            f"force_rope=true."
        )
    return rope


def _split(model_args: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of ours, and those of the harness' model; unknown names are an error."""
    parameters = inspect.signature(HFLM.__init__).parameters.values()
    theirs = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    shared = shared_names()
    theirs = (theirs | {*_LOADING_NAMES}) - {"self", *shared}
    for name in model_args:
        if name not in shared and name not in theirs:
            raise unknown_name("model_args", name, (*shared, *sorted(theirs)))
    own = {name: value for name, value in model_args.items() if name in shared}
    rest = {name: value for name, value in model_args.items() if name in theirs}
    if "pretrained" not in rest:
        raise ValueError("--model hf_rope needs pretrained=<causal model> among model_args.")
    return own, rest
