"""The model of the command line, called from Python: texts and likelihoods without a task.

    from lm_eval_llada import load_model, generate, log_likelihood

What comes back is what a run of `lm-eval-llada` would have for the same request: the same defaults,
the same seeds, whatever else is asked beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from lm_eval.api.instance import Instance

from lm_eval_llada.checkpoints.names import DEFAULT_CHECKPOINT
from lm_eval_llada.harness.llada import LLaDALM

_TASK = "python"  # in messages, where a run names its task


def load_model(pretrained: str = DEFAULT_CHECKPOINT, **model_args: Any) -> LLaDALM:
    """Return a model, checked; its weights are read by the first request.

    Args:
        pretrained: Shipped model, folder or hub id.
        **model_args: As of `--model_args`, such as rope_method="ntk", target_length=4096.

    Raises:
        ValueError: If a name or a value is wrong, or the checkpoint is incomplete.
    """
    return LLaDALM(pretrained=pretrained, **model_args)


@overload
def generate(model: LLaDALM, prompt: str, *, chat: bool = ..., **gen_kwargs: Any) -> str: ...
@overload
def generate(
    model: LLaDALM, prompt: list[str] | tuple[str, ...], *, chat: bool = ..., **gen_kwargs: Any
) -> list[str]: ...
def generate(
    model: LLaDALM, prompt: str | Sequence[str], *, chat: bool = False, **gen_kwargs: Any
) -> str | list[str]:
    """Return the text that a model writes after a prompt, or one for each of several.

    Args:
        model: From `load_model`.
        prompt: A text, or several, which run in batches.
        chat: Whether the prompt is a user's message in the model's chat format.
        **gen_kwargs: As of `--gen_kwargs`: gen_length, steps, block_length, temperature, until ...
            Without `until` a text ends at the end-of-text token or after gen_length.

    Raises:
        ValueError: If gen_kwargs are wrong, or a prompt is too long and may not be cut.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if chat:
        prompts = [model.apply_chat_template([{"role": "user", "content": p}]) for p in prompts]
    settings = {"until": [], **gen_kwargs}
    requests = [_request("generate_until", i, p, dict(settings)) for i, p in enumerate(prompts)]
    texts = model.generate_until(requests, disable_tqdm=True)
    return texts[0] if isinstance(prompt, str) else texts


@overload
def log_likelihood(model: LLaDALM, context: str, continuation: str) -> float: ...
@overload
def log_likelihood(
    model: LLaDALM, context: str | Sequence[str], continuation: list[str] | tuple[str, ...]
) -> list[float]: ...
def log_likelihood(
    model: LLaDALM, context: str | Sequence[str], continuation: str | Sequence[str]
) -> float | list[float]:
    """Return the natural-log likelihood of a continuation, summed over tokens; or of several.

    Args:
        model: From `load_model`; `mc_num` or `likelihood` given there say how it is estimated.
        context: What comes before; empty for nothing. One for all, or one for each continuation.
        continuation: A text, or several. White space at the end of a context belongs to it.

    Raises:
        ValueError: If the numbers of contexts and continuations differ, or one is too long.
    """
    targets = [continuation] if isinstance(continuation, str) else list(continuation)
    contexts = [context] * len(targets) if isinstance(context, str) else list(context)
    if len(contexts) != len(targets):
        raise ValueError(
            f"Give one context, or as many as continuations; got {len(contexts)} and "
            f"{len(targets)}."
        )
    pairs = zip(contexts, targets, strict=True)
    requests = [_request("loglikelihood", i, *pair) for i, pair in enumerate(pairs)]
    values = [value for value, _ in model.loglikelihood(requests, disable_tqdm=True)]
    return values[0] if isinstance(continuation, str) else values


def _request(kind: Any, number: int, *args: Any) -> Instance:
    return Instance(kind, {}, args, 0, (_TASK, number, 1))
