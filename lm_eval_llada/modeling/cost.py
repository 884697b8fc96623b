"""What a run costs before it runs: floating-point operations and memory, from a config alone.

A multiply-add counts as two operations. Counted are the products of matrices: projections, MLP,
attention and LM head. Norms, rotation, softmax and padding are not; on small models they show, on
large ones hardly. `benchmarks/cost_model.py` holds the count against measured time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lm_eval_llada.diffusion.context_reading import ROOM
from lm_eval_llada.diffusion.estimates import LikelihoodOptions
from lm_eval_llada.diffusion.masks import MAX_ENUMERATED_LENGTH, enumerate_masks
from lm_eval_llada.diffusion.sampling_options import SamplingOptions, block_schedule
from lm_eval_llada.errors import require_whole
from lm_eval_llada.modeling.block import MLP_CHUNK_BYTES
from lm_eval_llada.modeling.configuration import LLaDAConfig
from lm_eval_llada.modeling.prompt_attention import NUM_FIRST, PAGE, num_kept_pages
from lm_eval_llada.modeling.prompt_pass import num_chunked

# Tensors as wide as the residual stream that live at once in a block, keys and values apart: the
# stream before and after attention, two norms, queries, the output of attention and its projection,
# the output of the MLP. Counted with a tracker of live storage, see tests/modeling/test_cost.py.
_STREAMS = 8
# Intermediate tensors of an MLP that live at once: the activated gate, its partner, their product.
_MLP_TENSORS = 3
_FLOAT32 = 4
# Logits in the model's type, then in float32 three times: as they come, without the forbidden
# tokens, and their softmax.
_FLOAT32_LOGITS = 3


@dataclass(frozen=True)
class Work:
    """Operations of one or more forward passes.

    Attributes:
        num_passes: Forward passes, each over one sequence or a window of it.
        linear: Operations of layers with weights, the LM head included.
        attention: Operations of queries with keys, and of attention weights with values.
    """

    num_passes: float = 0
    linear: float = 0
    attention: float = 0

    @property
    def flops(self) -> float:
        """All operations."""
        return self.linear + self.attention

    def __add__(self, other: Work) -> Work:
        """Both, one after the other."""
        return Work(
            self.num_passes + other.num_passes,
            self.linear + other.linear,
            self.attention + other.attention,
        )

    def __mul__(self, times: float) -> Work:
        """The same, so many times."""
        return Work(self.num_passes * times, self.linear * times, self.attention * times)


def pass_work(
    config: LLaDAConfig, num_tokens: int, num_rows: float, *, num_keys: int | None = None
) -> Work:
    """One exact forward pass, or one over a window beside cached keys.

    The last layer computes keys and values for all tokens that are read, and everything after them
    for the rows alone, as `LLaDAForMaskedLM.forward` does.

    Args:
        config: Of the model.
        num_tokens: Positions that are read.
        num_rows: Positions whose logits are asked for; a fraction stands for a mean.
        num_keys: Positions that are attended to; None means those that are read.
    """
    keys = num_tokens if num_keys is None else num_keys
    width, q_width, kv_width = config.d_model, _q_width(config), _kv_width(config)
    keys_values = 2 * 2 * width * kv_width
    # Queries and the output of attention, then the MLP.
    projections = 2 * 2 * width * q_width
    mlps = [2 * n for n in _mlp_weights(config, config.num_experts_per_tok)]
    num_inner = config.n_layers - 1
    linear = (
        config.n_layers * num_tokens * keys_values
        + (num_inner * num_tokens + num_rows) * projections
        + num_tokens * sum(mlps[:-1])
        + num_rows * (mlps[-1] + 2 * width * config.embedding_size)
    )
    attention = 4 * (num_inner * num_tokens + num_rows) * keys * q_width
    return Work(1, linear, attention)


def generation_work(config: LLaDAConfig, prompt_length: int, options: SamplingOptions) -> Work:
    """Decoding one text, at most: an early end saves steps, as do `threshold` and `factor`.

    Without a cache each step is a pass over the whole text. With one, the first step of a block is,
    and so is every `refresh_every`-th; the others read a window, from the start of the block to
    the end of the text (`prefix`) or of the block (`dual`), and attend to the whole text.
    `entry=delayed` leaves out of it what was revealed before the last step. `prompt` reads whole
    texts as seldom as `prompt_refresh` says, and the generated tokens beside what it keeps at every
    other step. Guidance runs every pass for two sequences.

    Args:
        config: Of the model.
        prompt_length: Tokens before the text.
        options: How to decode.
    """
    if options.cache == "prompt":
        return _prompt_cache_work(config, prompt_length, options) * _copies(options.cfg_scale)
    length = prompt_length + options.gen_length
    total = Work()
    for start, end, counts in block_schedule(options):
        # Where probabilities decide, the slowest case is one token a step.
        steps = [1] * (end - start) if options.is_parallel else counts
        window = (end if options.cache == "dual" else options.gen_length) - start
        num_masked, num_entered = end - start, 0
        for step, count in enumerate(steps):
            is_full = options.cache == "none" or step % (options.refresh_every or end) == 0
            num_rows = count if options.draws_evenly else num_masked
            num_read = length if is_full else window - num_entered
            total += pass_work(config, num_read, num_rows, num_keys=length)
            if options.entry == "delayed":
                num_entered = end - start - num_masked
            num_masked -= count
    return total * _copies(options.cfg_scale)


def _prompt_cache_work(config: LLaDAConfig, prompt_length: int, options: SamplingOptions) -> Work:
    length, keep = prompt_length + options.gen_length, options.keep
    num_pages = prompt_length // PAGE
    num_left = num_pages if keep is None else num_kept_pages(num_pages, keep)
    total = Work()
    for number, (start, end, counts) in enumerate(block_schedule(options)):
        is_fill = number % (options.prompt_refresh or length) == 0
        # Its tokens choose pages by their queries and the keys of all layers.
        if num_left < num_pages:
            width, rows = _q_width(config), config.n_layers * (end - start)
            total += Work(0, 2 * rows * config.d_model * width, 2 * rows * length * width)
        num_masked = end - start
        for step, count in enumerate([1] * (end - start) if options.is_parallel else counts):
            num_rows = count if options.draws_evenly else num_masked
            if step == 0 and is_fill:
                total += _prompt_pass_work(config, prompt_length, length, num_rows, options)
            else:
                num_keys = length if step == 0 else length - (num_pages - num_left) * PAGE
                total += pass_work(config, options.gen_length, num_rows, num_keys=num_keys)
            num_masked -= count
    return total


def _prompt_pass_work(
    config: LLaDAConfig, prompt_length: int, length: int, num_rows: float, options: SamplingOptions
) -> Work:
    """The pass that reads a prompt, in chunks if asked."""
    work, chunk = pass_work(config, length, num_rows), options.prompt_chunk
    in_chunks = num_chunked(prompt_length)
    num_keys = NUM_FIRST + 3 * (chunk or length) + length - in_chunks
    # At either end of the prompt a chunk has fewer beside it, which is not told apart.
    num_spared = in_chunks * max(0, length - num_keys)
    spared = 4 * (config.n_layers - 1) * num_spared * _q_width(config)
    return replace(work, attention=work.attention - spared)


def likelihood_work(
    config: LLaDAConfig,
    context_length: int,
    target_length: int,
    options: LikelihoodOptions,
    *,
    check_greedy: bool = False,
) -> Work:
    """Scoring one target, at most: equal masks run once, and targets of a context share passes.

    Under `likelihood_cache=context` each target is taken to read its context by itself, which
    targets of a context do together.

    Args:
        config: Of the model.
        context_length: Tokens before the target.
        target_length: Tokens that are scored; none costs nothing.
        options: How to estimate.
        check_greedy: Whether greedy decoding is compared with the target too. Where every mask is
            taken it costs nothing; elsewhere it stops at the first token that differs, and here it
            never does.

    Raises:
        ValueError: If a target is too long for taking every mask, as `options` ask.
    """
    if target_length == 0:
        return Work()
    mean_drawn = (target_length + 1) / 2
    num_passes, num_rows = options.mc_num, options.mc_num * mean_drawn
    if options.enumerates(target_length) or _draws_repeat(target_length, options.mc_num):
        masks = enumerate_masks(target_length)
        num_passes, num_rows = len(masks), int(masks.sum())
    elif check_greedy:
        num_passes, num_rows = num_passes + target_length, num_rows + target_length * mean_drawn
    # A pass is linear in its rows, so that their mean is as good as the rows one by one.
    length, mean_rows = context_length + target_length, num_rows / num_passes
    if options.cache == "context" and context_length > target_length:
        room = -(-target_length // ROOM) * ROOM
        read = pass_work(config, context_length + room, 1)
        window = target_length + config.shift
        work = read + pass_work(config, window, mean_rows, num_keys=length) * num_passes
        return work * _copies(options.cfg_scale)
    return pass_work(config, length, mean_rows) * num_passes * _copies(options.cfg_scale)


def num_parameters(config: LLaDAConfig, *, active: bool = False) -> int:
    """Numbers in the weights of a model, biases and tied embeddings as the config has them.

    Args:
        config: Of the model.
        active: Of the experts, count those alone that a token goes through.
    """
    width, mlp = config.d_model, config.mlp_hidden_size
    q_width, kv_width = _q_width(config), _kv_width(config)
    norm = width * (1 + config.norm_bias)
    layer = 2 * width * q_width + 2 * width * kv_width + 2 * norm
    layer += 2 * config.head_dim * config.qk_norm
    if config.include_bias or config.include_qkv_bias:
        layer += q_width + 2 * kv_width
    if config.include_bias or config.attention_out_bias:
        layer += width
    if config.include_bias or config.mlp_bias:
        layer += width + 2 * mlp
    embeddings = 1 if config.weight_tying else 2
    head_bias = config.embedding_size * (config.include_bias and not config.weight_tying)
    mlps = sum(_mlp_weights(config, config.num_experts_per_tok if active else config.num_experts))
    if config.router == "sigmoid":
        mlps += config.num_experts * (config.n_layers - config.num_dense_layers)
    total = config.n_layers * layer + mlps + norm + int(head_bias)
    return total + embeddings * config.embedding_size * width


def key_value_bytes(config: LLaDAConfig, itemsize: int) -> int:
    """Bytes of the keys and values of one token in all layers."""
    return cache_bytes(config, 1, itemsize)


def cache_bytes(config: LLaDAConfig, num_tokens: int, itemsize: int) -> int:
    """Bytes of the keys and values of every layer.

    Args:
        config: Of the model.
        num_tokens: Positions that are kept.
        itemsize: Bytes of a number.
    """
    return 2 * config.n_layers * _kv_width(config) * num_tokens * itemsize


def activation_bytes(
    config: LLaDAConfig,
    num_tokens: int,
    num_rows: int,
    itemsize: int,
    *,
    attention: str = "sdpa",
    is_padded: bool = False,
) -> int:
    """Bytes that one sequence of an exact forward pass takes at its peak, weights not included.

    Counts the widest layer and the logits as if both were there at once. It bounds what PyTorch
    allocates on a CPU; fused kernels of a GPU take less.

    Args:
        config: Of the model.
        num_tokens: Tokens of the sequence.
        num_rows: Positions whose logits are asked for.
        itemsize: Bytes of a number of the model.
        attention: Attention implementation. `eager` holds a matrix of tokens by tokens for each
            head.
        is_padded: Whether shorter sequences share the batch. Attention then copies what it reads
            and writes, to leave padding out.
    """
    width, kv_width = config.d_model, _kv_width(config)
    # Where queries are narrower, the peak is in the MLP, which holds as many streams without them.
    q_width = max(width, _q_width(config))
    streams = itemsize * ((_STREAMS - 2) * width + 2 * q_width + 2 * kv_width)
    # Norms and rotation of narrower types go through a copy in float32.
    copied = q_width if config.rope_full_precision else width
    copies = _FLOAT32 * copied if itemsize < _FLOAT32 else 0
    # The router's logits, their softmax, and tokens of an expert with what it makes of them.
    if config.num_experts:
        copies += config.num_experts * (itemsize + _FLOAT32) + 3 * itemsize * width
    if config.router == "sigmoid":
        # Scores with their bias and by groups, and a float32 copy of the states and of their sum.
        copies += _FLOAT32 * (2 * config.num_experts + 2 * width)
    angles = _FLOAT32 * config.head_dim
    # A single row goes through even where it is larger than a chunk.
    row = _widest_mlp(config) * itemsize
    mlp = _MLP_TENSORS * min(num_tokens * row, max(MLP_CHUNK_BYTES, row))
    logits = num_rows * config.embedding_size * (itemsize + _FLOAT32_LOGITS * _FLOAT32)
    # Scores, their softmax in float32, and that in the model's type.
    pair = config.n_heads * (2 * itemsize + _FLOAT32) if attention == "eager" else 0
    scores = num_tokens**2 * pair
    if is_padded:
        streams += itemsize * (2 * q_width + 2 * kv_width)
    return num_tokens * (streams + copies + angles) + mlp + logits + scores


def peak_bytes(
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
    """Bytes that a batch takes on each device at its peak, weights included.

    Args:
        config: Of the model.
        num_tokens: Tokens of a sequence.
        num_rows: Positions of it whose logits are asked for.
        itemsize: Bytes of a number of the model.
        batch_size: Sequences in a pass, those of guidance included.
        is_cached: Whether keys and values of all layers are kept; both caches keep all positions.
        num_devices: Devices that share weights and cache evenly. Activations are counted whole on
            each.
        attention: Attention implementation.
        is_padded: Whether sequences of a batch differ in length; None means that any two do.

    Raises:
        ValueError: If `batch_size` or `num_devices` is below 1.
    """
    require_whole("batch_size", batch_size, 1)
    require_whole("num_devices", num_devices, 1)
    activations = activation_bytes(
        config,
        num_tokens,
        num_rows,
        itemsize,
        attention=attention,
        is_padded=batch_size > 1 if is_padded is None else is_padded,
    )
    shared = num_parameters(config) * itemsize
    if is_cached:
        shared += batch_size * cache_bytes(config, num_tokens, itemsize)
    return -(-shared // num_devices) + batch_size * activations


def _copies(cfg_scale: float) -> int:
    """Sequences that a pass reads for each one."""
    return 2 if cfg_scale else 1


def _draws_repeat(target_length: int, mc_num: int) -> bool:
    """Whether there are no more different masks than draws, so that all of them bound the cost."""
    return target_length <= MAX_ENUMERATED_LENGTH and 2**target_length - 1 <= mc_num


def _mlp_weights(config: LLaDAConfig, num_experts: int) -> list[int]:
    """Weights of each layer's MLP, its router and so many of its experts, without biases."""
    matrices = 3 * config.d_model
    if not config.num_experts:
        return [matrices * config.mlp_hidden_size] * config.n_layers
    mixture = matrices * config.mlp_hidden_size * (num_experts + config.num_shared_experts)
    mixture += config.d_model * config.num_experts
    dense = matrices * (config.dense_mlp_hidden_size or config.mlp_hidden_size)
    num_dense = min(config.num_dense_layers, config.n_layers)
    return [dense] * num_dense + [mixture] * (config.n_layers - num_dense)


def _widest_mlp(config: LLaDAConfig) -> int:
    shared = config.mlp_hidden_size * max(config.num_shared_experts, 1)
    dense = config.dense_mlp_hidden_size if config.num_dense_layers else None
    return max(shared, dense or 0)


def _q_width(config: LLaDAConfig) -> int:
    return config.n_heads * config.head_dim


def _kv_width(config: LLaDAConfig) -> int:
    return config.n_kv_heads * config.head_dim
