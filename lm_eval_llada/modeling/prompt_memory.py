"""Memory of decoding beside kept prompts, from a config alone; see `cost`."""

from __future__ import annotations

import torch

from lm_eval_llada.diffusion.sampling_options import SamplingOptions
from lm_eval_llada.modeling.configuration import LLaDAConfig
from lm_eval_llada.modeling.cost import activation_bytes, cache_bytes, num_parameters
from lm_eval_llada.modeling.prompt_attention import PAGE, num_kept_pages
from lm_eval_llada.modeling.prompt_pass import MANY_ROWS

# A cosine and a sine for each pair of dimensions, in float32.
_ANGLE_BYTES = 4


def kept_itemsize(options: SamplingOptions, itemsize: int) -> int:
    """Bytes of a number that a cache keeps.

    Args:
        options: How to decode.
        itemsize: Bytes of a number of the model.
    """
    if options.cache_dtype == "auto":
        return itemsize
    return int(getattr(torch, options.cache_dtype).itemsize)


def prompt_peak_bytes(
    config: LLaDAConfig,
    prompt_length: int,
    options: SamplingOptions,
    itemsize: int,
    *,
    batch_size: int = 1,
    num_devices: int = 1,
) -> int:
    """Bytes that a batch under `cache=prompt` takes on each device at its peak, weights included.

    Prompts are read one by one, each in parts: beside what is kept there is one residual stream.

    Args:
        config: Of the model.
        prompt_length: Tokens before each text.
        options: How to decode.
        itemsize: Bytes of a number of the model.
        batch_size: Sequences in a pass, those of guidance included.
        num_devices: As of `peak_bytes`.
    """
    length, rows = prompt_length + options.gen_length, options.block_length or options.gen_length
    kept_in = kept_itemsize(options, itemsize)
    kept = cache_bytes(config, length, kept_in)
    if (keep := options.keep) is not None and keep < 1:
        num_pages = prompt_length // PAGE
        num_keys = length - (num_pages - num_kept_pages(num_pages, keep)) * PAGE
        kept += cache_bytes(config, num_keys, itemsize)
    shared = num_parameters(config) * itemsize + batch_size * kept
    stream = length * (config.d_model * itemsize + _ANGLE_BYTES * config.head_dim)
    if kept_in != itemsize:
        # Those of the layer at work, in the type of the model.
        stream += cache_bytes(config, length, itemsize) // config.n_layers
    part = min(length, MANY_ROWS)
    windows = batch_size * options.gen_length
    activations = activation_bytes(config, max(part, windows), batch_size * rows, itemsize)
    return -(-shared // num_devices) + stream + activations
