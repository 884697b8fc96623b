"""The model adapter: what the harness asks for comes back as the plain loops would compute it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch

from lm_eval_llada.harness.llada import LLaDALM
from lm_eval_llada.modeling import LLaDAForMaskedLM, load_model
from tests.helpers.toy_requests import PAIRS, PROMPTS, choices, generations, instance

MASK = 1
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}</{{ m['role'] }}>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def lm(make) -> LLaDALM:
    return make(batch_size=3)


@pytest.fixture(scope="module")
def model(random_checkpoint: Path) -> LLaDAForMaskedLM:
    return load_model(random_checkpoint, device="cpu")


@torch.no_grad()
def logits_of(model: LLaDAForMaskedLM, ids: list[int]) -> torch.Tensor:
    logits = model(torch.tensor([ids])).logits[0].float()
    logits[:, MASK] = -math.inf
    return logits


def plain_generation(
    model: LLaDAForMaskedLM, prompt: list[int], gen_length: int, block: int, per_step: int
) -> list[int]:
    ids = prompt + [MASK] * gen_length
    for start in range(len(prompt), len(ids), block):
        while MASK in ids[start : start + block]:
            logits = logits_of(model, ids)
            confidence, tokens = logits.softmax(-1).max(-1)
            masked = [i for i in range(start, start + block) if ids[i] == MASK]
            for i in sorted(masked, key=lambda i: (-float(confidence[i]), i))[:per_step]:
                ids[i] = int(tokens[i])
    return ids[len(prompt) :]


def plain_log_likelihood(model: LLaDAForMaskedLM, prefix: list[int], target: list[int]) -> float:
    """The exact average of L/l over all masks, l uniform and masks of one size equally likely."""
    length, total = len(target), 0.0
    for size in range(1, length + 1):
        subsets = list(itertools.combinations(range(length), size))
        for masked in subsets:
            shown = [MASK if i in masked else token for i, token in enumerate(target)]
            with torch.no_grad():
                logits = model(torch.tensor([prefix + shown])).logits[0].float()
            log_probs = logits.log_softmax(-1)
            found = sum(float(log_probs[len(prefix) + i, target[i]]) for i in masked)
            total += length / size * found / len(subsets) / length
    return total


@pytest.mark.parametrize(("block", "per_step"), [(8, 1), (4, 2), (2, 1)])
def test_texts_are_those_of_the_plain_loop(lm: LLaDALM, model, block: int, per_step: int) -> None:
    requests = generations(PROMPTS, block_length=block, steps=8 // per_step, ignore_eos=True)
    expected = [
        lm.tokenizer.decode(
            plain_generation(model, lm.tok_encode(prompt), 8, block, per_step),
            skip_special_tokens=True,
        )
        for prompt in PROMPTS
    ]
    assert lm.generate_until(requests) == expected


def test_likelihoods_are_those_of_the_plain_loop(make, model) -> None:
    lm = make(likelihood="enumerate", batch_size=3)
    pairs = [("The key for", " rain"), ("", "A roof"), ("One ", "two")]
    results = lm.loglikelihood(choices(pairs))
    for (context, continuation), (value, is_greedy) in zip(pairs, results, strict=True):
        context, continuation = context.rstrip(), " " * context.endswith(" ") + continuation
        prefix = lm.tok_encode(context)
        target = lm.tok_encode(context + continuation)[len(prefix) :]
        assert value == pytest.approx(plain_log_likelihood(model, prefix, target), abs=1e-5)
        greedy = plain_generation(model, prefix, len(target), len(target), 1)
        assert is_greedy == (greedy == target)


def test_the_greedy_continuation_is_recognised(lm: LLaDALM, model) -> None:
    prefix = lm.tok_encode("The key is")
    target = plain_generation(model, prefix, 3, 3, 1)
    wrong = [*target[:2], (target[2] + 1) % 600]
    encoded = [(("", "a"), prefix, target), (("", "b"), prefix, wrong)]
    assert [greedy for _, greedy in lm._loglikelihood_tokens(encoded, disable_tqdm=True)] == [
        True,
        False,
    ]


def test_a_rolling_likelihood_adds_up_its_windows(make) -> None:
    lm = make(likelihood="enumerate", max_length=4)
    text = "The rain fell on the old roof."
    ids = lm.tok_encode(text)
    windows = [ids[i : i + 4] for i in range(0, len(ids), 4)]
    last = windows.pop()
    pairs = [(("", ""), [], window) for window in windows]
    pairs.append((("", ""), ids[-4 : len(ids) - len(last)], last))
    whole = lm.loglikelihood_rolling([instance("loglikelihood_rolling", text)])
    parts = lm._loglikelihood_tokens(pairs, disable_tqdm=True)
    assert whole == pytest.approx([sum(value for value, _ in parts)], abs=1e-4)


def test_results_depend_neither_on_batch_size_nor_on_order(make) -> None:
    texts, scores, rolling = [], [], []
    for batch_size, order in [(1, 1), (3, -1), (8, 1), ("auto", -1)]:
        lm = make(batch_size=batch_size, temperature=0.7, seed=5)
        texts.append(lm.generate_until(generations(PROMPTS)[::order])[::order])
        results = lm.loglikelihood(choices(PAIRS)[::order])[::order]
        scores.append([value for value, _ in results])
        requests = [instance("loglikelihood_rolling", prompt) for prompt in PROMPTS]
        rolling.append(lm.loglikelihood_rolling(requests[::order])[::order])
    assert all(other == texts[0] for other in texts)
    for found in (scores, rolling):
        for other in found:
            assert other == pytest.approx(found[0], rel=1e-5)


def test_the_run_seed_changes_sampled_results(make) -> None:
    one, other = make(temperature=1.0, seed=1), make(temperature=1.0, seed=2)
    assert one.generate_until(generations(PROMPTS)) != other.generate_until(generations(PROMPTS))
    assert one.loglikelihood(choices(PAIRS[1:2])) != other.loglikelihood(choices(PAIRS[1:2]))


def test_repeats_differ_and_equal_requests_of_other_samples_agree(make) -> None:
    lm = make(temperature=1.0)
    request, same_content = generations(["The key is", "The key is"], repeats=2)
    first, again, padding, elsewhere = lm.generate_until([*[request] * 3, same_content])
    assert first != again
    assert first == padding == elsewhere
    assert lm.generate_until([request]) == [first]


def test_an_empty_continuation_has_probability_one(lm: LLaDALM) -> None:
    assert lm.loglikelihood(choices([("One", ""), ("", "")])) == [(0.0, True), (0.0, True)]


def test_without_the_greedy_check_fewer_sequences_are_read(make) -> None:
    # Of one drawn mask each; all of a short target's masks would hold every pass of the check.
    settings = {"mc_num": 1, "likelihood": "mc"}
    with_check, without = make(**settings), make(**settings, is_check_greedy=False)
    values = [lm.loglikelihood(choices(PAIRS)) for lm in (with_check, without)]
    assert [v for v, _ in values[0]] == pytest.approx([v for v, _ in values[1]])
    assert not any(greedy for _, greedy in values[1])
    assert without.runner.stats.num_sequences < with_check.runner.stats.num_sequences


def test_a_bos_token_is_added_once(make) -> None:
    lm, bos = make(add_bos_token=True), 2
    assert lm.tok_encode("One.")[0] == bos
    assert lm.tok_encode("<|startoftext|>One.").count(bos) == 1
    assert make().tok_encode("One.")[0] != bos
    assert lm._encode_pair("", "One.")[0] == [bos]
    assert lm._encode_pair("One", " two")[1] == make()._encode_pair("One", " two")[1]


@pytest.mark.parametrize(
    ("until", "ignore_eos", "expected"),
    [
        ([], False, "One"),
        ([], True, "One two\nend"),
        (["\n"], True, "One two"),
        (["<|startoftext|>", "\n"], True, "One two"),
        (["<|startoftext|>"], True, "One two\nen"),
        (["n"], False, "O"),
    ],
)
def test_texts_end_where_they_should(
    lm: LLaDALM, until: list[str], ignore_eos: bool, expected: str
) -> None:
    ids = lm.tok_encode("One<|endoftext|> two\nen<|startoftext|>d")
    assert lm._text.text_of(ids, until, ignore_eos=ignore_eos) == expected


def test_the_end_of_a_turn_ends_a_text_and_vanishes(make, random_checkpoint, tmp_path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(random_checkpoint)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|eot_id|>"]})
    tokenizer.save_pretrained(tmp_path)
    text = make(tokenizer=str(tmp_path))._text
    ids = text.encode("One<|eot_id|> two")
    assert text.text_of(ids, [], ignore_eos=False) == "One"
    assert text.text_of(ids, [], ignore_eos=True) == "One two"


def test_a_gen_prefix_continues_the_assistants_turn(make) -> None:
    lm = make()
    lm.tokenizer.chat_template = CHAT_TEMPLATE
    try:
        turns = [{"role": "user", "content": "Which?"}]
        assert lm.apply_chat_template(turns).endswith("<user>Which?</user><assistant>")
        prefixed = [*turns, {"role": "assistant", "content": "The key is"}]
        continued = lm.apply_chat_template(prefixed, add_generation_prompt=False)
        assert continued.endswith("<assistant>The key is")
    finally:
        lm.tokenizer.chat_template = None


def test_a_missing_chat_template_is_an_error(lm: LLaDALM) -> None:
    with pytest.raises(ValueError, match="no chat template"):
        lm.apply_chat_template([{"role": "user", "content": "Which?"}])
