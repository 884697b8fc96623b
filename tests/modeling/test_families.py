"""Every family's checkpoints in the one native model, against transformers' own classes."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import lm_eval_llada
from lm_eval_llada.modeling import LLaDAConfig, LLaDAForMaskedLM, load_config, load_model
from lm_eval_llada.modeling.families import FAMILIES, find_family
from lm_eval_llada.rope import RopeChoice
from tests.helpers.family_checkpoints import (
    CONFIGS,
    FAMILY_IDS,
    family_of,
    make_family_checkpoint,
    reference_logits,
)

IDS = torch.arange(38).mul(7).remainder(50).view(2, 19)
FILE = "model.safetensors"


@pytest.fixture(params=FAMILY_IDS)
def family(request) -> str:
    return request.param


def load(folder: Path, dtype: torch.dtype = torch.float32, **arguments) -> LLaDAForMaskedLM:
    """In float64 too, which is no choice of users."""
    return load_model(folder, device="cpu", **arguments).to(dtype)


def logits(model: LLaDAForMaskedLM, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.inference_mode():
        return model(ids).logits


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, in parts of the largest logit."""
    return float((found - expected).abs().max() / expected.abs().max())


def rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / FILE)
    change(tensors)
    save_file(tensors, folder / FILE, metadata={"format": "pt"})


def change_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in values.items() if v != "absent"}))


def test_logits_are_those_of_the_class_in_transformers(tmp_path, family):
    reference = make_family_checkpoint(family, tmp_path)
    model = load(tmp_path)
    assert difference(logits(model), reference_logits(reference, IDS)) <= 1e-5
    rounded = not model.config.rope_full_precision
    found = logits(model.double())
    assert found.dtype == torch.float64
    assert difference(found, reference_logits(reference.double(), IDS)) <= (
        1e-9 if rounded else 1e-6
    )
    # The comparison is one of bidirectional models, and would show a causal one.
    reference.config.is_causal = True
    assert difference(found, reference_logits(reference, IDS)) > 1e-2


def test_bfloat16_differs_as_little_as_rounding_lets_it(tmp_path, family):
    reference = make_family_checkpoint(family, tmp_path, dtype=torch.bfloat16)
    found = logits(load(tmp_path, torch.bfloat16))
    expected = reference_logits(reference, IDS)
    assert difference(found.float(), expected.float()) <= 0.05


def test_padding_and_rows_keep_to_the_reference(tmp_path, family):
    reference = make_family_checkpoint(family, tmp_path)
    model, mask = load(tmp_path), torch.ones_like(IDS)
    mask[0, -5:] = 0
    rows = torch.tensor([[1, 3], [0, 0], [1, 18], [0, 13]])
    with torch.inference_mode():
        found = model(IDS, attention_mask=mask, rows=rows).logits
    short = reference_logits(reference, IDS[:1, :-5])[0]
    whole = reference_logits(reference, IDS[1:])[0]
    expected = torch.stack([whole[3], short[0], whole[18], short[13]])
    assert difference(found, expected) <= 1e-5


@pytest.mark.parametrize("family", [n for n in FAMILY_IDS if "rope_parameters" not in CONFIGS[n]])
def test_ntk_is_the_reference_under_a_larger_base(tmp_path, family):
    reference = make_family_checkpoint(family, tmp_path / "plain")
    model = load(tmp_path / "plain", rope=RopeChoice(scale=8.0))
    theta = model.config.rope_theta
    scaled = make_family_checkpoint(family, tmp_path / "scaled", rope_theta=theta)
    assert theta == 8 * load_config(tmp_path / "plain").rope_theta
    assert difference(logits(model), reference_logits(scaled, IDS)) <= 1e-5
    assert difference(logits(model), reference_logits(reference, IDS)) > 1e-3


@pytest.mark.parametrize("shards", [False, True])
def test_saving_writes_the_names_and_keys_that_were_read(tmp_path, family, shards):
    make_family_checkpoint(family, tmp_path / "a")
    model = load(tmp_path / "a")
    model.save_pretrained(tmp_path / "b", max_shard_size="20KB" if shards else "1GB")
    written: dict[str, torch.Tensor] = {}
    for file in (tmp_path / "b").glob("*.safetensors"):
        written |= load_file(file)
    original = load_file(tmp_path / "a" / FILE)
    assert written.keys() == original.keys()
    assert all(torch.equal(written[name], original[name]) for name in original)
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    for key, value in CONFIGS[family].items():
        # Of an auto_map only what has its file stays, and none has one here.
        ours = key in ("torch_dtype", "transformers_version", "auto_map")
        ours |= key == "architectures" and family == "LLaDA"
        # A head size of null is said in numbers.
        assert ours or value is None or config[key] == value, key
    # Where tensors lie in memory changes the last bits of a product.
    assert difference(logits(load(tmp_path / "b")), logits(model)) <= 1e-6


def test_a_training_state_is_read_under_either_name(tmp_path, family):
    make_family_checkpoint(family, tmp_path)
    model = load(tmp_path)
    fresh = LLaDAForMaskedLM(model.config).eval()
    for state in (load_file(tmp_path / FILE), model.state_dict()):
        fresh.load_state_dict(state)
        assert torch.equal(logits(fresh), logits(model))


def test_transformers_own_loading_knows_the_names(tmp_path, family):
    make_family_checkpoint(family, tmp_path)
    loaded, info = LLaDAForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(logits(loaded.eval()), logits(load(tmp_path)))
    read = LLaDAConfig.from_pretrained(tmp_path)
    assert (read.family, read.origin) == (loaded.config.family, loaded.config.origin)
    found, expected = (config.to_diff_dict() for config in (loaded.config, read))
    for values in (found, expected):
        values.pop("dtype", None)
    assert found == expected


@pytest.mark.parametrize("name", ["missing", "surplus", "misshapen"])
def test_a_wrong_tensor_is_named_with_its_family(tmp_path, family, name):
    make_family_checkpoint(family, tmp_path)
    row = family_of(family)
    tensor = row.own_name("model.transformer.blocks.1.attn_out.weight")
    changes = {
        "missing": lambda tensors: tensors.pop(tensor),
        "surplus": lambda tensors: tensors.update({tensor + "_scale": torch.ones(1)}),
        "misshapen": lambda tensors: tensors.update({tensor: torch.ones(3, 3)}),
    }
    rewrite(tmp_path, changes[name])
    with pytest.raises(ValueError, match=f"a checkpoint of {row.name}") as error:
        load(tmp_path)
    assert f"1 {name}: {tensor}" in str(error.value)


TIED = [name for name in FAMILY_IDS if CONFIGS[name].get("tie_word_embeddings")]


@pytest.mark.parametrize("family", TIED)
def test_a_tied_head_may_be_stored_as_well_but_not_differ(tmp_path, family):
    make_family_checkpoint(family, tmp_path)
    expected, embedding = logits(load(tmp_path)), "model.embed_tokens.weight"
    rewrite(tmp_path, lambda tensors: tensors.update({"lm_head.weight": tensors[embedding] + 0.0}))
    readers = (load, LLaDAForMaskedLM.from_pretrained)
    for read in readers:
        assert torch.equal(logits(read(tmp_path).eval()), expected)
    rewrite(tmp_path, lambda tensors: tensors["lm_head.weight"][7, 3].add_(0.5))
    for read in readers:
        with pytest.raises(ValueError, match=r"lm_head.weight differs from .* by up to 0\.5"):
            read(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({"lm_head.weight": torch.ones(3, 8)}))
    for read in readers:
        with pytest.raises(ValueError, match="lm_head.weight"):
            read(tmp_path)


def test_tensors_answer_what_a_config_leaves_open(tmp_path):
    reference = make_family_checkpoint("iLLaDA with biases", tmp_path / "biases")
    absent = dict.fromkeys(("attention_bias", "mlp_bias", "tie_word_embeddings"), "absent")
    change_config(tmp_path / "biases", **absent)
    model = load(tmp_path / "biases")
    assert model.config.include_qkv_bias and model.config.mlp_bias
    assert not model.config.weight_tying
    assert difference(logits(model), reference_logits(reference, IDS)) <= 1e-5
    make_family_checkpoint("iLLaDA", tmp_path / "none")
    change_config(tmp_path / "none", **absent)
    config = load_config(tmp_path / "none")
    assert not config.include_qkv_bias and not config.mlp_bias and config.weight_tying
    (tmp_path / "none" / FILE).unlink()
    # Without weights, what the family's code has for a missing key.
    assert load_config(tmp_path / "none").to_dict() == config.to_dict()


def test_a_twin_is_told_by_its_architecture_and_by_its_tensors(tmp_path):
    make_family_checkpoint("A2D-Qwen3", tmp_path, head_dim=8, tie_word_embeddings=False)
    twin = {"model_type": "Dream", "architectures": ["DreamForCausalLM"], "mask_token_id": 51}
    change_config(tmp_path, **twin, head_dim="absent", attention_bias="absent")
    assert load(tmp_path).config.family == "DreamReasoner"
    change_config(tmp_path, architectures=["DreamModel"])
    with pytest.raises(ValueError, match="q_norm.weight.* tensors are those of DreamReasoner"):
        load(tmp_path)


def test_a_mixture_of_experts_is_told_from_the_dense_model_of_its_type():
    shared = {"model_type": "llada"}
    assert find_family({**shared, "architectures": ["LLaDAMoEModelLM"]}).name == "LLaDA-MoE"
    for architectures in (["LLaDAModelLM"], ["LLaDAForMaskedLM"], [], None):
        assert find_family({**shared, "architectures": architectures}).name == "LLaDA"


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("Dream", {"use_sliding_window": True}, "use_sliding_window=True is not supported for Dr"),
        ("Dream", {"head_dim": 16}, "head_dim=16 is not d_model / n_heads = 8"),
        ("Dream", {"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
        ("Dream", {"num_hidden_layers": "absent"}, "num_hidden_layers is missing"),
        ("Dream", {"rope_theta": "absent"}, "rope_theta is missing"),
        ("A2D-Qwen3", {"head_dim": 13}, "head_dim must be even"),
        (
            "A2D-Qwen3",
            {"layer_types": ["full_attention", "sliding_attention"]},
            "layer_types=.*sliding_attention.* is not supported for A2D-Qwen3",
        ),
        ("A2D-LLaMA", {"rope_scaling": {"rope_type": "su", "factor": 2.0}}, "'su'"),
        ("iLLaDA", {"layer_norm_eps": 1e-5}, "layer_norm_eps=1e-05 .* only null is"),
        ("iLLaDA", {"resid_pdrop": 0.1}, "resid_pdrop=0.1 is not supported"),
        ("LLaDA", {"clip_qkv": 8.0}, "clip_qkv=8.0 is not supported for LLaDA"),
        ("iLLaDA", {"clip_qkv": 8.0}, "clip_qkv=8.0 is not supported for iLLaDA"),
        ("LLaDA-MoE", {"clip_qkv": 8.0}, "clip_qkv=8.0 is not supported for LLaDA-MoE"),
        ("LLaDA-MoE", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ("LLaDA-MoE", {"moe_layer_freq": [0, 1]}, "moe_layer_freq"),
        ("LLaDA-MoE", {"moe_router_enable_expert_bias": True}, "moe_router_enable_expert_bias"),
        ("LLaDA-MoE", {"shared_expert_intermediate_size": 8}, "shared_expert_intermediate_size"),
        ("LLaDA-MoE", {"num_experts_per_tok": 9}, "num_experts_per_tok=9 is no choice among"),
    ],
)
def test_a_key_that_would_change_the_computation_is_refused_by_name(
    tmp_path, family, changes, message
):
    make_family_checkpoint(family, tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_config(tmp_path)
    assert "config.json" in str(error.value)


def test_a_trained_context_is_the_rows_and_then_our_own(tmp_path):
    make_family_checkpoint("Dream", tmp_path / "a")
    config = load_config(tmp_path / "a")
    assert (config.train_length, config.max_sequence_length, config.shift) == (2048, 131072, True)
    model = load(tmp_path / "a", rope=RopeChoice(scale=5.0, train_length=4096))
    model.save_pretrained(tmp_path / "b")
    again = load_config(tmp_path / "b")
    assert (again.train_length, again.rope_scale, again.rope_theta) == (4096, 5.0, 5e6)
    make_family_checkpoint("iLLaDA", tmp_path / "c", max_position_embeddings=8192)
    assert load_config(tmp_path / "c").train_length == 8192


def test_a_scaling_is_written_where_code_of_transformers_4_reads_it(tmp_path):
    make_family_checkpoint("A2D-LLaMA", tmp_path / "a")
    scaling = {"rope_type": "linear", "factor": 2.0}
    change_config(tmp_path / "a", rope_scaling=scaling)
    model = load(tmp_path / "a")
    model.save_pretrained(tmp_path / "b")
    assert json.loads((tmp_path / "b" / "config.json").read_text())["rope_scaling"] == scaling
    assert torch.equal(logits(load(tmp_path / "b")), logits(model))


def test_no_two_rows_answer_to_one_name():
    assert len({row.name for row in FAMILIES}) == len(FAMILIES)
    kinds = [(t, a) for row in FAMILIES for t in row.model_types for a in row.architectures or [""]]
    assert len(set(kinds)) == len(kinds)
    assert {family_of(name).name for name in FAMILY_IDS} == {row.name for row in FAMILIES}


def test_model_types_are_told_apart_in_the_table_alone():
    package = Path(lm_eval_llada.__file__).parent
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and path.name != "families.py":
                assert "model_type" not in ast.unparse(node), f"{path.name}: {ast.unparse(node)}"
