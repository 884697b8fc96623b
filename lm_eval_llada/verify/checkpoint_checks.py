"""Whether a checkpoint runs here as it should, check by check, each with its numbers."""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.engine.arguments import ModelArguments
from lm_eval_llada.engine.loading import Checkpoint, load_weights, open_checkpoint
from lm_eval_llada.engine.ranks import choose_device
from lm_eval_llada.errors import require_whole
from lm_eval_llada.modeling import LLaDAConfig, LLaDAForMaskedLM, load_config
from lm_eval_llada.modeling.families import DEFAULT_FAMILY
from lm_eval_llada.verify.logit_comparison import native_logits
from lm_eval_llada.verify.model_checks import (
    FAILED,
    PASSED,
    SKIPPED,
    Check,
    ModelChecks,
    compared,
    name_of,
)
from lm_eval_llada.verify.official_logits import OfficialJob, official_logits

_CONSENT = (
    "not compared with the checkpoint's own code, which is Python that somebody published; "
    "--official lets it run, in a process of its own"
)


@dataclass(frozen=True)
class VerifyOptions:
    """What to check beside what is always checked.

    Attributes:
        prompts: Masked prompts whose logits are compared.
        needles: Samples of needle-in-a-haystack to answer; 0 leaves this out.
        length: A longer context, in tokens, whose logits have to be finite too.
        official: Whether the checkpoint's own Python code may run, in a process of its own.
        official_python: Interpreter for it.

    Raises:
        ValueError: If a value is out of range, or there is no such interpreter.
    """

    prompts: int = 4
    needles: int = 10
    length: int | None = None
    official: bool = False
    official_python: str = sys.executable

    def __post_init__(self) -> None:  # noqa: D105
        require_whole("prompts", self.prompts, 1)
        require_whole("needles", self.needles, 0)
        if self.length is not None:
            require_whole("length", self.length, 1)
        found = shutil.which(self.official_python)
        if found is None:
            raise ValueError(
                f"official_python={self.official_python!r} is no interpreter that can be started; "
                "give the path of one, such as another environment's bin/python."
            )
        # The child runs in another folder.
        object.__setattr__(self, "official_python", str(Path(found).absolute()))


def verify(arguments: ModelArguments, options: VerifyOptions) -> Iterator[Check]:
    """Check a checkpoint; each check is made when its line is asked for.

    Args:
        arguments: Name the checkpoint, its dtype, device and position embeddings.
        options: What to check.

    Raises:
        ValueError: If no such checkpoint can exist, or the model is to be spread by tp.
    """
    if arguments.loading.tp is not None:
        raise ValueError(
            f"tp={arguments.loading.tp}: verify runs in one process; use device_map=auto."
        )
    resolve_checkpoint(arguments.loading.pretrained)
    checks = yield from _opened(arguments, options)
    if checks is None:
        return
    for name, check in checks.by_name().items():
        yield _attempt(name, check)
    if not options.official:
        yield Check("official", SKIPPED, _CONSENT)
        return
    try:
        ours = _Ours.of(checks)
    except RuntimeError as error:
        yield Check("official", FAILED, f"no logits to compare: {error}")
        return
    # The child needs the memory: most GPUs hold 8B weights once.
    del checks, check
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    yield _attempt("official", partial(_check_official, ours, options.official_python))


def unchecked(arguments: ModelArguments, options: VerifyOptions) -> list[str]:
    """What a passed verification leaves open, a phrase each."""
    loading, device = arguments.loading, choose_device(arguments.loading.device)
    phrases = [f"attention functions other than {loading.attn_implementation}"]
    if device.type == "cpu":
        phrases.append("everything about GPUs, since this ran on the CPU")
    phrases += [
        "several ranks and tensor parallelism, since this was one process",
        f"contexts longer than {'the trained one' if not options.length else options.length}, "
        "where logits can be finite and useless",
        "likelihoods, other sampling than greedy, the tasks' scores, and what model arguments say "
        "about these",
    ]
    if not options.official:
        phrases.append("agreement with the official code")
    return phrases


def _opened(
    arguments: ModelArguments, options: VerifyOptions
) -> Generator[Check, None, ModelChecks | None]:
    """Check config, files and weights; returns what the other checks need, if all is well."""
    loading = arguments.loading
    try:
        config = load_config(loading.pretrained, revision=loading.revision)
        yield Check("config", PASSED, _facts(config))
    except ValueError as error:
        yield Check("config", FAILED, str(error))
        return None
    try:
        checkpoint = open_checkpoint(arguments)
        yield Check("files", PASSED, _describe_files(checkpoint))
    except ValueError as error:
        yield Check("files", FAILED, str(error))
        return None
    try:
        model = load_weights(checkpoint, choose_device(loading.device))
        check = _check_weights(model)
    except (ValueError, RuntimeError) as error:
        check = Check("weights", FAILED, str(error))
    yield check
    if check.outcome == FAILED:
        return None
    return ModelChecks(
        arguments, checkpoint, model, options.prompts, options.needles, options.length
    )


def _facts(config: LLaDAConfig) -> str:
    extended = f", extended by λ = {config.rope_scale:g}" if config.rope_scale != 1 else ""
    family = "" if config.family == DEFAULT_FAMILY else f"checkpoint of {config.family}: "
    return (
        f"{family}{config.n_layers} layers of width {config.d_model}, {config.n_heads} heads of "
        f"{config.head_dim}, {config.n_kv_heads} key-value heads, {config.vocab_size} tokens, "
        f"mask id {config.mask_token_id}, trained context {config.train_length}; rope_theta "
        f"{config.rope_theta:g}, rope_type {config.rope_parameters['rope_type']}{extended}, the "
        "config's rope fields agree"
    )


def _describe_files(checkpoint: Checkpoint) -> str:
    text, rope = checkpoint.text, checkpoint.rope
    token = text.tokenizer.convert_ids_to_tokens(text.mask_token_id)
    line = f"the tokenizer has the mask token {token!r} at id {text.mask_token_id}"
    if Path(checkpoint.location).is_dir():
        line += "; names and shapes in the weight files fit the config"
    if rope.method != "none":
        line += (
            f"; here rope_method={rope.method} makes rope_theta {checkpoint.config.rope_theta:g} "
            f"(λ = {rope.rope_scale:.4g})"
        )
    return "; ".join([line, *(note.rstrip(".") for note in rope.notes)])


def _check_weights(model: LLaDAForMaskedLM) -> Check:
    tensors = model.state_dict()
    broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        return Check("weights", FAILED, f"NaN or infinite values in {', '.join(broken)}")
    num_bytes = sum(tensor.nbytes for tensor in tensors.values())
    return Check(
        "weights",
        PASSED,
        f"{len(tensors)} tensors loaded, none missing, none left over: "
        f"{model.num_parameters():,} parameters, {tqdm.format_sizeof(num_bytes, 'B')} of "
        f"{name_of(model.dtype)} on {model.device}, all finite",
    )


@dataclass(frozen=True)
class _Ours:
    """What outlives the native model: what the official code is asked for, and our own answer.

    Attributes:
        job: The question.
        logits: float32 (rows of all prompts, vocabulary).
        config: Of the model.
        dtype: Of the model.
    """

    job: OfficialJob
    logits: Tensor
    config: LLaDAConfig
    dtype: torch.dtype

    @classmethod
    def of(cls, checks: ModelChecks) -> _Ours:
        loading, model = checks.arguments.loading, checks.model
        config, location = checks.checkpoint.config, checks.checkpoint.location
        job = OfficialJob(
            # The child runs in another folder.
            pretrained=str(Path(location).resolve()) if Path(location).is_dir() else location,
            revision=loading.revision,
            dtype=name_of(model.dtype),
            device=None if loading.device_map else str(model.device),
            device_map=loading.device_map,
            # The base with its λ: the official code reads it at this place and knows no other way.
            config={
                "rope_theta": config.rope_theta,
                config.row.own_key("max_sequence_length"): config.max_sequence_length,
            },
            prompts=[prompt.ids.tolist() for prompt in checks.prompts],
            rows=[prompt.rows.tolist() for prompt in checks.prompts],
        )
        return cls(job, native_logits(model, checks.prompts), config, model.dtype)


def _check_official(ours: _Ours, python: str) -> Check:
    config, job = ours.config, ours.job
    if not getattr(config, "auto_map", None):
        line = "config.json names no code of its own (auto_map), so there is nothing to compare to"
        return Check("official", FAILED, line)
    if config.blocks is not None:
        line = "codes of block models take their masks in forms of their own; not compared"
        return Check("official", SKIPPED, line)
    if (rope_type := config.rope_parameters["rope_type"]) != "default":
        line = f"the official code has no rope_type {rope_type!r}"
        return Check("official", SKIPPED, line)
    logits, computed_by = official_logits(job, python)
    what = f"{len(job.prompts)} prompts of up to {max(map(len, job.prompts))} tokens against "
    return compared("official", ours.logits, logits, ours.dtype, f"{what}{computed_by}: ")


def _attempt(name: str, check: Callable[[], Check]) -> Check:
    """The check, or its failure where it cannot be made; the others go on."""
    try:
        return check()
    # torch raises RuntimeError for what a device cannot do, memory included.
    except (ValueError, RuntimeError, MemoryError, OSError) as error:
        return Check(name, FAILED, str(error).strip())
