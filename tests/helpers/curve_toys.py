"""A text for the toy network, and its chunks."""

from __future__ import annotations

import torch

from lm_eval_llada.curves.run import CurveOptions, make_chunks
from lm_eval_llada.curves.scores import Chunk, DiffusionScorer
from lm_eval_llada.diffusion.denoiser import Denoiser
from lm_eval_llada.engine.batching import Batcher
from lm_eval_llada.engine.device_memory import DeviceMemory
from lm_eval_llada.tasks.text.long_texts import Document, TokenText
from tests.helpers.likelihood_loops import MASK, NETWORK

NETWORK_CONTEXT = 64


def network_text(name: str = "toy", seed: int = 0, vocab: int = MASK) -> TokenText:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocab, (NETWORK_CONTEXT + 9,), generator=generator).tolist()
    text = "".join(chr(ord("a") + i % 26) for i in ids)
    return TokenText(Document(name, text), tuple(ids), tuple(range(len(ids) + 1)))


def chunks_of(text: TokenText, chunk_length: int = 8) -> list[Chunk]:
    context = NETWORK_CONTEXT // chunk_length * chunk_length
    return make_chunks(text, CurveOptions(context, chunk_length))


def diffusion_scorer(batch_size: int = 8) -> DiffusionScorer:
    batcher = Batcher(batch_size, None, DeviceMemory(torch.device("cpu")), lambda length, rows: 1)
    return DiffusionScorer(Denoiser(NETWORK, MASK), batcher)
