"""Hides far tokens from some layers, and counts the needles that are found then.

    python -m benchmarks.near_attention --pretrained tiny-llama --length 2048 --within 512

Tells what a model loses beyond its trained context: where hiding far tokens from the first layer
brings needles back, that layer had mistaken them for near ones. `--within 0` hides nothing.
A needle is found if its number is in the output of eight tokens, decoded one by one. Every token is
a pass over the whole context, which is what limits it: three needles a depth at 2,048 tokens take
minutes of one core.

For a causal model it also prints how much attention the last tokens of the held-out text pay to
the very first token, layer by layer and head by head: models that lean on it are known to fail
once it is out of sight. A line of JSON comes last.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.niah_evidence import is_found
from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.modeling import LLaDAConfig, LLaDAForMaskedLM, as_denoiser, load_model
from lm_eval_llada.tasks.niah.single import build_niah
from lm_eval_llada.tasks.text.haystacks import heldout_text

DEPTHS = (0, 20, 40, 60, 80, 90, 100)
GEN_LENGTH = 8
_NUM_LAST = 64
_NUM_TEXTS = 5

Answer = Callable[[list[int]], list[int]]
"""Output tokens for the tokens of a prompt."""


def near_mask(length: int, within: int, is_causal: bool) -> Tensor:
    """Float (1, 1, length, length): 0 where a token is seen, minus infinity elsewhere."""
    distance = torch.arange(length)[:, None] - torch.arange(length)
    seen = distance.abs() < within
    if is_causal:
        seen &= distance >= 0
    return torch.zeros(length, length).masked_fill(~seen, float("-inf"))[None, None]


def load_diffusion(folder: Any, layers: Sequence[int], within: int) -> Answer:
    """The decoder of a masked diffusion model whose given layers see near tokens only."""
    model = load_model(folder, dtype="float32")

    def hide(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        states, cos, sin, _, *others = inputs
        return (states, cos, sin, near_mask(states.shape[1], within, False), *others)

    if within:
        for layer in layers:
            model.model.transformer["blocks"][layer].register_forward_pre_hook(hide)
    return partial(_decode, model)


def _decode(model: LLaDAForMaskedLM, prompt: list[int]) -> list[int]:
    options = SamplingOptions(steps=GEN_LENGTH, gen_length=GEN_LENGTH)
    (output,) = generate(as_denoiser(model), [torch.tensor(prompt)], options)
    return output.tolist()


def load_causal(folder: Any, layers: Sequence[int], within: int) -> Answer:
    """The greedy decoder of a causal model whose given layers see near tokens only."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def hide(module: Any, inputs: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        length = named["hidden_states"].shape[1]
        return inputs, {**named, "attention_mask": near_mask(length, within, True)}

    if within:
        for layer in layers:
            attention = model.model.layers[layer].self_attn
            attention.register_forward_pre_hook(hide, with_kwargs=True)

    @torch.no_grad()
    def answer(prompt: list[int]) -> list[int]:
        ids = torch.tensor([prompt])
        # Without a cache, so that a mask is one of the whole context in every pass.
        output = model.generate(ids, max_new_tokens=GEN_LENGTH, do_sample=False, use_cache=False)
        return output[0, len(prompt) :].tolist()

    return answer


def needles_found(answer: Answer, tokenizer: Any, length: int, samples: int) -> dict[int, int]:
    """Needles found at each depth."""
    found = dict.fromkeys(DEPTHS, 0)
    for sample in build_niah(
        tokenizer, length=length, gen_length=GEN_LENGTH, depths=DEPTHS, repeats=samples
    ):
        output = answer(tokenizer(sample["prompt"], verbose=False)["input_ids"])
        found[int(sample["depth"])] += is_found(sample, output, tokenizer)
    return found


@torch.no_grad()
def first_token_shares(
    folder: Any, tokenizer: Any, length: int, *, begins_with_bos: bool
) -> list[list[float]]:
    """Attention that the last tokens of texts pay to the first token, (layers, heads), 0-1."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    ids = tokenizer(heldout_text(), verbose=False)["input_ids"]
    starts = [(len(ids) - length) * i // (_NUM_TEXTS - 1) for i in range(_NUM_TEXTS)]
    total = torch.zeros(())
    for start in starts:
        text = torch.tensor([ids[start : start + length]])
        if begins_with_bos:
            text[0, 0] = tokenizer.bos_token_id
        weights = model(text, output_attentions=True).attentions
        shares = [layer[0, :, -_NUM_LAST:, 0].float().mean(-1) for layer in weights]
        total = total + torch.stack(shares) / len(starts)
    return [[round(share, 4) for share in layer] for layer in total.tolist()]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pretrained", default="tiny-llada")
    parser.add_argument("--length", type=int, default=2048, help="tokens, output included")
    parser.add_argument("--within", type=int, default=512, help="tokens seen to either side")
    parser.add_argument("--layers", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--bos", action="store_true", help="the first token looked at is the start of text"
    )
    parser.add_argument("--samples", type=int, default=3, help="at each depth")
    given = parser.parse_args()
    folder = resolve_checkpoint(given.pretrained)
    tokenizer = load_tokenizer(folder)
    is_causal = AutoConfig.from_pretrained(folder).model_type != LLaDAConfig.model_type
    load = load_causal if is_causal else load_diffusion
    found = needles_found(
        load(folder, given.layers, given.within), tokenizer, given.length, given.samples
    )
    for depth, count in found.items():
        print(f"depth {depth:3d} %: {count} of {given.samples}")
    report: dict[str, Any] = {**vars(given), "found": found}
    if is_causal:
        report["first_token"] = first_token_shares(
            folder, tokenizer, given.length, begins_with_bos=given.bos
        )
        for layer, shares in enumerate(report["first_token"]):
            print(f"layer {layer}, attention to the first token: {shares}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
