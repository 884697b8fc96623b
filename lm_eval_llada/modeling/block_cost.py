"""What a run costs under a model of either kind: `cost` for full attention, and blocks here.

A model that is causal between blocks reads a prompt once, in chunks, and then only the rows of the
block at work beside the keys that are kept.
"""

from __future__ import annotations

from collections.abc import Iterator

from lm_eval_llada.diffusion.block_editing import MOST_ROUNDS
from lm_eval_llada.diffusion.block_likelihood import likelihood_rules
from lm_eval_llada.diffusion.block_reader import TOKENS_OF_A_TEXT
from lm_eval_llada.diffusion.block_rules import BlockRules
from lm_eval_llada.diffusion.block_work import step_counts
from lm_eval_llada.diffusion.estimates import LikelihoodOptions
from lm_eval_llada.diffusion.sampling_options import SamplingOptions
from lm_eval_llada.modeling.configuration import LLaDAConfig
from lm_eval_llada.modeling.cost import (
    Work,
    activation_bytes,
    cache_bytes,
    generation_work,
    likelihood_work,
    num_parameters,
    pass_work,
    peak_bytes,
)

_FLOAT32 = 4


def text_work(config: LLaDAConfig, prompt_length: int, options: SamplingOptions) -> Work:
    """Decoding one text, at most; see `cost.generation_work`."""
    rules = config.blocks
    if rules is None:
        return generation_work(config, prompt_length, options)
    if options.generation == "ar":
        rules = rules.causal_mode
    size, length = rules.block_length, prompt_length + options.gen_length
    reads_before = rules.first_token != "own"
    start = rules.first_block(prompt_length)
    total = _prefill(config, start)
    while start < length:
        num_masked = min(start + size, length) - max(start, prompt_length)
        if reads_before and 0 < start >= prompt_length:
            num_masked -= 1
        counts = step_counts(rules, options, start, prompt_length, num_masked)
        # Where probabilities decide, the slowest case is one token a step.
        if options.is_parallel or options.editing_threshold is not None:
            counts = [1] * num_masked
        for count in counts:
            if num_masked > 0:
                total += pass_work(config, size, num_masked, num_keys=start + size)
                num_masked -= count
        if options.editing_threshold is not None:
            total += pass_work(config, size, size, num_keys=start + size) * MOST_ROUNDS
        start += size
        if start < length:
            total += pass_work(config, size, int(reads_before), num_keys=start)
    return total


def score_work(
    config: LLaDAConfig,
    context_length: int,
    target_length: int,
    options: LikelihoodOptions,
    *,
    check_greedy: bool = False,
) -> Work:
    """Scoring one target, at most; see `cost.likelihood_work`.

    Options of a context share its pass here as they do in a run, which is not counted.
    """
    if config.blocks is None:
        return likelihood_work(
            config, context_length, target_length, options, check_greedy=check_greedy
        )
    rules = likelihood_rules(options, config.blocks)
    pieces = list(_pieces(rules, context_length, target_length))
    if not pieces:
        return Work()
    total = _prefill(config, pieces[-1][0])
    for start, length in pieces:
        if rules.first_token != "own" and start >= context_length and start > 0:
            total += pass_work(config, 0, 1, num_keys=start)
            length -= 1
        if length:
            num_masks = options.num_masks(length)
            if check_greedy and not options.enumerates(length):
                num_masks += length
            mean = (length + 1) / 2
            keys = start + rules.block_length
            total += pass_work(config, rules.block_length, mean, num_keys=keys) * num_masks
    return total


def sequence_bytes(config: LLaDAConfig, num_tokens: int, num_rows: int, itemsize: int) -> int:
    """Bytes that one sequence takes at its peak, what is kept of it included.

    Args:
        config: Of the model.
        num_tokens: Tokens of the sequence.
        num_rows: Positions whose logits are asked for at once.
        itemsize: Bytes of a number of the model.
    """
    if config.blocks is None:
        return activation_bytes(config, num_tokens, num_rows, itemsize)
    return _kept_bytes(config, num_tokens, itemsize) + _chunk_bytes(
        config, num_tokens, num_rows, itemsize
    )


def run_bytes(
    config: LLaDAConfig,
    num_tokens: int,
    num_rows: int,
    itemsize: int,
    *,
    batch_size: int = 1,
    is_cached: bool = False,
    num_devices: int = 1,
    attention: str = "sdpa",
    is_padded: bool | None = None,
) -> int:
    """Bytes that a batch takes on each device at its peak; see `cost.peak_bytes`."""
    if config.blocks is None:
        return peak_bytes(
            config,
            num_tokens,
            num_rows,
            itemsize,
            batch_size=batch_size,
            is_cached=is_cached,
            num_devices=num_devices,
            attention=attention,
            is_padded=is_padded,
        )
    shared = num_parameters(config) * itemsize
    shared += batch_size * _kept_bytes(config, num_tokens, itemsize)
    chunks = batch_size * _chunk_bytes(config, num_tokens, num_rows, itemsize, attention)
    return -(-shared // num_devices) + chunks


def _kept_bytes(config: LLaDAConfig, num_tokens: int, itemsize: int) -> int:
    return cache_bytes(config, num_tokens + TOKENS_OF_A_TEXT, itemsize)


def _chunk_bytes(
    config: LLaDAConfig, num_tokens: int, num_rows: int, itemsize: int, attention: str = "sdpa"
) -> int:
    """Of a pass over a chunk beside all keys of a text."""
    size = config.block_length or 1
    chunk = min(num_tokens, max(TOKENS_OF_A_TEXT, size))
    keys = num_tokens + chunk
    own = activation_bytes(config, chunk, num_rows, itemsize)
    # The mask as it is made and as attention reads it.
    pairs = chunk * keys * (1 + itemsize)
    if attention == "eager":
        pairs += chunk * keys * config.n_heads * (2 * itemsize + _FLOAT32)
    # Under a mask, keys and values are repeated for each query head.
    repeated = 0
    if config.n_kv_heads < config.n_heads:
        repeated = 2 * keys * config.n_heads * config.head_dim * itemsize
    return own + pairs + repeated


def _prefill(config: LLaDAConfig, length: int) -> Work:
    """Reading finished tokens in chunks, each beside those before it."""
    total = Work()
    for begin in range(0, length, TOKENS_OF_A_TEXT):
        end = min(length, begin + TOKENS_OF_A_TEXT)
        total += pass_work(config, end - begin, 0, num_keys=end)
    return total


def _pieces(rules: BlockRules, context: int, target: int) -> Iterator[tuple[int, int]]:
    """Where each block begins that a target touches, and how much of the target it holds."""
    start, end = rules.first_block(context), context + target
    while start < end:
        yield start, min(start + rules.block_length, end) - max(start, context)
        start += rules.block_length
