"""From a checkpoint's name to a model: every file is checked before a weight is read."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import BitsAndBytesConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, is_bitsandbytes_available

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.errors import unknown_choice
from lm_eval_llada.modeling.configuration import LLaDAConfig, apply_rope
from lm_eval_llada.modeling.families import find_family
from lm_eval_llada.modeling.model import LLaDAForMaskedLM, check_attention
from lm_eval_llada.modeling.weight_files import read_json, tensor_names
from lm_eval_llada.modeling.weights import check_weights
from lm_eval_llada.rope import RopeChoice

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "8bit", "4bit")
_CONFIG_NAME = "config.json"
_ATTENTION_NAMES = ("attn_implementation", "_attn_implementation")
_MODEL_FILES = [_CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, "*.safetensors"]


def load_config(checkpoint: str | os.PathLike[str], *, revision: str | None = None) -> LLaDAConfig:
    """Reads the configuration of a checkpoint.

    Args:
        checkpoint: a shipped model's name, a folder, or a hub id.
        revision: branch, tag or commit of a hub id.

    Raises:
        ValueError: if there is no such checkpoint, its config.json is missing, is not JSON, is of
            no known family, or holds values that the model cannot run with.
    """
    return _read_config(_fetch(checkpoint, revision, [_CONFIG_NAME]))


def load_model(
    checkpoint: str | os.PathLike[str],
    *,
    rope: RopeChoice | None = None,
    config: LLaDAConfig | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    attn_implementation: str = "sdpa",
    device_map: str | Mapping[str, Any] | None = None,
    revision: str | None = None,
    tp: int | None = None,
    quantization: str = "none",
    max_memory: Mapping[Any, Any] | None = None,
) -> LLaDAForMaskedLM:
    """Reads a checkpoint into a model in evaluation mode, holding its weights in memory once.

    The model is built without storage, then tensors go from the files to their device one by one.

    Args:
        checkpoint: a shipped model's name, a folder, or a hub id.
        rope: scaling of the position embeddings; None keeps the checkpoint's own.
        config: the checkpoint's, read and scaled before; weights in a local folder were compared
            with it then. None reads and compares now.
        dtype: `auto` for the checkpoint's own, else one of `DTYPES` or a torch dtype.
        device: where the whole model goes; None means the first GPU, or the CPU without one.
        attn_implementation: one of `ATTENTION_IMPLEMENTATIONS`.
        device_map: placement by accelerate over several devices, such as `auto`; not with `device`.
        revision: branch, tag or commit of a hub id.
        tp: number of ranks that share each layer, under torchrun; not with `device` or
            `device_map`. A multiple of ranks holds several copies, next to each other; they have to
            be connected before.
        quantization: `8bit` or `4bit` weights by bitsandbytes, on GPUs; one of `QUANTIZATIONS`.
        max_memory: what `device_map` may use of each device, as accelerate takes it.

    Raises:
        ValueError: if an argument is wrong, a file is missing, truncated or corrupt, or the
            checkpoint's tensors are not exactly those of its config; all are named.
        ImportError: if flash-attn or bitsandbytes is asked for and missing.
    """
    check_attention(attn_implementation)
    check_quantization(quantization)
    dtype = _checked_dtype(dtype)
    placement = _placement(device, device_map, tp)
    is_checked = config is not None and os.path.isdir(resolve_checkpoint(checkpoint))
    if config is None:
        config = load_config(checkpoint, revision=revision)
    if rope is not None:
        config, _ = apply_rope(config, rope)
    if tp is not None:
        _check_parallel(config, tp)
    if attn_implementation == "flash_attention_2":
        _check_flash_dtype(config.dtype if dtype == "auto" else dtype)
    folder = _fetch(checkpoint, revision, _MODEL_FILES)
    if not is_checked:
        config = _answered(config, folder)
        check_weights(folder, config)
    if quantization != "none":
        placement["quantization_config"] = BitsAndBytesConfig(**{f"load_in_{quantization}": True})
    if max_memory is not None:
        placement["max_memory"] = dict(max_memory)
    return LLaDAForMaskedLM.from_pretrained(
        folder,
        config=config,
        is_checked=True,
        dtype=dtype,
        attn_implementation=attn_implementation,
        **placement,
    )


def check_quantization(quantization: str) -> None:
    """Stops if a quantization is unknown or its library is not installed.

    Raises:
        ValueError: if the name is not one of `QUANTIZATIONS`.
        ImportError: if bitsandbytes is missing.
    """
    if quantization not in QUANTIZATIONS:
        raise unknown_choice("quantization", quantization, QUANTIZATIONS)
    if quantization != "none" and not is_bitsandbytes_available():
        raise ImportError(
            f"quantization={quantization} needs bitsandbytes and a GPU. Install it with: "
            "pip install bitsandbytes, or use quantization=none."
        )


def _fetch(checkpoint: str | os.PathLike[str], revision: str | None, patterns: list[str]) -> Path:
    """The folder that holds the files, downloaded if the checkpoint is a hub id."""
    name = resolve_checkpoint(checkpoint)
    if os.path.isdir(name):
        return Path(name)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        at = "" if revision is None else f" at revision {revision!r}"
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"Checkpoint {name!r}{at} is no local folder and could not be fetched from the hub: "
            f"{reason}"
        ) from error


def _read_config(folder: Path) -> LLaDAConfig:
    path = folder / _CONFIG_NAME
    if not path.is_file():
        raise ValueError(f"{folder} has no {_CONFIG_NAME}, so it is not a checkpoint.")
    values = read_json(path)
    for name in _ATTENTION_NAMES:
        # How to compute is for this run to say, not for the one that saved the file.
        values.pop(name, None)
    try:
        row = find_family(values)
        names = tensor_names(folder) if row.leaves_open(values) else []
        return LLaDAConfig(**row.native_config(values, names))
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _answered(config: LLaDAConfig, folder: Path) -> LLaDAConfig:
    """The config with what tensors say where a config.json that came before them is silent."""
    values = read_json(folder / _CONFIG_NAME)
    silent = config.row.leaves_open(values)
    if silent:
        config = copy.deepcopy(config)
        found = config.row.native_config(values, tensor_names(folder))
        for name in silent:
            setattr(config, name, found[name])
    return config


def _checked_dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise unknown_choice("dtype", name, DTYPES)
    return name if name == "auto" else getattr(torch, name)


def _check_flash_dtype(dtype: Any) -> None:
    if dtype == torch.float32:
        raise ValueError(
            "flash_attention_2 has no float32; use dtype=bfloat16, or attn_implementation=sdpa."
        )


def _placement(
    device: str | torch.device | None, device_map: str | Mapping[str, Any] | None, tp: int | None
) -> dict[str, Any]:
    """Arguments of `from_pretrained` that say where weights go."""
    given = {"device": device, "device_map": device_map, "tp": tp}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ValueError(f"Give only one of device, device_map and tp; got {' and '.join(names)}.")
    if tp is not None:
        return {"distributed_config": _tensor_parallel(tp)}
    if device_map is not None:
        return {"device_map": device_map}
    default = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return {"device_map": {"": torch.device(device if device is not None else default)}}
    except RuntimeError as error:
        raise ValueError(f"device={device!r} is not a device of torch: {error}") from error


def _check_parallel(config: LLaDAConfig, tp: int) -> None:
    if config.n_kv_heads % tp:
        raise ValueError(f"tp={tp} does not divide the {config.n_kv_heads} key-value heads.")
    if config.num_experts:
        raise ValueError(
            f"tp={tp} has no plan for a mixture of experts; use device_map=auto to spread it."
        )


def _tensor_parallel(tp: int) -> Any:
    # Imported here: the first releases of transformers 5 do not have it, and only tp needs it.
    from transformers.distributed import DistributedConfig

    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if isinstance(tp, bool) or not isinstance(tp, int) or tp < 1:
        raise ValueError(f"tp must be a whole number of at least 1; got {tp!r}.")
    if num_ranks % tp:
        raise ValueError(
            f"tp={tp} needs as many ranks or a multiple, but {num_ranks} run; start with "
            f"torchrun --nproc_per_node={tp}."
        )
    return DistributedConfig(tp_size=tp, tp_plan="auto")
