"""Perplexity of chunks of text: from log-likelihoods to the points of a curve, and to task metrics.

A chunk is a stretch of tokens scored given all text before it. Its length is that of the text up to
and including it, in tokens; nats are natural logs of 1 / probability.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval_llada.tasks.statistics import clustered_stderr, weighted_mean


@dataclass(frozen=True)
class ChunkScore:
    """One chunk of one document.

    Attributes:
        document: Name of the document.
        length: Tokens of the text up to and including the chunk.
        nats: Cross entropy per token, in nats.
        stderr: Standard error of ``nats`` over the masks drawn; 0 where nothing is drawn, None
            where a single draw leaves it unknown.
        num_tokens: Tokens of the chunk.
        num_bytes: Bytes of the chunk's text in UTF-8.
    """

    document: str
    length: int
    nats: float
    stderr: float | None
    num_tokens: int
    num_bytes: int


@dataclass(frozen=True)
class Value:
    """A cross entropy, averaged over documents.

    Attributes:
        nats: Per token.
        bits_per_byte: The same in bits per byte of text, which compares models with different
            tokenizers; None where the chunks complete no character.
        mc_stderr: Standard error of ``nats`` from the masks drawn alone; None where unknown.
        spread_stderr: Standard error of ``nats`` from the spread between documents, which holds
            that of the masks as well; None for a single document.
    """

    nats: float
    bits_per_byte: float | None
    mc_stderr: float | None
    spread_stderr: float | None

    @property
    def stderr(self) -> float | None:
        """The spread's where there are documents to compare, else that of the masks."""
        return self.mc_stderr if self.spread_stderr is None else self.spread_stderr

    @property
    def perplexity(self) -> float:
        """Per token; infinite where it exceeds the range of a float."""
        return safe_exp(self.nats)


@dataclass(frozen=True)
class CurvePoint:
    """A point of a curve.

    Attributes:
        length: Tokens of the text up to and including the chunk.
        local: Of the chunk alone.
        cumulative: Of all chunks up to it; None until some document has all of them scored.
        num_documents: Documents behind ``local``.
    """

    length: int
    local: Value
    cumulative: Value | None
    num_documents: int


def curve_points(
    scores: Iterable[ChunkScore], lengths: Sequence[int], chunk_length: int
) -> list[CurvePoint]:
    """Return the points of one curve, ascending by length; lengths without a score are left out.

    The cumulative value is LongLLaDA's: the mean cross entropy of the chunks so far, hence the
    geometric mean of their perplexities. Where a curve leaves chunks out, each scored chunk stands
    for those since the one before it and counts that many times; with all chunks scored these
    weights are equal.

    Args:
        scores: In any order; of each document and length at most one.
        lengths: All lengths that the curve was planned to have, ascending.
        chunk_length: Tokens of a chunk; the first chunk of a text is context only.

    Source: LongLLaDA (arXiv 2506.14429), its released ppl scripts.
    """
    by_document: dict[str, dict[int, ChunkScore]] = {}
    for score in scores:
        by_document.setdefault(score.document, {})[score.length] = score
    starts = (chunk_length, *lengths)
    weights = {end: end - start for start, end in zip(starts, lengths, strict=False)}
    points = []
    for count, length in enumerate(lengths, start=1):
        here = [[(1, chunks[length])] for chunks in by_document.values() if length in chunks]
        so_far = [
            [(weights[end], chunks[end]) for end in lengths[:count]]
            for chunks in by_document.values()
            if all(end in chunks for end in lengths[:count])
        ]
        if here:
            cumulative = _value(so_far) if so_far else None
            points.append(CurvePoint(length, _value(here), cumulative, len(here)))
    return points


def bits_per_byte(nats: float, num_bytes: float) -> float | None:
    """Return nats of a whole text as bits per byte, or None where it has no byte."""
    return nats / (num_bytes * math.log(2)) if num_bytes else None


def safe_exp(nats: float) -> float:
    """Return exp(nats), infinite where that exceeds the range of a float."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


def perplexity_results(
    doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]
) -> dict[str, Any]:
    """Return the metrics of one chunk of a perplexity task.

    The keys are the same for every chunk of a task, whichever rank has it: a length that is not the
    chunk's own gets the weight 0.

    Args:
        doc: A sample of ``data.perplexity``.
        results: The log-likelihood of its continuation, and whether greedy decoding gives it.
    """
    nats = -results[0][0]
    per_token = nats / doc["num_tokens"]
    by_length = {
        length_key(length): (per_token, 1.0) if length == doc["length"] else (0.0, 0.0)
        for length in doc["lengths"]
    }
    return {
        "nats_per_token": per_token,
        "nats_per_token_clustered_se": (per_token, doc["document"]),
        "perplexity": (per_token, 1.0),
        "bits_per_byte": (nats, float(doc["num_bytes"])),
        **by_length,
    }


def length_key(length: int) -> str:
    """Return the metric's name for a length in tokens, such as ``ppl_000512``."""
    return f"ppl_{length:06d}"


def perplexity_of_pairs(items: Sequence[tuple[float, float]]) -> float | None:
    """Return the geometric mean of perplexities from (nats per token, weight), None without any."""
    mean = weighted_mean(items)
    return None if mean is None else safe_exp(mean)


def bits_per_byte_of_pairs(items: Sequence[tuple[float, float]]) -> float | None:
    """Return the bits per byte of all chunks together from their (nats, bytes)."""
    return bits_per_byte(math.fsum(nats for nats, _ in items), math.fsum(size for _, size in items))


def _value(documents: Sequence[Sequence[tuple[int, ChunkScore]]]) -> Value:
    """The mean over documents of their weighted mean over chunks."""
    means, variances, nats, sizes = [], [], 0.0, 0
    for chunks in documents:
        total = sum(weight for weight, _ in chunks)
        means.append(math.fsum(weight * chunk.nats for weight, chunk in chunks) / total)
        errors = [math.nan if c.stderr is None else weight * c.stderr for weight, c in chunks]
        variances.append(math.fsum(error**2 for error in errors) / total**2)
        nats += math.fsum(weight * c.nats * c.num_tokens for weight, c in chunks)
        sizes += sum(weight * chunk.num_bytes for weight, chunk in chunks)
    noise = math.sqrt(math.fsum(variances)) / len(means)
    own_cluster: list[Hashable] = list(range(len(means)))
    return Value(
        math.fsum(means) / len(means),
        bits_per_byte(nats, sizes),
        None if math.isnan(noise) else noise,
        clustered_stderr(means, own_cluster),
    )
