"""A run of post-training small enough to repeat, on a random model and a page of text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from lm_eval_llada.tasks.text.haystacks import heldout_text

LENGTH = 48


def write_documents(folder: Path) -> Path:
    """Paragraphs of the held-out text, a line each."""
    path = folder / "documents.jsonl"
    texts = [text for text in heldout_text().split("\n\n") if text.strip()]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def settings(checkpoint: Path, folder: Path, name: str = "run", **training: Any) -> dict[str, Any]:
    """The values of a YAML file for a run of six steps of four samples."""
    return {
        "pretrained": str(checkpoint),
        "output": str(folder / name),
        "seed": 3,
        "rope": {"rope_method": "diffusion_ntk", "target_length": 1024},
        "data": {"source": str(write_documents(folder)), "length": LENGTH},
        "objective": {"short_share": 0.2, "block_share": 0.2, "block_length": 8},
        "training": {
            "max_steps": 6,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-3,
            "optim": "adamw_torch",
            "logging_steps": 1,
            "save_steps": 2,
            "use_cpu": True,
            "disable_tqdm": True,
            **training,
        },
    }


def write_yaml(values: dict[str, Any], folder: Path) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def losses(log: list[dict[str, Any]]) -> dict[int, float]:
    """Loss of each step."""
    return {line["step"]: line["loss"] for line in log if "loss" in line}
