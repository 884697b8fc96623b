"""Growing contexts: the same tokens are scored under the same masks, with more before them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from benchmarks.context_growth import CHUNK_LENGTH, chunk_at, grow, lines

TOKENS = torch.arange(1000)


class Recorder:
    """Scores a chunk by the length of what stands before it."""

    def __init__(self) -> None:
        self.chunks = []

    def score(self, chunks, estimators):
        self.chunks += chunks
        for chunk in chunks:
            yield chunk, estimators[0], SimpleNamespace(value=float(chunk.start))


def test_a_chunk_keeps_its_tokens_and_its_masks_and_sees_the_nearest_text():
    short, long = (chunk_at(TOKENS, 700, context, None) for context in (100, 400))
    assert torch.equal(short.pair[1], long.pair[1])
    assert torch.equal(short.pair[1], TOKENS[700 - CHUNK_LENGTH : 700])
    assert short.seed == long.seed
    assert torch.equal(long.pair[0], TOKENS[300 : 700 - CHUNK_LENGTH])
    assert torch.equal(short.pair[0], long.pair[0][-len(short.pair[0]) :])


def test_a_first_token_takes_the_first_place_and_leaves_the_text_alone():
    chunk = chunk_at(TOKENS, 700, 100, 7)
    assert chunk.tokens[0] == 7
    assert torch.equal(chunk.tokens[1:], TOKENS[601:700])
    assert TOKENS[600] == 600


def test_every_context_scores_the_chunks_of_the_second_half():
    recorder = Recorder()
    found = grow(recorder, "elbo", TOKENS, 3, (100, 400))
    assert found == {100: [36.0] * 3, 400: [336.0] * 3}
    ends = [int(chunk.tokens[-1]) + 1 for chunk in recorder.chunks]
    assert ends == [500, 750, 1000] * 2


def test_a_text_shorter_than_the_context_is_an_error():
    with pytest.raises(ValueError, match="1,000 tokens, fewer than 1,200 of context"):
        grow(Recorder(), "elbo", TOKENS, 3, (100, 1200))


def test_changes_are_paired_by_chunk():
    told = lines({512: [4.0, 5.0], 1024: [4.5, 5.7]})
    assert told[0].endswith("4.500 nats, +0.000 ± 0.000, perplexity 1.00x")
    assert told[1].endswith("5.100 nats, +0.600 ± 0.100, perplexity 1.82x")
