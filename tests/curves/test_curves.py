"""Perplexity against context: the estimators, the chunks they score, and the files they fill."""

from __future__ import annotations

import copy
import json
import math
from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from lm_eval_llada.curves import scores as curve_scores
from lm_eval_llada.curves.files import CurveFile
from lm_eval_llada.curves.run import (
    CurveOptions,
    CurveRun,
    make_chunks,
    run_curve,
)
from lm_eval_llada.curves.scores import (
    CausalScorer,
    Chunk,
    DiffusionScorer,
    expected_seconds,
)
from lm_eval_llada.diffusion.denoiser import Denoiser
from lm_eval_llada.diffusion.duel import duel_log_likelihoods
from lm_eval_llada.diffusion.estimates import Estimate
from lm_eval_llada.engine.batching import Batcher
from lm_eval_llada.engine.device_memory import DeviceMemory
from tests.helpers.curve_toys import NETWORK_CONTEXT, chunks_of, diffusion_scorer, network_text
from tests.helpers.likelihood_loops import MASK, NETWORK, plain_draws
from tests.helpers.toys import JOINT_LENGTH, JOINT_MASK_ID, KnownJoint

ALL = ("elbo", "masked_mean", "duel")


def values(scored) -> dict[tuple[int, str], float]:
    return {(chunk.end, name): estimate.value for chunk, name, estimate in scored}


# --- estimators of a masked diffusion model -----------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_elbo_and_masked_mean_equal_plain_loops_over_the_same_masks(batch_size):
    chunks = chunks_of(network_text(), chunk_length=9)
    found = {
        (chunk.end, name): estimate
        for chunk, name, estimate in diffusion_scorer(batch_size).score(chunks, ALL[:2])
    }
    for chunk in chunks:
        prefix, target = chunk.pair
        draws = plain_draws(NETWORK, prefix, target, 8, chunk.seed)
        # Eq. 14 with its weight L / l, per token; and the plain mean over what a draw masked.
        bound = torch.tensor([-weight * sum(parts) / 9 for weight, parts in draws])
        plain = torch.tensor([-sum(parts) / len(parts) for _, parts in draws])
        for name, draws_of in (("elbo", bound), ("masked_mean", plain)):
            estimate = found[chunk.end, name]
            assert estimate.value == pytest.approx(float(draws_of.mean()), abs=1e-5)
            assert estimate.stderr == pytest.approx(float(draws_of.std()) / 8**0.5, abs=1e-5)


def test_elbo_and_masked_mean_are_the_same_number():
    found = toy_values()
    for end in {end for end, _ in found}:
        assert found[end, "elbo"] == pytest.approx(found[end, "masked_mean"], abs=1e-9)


def test_all_estimators_are_exact_on_a_known_joint_distribution():
    joint = KnownJoint()
    for state in joint.states[::7]:
        chunk = Chunk("joint", state, JOINT_LENGTH - 2, JOINT_LENGTH, 2, seed=0)
        scorer = DiffusionScorer(
            Denoiser(joint, JOINT_MASK_ID),
            Batcher(4, None, DeviceMemory(torch.device("cpu")), max),
        )
        truth = -joint.log_prob(state[2:], state[:2]) / 2
        scored = list(scorer.score([chunk], ALL))
        assert [name for _, name, _ in scored] == list(ALL)
        for _, _, estimate in scored:
            assert estimate.value == pytest.approx(truth, abs=1e-6)
            assert estimate.stderr == 0


def test_duel_is_the_probability_of_the_chunk():
    chunks = chunks_of(network_text(), chunk_length=9)
    found = values(diffusion_scorer().score(chunks, ["duel"]))
    for chunk in chunks:
        (one,) = duel_log_likelihoods(Denoiser(NETWORK, MASK), [chunk.pair])
        assert found[chunk.end, "duel"] == pytest.approx(-one.value / 9, abs=1e-6)


@lru_cache(maxsize=1)
def toy_values() -> dict[tuple[int, str], float]:
    return values(diffusion_scorer().score(chunks_of(network_text()), ALL))


@settings(max_examples=10)
@given(data=st.data(), batch_size=st.sampled_from([1, 2, 5, 16]))
def test_batches_and_the_choice_of_points_do_not_change_values(data, batch_size):
    chunks = chunks_of(network_text())
    some = data.draw(st.permutations(chunks))[: data.draw(st.integers(1, len(chunks)))]
    found = values(diffusion_scorer(batch_size).score(some, ALL))
    assert len(found) == 3 * len(some)
    for key, value in found.items():
        assert value == pytest.approx(toy_values()[key], abs=1e-5)


def test_text_behind_a_chunk_does_not_change_its_value():
    first = chunks_of(network_text())[0]
    changed = first.tokens.clone()
    changed[first.end :] = 0
    alone = Chunk(first.document, changed, first.start, first.end, 1, first.seed)
    for (end, name), value in values(diffusion_scorer().score([alone], ALL)).items():
        assert value == pytest.approx(toy_values()[end, name], abs=1e-5)


@pytest.mark.parametrize("estimators", [("elbo",), ("duel",), ALL], ids=str)
def test_the_announced_passes_are_those_that_run(estimators):
    scorer, chunks = diffusion_scorer(batch_size=3), chunks_of(network_text(), chunk_length=9)
    planned = scorer.pass_lengths(chunks, estimators)
    list(scorer.score(chunks, estimators))
    # Equal masks are read once, so a few fewer may run.
    assert 0.9 * len(planned) <= scorer.stats.num_sequences <= len(planned)
    assert 0.9 * sum(planned) <= scorer.stats.num_tokens <= sum(planned)


# --- causal models ------------------------------------------------------------------------------


def causal_model(**changes):
    settings = {
        "vocab_size": 60,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 48,
        "max_position_embeddings": 32,
        "initializer_range": 0.3,
    }
    is_capped = "final_logit_softcapping" in changes
    config_type = Gemma2Config if is_capped else LlamaConfig
    model_type = Gemma2ForCausalLM if is_capped else LlamaForCausalLM
    torch.manual_seed(5)
    return model_type(config_type(**{**settings, **changes})).eval()


CAUSAL = {
    "plain": {},
    "capped": {"final_logit_softcapping": 2.0, "head_dim": 16, "sliding_window": 64},
}


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_values_equal_a_full_forward_and_only_slices_reach_the_vocabulary(name, monkeypatch):
    monkeypatch.setattr(curve_scores, "_ROWS_AT_ONCE", 5)
    model, widest = causal_model(**CAUSAL[name]), []
    chunks = chunks_of(network_text(vocab=60), chunk_length=7)
    with torch.inference_mode():
        logits = model(chunks[0].tokens[None]).logits[0].double().log_softmax(dim=-1)
    model.lm_head.register_forward_hook(lambda _, x, y: widest.append(y.shape[-2]))
    found = values(CausalScorer(model).score(chunks, ["causal"]))
    for chunk in chunks:
        log_probs = [float(logits[i - 1, chunk.tokens[i]]) for i in range(chunk.start, chunk.end)]
        assert found[chunk.end, "causal"] == pytest.approx(-sum(log_probs) / 7, abs=1e-5)
    assert max(widest) <= max(5, curve_scores._PROBE_LENGTH)


def test_one_pass_serves_all_chunks_of_a_text():
    scorer, chunks = CausalScorer(causal_model()), chunks_of(network_text(vocab=60))
    assert scorer.pass_lengths(chunks, ["causal"]) == [chunks[-1].end]
    list(scorer.score(chunks, ["causal"]))
    assert (scorer.stats.num_passes, scorer.stats.num_tokens) == (1, chunks[-1].end)


def test_frequencies_that_depend_on_the_length_get_a_pass_for_each_chunk():
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    model = causal_model(rope_parameters=rope)
    chunks = chunks_of(network_text(vocab=60), chunk_length=16)
    assert len(CausalScorer(model).pass_lengths(chunks, ["causal"])) == len(chunks)
    scorer = CausalScorer(copy.deepcopy(model))
    scorer.seconds(chunks[-1].tokens)  # leaves the frequencies of the longest pass in the model
    found = values(scorer.score(chunks, ["causal"]))
    for chunk in chunks:
        fresh = copy.deepcopy(model)
        with torch.inference_mode():
            logits = fresh(chunk.tokens[None, : chunk.end]).logits[0].double().log_softmax(dim=-1)
        rows = torch.arange(chunk.start, chunk.end)
        expected = -float(logits[rows - 1, chunk.tokens[rows]].mean())
        assert found[chunk.end, "causal"] == pytest.approx(expected, abs=1e-5)


# --- chunks -------------------------------------------------------------------------------------


@given(
    num_chunks=st.integers(2, 300), data=st.data(), spacing=st.sampled_from(["geometric", "even"])
)
def test_points_are_as_many_as_asked_ascend_and_end_at_the_context(num_chunks, data, spacing):
    num_points = data.draw(st.none() | st.integers(1, num_chunks - 1))
    options = CurveOptions(num_chunks * 4, 4, num_points, spacing)
    lengths = options.lengths
    assert len(lengths) == (num_points or num_chunks - 1)
    assert lengths[-1] == num_chunks * 4
    assert list(lengths) == sorted(set(lengths))
    assert all(length % 4 == 0 and length >= 8 for length in lengths)


def test_geometric_points_keep_their_ratio():
    lengths = CurveOptions(64 * 1024, num_points=10).lengths
    assert lengths == tuple(64 * 2**power for power in range(1, 11))


def test_seeds_do_not_depend_on_the_points_but_on_text_place_and_run():
    text, other = network_text(), network_text(name="other", seed=1)
    options = CurveOptions(NETWORK_CONTEXT, chunk_length=8)
    seeds = {chunk.end: chunk.seed for chunk in make_chunks(text, options)}
    assert len(set(seeds.values())) == len(seeds)
    few = make_chunks(text, CurveOptions(NETWORK_CONTEXT, chunk_length=8, num_points=2))
    assert all(chunk.seed == seeds[chunk.end] for chunk in few)
    longer = CurveOptions(NETWORK_CONTEXT, chunk_length=8, seed=1)
    for changed in (make_chunks(other, options), make_chunks(text, longer)):
        assert all(chunk.seed != seeds[chunk.end] for chunk in changed)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"context": 200}, "multiple of chunk_length=64; use 192 or 256"),
        ({"context": 64}, "context must be a whole number >= 128"),
        ({"num_points": 99}, "has 3 chunks of 64 after the first; use at most 3"),
        ({"spacing": "log"}, "spacing must be one of geometric, even"),
        ({"estimators": ("elb",)}, "Did you mean 'elbo'"),
        ({"estimators": ("elbo", "elbo")}, "Name each estimator once"),
        ({"mc_num": 0}, "mc_num must be"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        CurveOptions(**{"context": 256, **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "hf"}, "model must be one of llada, mdlm, hf_rope"),
        ({"model": "hf_rope"}, "has the estimators causal; got elbo, duel"),
        ({"model_args": {"mc_num": 4}}, "mc_num among model_args has no place"),
        ({"batch_size": 0}, "batch_size must be"),
    ],
    ids=str,
)
def test_a_run_that_cannot_be_is_refused(fields, message, tmp_path):
    given = {"model": "llada", "model_args": {}, "text": "heldout", "output": tmp_path / "a"}
    with pytest.raises(ValueError, match=message):
        CurveRun(**{**given, "options": CurveOptions(256), **fields})


# --- time ---------------------------------------------------------------------------------------


def test_the_expected_time_is_right_where_cost_is_linear_plus_square():
    def cost(n: int) -> float:
        return 3e-4 * n + 2e-7 * n * n

    lengths = [128, 512, 4096, 4096]
    found = expected_seconds((256, cost(256)), (4096, cost(4096)), lengths)
    assert found == pytest.approx(sum(map(cost, lengths)))


@pytest.mark.parametrize(
    ("short", "long", "expected"),
    [((256, 9.0), (1024, 4.0), 2.0), ((256, 1e-9), (1024, 4.0), 1.0), ((8, 1.0), (8, 1.0), 64.0)],
    ids=["overhead", "square", "one length"],
)
def test_noise_in_the_timed_passes_gives_no_negative_cost(short, long, expected):
    assert expected_seconds(short, long, [512]) == pytest.approx(expected, rel=1e-6)


# --- files --------------------------------------------------------------------------------------

SETTINGS = {"model": "toy", "lengths": (8, 16), "rope": {"rope_scale": 1.0}, "text": "雨"}


def filled(path, count: int = 3) -> CurveFile:
    file = CurveFile(path, SETTINGS)
    for end in range(8, 8 + 8 * count, 8):
        chunk = Chunk("雨", torch.zeros(99), end - 8, end, 3, 0)
        if ("雨", end, "elbo") not in file.done:
            file.append(chunk, "elbo", Estimate(1 / end, math.nan, 8))
    return file


def test_a_file_holds_its_settings_and_then_a_line_for_each_score(tmp_path):
    filled(tmp_path / "new" / "a.jsonl")
    first, *rest = (tmp_path / "new" / "a.jsonl").read_text().splitlines()
    assert json.loads(first)["rope"] == {"rope_scale": 1.0}
    assert [json.loads(line)["length"] for line in rest] == [8, 16, 24]
    assert json.loads(rest[0])["stderr"] is None, "NaN is not JSON"


@given(data=st.data())
def test_a_run_cut_off_at_any_byte_goes_on_to_the_same_file(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("curve")
    filled(folder / "whole.jsonl")
    whole = (folder / "whole.jsonl").read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    (folder / "cut.jsonl").write_bytes(whole[:cut])
    notice = CurveFile(folder / "cut.jsonl", SETTINGS).notice
    assert bool(notice) == (cut > 0 and whole[cut - 1 : cut] != b"\n")
    assert (folder / "cut.jsonl").read_bytes() == whole[:cut], "nothing is written before a score"
    filled(folder / "cut.jsonl")
    again = (folder / "cut.jsonl").read_bytes()
    # Without a score to add, a torn line cannot be there: the last line is whole.
    assert again == whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "b"}, 'text is "雨" there and "b" now'),
        ({"rope": {"rope_scale": 4.0}}, "rope.rope_scale is 1.0 there and 4.0 now"),
        ({"mc_num": 8}, "mc_num is missing there and 8 now"),
        ({"lengths": (8,)}, r"lengths is \[8, 16\] there and \[8\] now"),
    ],
    ids=str,
)
def test_other_settings_are_an_error_that_names_the_difference(tmp_path, changes, message):
    before = filled(tmp_path / "a.jsonl").path.read_bytes()
    with pytest.raises(ValueError, match=message):
        CurveFile(tmp_path / "a.jsonl", {**SETTINGS, **changes})
    assert (tmp_path / "a.jsonl").read_bytes() == before


@pytest.mark.parametrize("line", ['{"kind": "score"', "[1]", '{"kind": "other"}'])
def test_a_broken_line_in_the_middle_is_an_error_with_its_number(tmp_path, line):
    path = filled(tmp_path / "a.jsonl").path
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:], ""]))
    with pytest.raises(ValueError, match="line 3"):
        CurveFile(path, SETTINGS)


def test_a_file_of_something_else_is_never_written_to(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(ValueError, match="it is another file"):
        CurveFile(tmp_path / "a.jsonl", SETTINGS)


def test_a_text_with_the_name_of_the_mask_token_is_refused(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("word " * 400 + "<|mdm_mask|>" + " word" * 400, encoding="utf-8")
    run = CurveRun(
        model="llada",
        model_args={"pretrained": "tiny-llada"},
        text=str(path),
        options=CurveOptions(1024),
        output=tmp_path / "curve.jsonl",
    )
    with pytest.raises(ValueError, match="text holds the name of the mask token"):
        run_curve(run, print)
    assert not run.output.exists()


def test_a_curve_begun_under_one_name_of_a_model_goes_on_under_the_other(tmp_path):
    def run(name: str) -> list[str]:
        said: list[str] = []
        options = CurveOptions(128, mc_num=1, estimators=("elbo",))
        given = {"pretrained": "tiny-llada", "device": "cpu"}
        output = tmp_path / "curve.jsonl"
        curve = CurveRun(name, given, "heldout", options, output)
        return run_curve(curve, said.append, is_bar_shown=False).read_text().splitlines()

    first = run("mdlm")
    assert len(first) == 2 and json.loads(first[0])["model"] == "llada"
    assert run("llada") == first
