"""Perplexity against context: which chunks of which texts, under which model, into which file."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lm_eval_llada import __version__
from lm_eval_llada.checkpoints.adapters import adapter_digest
from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.checkpoints.tokenizers import load_tokenizer
from lm_eval_llada.curves.block_scores import BlockScorer, check_block_estimators
from lm_eval_llada.curves.files import CurveFile
from lm_eval_llada.curves.places import spread
from lm_eval_llada.curves.scores import (
    CAUSAL_ESTIMATOR,
    MASKED_ESTIMATORS,
    CausalScorer,
    Chunk,
    DiffusionScorer,
    Scorer,
    expected_seconds,
)
from lm_eval_llada.diffusion.block_likelihood import check_block_likelihood
from lm_eval_llada.engine import preemption
from lm_eval_llada.engine.arguments import (
    SAMPLING_NAMES,
    ModelArguments,
    parse_model_args,
    shared_names,
)
from lm_eval_llada.engine.batching import Batcher
from lm_eval_llada.engine.device_memory import DeviceMemory
from lm_eval_llada.engine.fingerprints import fingerprint
from lm_eval_llada.engine.ranks import choose_device
from lm_eval_llada.engine.requests import content_seed
from lm_eval_llada.errors import require_whole, unknown_choice
from lm_eval_llada.modeling import as_denoiser
from lm_eval_llada.modeling.cost import activation_bytes
from lm_eval_llada.rope import ResolvedRope
from lm_eval_llada.tasks.text.long_texts import TokenText, long_texts, read_documents, tokenize

MODELS = ("llada", "mdlm", "hf_rope")
SPACINGS = ("geometric", "even")

# Among model_args these are questions of the harness, or have an option of their own here.
_NOT_THE_MODELS = {
    *SAMPLING_NAMES,
    *("mc_num", "likelihood", "is_check_greedy", "max_length", "truncation"),
    *("seed", "batch_size", "max_batch_size", "data_dir", "length_unit"),
}
# What changes how fast scores come, not what they are.
_WITHOUT_EFFECT = ("device", "device_map", "tp", "attn_implementation", "trust_remote_code")
_SHORT_LENGTH = 256  # tokens of the shorter of two timed passes


@dataclass(frozen=True)
class CurveOptions:
    """Which chunks to score, and how.

    Attributes:
        context: Tokens of the longest context, the last chunk included; whole chunks.
        chunk_length: Tokens of a chunk. The first chunk of a text is context only.
        num_points: How many chunks of a text to score; None scores all after the first.
        spacing: How these are spread: geometric, for an axis of powers, or even.
        estimators: Some of `curve_scores.MASKED_ESTIMATORS`, or `causal`.
        mc_num: Masks drawn for each chunk by elbo and masked_mean.
        seed: With a document's text and a chunk's place, the seed of that chunk's masks.

    Raises:
        ValueError: If a value is not one of those allowed, or two of them contradict each other.
    """

    context: int
    chunk_length: int = 64
    num_points: int | None = None
    spacing: str = "geometric"
    estimators: tuple[str, ...] = ("elbo", "duel")
    mc_num: int = 8
    seed: int = 2025

    def __post_init__(self) -> None:  # noqa: D105
        require_whole("chunk_length", self.chunk_length, 1)
        require_whole("context", self.context, 2 * self.chunk_length)
        require_whole("mc_num", self.mc_num, 1)
        require_whole("seed", self.seed, 0)
        if rest := self.context % self.chunk_length:
            raise ValueError(
                f"context={self.context} is not a multiple of chunk_length={self.chunk_length}; "
                f"use {self.context - rest} or {self.context - rest + self.chunk_length}."
            )
        if self.spacing not in SPACINGS:
            raise unknown_choice("spacing", self.spacing, SPACINGS)
        for name in self.estimators:
            if name not in (*MASKED_ESTIMATORS, CAUSAL_ESTIMATOR):
                raise unknown_choice("estimator", name, MASKED_ESTIMATORS)
        if not self.estimators or len(set(self.estimators)) < len(self.estimators):
            raise ValueError(f"Name each estimator once, and at least one; got {self.estimators}.")
        if self.num_points is not None:
            require_whole("num_points", self.num_points, 1)
            if self.num_points > (most := self.context // self.chunk_length - 1):
                raise ValueError(
                    f"num_points={self.num_points}, but a text of {self.context} tokens has {most} "
                    f"chunks of {self.chunk_length} after the first; use at most {most}."
                )

    @property
    def lengths(self) -> tuple[int, ...]:
        """Where the chunks to score end, in tokens, ascending; the last is `context`."""
        last = self.context // self.chunk_length
        chosen = spread(2, last, self.num_points or last - 1, self.spacing)
        return tuple(place * self.chunk_length for place in chosen)


@dataclass(frozen=True)
class CurveRun:
    """A curve to measure.

    Attributes:
        model: One of `MODELS`.
        model_args: As in the harness; what is no matter of the model is an error.
        text: See `data.texts.read_documents`.
        options: Which chunks, and how.
        output: The file to write, or to go on with.
        data_dir: See `data.texts.read_documents`.
        num_documents: How many documents of the text, the first that are long enough.
        batch_size: Sequences in a pass of `llada`; None for as many as fit.

    Raises:
        ValueError: If model or estimators do not go together, or an argument is not the model's.
    """

    model: str
    model_args: Mapping[str, Any]
    text: str
    options: CurveOptions
    output: Path
    data_dir: str | None = None
    num_documents: int = 1
    batch_size: int | None = None

    def __post_init__(self) -> None:  # noqa: D105
        if self.model not in MODELS:
            raise unknown_choice("model", self.model, MODELS)
        is_causal = self.model == "hf_rope"
        if is_causal != (self.options.estimators == (CAUSAL_ESTIMATOR,)):
            fitting = (CAUSAL_ESTIMATOR,) if is_causal else MASKED_ESTIMATORS
            raise ValueError(
                f"--model {self.model} has the estimators {', '.join(fitting)}; got "
                f"{', '.join(self.options.estimators)}."
            )
        for name in self.model_args:
            if name in _NOT_THE_MODELS:
                raise ValueError(
                    f"{name} among model_args has no place in a curve: the number and the seed of "
                    f"masks, the batch size and data_dir are options of their own, texts are never "
                    f"cut, and nothing is generated. Drop it."
                )
        require_whole("num_documents", self.num_documents, 1)
        if self.batch_size is not None:
            require_whole("batch_size", self.batch_size, 1)


def run_curve(run: CurveRun, say: Callable[[str], None], *, is_bar_shown: bool = True) -> Path:
    """Measure what the output does not hold yet, and return its path.

    Everything that can be wrong is checked before weights are read. The expected time is said
    before the work begins.

    Args:
        run: What to measure.
        say: Takes lines for the user.
        is_bar_shown: Whether to draw a progress bar.

    Raises:
        ValueError: If an argument is wrong, the text too short, or the output of other settings.
        FileNotFoundError: If a corpus is neither in `data_dir` nor to be had from the hub.
        MemoryError: If not even one sequence fits.
    """
    subject = _open_subject(run)
    texts, num_short = long_texts(
        read_documents(run.text, run.data_dir),
        lambda document: tokenize(document, subject.tokenizer, subject.add_bos_token),
        num_tokens=run.options.context,
        num_documents=run.num_documents,
    )
    for text in texts:
        if subject.mask_token_id in text.ids[: run.options.context]:
            raise ValueError(
                f"{text.document.name} holds the name of the mask token, which would be read as a "
                "gap; take it out of the text."
            )
    file = CurveFile(run.output, _settings(run, subject, texts))
    chunks = {text.document.name: make_chunks(text, run.options) for text in texts}
    todo = _remaining(chunks.values(), run.options.estimators, file.done)
    short = f", {num_short} shorter ones passed over" if num_short else ""
    say(
        f"{run.text}: {len(run.options.lengths)} chunks of {len(texts)} document"
        f"{'s' * (len(texts) > 1)} up to {run.options.context:,} tokens{short}; "
        f"{len(file.done):,} scores are there already."
    )
    if file.notice:
        say(file.notice)
    if todo:
        _score(subject.load(), todo, file, say, is_bar_shown)
    return file.path


def make_chunks(text: TokenText, options: CurveOptions) -> list[Chunk]:
    """Return the chunks of a document, ascending.

    A chunk's seed comes from the run's seed, the document's whole text and the chunk's place, so
    its masks are the same whichever other chunks are scored, and in whatever order.
    """
    tokens = torch.tensor(text.ids[: options.context])
    digest = _digest(text.document.text)
    return [
        Chunk(
            document=text.document.name,
            tokens=tokens,
            start=end - options.chunk_length,
            end=end,
            num_bytes=text.num_bytes(end - options.chunk_length, end),
            seed=content_seed(options.seed, "curve", digest, str(end)),
        )
        for end in options.lengths
    ]


@dataclass(frozen=True)
class _Subject:
    """A model before its weights are read."""

    tokenizer: Any
    rope: ResolvedRope
    pretrained: str
    location: str
    add_bos_token: bool | None
    load: Callable[[], Scorer] = field(repr=False)
    mask_token_id: int | None = None


def _open_subject(run: CurveRun) -> _Subject:
    return _open_causal(run) if run.model == "hf_rope" else _open_llada(run)


def _open_llada(run: CurveRun) -> _Subject:
    from lm_eval_llada.engine.loading import load_weights, open_checkpoint

    arguments: ModelArguments = parse_model_args(run.model_args)
    checkpoint = open_checkpoint(arguments)
    if checkpoint.config.blocks is not None:
        check_block_estimators(run.options.estimators)
        check_block_likelihood(arguments.likelihood, checkpoint.config.blocks)
    device = choose_device(arguments.loading.device)

    def load() -> Scorer:
        model, text = load_weights(checkpoint, device), checkpoint.text
        bytes_of = partial(activation_bytes, checkpoint.config, itemsize=model.dtype.itemsize)
        denoiser = as_denoiser(
            model, mask_token_id=text.mask_token_id, pad_token_id=text.tokenizer.pad_token_id
        )
        if denoiser.blocks is not None:
            return BlockScorer(denoiser, mc_num=run.options.mc_num)
        return DiffusionScorer(
            denoiser,
            Batcher(run.batch_size, None, DeviceMemory(model.device), bytes_of),
            mc_num=run.options.mc_num,
            likelihood_cache=arguments.likelihood.cache,
        )

    return _Subject(
        checkpoint.text.tokenizer,
        checkpoint.rope,
        arguments.loading.pretrained,
        checkpoint.location,
        arguments.requests.add_bos_token,
        load,
        checkpoint.text.mask_token_id,
    )


def _open_causal(run: CurveRun) -> _Subject:
    from lm_eval_llada.harness.causal_rope import causal_rope, open_config
    from lm_eval_llada.harness.hf_rope import RopeLM

    own = {name: value for name, value in run.model_args.items() if name in shared_names()}
    pretrained = str(run.model_args.get("pretrained", ""))
    if not pretrained:
        raise ValueError("--model hf_rope needs pretrained=<causal model> among model_args.")
    revision = run.model_args.get("revision")
    location = resolve_checkpoint(pretrained)
    rope = causal_rope(open_config(location, revision), parse_model_args(own).rope)
    tokenizer = load_tokenizer(run.model_args.get("tokenizer"), pretrained, revision)
    # Its own default is a GPU, there or not.
    model_args = {"device": "auto", **run.model_args}
    return _Subject(
        tokenizer,
        rope,
        pretrained,
        location,
        run.model_args.get("add_bos_token"),
        lambda: CausalScorer(RopeLM(**model_args).model),
    )


def _settings(run: CurveRun, subject: _Subject, texts: Sequence[TokenText]) -> dict[str, Any]:
    """All that the scores depend on, and which of them there will be."""
    kept = {k: v for k, v in run.model_args.items() if k not in _WITHOUT_EFFECT}
    if kept.get("peft") is not None:
        kept["peft"] = adapter_digest(str(kept["peft"]))
    options = dataclasses.asdict(run.options)
    return {
        "version": __version__,
        # A file that was begun under one name of a model goes on under the other.
        "model": run.model if run.model == "hf_rope" else MODELS[0],
        "pretrained": subject.pretrained,
        "model_args": kept,
        "checkpoint": fingerprint({}, subject.location),
        "rope": dataclasses.asdict(subject.rope),
        "text": run.text,
        "documents": {text.document.name: _digest(text.document.text) for text in texts},
        **options,
        "lengths": run.options.lengths,
    }


def _remaining(
    chunks: Iterable[list[Chunk]], estimators: Sequence[str], done: set[tuple[str, int, str]]
) -> list[tuple[list[Chunk], tuple[str, ...]]]:
    """Chunks of one document with the estimators they lack, those that lack the same together."""
    groups: dict[tuple[str, tuple[str, ...]], list[Chunk]] = {}
    for chunk in (chunk for document in chunks for chunk in document):
        lacking = tuple(e for e in estimators if (chunk.document, chunk.end, e) not in done)
        if lacking:
            groups.setdefault((chunk.document, lacking), []).append(chunk)
    return [(group, lacking) for (_, lacking), group in groups.items()]


def _score(
    scorer: Scorer,
    todo: Sequence[tuple[list[Chunk], tuple[str, ...]]],
    file: CurveFile,
    say: Callable[[str], None],
    is_bar_shown: bool,
) -> None:
    lengths = [n for group, names in todo for n in scorer.pass_lengths(group, names)]
    longest = max((chunk for group, _ in todo for chunk in group), key=lambda chunk: chunk.end)
    few, many = min(_SHORT_LENGTH, longest.end), longest.end
    scorer.seconds(longest.tokens[:few])  # the first pass of all pays for setting things up
    fast = scorer.seconds(longest.tokens[:few])
    slow = scorer.seconds(longest.tokens[:many])
    seconds = expected_seconds((few, fast), (many, slow), lengths)
    say(
        f"Expected time: {_in_words(seconds)} for {len(lengths):,} sequences, the longest of "
        f"{many:,} tokens at {slow:.2g} s each."
    )
    with tqdm(
        total=sum(lengths), unit="tok", unit_scale=True, disable=not is_bar_shown, desc="curve"
    ) as bar:
        scorer.stats.on_forward = bar.update
        for group, names in todo:
            for chunk, name, estimate in scorer.score(group, names):
                file.append(chunk, name, estimate)
                preemption.check(
                    f"after a score; {file.path} has all so far, and the same command goes on "
                    "from there"
                )
        # Equal masks are read once, so there may have been less to do than announced.
        bar.total = bar.n


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
