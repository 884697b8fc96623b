"""Results, samples and curves in the shape of lm-eval 0.4.13, made up for tests of the report."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval_llada.tasks.longbench.scores import DATASETS
from lm_eval_llada.tasks.ruler.scores import GROUPS

DEPTHS = tuple(range(0, 101, 10))
RULER_TASKS = [task for group in GROUPS.values() for task in group]


def rope(scale: float = 1.0, method: str = "none", **changes: Any) -> dict[str, Any]:
    """The `rope` entry of a model trained on 512 tokens with base 10,000."""
    values = {
        "method": method,
        "rope_scale": scale,
        "factor": None,
        "target_length": None,
        "train_length": 512,
        "head_dim": 64,
        "d_crit": 32,
        "rope_theta": 1e4 * scale,
        "reach": None,
        "extra": {},
        "notes": [],
    }
    return {**values, **changes}


def task(
    score: float, stderr: float | None, metadata: Mapping[str, Any], count: int = 10, **extra: Any
) -> dict[str, Any]:
    """One task: its entries of `results`, `configs` and `n-samples`."""
    planned = extra.pop("planned", count)
    results = {"score,none": score, "score_stderr,none": "N/A" if stderr is None else stderr}
    results |= {f"{name},none": value for name, value in extra.items()}
    return {
        "results": {"alias": "x", "sample_len": count, **results},
        "configs": {"metadata": dict(metadata)},
        "n-samples": {"original": planned, "effective": count},
    }


def niah(
    length: int, score_at: Callable[[int], float], *, count: int = 22, planned: int = 22
) -> dict[str, Any]:
    """A needle task whose score depends on the depth alone."""
    scores = {f"depth_{d:03d}": score_at(d) for d in DEPTHS}
    mean = sum(scores.values()) / len(scores)
    return task(
        mean, 5.0, {"length": length}, count, planned=planned, score_clustered_se=3.0, **scores
    )


def ruler(
    length: int, score_of: Callable[[str], float], skip: Sequence[str] = ()
) -> dict[str, Any]:
    """RULER's 13 tasks at one length, but for some."""
    label = f"{length // 1024}k"
    return {
        f"ruler_{name}_{label}": task(score_of(name), 2.0, {"ruler_task": name, "length": length})
        for name in RULER_TASKS
        if name not in skip
    }


def longbench(score_of: Callable[[str], float], skip: Sequence[str] = ()) -> dict[str, Any]:
    """LongBench's 21 datasets at 3,500 tokens, but for some."""
    return {
        f"longbench_{name}_4k": task(score_of(name), 1.0, {"dataset": name, "prompt_length": 3500})
        for name in DATASETS
        if name not in skip
    }


def results(tasks: Mapping[str, Mapping[str, Any]], **config: Any) -> dict[str, Any]:
    """A results file of some tasks, with the group that lm-eval averages them to."""
    parts = ("results", "configs", "n-samples")
    content: dict[str, Any] = {
        part: {name: dict(entry[part]) for name, entry in tasks.items()} for part in parts
    }
    content["results"]["a_group"] = {"alias": "a_group", "score,none": 1.0, "depth_000,none": 1.0}
    defaults = {
        "model": "llada",
        "model_args": {"pretrained": "models/tiny-llada"},
        "rope": rope(),
        "llada": {"version": "0", "num_ranks": 1, "work": {"forward_passes": 8, "seconds": 2.0}},
    }
    content["config"] = {**defaults, **config}
    content["total_evaluation_time_seconds"] = "12.5"
    content["pretty_env_info"] = "GPU 0: Card\nGPU 1: Card\nModel name:  Processor"
    return content


def write(folder: Path, content: Mapping[str, Any], stamp: str = "2026-01-01T00-00-00.1") -> Path:
    """Write results where lm-eval would."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"results_{stamp}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def sample(doc_id: int, score: float, *, depth: int = 0, length: int = 512, **doc: Any) -> Any:
    """A line of a file of samples, of a needle task."""
    needle = f"The code for key {doc_id} is {10000 + doc_id}."
    text = f"{'Grass grows. ' * 60}{needle} {'Rain falls. ' * 60}Question: what is the code? It is"
    return {
        "doc_id": doc_id,
        "doc": {
            "prompt": text,
            "answer": str(10000 + doc_id),
            "reference": needle,
            "length": length,
            **doc,
        },
        "doc_hash": f"hash {doc_id}",
        "target": str(10000 + doc_id),
        "arguments": {"gen_args_0": {"arg_0": doc.get("prompt", text)}},
        "filtered_resps": ["<b>99</b> & more"],
        "score": score,
        "score_clustered_se": [score, f"needle {doc_id % 3}"],
        "depth_000": [score, 1.0] if depth == 0 else [0.0, 0.0],
        "depth_050": [score, 1.0] if depth == 50 else [0.0, 0.0],
    }


def write_samples(
    folder: Path, task_name: str, lines: Sequence[Any], stamp: str = "2026-01-01T00-00-00.1"
) -> Path:
    """Write samples where lm-eval would."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"samples_{task_name}_{stamp}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def curve_lines(perplexities: Mapping[int, float], **settings: Any) -> list[dict[str, Any]]:
    """Lines of a curve as `ppl/curve.py` writes them; chunks of 64 tokens end at the lengths."""

    head = {
        "kind": "settings",
        "format": 1,
        "model": "llada",
        "pretrained": "tiny-llada",
        "model_args": {},
        "rope": rope(),
        "lengths": list(perplexities),
        "chunk_length": 64,
        "documents": ["one"],
        "estimators": ["masked_mean"],
        **settings,
    }
    scores = [
        {
            "kind": "score",
            "document": "one",
            "estimator": "masked_mean",
            "length": length,
            "nats_per_token": math.log(value),
            "stderr": 0.01,
            "num_tokens": 64,
            "num_bytes": 256,
        }
        for length, value in perplexities.items()
    ]
    return [head, *scores]
