"""LoRA adapters in peft's layout: checked against the model they are for, then merged into it.

peft itself loads the adapter of a deeper model on a shallower one without a word, and leaves out
what has no place; here every tensor of the file has to have one, and every module its tensors.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lm_eval_llada.checkpoints.names import resolve_checkpoint
from lm_eval_llada.checkpoints.provenance import checkpoint_digest
from lm_eval_llada.errors import missing_package

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."  # what peft puts in front of every name of the model
_LORA_PARTS = (".lora_A.", ".lora_B.", ".lora_embedding_A", ".lora_embedding_B", ".lora_magnitude")
_MOST_NAMES = 4

Names = Callable[[str], str]


def _same(name: str) -> str:
    return name


@dataclass(frozen=True)
class Naming:
    """What a family's own code and the model at hand call the same tensor.

    Attributes:
        native: From the own name to the one at hand.
        own: The way back.
    """

    native: Names = _same
    own: Names = _same


def check_adapter(folder: str, pretrained: str, model: nn.Module, naming: Naming) -> None:
    """Stop unless an adapter is one of this model, tensor by tensor; no weight is read.

    Args:
        folder: With ``adapter_config.json`` and ``adapter_model.safetensors``, as peft saves them.
        pretrained: Shipped model, folder or hub id that it is to change.
        model: With that checkpoint's modules, on the meta device; it is changed.
        naming: Of its tensors.

    Raises:
        ValueError: If the folder holds no LoRA adapter, one of another base, or one with modules or
            shapes that the model does not have, or without some that it is to change.
        ImportError: If peft is missing.
    """
    config = _read_config(folder)
    _check_base(folder, config.base_model_name_or_path, pretrained)
    found = _shapes(folder, naming)
    _check_modules(folder, config, found, model, naming)
    expected = _expected_shapes(_for_names(config, found), model)
    misfits = [
        f"{key} is {found[key]} instead of {expected[key]}"
        for key in sorted(found.keys() & expected.keys())
        if found[key] != expected[key]
    ]
    misfits += [f"{key} has no place" for key in sorted(found.keys() - expected.keys())]
    misfits += [f"{key} is missing" for key in sorted(expected.keys() - found.keys())]
    if misfits:
        raise ValueError(
            f"The adapter {folder} does not fit {pretrained}: {_listed(misfits)}; it was trained "
            "on another model."
        )


def merge_adapter(model: nn.Module, folder: str, naming: Naming) -> None:
    """Add an adapter to the weights of the model it was checked against, in place.

    peft computes the sum, in float32 for adapters of a model in less, and refuses one with NaN.

    Args:
        model: With its weights.
        folder: As of `check_adapter`.
        naming: As of `check_adapter`.

    Raises:
        ValueError: If the sum is no number.
    """
    from peft import get_peft_model, set_peft_model_state_dict

    device = next(model.parameters()).device
    with safe_open(Path(folder) / WEIGHTS, framework="pt", device=str(device)) as file:
        state = {_native_key(key, naming): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    config = _for_names(_read_config(folder), state)
    with _quiet():
        model_and_adapter: Any = get_peft_model(model, config)  # type: ignore[arg-type]
        loaded: Any = set_peft_model_state_dict(model_and_adapter, state)
    if loaded.unexpected_keys:
        raise ValueError(
            f"The adapter {folder} has no place for {_listed(loaded.unexpected_keys)}."
        )
    model_and_adapter.merge_and_unload(safe_merge=True)
    model.eval()


def adapter_digest(folder: str) -> str:
    """What tells the content of an adapter from another one's; a copy has the same."""
    return checkpoint_digest(folder)


def check_adapter_folder(folder: str) -> None:
    """Stop unless a folder holds an adapter's two files and peft is installed.

    Raises:
        ValueError: If it does not; the message says what to do.
        ImportError: If peft is missing.
    """
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise missing_package("peft=", "peft", "peft") from error
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise ValueError(
            f"peft={folder!r} is not an existing folder; fetch an adapter of the hub first, such "
            "as by `hf download <name> --local-dir <folder>`."
        )
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            others = sorted(entry.name for entry in path.glob("adapter_model*"))
            hint = f" (there is {', '.join(others)})" if others else ""
            raise ValueError(
                f"peft={folder!r} holds no {name}{hint}, so it is no adapter as peft saves one."
            )


def _read_config(folder: str) -> Any:
    from peft import PeftConfig

    try:
        config = PeftConfig.from_pretrained(folder)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{Path(folder) / CONFIG} cannot be read by peft: {error}") from error
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind != "LORA":
        raise ValueError(
            f"The adapter {folder} is of the kind {kind}, which is not merged here; peft_type must "
            "be LORA."
        )
    config.inference_mode = True
    # How weights begin says nothing of those that are read, and some ways need the base's.
    config.init_lora_weights = False  # type: ignore[attr-defined]
    return config


def _check_base(folder: str, base: str | None, pretrained: str) -> None:
    """Compare the base that an adapter names with the one at hand, wherever the two lie."""
    if not base or base == pretrained or _location(base) == _location(pretrained):
        return
    folders = [_location(base), _location(pretrained)]
    if all(os.path.isdir(one) for one in folders):
        if checkpoint_digest(folders[0]) == checkpoint_digest(folders[1]):
            return
    elif _last(base) == _last(folders[1]):
        return
    raise ValueError(
        f"The adapter {folder} was trained on {base!r}, not on pretrained={pretrained!r}; give "
        f"pretrained={base}, or correct base_model_name_or_path in its {CONFIG}."
    )


def _location(name: str) -> str:
    try:
        return resolve_checkpoint(name)
    except ValueError:  # A folder of the machine that it was trained on.
        return name


def _last(name: str) -> str:
    return name.rstrip("/").split("/")[-1].lower()


def _native_key(key: str, naming: Naming) -> str:
    return _PREFIX + naming.native(key.removeprefix(_PREFIX))


def _shapes(folder: str, naming: Naming) -> dict[str, tuple[int, ...]]:
    path = Path(folder) / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            return {
                _native_key(key, naming): tuple(file.get_slice(key).get_shape())
                for key in file.keys()  # noqa: SIM118
            }
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is truncated or corrupt ({error}); copy or download it again."
        ) from error


def _modules_of(keys: Iterable[str]) -> set[str]:
    """Names of the modules that LoRA's tensors belong to."""
    modules = set()
    for key in keys:
        for part in _LORA_PARTS:
            if part in key:
                modules.add(key.removeprefix(_PREFIX).partition(part)[0])
    return modules


def _check_modules(
    folder: str, config: Any, found: Iterable[str], model: nn.Module, naming: Naming
) -> None:
    from peft.tuners.tuners_utils import check_target_module_exists

    changed = _modules_of(found)
    kinds = (nn.Linear, nn.Embedding, nn.Conv1d)
    present = {name: naming.own(f"{name}.")[:-1] for name, _ in model.named_modules()}
    if surplus := sorted(changed - present.keys()):
        raise ValueError(
            f"The adapter {folder} changes {_listed(surplus)}, which the model does not have: it "
            "was trained on a deeper or another model."
        )
    renamed = [name for name in changed if present[name] != name]
    for field in ("rank_pattern", "alpha_pattern", "modules_to_save"):
        if renamed and getattr(config, field, None):
            raise ValueError(
                f"The adapter {folder} has {field} in its {CONFIG}, whose names the native model "
                "does not share; merge it by peft itself, and give the merged folder."
            )
    selected = {
        name
        for name, module in model.named_modules()
        if isinstance(module, kinds)
        and any(check_target_module_exists(config, one) for one in {name, present[name]})
    }
    if missing := sorted(selected - changed):
        raise ValueError(
            f"The adapter {folder} has no weights for {_listed(missing)}, which its {CONFIG} "
            "names: it was trained on a shallower or another model."
        )


def _for_names(config: Any, found: Iterable[str]) -> Any:
    """The config with the very modules that have tensors as its targets."""
    config.target_modules = sorted(_modules_of(found))
    for name in ("layers_to_transform", "layers_pattern", "exclude_modules"):
        setattr(config, name, None)
    return config


def _expected_shapes(config: Any, model: nn.Module) -> dict[str, tuple[int, ...]]:
    from peft import get_peft_model, get_peft_model_state_dict

    with torch.device("meta"), _quiet():
        changed = get_peft_model(model, config)  # type: ignore[arg-type]
    state: dict[str, Tensor] = get_peft_model_state_dict(changed, save_embedding_layers=False)
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without peft's words about names and switches that the checks above have dealt with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _listed(names: Iterable[str]) -> str:
    names = [name.removeprefix(_PREFIX) for name in names]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
