"""Settings that hold for every test: quiet libraries, no network, one thread a worker."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Set before torch, transformers or datasets are imported, and inherited by subprocesses. A test
# that needs the hub fails at once instead of passing on machines that happen to reach it.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# Deadlines measure the machine, not the code. CI draws the same examples every time, so that a red
# run there is about the change; elsewhere fresh examples keep looking for bugs.
settings.register_profile("default", deadline=None, max_examples=50)
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random LLaDA model with its tokenizer: grouped heads, untied, 600 tokens."""
    import torch

    from lm_eval_llada.modeling import LLaDAConfig, LLaDAForMaskedLM
    from tests.helpers.toy_tokenizer import toy_tokenizer

    config = LLaDAConfig(
        vocab_size=600,
        d_model=32,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        mlp_hidden_size=48,
        max_sequence_length=128,
        rope_theta=1e4,
        # Far from the usual 0.02: logits must differ by more than rounding noise.
        init_std=0.3,
        mask_token_id=1,
        eos_token_id=0,
        pad_token_id=0,
        bos_token_id=2,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("random-llada")
    LLaDAForMaskedLM(config).save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make(random_checkpoint: Path) -> Callable[..., Any]:
    """Builds the harness' model on `random_checkpoint` from further model_args."""
    from lm_eval_llada.harness.llada import LLaDALM

    def build(**model_args: object) -> LLaDALM:
        defaults = {"pretrained": str(random_checkpoint), "device": "cpu", "mc_num": 12}
        return LLaDALM(**{**defaults, **model_args})

    return build
