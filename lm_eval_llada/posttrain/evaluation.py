"""A few needles, looked for while training goes on."""

from __future__ import annotations

from typing import Any

import torch

from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.modeling import as_denoiser
from lm_eval_llada.posttrain.options import EvaluationOptions
from lm_eval_llada.tasks.niah.scores import niah_exact
from lm_eval_llada.tasks.niah.single import build_niah


class NeedleCheck:
    """Needles at the lengths and depths of some options, the same each time.

    Attributes:
        samples: as `build_niah` makes them.
    """

    def __init__(self, options: EvaluationOptions, tokenizer: Any) -> None:
        """Makes the samples.

        Args:
            options: lengths, depths, and how to decode.
            tokenizer: of the model.

        Raises:
            ValueError: if a needle does not fit into a length.
        """
        self._options = options
        self._tokenizer = tokenizer
        self.samples = [
            sample
            for length in options.lengths
            for sample in build_niah(
                tokenizer,
                length=length,
                gen_length=options.gen_length,
                depths=options.depths,
                repeats=options.repeats,
            )
        ]

    def scores(self, model: Any, device: torch.device | str = "cpu") -> dict[str, float]:
        """Percent of needles found: `eval_niah_<length>` for each length, and their mean.

        Every rank answers all samples: under FSDP each forward pass needs all ranks, and there is
        but a handful.

        Args:
            model: a `LLaDAForMaskedLM`, wrapped or not; it is left in evaluation mode.
            device: of the model.
        """
        model.eval()
        denoiser = as_denoiser(model, device=device)
        options = SamplingOptions(steps=self._options.steps, gen_length=self._options.gen_length)
        found: dict[int, list[float]] = {length: [] for length in self._options.lengths}
        for sample in self.samples:
            prompt = torch.tensor(self._tokenizer(sample["prompt"], verbose=False)["input_ids"])
            (output,) = generate(denoiser, [prompt], options)
            text = self._tokenizer.decode(output, skip_special_tokens=True)
            found[sample["length"]].append(niah_exact(text, sample["answer"]))
        means = {f"eval_niah_{n}": sum(each) / len(each) for n, each in found.items()}
        return {**means, "eval_niah": sum(means.values()) / len(means)}
