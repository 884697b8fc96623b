"""LoRA adapters: what is merged is what peft computes, and what does not fit is refused."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from lm_eval_llada.checkpoints.adapters import Naming, check_adapter, merge_adapter
from lm_eval_llada.engine.arguments import answer_fingerprint, parse_model_args
from lm_eval_llada.engine.loading import load_weights, open_run
from lm_eval_llada.harness.hf_rope import RopeLM
from lm_eval_llada.modeling import LLaDAForMaskedLM, load_model
from tests.helpers.family_checkpoints import make_family_checkpoint
from tests.helpers.toy_tokenizer import toy_tokenizer

IDS = torch.randint(10, 500, (2, 30), generator=torch.Generator().manual_seed(3))


def save_adapter(folder: Path, model: nn.Module, base: str, **settings: Any) -> Path:
    """An adapter with random weights, as peft saves one after training."""
    torch.manual_seed(7)
    chosen = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **settings}
    changed = get_peft_model(model, LoraConfig(base_model_name_or_path=base, **chosen))
    for name, parameter in changed.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    changed.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def adapter(random_checkpoint, tmp_path) -> Path:
    model = load_model(random_checkpoint, dtype="float32", device="cpu")
    return save_adapter(tmp_path / "adapter", model, str(random_checkpoint))


def opened(pretrained: object, adapter: Path, **model_args: object) -> LLaDAForMaskedLM:
    given = {"pretrained": str(pretrained), "peft": str(adapter), "device": "cpu", **model_args}
    return load_weights(open_run(given), torch.device("cpu"))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "ff_out"], "rank_pattern": {"blocks.1.q_proj": 2}},
        {"use_dora": True},
        {"use_rslora": True, "layers_to_transform": [1], "layers_pattern": "blocks"},
        {"modules_to_save": ["ln_f"]},
    ],
    ids=lambda settings: next(iter(settings), "plain"),
)
def test_merged_logits_are_those_of_peft(random_checkpoint, tmp_path, settings) -> None:
    base = load_model(random_checkpoint, dtype="float32", device="cpu")
    plain = base(IDS).logits.detach()
    adapter = save_adapter(tmp_path / "adapter", base, str(random_checkpoint), **settings)
    base = load_model(random_checkpoint, dtype="float32", device="cpu")
    expected = PeftModel.from_pretrained(base, adapter).eval()(IDS).logits
    found = opened(random_checkpoint, adapter)(IDS).logits
    assert (found - plain).abs().max() > 0.1 or "modules_to_save" in settings
    # Sums in another order: to 1e-5 of the largest logit.
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    base = load_model(random_checkpoint, dtype="float32", device="cpu")
    merged = PeftModel.from_pretrained(base, adapter).merge_and_unload().eval()
    assert torch.equal(found, merged(IDS).logits)


def test_an_adapter_of_the_families_own_code_finds_its_places(tmp_path) -> None:
    reference = make_family_checkpoint("A2D-Qwen2", tmp_path / "base", tie_word_embeddings=False)
    targets = ["q_proj", "o_proj", "gate_proj", "down_proj"]
    adapter = save_adapter(tmp_path / "a", reference, "org/base", target_modules=targets)
    weights = load_file(tmp_path / "base" / "model.safetensors")
    parts = load_file(adapter / "adapter_model.safetensors")
    for key, down in parts.items():
        if ".lora_A." in key:
            name = key.removeprefix("base_model.model.").replace(".lora_A", "")
            weights[name] = weights[name] + 2.0 * parts[key.replace("lora_A", "lora_B")] @ down
    (by_hand := tmp_path / "by_hand").mkdir()
    shutil.copy(tmp_path / "base" / "config.json", by_hand)
    save_file(weights, by_hand / "model.safetensors", metadata={"format": "pt"})
    expected = load_model(by_hand, dtype="float32", device="cpu")(IDS % 50).logits
    model = load_model(tmp_path / "base", dtype="float32", device="cpu")
    naming = Naming(model.config.row.native_name, model.config.row.own_name)
    with torch.device("meta"):
        check_adapter(str(adapter), "org/base", LLaDAForMaskedLM(model.config), naming)
    merge_adapter(model, str(adapter), naming)
    torch.testing.assert_close(model(IDS % 50).logits, expected, atol=1e-5, rtol=1e-5)


def deeper(adapter: Path) -> None:
    """As the adapter of a model with a third layer would be."""
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    more = {k.replace("blocks.1.", "blocks.2."): v.clone() for k, v in tensors.items()}
    save_file({**tensors, **more}, file)


def shallower(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "blocks.1." not in k}, file)


def wider(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file(
        {k: torch.cat([v, v], dim=int("lora_B" in k)) for k, v in load_file(file).items()}, file
    )


def cut(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])


def other_kind(adapter: Path) -> None:
    edit(adapter, peft_type="IA3", feedforward_modules=[])


def other_base(adapter: Path) -> None:
    edit(adapter, base_model_name_or_path="tiny-ultra")


def unknown_tensor(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file({**load_file(file), "base_model.model.extra": torch.zeros(2)}, file)


def edit(adapter: Path, **changes: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (deeper, "blocks.2.q_proj.*deeper or another model"),
        (shallower, "no weights for .*blocks.1.q_proj.*shallower"),
        (wider, "does not fit.*lora_A.*instead of"),
        (cut, "truncated or corrupt"),
        (other_kind, "of the kind IA3"),
        (other_base, "was trained on 'tiny-ultra', not on pretrained="),
        (unknown_tensor, "extra has no place"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_does_not_fit_is_refused_before_weights_are_read(
    random_checkpoint, adapter, damage, message
) -> None:
    damage(adapter)
    with pytest.raises(ValueError, match=message) as error:
        open_run({"pretrained": str(random_checkpoint), "peft": str(adapter)})
    assert str(error.value).rstrip().endswith((".", "again."))


def test_folders_and_packages_that_are_missing_are_named(tmp_path, monkeypatch, adapter) -> None:
    with pytest.raises(ValueError, match="not an existing folder; fetch"):
        parse_model_args({"peft": "org/adapter"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no adapter_config.json"):
        parse_model_args({"peft": str(tmp_path / "empty")})
    with pytest.raises(ValueError, match="merge it by peft itself"):
        parse_model_args({"peft": str(adapter), "tp": "2"})
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=re.escape('pip install -e ".[peft]"')):
        parse_model_args({"peft": str(adapter)})


def test_a_base_that_has_moved_is_the_same_base(random_checkpoint, adapter, tmp_path) -> None:
    moved = tmp_path / "elsewhere" / "copy"
    shutil.copytree(random_checkpoint, moved)
    opened(moved, adapter)
    edit(adapter, base_model_name_or_path="/gone/elsewhere/copy")
    opened(moved, adapter)


def test_answers_are_kept_by_the_adapters_content(random_checkpoint, adapter, tmp_path) -> None:
    def owner(peft: Path | None) -> str:
        given = {"pretrained": str(random_checkpoint), **({"peft": str(peft)} if peft else {})}
        return answer_fingerprint(parse_model_args(given), str(random_checkpoint))

    shutil.copytree(adapter, tmp_path / "copy")
    assert owner(None) != owner(adapter) == owner(tmp_path / "copy")
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({k: 2 * v for k, v in tensors.items()}, adapter / "adapter_model.safetensors")
    assert owner(adapter) != owner(tmp_path / "copy")


def test_the_results_say_what_was_merged(make, random_checkpoint, adapter) -> None:
    info = make(peft=str(adapter)).get_model_info()["llada"]
    assert info["adapter"].startswith("sha256:")
    assert "adapter" not in make().get_model_info()["llada"]


def test_the_causal_baseline_merges_too(tmp_path) -> None:
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=600, **sizes, **heads))
    base.save_pretrained(tmp_path / "base")
    toy_tokenizer().save_pretrained(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base, "org/base")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    expected = PeftModel.from_pretrained(plain, adapter).eval()(IDS % 50).logits
    lm = RopeLM(pretrained=str(tmp_path / "base"), peft=str(adapter), device="cpu", dtype="float32")
    torch.testing.assert_close(lm.model(IDS % 50).logits, expected, atol=1e-5, rtol=1e-5)
    assert lm.get_model_info()["hf_rope"]["adapter"].startswith("sha256:")
    deeper_keys = load_file(adapter / "adapter_model.safetensors")
    more = {k.replace("layers.1.", "layers.7."): v.clone() for k, v in deeper_keys.items()}
    save_file({**deeper_keys, **more}, adapter / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="layers.7"):
        RopeLM(pretrained=str(tmp_path / "base"), peft=str(adapter), device="cpu")
