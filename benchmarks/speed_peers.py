"""The peers' mode of speed.py: LLaDA's and Fast-dLLM's own code against ours, on the same weights.

    python -m benchmarks.speed --fast_dllm Fast-dLLM/llada --llada LLaDA --lengths 1024 4096 8192

The folders are the user's clones; nothing of them is in this package. Fast-dLLM's needs `einops`.
Both loops run Fast-dLLM's copy of LLaDA's model where there is one, else ours, with the weights of
the random model P. Sides take turns (A B A B) in this process, one text at a time; time is CPU
seconds on one thread. Peak memory is what a fresh process adds to its resident set beyond the
weights, in a text of two steps a block.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed_measure import peak_apart, peak_growth
from benchmarks.speed_models import random_model, random_prompts
from lm_eval_llada.checkpoints.provenance import machine, package_commit
from lm_eval_llada.diffusion.sampler import SamplingOptions, generate
from lm_eval_llada.modeling import LLaDAForMaskedLM, as_denoiser

GEN_LENGTH, BLOCK_LENGTH = 64, 32
_BRIEF_STEPS = 2 * GEN_LENGTH // BLOCK_LENGTH
OUTPUT = Path(__file__).resolve().parent / "results" / "speed_peers.jsonl"
_OURS: dict[str, dict[str, Any]] = {
    "ours, exact": {},
    "ours, dual": {"cache": "dual"},
    "ours, prompt": {"cache": "prompt", "prompt_chunk": 256, "keep": 0.125},
}

Run = Callable[[Tensor, int], list[int]]
"""From a prompt and a number of steps to the tokens of a text."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this mode."""
    parser.add_argument("--llada", type=Path, help="folder with LLaDA's generate.py")
    parser.add_argument("--fast_dllm", type=Path, help="folder llada/ of Fast-dLLM")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096], help="of prompts")
    parser.add_argument("--sides", nargs="+", help="some of the sides; all that there are")
    parser.add_argument("--peer_peak", help=argparse.SUPPRESS)


def run_peers(arguments: argparse.Namespace) -> None:
    """Measure every length, print each as a line of JSON, and append it to the results."""
    sides = peer_sides(arguments)
    if arguments.peer_peak:
        name, _, length = arguments.peer_peak.partition(":")
        (prompt,) = random_prompts(random_model("P"), [int(length)])
        sides[name](prompt[:8], _BRIEF_STEPS)  # reads the weights, loads kernels
        print(peak_growth(lambda: sides[name](prompt, _BRIEF_STEPS)))
        return
    for length in arguments.lengths:
        row = _measured(sides, length, arguments)
        print(json.dumps(row), flush=True)
        OUTPUT.parent.mkdir(parents=True, exist_ok=True)
        with OUTPUT.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(row)}\n")


def peer_sides(arguments: argparse.Namespace) -> dict[str, Run]:
    """The loops of both sides by name, as far as folders are named."""
    model = random_model("P")
    mask_token_id = as_denoiser(model).mask_token_id
    sides: dict[str, Run] = {}
    theirs: Any = model
    if arguments.fast_dllm is not None:
        loops, theirs = _fast_dllm(arguments.fast_dllm, model)
        for name in ("prefix", "dual"):
            loop = getattr(loops, f"generate_with_{name}_cache")
            sides[f"Fast-dLLM, {name}"] = partial(_their_text, loop, theirs, mask_token_id)
    if arguments.llada is not None:
        loop = _module(arguments.llada, "generate").generate
        sides["LLaDA"] = partial(_their_text, loop, theirs, mask_token_id)
    sides |= {name: partial(_our_text, model, settings) for name, settings in _OURS.items()}
    if arguments.sides:
        sides = {name: sides[name] for name in arguments.sides}
    return sides


def _measured(sides: dict[str, Run], length: int, arguments: argparse.Namespace) -> dict[str, Any]:
    (prompt,) = random_prompts(random_model("P"), [length])
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    texts: dict[str, list[int]] = {}
    for run in sides.values():
        run(prompt[:64], GEN_LENGTH)
    for _ in range(arguments.repeats):
        for name, run in sides.items():
            start = time.process_time()
            texts[name] = run(prompt, GEN_LENGTH)
            seconds[name].append(time.process_time() - start)
            print(length, name, seconds[name][-1], file=sys.stderr, flush=True)
    script = Path(__file__).parent / "speed.py"
    peaks = {
        name: peak_apart(script, [*_folders(arguments), "--peer_peak", f"{name}:{length}"])
        for name in sides
    }
    exact = texts.get("ours, exact")
    return {
        "length": length,
        "gen_length": GEN_LENGTH,
        "block_length": BLOCK_LENGTH,
        "seconds": {name: median(spent) for name, spent in seconds.items()},
        "peak_mib": {name: peak / 2**20 for name, peak in peaks.items()},
        "equal_to_ours_exact": exact
        and {
            name: sum(a == b for a, b in zip(text, exact, strict=True)) / GEN_LENGTH
            for name, text in texts.items()
        },
        "run": {"repeats": arguments.repeats, "machine": machine(), "commit": package_commit()},
    }


def _folders(arguments: argparse.Namespace) -> list[str]:
    named = {"--llada": arguments.llada, "--fast_dllm": arguments.fast_dllm}
    return [word for key, path in named.items() if path for word in (key, str(path))]


def _fast_dllm(folder: Path, model: LLaDAForMaskedLM) -> tuple[Any, Any]:
    """Fast-dLLM's loops, and its model with our weights."""
    sys.path.insert(0, str(folder))
    loops = _module(folder, "generate")
    configuration = importlib.import_module("model.configuration_llada")
    values = model.config.to_dict()
    values.pop("rope_parameters")
    config = configuration.LLaDAConfig(**values)
    # What its code asks for and its defaults leave to a GPU, or to an older transformers.
    config.init_device, config.use_cache = "cpu", False
    theirs = importlib.import_module("model.modeling_llada").LLaDAModelLM(config).eval()
    theirs.load_state_dict(model.state_dict())
    return loops, theirs


def _module(folder: Path, name: str) -> Any:
    """A file of a folder as a module of its own name, for two folders have a `generate`."""
    own = f"peer_{folder.resolve().name.replace('-', '_')}_{name}"
    spec = importlib.util.spec_from_file_location(own, folder / f"{name}.py")
    if spec is None or spec.loader is None or not (folder / f"{name}.py").is_file():
        raise ValueError(f"{folder} has no {name}.py; name the folder of the clone that does.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def _their_text(
    loop: Callable[..., Any], model: Any, mask_token_id: int, prompt: Tensor, steps: int
) -> list[int]:
    found = loop(
        model,
        prompt[None],
        steps=steps,
        gen_length=GEN_LENGTH,
        block_length=BLOCK_LENGTH,
        mask_id=mask_token_id,
    )
    # Fast-dLLM's return the number of passes beside the text.
    text = found[0] if isinstance(found, tuple) else found
    return text[0, len(prompt) :].tolist()


def _our_text(
    model: LLaDAForMaskedLM, settings: dict[str, Any], prompt: Tensor, steps: int
) -> list[int]:
    options = SamplingOptions(
        steps=steps, gen_length=GEN_LENGTH, block_length=BLOCK_LENGTH, **settings
    )
    return generate(as_denoiser(model), [prompt], options)[0].tolist()
