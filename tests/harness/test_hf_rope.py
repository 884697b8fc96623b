"""The causal baseline: the harness' `hf`, with positions stretched and prompts cut as ours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.model import CachingLM
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from transformers import LlamaConfig, LlamaForCausalLM

from lm_eval_llada.harness.causal_rope import causal_rope
from lm_eval_llada.harness.hf_rope import RopeLM
from lm_eval_llada.rope import RopeChoice, ntk_scale
from lm_eval_llada.rope.formulas import ntk_fixed_scale
from tests.helpers.causal_models import random_model, tiny_config
from tests.helpers.toy_requests import PAIRS, PROMPTS, choices, generations, instance
from tests.helpers.toy_tokenizer import toy_tokenizer

THETA, TRAINED, HEAD_DIM = 1e4, 64, 16


def llama_config(**changes: Any) -> LlamaConfig:
    settings = {
        "vocab_size": 600,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 48,
        "max_position_embeddings": TRAINED,
        "rope_parameters": {"rope_type": "default", "rope_theta": THETA},
        "initializer_range": 0.3,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "bos_token_id": 2,
    }
    return LlamaConfig(**{**settings, **changes})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("random-llama")
    LlamaForCausalLM(llama_config()).save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def build(checkpoint):
    return lambda **args: RopeLM(**{"pretrained": str(checkpoint), "device": "cpu", **args})


@pytest.fixture
def plain(checkpoint):
    return HFLM(pretrained=str(checkpoint), device="cpu", max_length=4096)


def reference_logits(checkpoint: Path, ids: torch.Tensor, theta: float) -> torch.Tensor:
    model = LlamaForCausalLM.from_pretrained(checkpoint)
    parameters = {"rope_type": "default", "rope_theta": theta}
    scaled = LlamaForCausalLM(llama_config(rope_parameters=parameters)).eval()
    scaled.load_state_dict(model.state_dict())
    with torch.inference_mode():
        return scaled(ids).logits


def test_the_harness_finds_it_by_name():
    assert get_model("hf_rope") is RopeLM
    assert get_model("hf") is HFLM


def test_unstretched_it_answers_as_the_harness_own_model_does(build, plain):
    ours = build()
    kwargs = {"until": [], "max_gen_toks": 8}
    theirs = [
        instance("generate_until", prompt, dict(kwargs), doc_id=i)
        for i, prompt in enumerate(PROMPTS)
    ]
    assert ours.generate_until(generations(PROMPTS)) == plain.generate_until(theirs)
    for (a, greedy), (b, same) in zip(
        ours.loglikelihood(choices(PAIRS)), plain.loglikelihood(choices(PAIRS)), strict=True
    ):
        assert a == pytest.approx(b, abs=1e-5)
        assert greedy == same


@pytest.mark.parametrize("args", [{"rope_scale": 7.0}, {"target_length": 512}], ids=str)
def test_ntk_multiplies_the_base_by_lambda_as_for_causal_models(build, checkpoint, args):
    model = build(**args)
    scale = args.get("rope_scale") or ntk_scale(THETA, HEAD_DIM, TRAINED, 512)
    assert model.rope.rope_scale == pytest.approx(scale)
    ids = torch.arange(5, 205)[None]
    with torch.inference_mode():
        got = model.model(ids).logits
    expected = reference_logits(checkpoint, ids, scale * THETA)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    unscaled = reference_logits(checkpoint, ids, THETA)
    assert float((got - unscaled).abs().max()) > 1e-2


@pytest.mark.parametrize("method", ["linear", "dynamic", "yarn", "ntk_fixed"])
def test_other_methods_reach_transformers(build, method):
    model = build(rope_method=method, target_length=256)
    parameters = model.model.config.rope_parameters
    if method == "ntk_fixed":
        scale = ntk_fixed_scale(HEAD_DIM, 256 / TRAINED)
        assert parameters["rope_theta"] == pytest.approx(THETA * scale)
    else:
        assert parameters["rope_type"] == method
        assert parameters["factor"] == 4
    assert model.max_length == 256


def test_prompts_past_the_trained_context_are_not_cut(build, plain):
    prompt = "The rain fell on the old roof. " * 30
    ours = build()
    assert len(ours.tok_encode(prompt)) > 2 * TRAINED
    expected = plain.generate_until(
        [instance("generate_until", prompt, {"until": [], "max_gen_toks": 8})]
    )
    assert ours.generate_until(generations([prompt])) == expected
    pair = choices([(prompt, " The key")])
    assert ours.loglikelihood(pair)[0][0] == pytest.approx(
        plain.loglikelihood(pair)[0][0], abs=1e-4
    )
    assert ours.max_length == TRAINED


@pytest.mark.parametrize("how", ["middle", "left"])
def test_a_given_max_length_cuts_where_truncation_says_and_counts_it(build, how):
    prompt = "One two three four five. " * 30
    ours = build(max_length=40, truncation=how)
    ids = ours.tok_encode(prompt)
    kept = ids[-32:] if how == "left" else ids[:16] + ids[-16:]
    text = build().generate_until(generations([ours.tok_decode(kept)]))
    assert ours.generate_until(generations([prompt])) == text
    counts = ours.get_model_info()["hf_rope"]["truncation"]["toy"]
    assert counts["truncated"] == 1
    assert counts["tokens_dropped"] == len(ids) - 32


def test_truncation_error_names_the_sample(build):
    with pytest.raises(ValueError, match="toy sample 0: a prompt of"):
        build(max_length=20, truncation="error").generate_until(generations(["One two. " * 30]))


def test_batches_do_not_change_texts(build):
    alone = build(batch_size=1).generate_until(generations(PROMPTS))
    assert build(batch_size=3).generate_until(generations(PROMPTS)) == alone


def test_settings_of_masked_diffusion_are_passed_over(build):
    plain = build().generate_until(generations(PROMPTS))
    settings = {"steps": 4, "block_length": 4, "remasking": "random", "ignore_eos": True}
    assert build().generate_until(generations(PROMPTS, **settings)) == plain


def test_rolling_windows_have_the_trained_or_the_target_length(build):
    text = "The rain fell on the old roof. " * 20
    request = [instance("loglikelihood_rolling", text)]
    windows = build().loglikelihood_rolling(request)
    whole = build(max_length=1024).loglikelihood_rolling(request)
    assert windows != pytest.approx(whole)
    assert build(max_length=TRAINED).loglikelihood_rolling(request) == pytest.approx(windows)


def test_a_cache_of_answers_is_not_shared_between_scales(build, tmp_path):
    requests = generations(PROMPTS[:1])
    path = str(tmp_path / "cache.db")
    first = CachingLM(build(), path).generate_until(requests)
    again = build()
    again.model.forward = None  # answers from the cache need no forward pass
    assert CachingLM(again, path).generate_until(requests) == first
    fresh = build(rope_scale=50.0).generate_until(requests)
    assert CachingLM(build(rope_scale=50.0), path).generate_until(requests) == fresh
    assert fresh != first


def test_results_say_how_positions_were_stretched(build):
    info = build(target_length=256).get_model_info()
    assert info["rope"]["method"] == "ntk"
    assert info["rope"]["target_length"] == 256
    assert info["model_num_parameters"] > 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"rope_scal": 2}, "model_args has no 'rope_scal'. Did you mean 'rope_scale'"),
        ({"steps": 2}, "model_args has no 'steps'"),
        ({"rope_method": "ntkk"}, "rope_method must be one of"),
        ({"target_length": 32, "rope_scale": 2}, "shorter than the trained context"),
        ({"pretrained": "./nowhere"}, "does not exist"),
        ({"gguf_file": "q8.gguf"}, "gguf_file=q8.gguf is not taken by hf_rope"),
    ],
    ids=str,
)
def test_wrong_arguments_stop_before_anything_loads(build, args, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        build(**args)


def test_a_checkpoint_is_needed():
    with pytest.raises(ValueError, match="needs pretrained="):
        RopeLM(device="cpu")


def test_a_stretched_checkpoint_is_not_stretched_again_unless_forced():
    parameters = {"rope_type": "linear", "rope_theta": THETA, "factor": 4.0}
    config = llama_config(rope_parameters=parameters)
    choice = RopeChoice(scale=2.0)
    with pytest.raises(ValueError, match="extended already"):
        causal_rope(config, choice)
    assert causal_rope(config, RopeChoice(scale=2.0, force=True)).rope_theta == 2 * THETA
    assert causal_rope(config, RopeChoice()).method == "none"


def test_models_without_rotary_embeddings_are_refused():
    from transformers import GPT2Config

    with pytest.raises(ValueError, match="use --model hf"):
        causal_rope(GPT2Config(), RopeChoice(scale=2.0))


def test_the_results_say_what_work_was_done_and_where_it_comes_from(build):
    lm = build()
    lm.loglikelihood([instance("loglikelihood", "one two", " three")])
    info = lm.get_model_info()["hf_rope"]
    assert info["work"]["forward_passes"] == 1
    assert info["work"]["tokens_read"] == len(lm.tok_encode("one two three")) - 1
    assert info["work"]["peak_memory_bytes"] > 10**7
    assert info["checkpoint"].startswith("sha256:") and info["machine"]["torch"]


FACTORS = ",".join(str(1 + n / 4) for n in range(HEAD_DIM // 2))
BY_LENGTH = [
    {"rope_method": "dynamic", "target_length": 512},
    {"rope_method": "longrope", "target_length": 512, "rope_long_factor": f"[{FACTORS}]"},
]
# Within the trained context, just beyond it, far beyond it, and between the two.
CONTEXTS = ["The rain fell on the old roof. " * count for count in (1, 3, 12, 5)]


@pytest.mark.parametrize("args", BY_LENGTH, ids=lambda args: args["rope_method"])
def test_a_rotation_by_length_is_that_of_each_sequence_alone(build, args):
    pairs = [(context, " The key is here.") for context in CONTEXTS]
    alone = [build(**args).loglikelihood(choices([pair]))[0] for pair in pairs]
    for model in (build(**args), build(**args, batch_size=4), build(**args, batch_size="auto")):
        assert model.loglikelihood(choices(pairs)) == alone
        # After a longer one, and after one within the trained context.
        assert model.loglikelihood(choices(pairs[::-1])) == alone[::-1]
        assert model.batch_size == 1


@pytest.mark.parametrize("args", BY_LENGTH, ids=lambda args: args["rope_method"])
def test_alone_a_sequence_is_scored_as_transformers_does(build, args):
    model = build(**args)
    config = model.model.config
    for context in CONTEXTS:
        ids = torch.tensor([model.tok_encode(context)])
        fresh = LlamaForCausalLM(config).eval()
        fresh.load_state_dict(model.model.state_dict())
        with torch.inference_mode():
            assert torch.equal(model.model(ids).logits, fresh(ids).logits)


@pytest.mark.parametrize("args", BY_LENGTH, ids=lambda args: args["rope_method"])
def test_a_text_has_the_rotation_of_its_prompt_and_room_throughout(build, args):
    room = 8
    model = build(**args)
    texts = model.generate_until(generations(CONTEXTS, gen_length=room))
    again = build(**args, batch_size=3)
    assert again.generate_until(generations(CONTEXTS[::-1], gen_length=room)) == texts[::-1]
    for context, text in zip(CONTEXTS, texts, strict=True):
        prompt = model.tok_encode(context)
        ids = list(prompt)
        # The plain loop: no keys are kept, and every pass has the frequencies of the whole.
        with torch.inference_mode(), model._own_length.of(len(prompt) + room):
            for _ in range(room):
                ids.append(int(model.model(torch.tensor([ids])).logits[0, -1].argmax()))
                if ids[-1] == 0:
                    break
        assert model.tok_decode(ids[len(prompt) :]) == text


def test_a_checkpoint_that_is_dynamic_itself_goes_by_length_as_well(build, checkpoint, tmp_path):
    parameters = {"rope_type": "dynamic", "rope_theta": THETA, "factor": 8.0}
    model = LlamaForCausalLM.from_pretrained(checkpoint)
    model.config.rope_parameters = parameters
    model.save_pretrained(tmp_path)
    toy_tokenizer().save_pretrained(tmp_path)
    pairs = [(context, " The key is here.") for context in CONTEXTS]
    own = build(pretrained=str(tmp_path)).loglikelihood(choices(pairs))
    assert own == build(**BY_LENGTH[0]).loglikelihood(choices(pairs))


def test_partial_rotation_stays_partial_in_a_run(tmp_path):
    config = tiny_config("gpt_neox", vocab_size=600)
    random_model(config).save_pretrained(tmp_path)
    toy_tokenizer().save_pretrained(tmp_path)
    settings = {"pretrained": str(tmp_path), "device": "cpu"}
    pairs = choices([(CONTEXTS[1], " The key is here.")])
    plain = HFLM(**settings).loglikelihood(pairs)
    assert RopeLM(**settings, rope_scale=1.0).loglikelihood(pairs) == plain
    scaled = RopeLM(**settings, rope_scale=9.0)
    assert scaled.loglikelihood(pairs) != plain
    assert scaled.model.config.rope_parameters["partial_rotary_factor"] == 0.25
    assert scaled.rope.head_dim == 4


@pytest.mark.parametrize("name", ["_attn_implementation", "attn_implementation"])
def test_the_attention_asked_for_wins_over_that_of_the_config(build, checkpoint, tmp_path, name):
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "config.json"
    for own in ("eager", "flash_attention_2"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: own}))
        for rope in ({}, {"rope_scale": 2.0}):
            model = build(pretrained=str(tmp_path), attn_implementation="sdpa", **rope)
            assert model.model.config._attn_implementation == "sdpa"


def test_a_run_says_what_is_not_as_it_seems(build, caplog):
    build(rope_method="yarn", target_length=256)
    assert "yarn multiplies the logits of attention by 1.29" in caplog.text
    build(rope_method="dynamic", target_length=256, batch_size=4)
    assert "batch_size=4 is 1 here" in caplog.text
