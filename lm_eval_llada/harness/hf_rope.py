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
from transformers import PreTrainedConfig

from lm_eval_llada.checkpoints.adapters import Naming, adapter_digest, merge_adapter
from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.checkpoints.provenance import origin
from lm_eval_llada.engine.argument_text import check_texts, read_pairs
from lm_eval_llada.engine.arguments import (
    ModelArguments,
    parse_model_args,
    shared_names,
    unknown_name,
    with_run_settings,
)
from lm_eval_llada.engine.device_memory import peak_memory_bytes
from lm_eval_llada.engine.fingerprints import fingerprint, own_keys, refuse_random_cache
from lm_eval_llada.engine.requests import causal_generation
from lm_eval_llada.errors import real_from
from lm_eval_llada.harness import left_out
from lm_eval_llada.harness.causal_adapter import checked_adapter
from lm_eval_llada.harness.causal_rope import (
    causal_rope,
    check_rotation,
    open_config,
    scaled_config,
)
from lm_eval_llada.harness.own_length import OwnLength
from lm_eval_llada.harness.runlog import RunLog
from lm_eval_llada.rope.existing import LENGTH_DEPENDENT
from lm_eval_llada.tasks.chat_templates import check_messages_kept, chosen_template

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
        config = open_config(self._location, theirs.get("revision"))
        self.rope = causal_rope(config, self.arguments.rope)
        if theirs.get("tokenizer") is not None:
            theirs["tokenizer"] = resolve_checkpoint(str(theirs["tokenizer"]))
        self._adapter = checked_adapter(theirs, self._pretrained, config)
        # Everything that the harness' model was told, for the keys of its cache.
        self._told = {name: str(value) for name, value in theirs.items() if name not in _SPEED}
        if self.rope.method != "none":
            theirs["config"] = config = scaled_config(config, self.rope)
        elif "attn_implementation" in theirs:
            # One that config.json names would win over what was asked for, were it read again.
            theirs["config"] = config
        if _depends_on_length(config):
            theirs["batch_size"] = _alone(theirs)
        self.left_out = left_out.LeftOut() if self.arguments.requests.truncation == "skip" else None
        self._log = RunLog()
        self._longest: int | None = None
        self._prompts: dict[tuple[str, int], list[int]] = {}
        self._current: list[Instance] = []
        super().__init__(pretrained=self._location, **theirs)
        if self._adapter is not None:
            merge_adapter(self.model, self._adapter, Naming())
        if self.rope.method != "none":
            check_rotation(self.model, self.rope)
        self._own_length = OwnLength(self.model)
        if self.rank == 0:
            for line in self.rope.notes:
                _logger.warning(line)
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
        return cls.create_from_arg_obj(read_pairs(arg_string, "model_args"), additional_config)

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
        plain: list[Instance | None] = []
        longest = 1
        hook: CacheHook = self.cache_hook  # type: ignore[has-type]
        for request in requests:
            context, gen_kwargs = request.args
            kwargs = causal_generation(gen_kwargs, _DEFAULT_GEN_LENGTH)
            is_random = (real_from(kwargs.get("temperature")) or 0) > 0
            refuse_random_cache(hook, gen_kwargs, is_random=is_random)
            length = kwargs["max_gen_toks"]
            # There is no next token of nothing.
            ids = self.tok_encode(context) or [self.prefix_token_id]
            prompt = self._fitted(request, ids, length)
            if prompt is None:
                plain.append(None)
                continue
            self._prompts[context, length] = prompt
            longest = max(longest, len(prompt) + length)
            plain.append(dataclasses.replace(request, arguments=(context, kwargs), resps=[]))
        self.cache_hook = CacheHook(None)
        try:
            with self._room_for(longest), self._timed():
                asked = [one for one in plain if one is not None]
                texts = left_out.with_gaps(
                    plain, super().generate_until(asked, disable_tqdm), left_out.NO_TEXT
                )
        finally:
            self.cache_hook = hook
            self._prompts.clear()
        for request, one, text in zip(requests, plain, texts, strict=True):
            if one is None:
                continue
            # Under the request as the task wrote it, which is what the harness looks up.
            hook.add_partial("generate_until", request.args, text)
        return texts

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template that conversations are put into: the named one, or the default for True."""
        if not chat_template:
            return None
        name = chat_template if isinstance(chat_template, str) else None
        self.tokenizer.chat_template = chosen_template(self.tokenizer, name)
        return str(self.tokenizer.chat_template)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as a prompt.

        Raises:
            ValueError: If the template loses the text of a message.
        """
        chosen_template(self.tokenizer, None)
        prompt = super().apply_chat_template(chat_history, add_generation_prompt)
        check_messages_kept(prompt, chat_history)
        return prompt

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
        prompts = [
            self._fitted(request, context, len(target))
            for request, (_, context, target) in zip(self._current, requests, strict=True)
        ]
        asked = [
            (texts, kept, target)
            for kept, (texts, _, target) in zip(prompts, requests, strict=True)
            if kept is not None
        ]
        longest = max((len(context) + len(target) for _, context, target in asked), default=1)
        with self._room_for(longest), self._timed():
            scores = super()._loglikelihood_tokens(asked, disable_tqdm, **kwargs)
        return left_out.with_gaps(prompts, scores, left_out.NO_SCORE)

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **generation_kwargs: Any
    ) -> torch.Tensor:
        # Prompt and room together are the length of the sequence, as where its masks stand in it
        # from the start; the text is the same however much of the room it fills.
        with self._own_length.of(max_length):
            return super()._model_generate(context, max_length, stop, **generation_kwargs)

    def _fitted(self, request: Instance, prompt: list[int], num_reserved: int) -> list[int] | None:
        options = self.arguments.requests
        return left_out.fitted(request, prompt, num_reserved, options, self._log, self.left_out)

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
        if self.left_out is not None:
            left_out.refuse_cache(cache_hook)
        super().set_cache_hook(cache_hook)
        values = {
            "model": "hf_rope",
            "rope": dataclasses.asdict(self.rope),
            "requests": dataclasses.asdict(self.arguments.requests),
            "dtype": str(self.model.dtype),
            "hf": self._told,
        }
        if self._adapter is not None:
            values["peft"] = adapter_digest(self._adapter)
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
            **origin(self._location, self._told.get("revision"), self._adapter),
            "max_length": self.max_length,
            "truncation": summary["truncation"],
            **{name: summary[name] for name in ("left_out",) if name in summary},
            "work": summary["work"],
        }
        return info


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
    check_texts(rest, HFLM.__init__)
    if "pretrained" not in rest:
        raise ValueError("--model hf_rope needs pretrained=<causal model> among model_args.")
    if rest.get("gguf_file"):
        # And the digest by which answers are kept is one of the other files of the folder.
        raise ValueError(
            f"gguf_file={rest['gguf_file']} is not taken by hf_rope: transformers drops the RoPE "
            "scaling of such a file without a word. Load model and tokenizer with transformers, "
            "set config.rope_parameters as the original checkpoint has them, save both, and give "
            "that folder."
        )
    return own, rest


def _depends_on_length(config: PreTrainedConfig) -> bool:
    return (config.rope_parameters or {}).get("rope_type") in LENGTH_DEPENDENT


def _alone(theirs: Mapping[str, Any]) -> int:
    """The batch size under a rotation that follows the length of each sequence."""
    if str(asked := theirs.get("batch_size", 1)) != "1":
        _logger.warning(
            f"batch_size={asked} is 1 here, since the position embeddings depend on the length of "
            f"each sequence."
        )
    return 1
