"""Checks of a loaded model against itself, and ten needles: no second implementation needed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from accelerate.utils import get_max_memory
from torch import Tensor
from tqdm import tqdm

from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.engine.arguments import ModelArguments
from lm_eval_llada.engine.loading import Checkpoint
from lm_eval_llada.engine.requests import generation_settings
from lm_eval_llada.engine.tokenization import Tokenization
from lm_eval_llada.modeling import LLaDAForMaskedLM, as_denoiser, load_model
from lm_eval_llada.modeling.families import DEFAULT_FAMILY
from lm_eval_llada.tasks.niah.scores import niah_exact
from lm_eval_llada.tasks.niah.single import DEPTHS, build_niah
from lm_eval_llada.verify.block_checks import cached_logits, whole_logits
from lm_eval_llada.verify.logit_comparison import (
    TOLERANCES,
    MaskedPrompt,
    compare_logits,
    masked_prompts,
    native_logits,
)

PASSED, FAILED, SKIPPED = "pass", "FAIL", "skip"

_SHORT_LENGTH = 96  # tokens, for checks that need no more
_LARGEST_COPY = 10**9  # bytes of weights that are written and read again
# The answer is a number of five digits and a full stop, so eight tokens hold it.
_NEEDLE_LENGTH = 8
_ASK = {"until": ["\n"], "do_sample": False, "gen_length": _NEEDLE_LENGTH}
# LLaDA's published retrieval inside its trained context is 98 to 100 %.
_MISSES_ALLOWED = 0.1


@dataclass(frozen=True)
class Check:
    """One line of the result.

    Attributes:
        name: What was looked at.
        outcome: `PASSED`, `FAILED` or `SKIPPED`.
        detail: The numbers, or why it failed or was not done.
    """

    name: str
    outcome: str
    detail: str


@dataclass
class ModelChecks:
    """The checks that a loaded checkpoint can be put to.

    Attributes:
        arguments: Those of the run.
        checkpoint: From `open_checkpoint`.
        model: Loaded.
        num_prompts: Prompts to compare between implementations.
        num_needles: Samples of needle-in-a-haystack to answer; 0 leaves this out.
        length: A longer context, in tokens, whose logits have to be finite too.
    """

    arguments: ModelArguments
    checkpoint: Checkpoint
    model: LLaDAForMaskedLM
    num_prompts: int
    num_needles: int
    length: int | None

    @property
    def text(self) -> Tokenization:
        """Its tokenizer."""
        return self.checkpoint.text

    @cached_property
    def prompts(self) -> list[MaskedPrompt]:
        """Prompts up to the trained context, so that far positions are rotated too."""
        return masked_prompts(self.text, self.num_prompts, self.checkpoint.rope.train_length)

    @cached_property
    def short_prompts(self) -> list[MaskedPrompt]:
        """Two prompts of unequal length, for checks that need no more."""
        return masked_prompts(self.text, 2, _SHORT_LENGTH)

    def by_name(self) -> dict[str, Callable[[], Check]]:
        """The checks in order; `precision` goes last, since it converts the weights for a while."""
        lengths = dict.fromkeys([self.checkpoint.rope.train_length, self.length or 0])
        return {
            "copy": self.copy,
            "rows": self.rows,
            "padding": self.padding,
            **({} if self.checkpoint.config.blocks is None else {"blocks": self.blocks}),
            **{f"finite at {n}": partial(self.finite, n) for n in lengths if n},
            "needles": self.needles,
            "precision": self.precision,
        }

    def copy(self) -> Check:
        """Saves and loads the model: the same logits, under the official names of tensors."""
        num_bytes = sum(tensor.nbytes for tensor in self.model.state_dict().values())
        if num_bytes > _LARGEST_COPY:
            size = tqdm.format_sizeof(num_bytes, "B")
            return Check("copy", SKIPPED, f"{size} of weights are not written a second time")
        with tempfile.TemporaryDirectory(prefix="verify_") as folder:
            self.model.save_pretrained(folder)
            again = load_model(
                folder,
                dtype=self.model.dtype,
                device=self.model.device,
                attn_implementation=self.arguments.loading.attn_implementation,
            )
            first, second = (native_logits(m, self.short_prompts) for m in (self.model, again))
        are_equal = torch.equal(first, second)
        relation = "equal" if are_equal else "differ from"
        line = f"saved under the official names and loaded again, its logits {relation} the first's"
        return Check("copy", PASSED if are_equal else FAILED, line)

    @torch.inference_mode()
    def rows(self) -> Check:
        """Logits of some rows alone are those of a full pass."""
        prompt = self.short_prompts[-1]
        full = self.model(prompt.ids[None].to(self.model.device)).logits[0].float().cpu()
        return self._compared("rows", native_logits(self.model, [prompt]), full[prompt.rows])

    @torch.inference_mode()
    def padding(self) -> Check:
        """Logits in a batch that is padded on either side are those of the sequence alone."""
        short, long = self.short_prompts
        missing = len(long.ids) - len(short.ids)
        found = []
        for start in (0, missing):
            ids = torch.full_like(long.ids, self.text.mask_token_id)
            ids[start : start + len(short.ids)] = short.ids
            mask = torch.zeros_like(ids)
            mask[start : start + len(short.ids)] = 1
            batch = torch.stack([ids, long.ids]).to(self.model.device)
            masks = torch.stack([mask, torch.ones_like(mask)]).to(self.model.device)
            logits = self.model(batch, attention_mask=masks).logits.float().cpu()
            found += [logits[0, start + short.rows], logits[1, long.rows]]
        alone = native_logits(self.model, self.short_prompts)
        return self._compared("padding", torch.cat(found), torch.cat([alone, alone]))

    def blocks(self) -> Check:
        """A block beside the kept keys of those before it is as in one pass over all of them."""
        rules, ids = self.checkpoint.config.blocks, self.prompts[0].ids
        assert rules is not None
        found, expected = (
            logits_of(self.model, rules, ids) for logits_of in (cached_logits, whole_logits)
        )
        what = f"blocks of {rules.block_length}, the last of {len(ids)} tokens beside a cache: "
        return self._compared("blocks", found, expected, what)

    def finite(self, length: int) -> Check:
        """No logit of a long context is NaN or infinite."""
        name = f"finite at {length}"
        (prompt,), rules = masked_prompts(self.text, 1, length), self.checkpoint.config.blocks
        logits = (
            native_logits(self.model, [prompt])
            if rules is None
            else cached_logits(self.model, rules, prompt.ids)
        )
        num_bad = int((~logits.isfinite()).sum())
        if num_bad:
            line = f"{num_bad} of {logits.numel()} logits are NaN or infinite; try another dtype"
            return Check(name, FAILED, line)
        extent = f"{float(logits.min()):.3g} to {float(logits.max()):.3g}"
        return Check(name, PASSED, f"all logits of {len(logits)} masked rows are ({extent})")

    def needles(self) -> Check:
        """Needles within the trained context are found."""
        num, length = self.num_needles, self.checkpoint.rope.train_length
        if not num:
            return Check("needles", SKIPPED, "--needles 0")
        text, settings = self.text, generation_settings(_ASK, SamplingOptions())
        denoiser, num_found = as_denoiser(self.model, mask_token_id=text.mask_token_id), 0
        # One at a time, so that memory for a batch is no matter here.
        for sample in tqdm(_needle_samples(text, num, length), desc="needles", disable=None):
            (tokens,) = generate(
                denoiser,
                [torch.tensor(text.encode(sample["prompt"]))],
                settings.options,
                eos_token_id=text.eos_token_id,
            )
            output = text.text_of(tokens.tolist(), settings.until, ignore_eos=settings.ignore_eos)
            num_found += niah_exact(output, sample["answer"]) == 100
        is_enough = num - num_found <= _MISSES_ALLOWED * num
        line = (
            f"{num_found} of {num} found at {length} tokens; a LLaDA finds nearly all within its "
            f"trained context, and at most {_MISSES_ALLOWED:.0%} may be missed"
        )
        if not is_enough and self.model.config.family != DEFAULT_FAMILY:
            line = (
                f"{num_found} of {num} found at {length} tokens, decoded as LLaDA does; nobody has "
                "published how many this family finds"
            )
            return Check("needles", SKIPPED, line)
        return Check("needles", PASSED if is_enough else FAILED, line)

    def precision(self) -> Check:
        """What the dtype costs: the same model in float32."""
        dtype, model = self.model.dtype, self.model
        if dtype == torch.float32:
            return Check("precision", SKIPPED, "the model runs in float32 already")
        if self.arguments.loading.device_map is not None:
            return Check("precision", SKIPPED, "device_map spreads the model, so it stays as it is")
        extra = sum(t.numel() * (4 - t.itemsize) for t in model.state_dict().values())
        free = _free_bytes(model.device)
        if extra > free:
            needed, there = (tqdm.format_sizeof(size, "B") for size in (extra, free))
            line = f"float32 needs {needed} more memory and {there} are free on {model.device}"
            return Check("precision", SKIPPED, line)
        rounded = native_logits(model, self.short_prompts)
        try:
            exact = native_logits(model.float(), self.short_prompts)
        finally:
            # Loses nothing, as the values came from there. transformers' wrapper hides the types.
            model.to(dtype)  # type: ignore[arg-type]
        return self._compared("precision", rounded, exact, f"{name_of(dtype)} against float32: ")

    def _compared(self, name: str, found: Tensor, expected: Tensor, what: str = "") -> Check:
        return compared(name, found, expected, self.model.dtype, what)


def compared(
    name: str, found: Tensor, expected: Tensor, dtype: torch.dtype, what: str = ""
) -> Check:
    """The check that two computations of the same logits agree as far as rounding allows.

    Args:
        name: Of the check.
        found: float32 (rows, vocabulary).
        expected: The same rows, computed in another way.
        dtype: Of the model, which sets the tolerance.
        what: Goes before the numbers.

    Raises:
        ValueError: If the shapes differ.
    """
    tolerance, difference = TOLERANCES[dtype], compare_logits(found, expected)
    outcome = PASSED if difference.is_within(tolerance) else FAILED
    return Check(name, outcome, what + difference.describe(tolerance))


def _needle_samples(text: Tokenization, num: int, length: int) -> list[dict[str, Any]]:
    """One sample of each needle, at depths that take turns."""
    samples = build_niah(
        text.tokenizer, length=length, gen_length=_NEEDLE_LENGTH, depths=DEPTHS, repeats=num
    )
    return [samples[i * len(DEPTHS) + i % len(DEPTHS)] for i in range(num)]


def _free_bytes(device: torch.device) -> int:
    # Keys are numbers of GPUs, and `cpu` or `mps`.
    return int(get_max_memory()[device.type if device.index is None else device.index])


def name_of(dtype: torch.dtype) -> str:
    """A dtype as model arguments have it, such as bfloat16."""
    return str(dtype).removeprefix("torch.")
