"""A run that goes on after another one computes what is missing, and nothing else."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.model import CachingLM
from safetensors.torch import load_file, save_file

from lm_eval_llada.engine import fingerprints as cache_keys
from lm_eval_llada.engine import preemption
from lm_eval_llada.harness.llada import LLaDALM
from tests.helpers.toy_requests import PAIRS, PROMPTS, choices, generations, instance

NUM_REQUESTS = 2 * len(PROMPTS) + len(PAIRS)
Results = dict[str, list[Any]]


def asked(lm: Any, num_each: int = len(PROMPTS)) -> Results:
    """What a run gets for the first requests of each kind."""
    rolling = [
        instance("loglikelihood_rolling", prompt, doc_id=i) for i, prompt in enumerate(PROMPTS)
    ]
    return {
        "texts": lm.generate_until(generations(PROMPTS)[:num_each]),
        "scores": lm.loglikelihood(choices(PAIRS)[:num_each]),
        "rolling": lm.loglikelihood_rolling(rolling[:num_each]),
    }


def finished(lm: LLaDALM) -> LLaDALM:
    """End a run: let go of its file of answers, as the end of its process would."""
    store = lm._dispatcher._store
    assert store is not None
    store.close()
    return lm


def work(lm: LLaDALM) -> tuple[int, int]:
    """Answers taken from disk, and forward passes."""
    summary = lm.get_model_info()["llada"]["work"]
    return summary["answers_from_disk"], summary["forward_passes"]


def same(results: Results, expected: Results) -> bool:
    values = [
        [value for value, _ in found["scores"]] + found["rolling"] for found in (results, expected)
    ]
    greedy = [[is_greedy for _, is_greedy in found["scores"]] for found in (results, expected)]
    return (
        results["texts"] == expected["texts"]
        and greedy[0] == greedy[1]
        and values[0] == pytest.approx(values[1], rel=1e-5)
    )


@pytest.fixture(scope="module")
def sampled(make: Callable[..., LLaDALM]) -> Callable[..., LLaDALM]:
    """As `make`, with texts that depend on their seeds."""
    return lambda **model_args: make(**{"temperature": 0.7, "batch_size": 2, **model_args})


@pytest.fixture(scope="module")
def expected(sampled) -> Results:
    """What a run that keeps no answers gives."""
    return asked(sampled())


@pytest.fixture(scope="module")
def whole(sampled, expected, tmp_path_factory) -> Path:
    """The answers of a whole run; tests that write copy them."""
    folder = tmp_path_factory.mktemp("whole") / "answers"
    lm = sampled(answers_dir=str(folder))
    assert asked(lm) == expected
    assert work(finished(lm))[0] == 0
    return folder


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "answers"))


def answers_file(folder: Path) -> Path:
    (path,) = folder.glob("*.jsonl")
    return path


def test_a_second_run_reads_every_answer_and_no_weights(sampled, folder, expected) -> None:
    before = answers_file(folder).read_bytes()
    lm = sampled(answers_dir=str(folder))
    assert asked(lm) == expected
    assert work(finished(lm)) == (NUM_REQUESTS, 0)
    assert "runner" not in lm.__dict__, "weights were loaded although all answers were there"
    assert answers_file(folder).read_bytes() == before


def test_a_run_that_was_half_done_computes_the_other_half_only(sampled, expected, tmp_path) -> None:
    half = sampled(answers_dir=str(tmp_path))
    asked(half, 2)
    finished(half)
    rest = sampled(answers_dir=str(tmp_path))
    assert same(asked(rest), expected)
    assert work(finished(rest))[0] == 6
    at_once = sampled()
    asked(at_once)
    assert 0 < rest.runner.stats.num_sequences < at_once.runner.stats.num_sequences


@pytest.mark.parametrize(
    "change",
    [
        {"rope_scale": 4.0},
        {"rope_method": "linear", "target_length": 256},
        {"train_length": 64},
        {"steps": 2},
        {"gen_length": 4},
        {"block_length": 4},
        {"remasking": "random"},
        {"temperature": 0.6},
        {"cfg_scale": 1.0},
        {"threshold": 0.5},
        {"cache": "dual"},
        {"suppress_eos": True},
        {"mc_num": 13},
        {"likelihood": "mc"},
        {"is_check_greedy": False},
        {"seed": 1},
        {"dtype": "bfloat16"},
        {"add_bos_token": True},
        {"max_length": 100},
        {"truncation": "left"},
    ],
    ids=lambda change: ",".join(f"{name}={value}" for name, value in change.items()),
)
def test_another_setting_never_takes_an_old_answer(sampled, whole, tmp_path, change) -> None:
    old, new = sampled(answers_dir=str(tmp_path)), sampled(answers_dir=str(tmp_path), **change)
    assert old._owner != new._owner
    prompt = generations(PROMPTS)[0]
    jobs = [lm._generation_job(prompt, _no_seeds(lm)) for lm in (old, new)]
    assert jobs[0].key != jobs[1].key


def _no_seeds(lm: LLaDALM) -> Any:
    from lm_eval_llada.engine.requests import RequestSeeds

    return RequestSeeds(lm.arguments.requests.seed)


def test_other_settings_compute_their_own_answers_into_the_same_folder(sampled, folder) -> None:
    changes = {"rope_scale": 4.0, "seed": 3}
    other = sampled(answers_dir=str(folder), **changes)
    found = asked(other)
    assert work(finished(other))[0] == 0
    assert found == asked(sampled(**changes))
    again = sampled(answers_dir=str(folder))
    asked(again)
    assert work(finished(again)) == (NUM_REQUESTS, 0), "the first run's answers are gone"


def test_another_version_of_the_package_takes_no_old_answer(sampled, folder, monkeypatch) -> None:
    monkeypatch.setattr(cache_keys, "__version__", "0.0.0+changed")
    lm = sampled(answers_dir=str(folder))
    asked(lm, 1)
    assert work(finished(lm))[0] == 0


@pytest.mark.parametrize("change", ["weights", "config", "tokenizer"])
def test_a_checkpoint_of_other_content_takes_no_old_answer(
    sampled, folder, random_checkpoint, tmp_path, change
) -> None:
    copy = Path(shutil.copytree(random_checkpoint, tmp_path / "copy"))
    moved = sampled(answers_dir=str(folder), pretrained=str(copy))
    asked(moved)
    assert work(finished(moved)) == (NUM_REQUESTS, 0), "a copy of the checkpoint is the checkpoint"
    if change == "weights":
        tensors = load_file(copy / "model.safetensors")
        tensors["model.transformer.ln_f.weight"][0] += 1e-3
        save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    else:
        name = "config.json" if change == "config" else "tokenizer_config.json"
        # As a hub revision would: the same values, written otherwise.
        (copy / name).write_text((copy / name).read_text() + "\n")
    changed = sampled(answers_dir=str(folder), pretrained=str(copy))
    asked(changed, 1)
    assert work(finished(changed))[0] == 0


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 1},
        {"batch_size": "auto", "max_batch_size": 3},
        {"device": "auto"},
        {"attn_implementation": "eager"},
    ],
)
def test_what_only_changes_the_speed_takes_the_old_answers(
    sampled, folder, expected, change
) -> None:
    lm = sampled(answers_dir=str(folder), **change)
    assert asked(lm) == expected
    assert work(finished(lm)) == (NUM_REQUESTS, 0)


def test_the_answer_of_a_torn_last_line_is_computed_again(
    sampled, folder, expected, caplog
) -> None:
    path = answers_file(folder)
    before = path.read_bytes()
    path.write_bytes(before[:-7])
    lm = sampled(answers_dir=str(folder))
    assert same(asked(lm), expected)
    assert work(finished(lm))[0] == NUM_REQUESTS - 1
    assert "an interrupted run left unfinished" in caplog.text
    assert path.read_bytes().count(b"\n") == before.count(b"\n")


def test_one_rank_takes_the_answers_of_two(sampled, folder, expected) -> None:
    path = answers_file(folder)
    header, *lines = path.read_bytes().splitlines(keepends=True)
    for rank in range(2):
        part = path.with_name(f"answers-{rank:05d}.jsonl")
        part.write_bytes(b"".join([header, *lines[rank::2]]))
    lm = sampled(answers_dir=str(folder))
    assert asked(lm) == expected
    assert work(finished(lm)) == (NUM_REQUESTS, 0)


@pytest.mark.parametrize("lost", ["cache", "answers", "half of each"])
def test_the_harness_cache_and_the_answers_stand_in_for_each_other(make, tmp_path, lost) -> None:
    expected = asked(make(batch_size=2))

    def run(cache: str, answers: str, num_each: int = len(PROMPTS)) -> tuple[Results, LLaDALM]:
        lm = make(batch_size=2, answers_dir=str(tmp_path / answers))
        caching = CachingLM(lm, str(tmp_path / cache))
        try:
            return asked(caching, num_each), finished(lm)
        finally:
            caching.dbdict.close()

    run("cache.db", "answers", 2 if lost == "half of each" else len(PROMPTS))
    found, lm = run(
        "other.db" if lost == "cache" else "cache.db",
        "other" if lost == "answers" else "answers",
    )
    assert same(found, expected)
    assert (work(lm)[1] == 0) == (lost != "half of each")


def interrupted_in_batch(sampled, folder: Path, number: int) -> None:
    """Run until the first text of the batch of this number, counted from 1, with 2 texts each."""
    lm = sampled(answers_dir=str(folder), batch_size=2)
    text_of, seen = lm._text.text_of, []

    def fail(ids: list[int], *args: Any, **kwargs: Any) -> str:
        seen.append(ids)
        if len(seen) > 2 * (number - 1):
            raise KeyboardInterrupt
        return text_of(ids, *args, **kwargs)

    lm._text.text_of = fail
    with pytest.raises(KeyboardInterrupt):
        lm.generate_until(generations(PROMPTS))
    finished(lm)


@pytest.mark.parametrize("number", [1, 2])
def test_a_crash_inside_a_batch_leaves_the_batches_before_it(
    sampled, expected, tmp_path, number
) -> None:
    interrupted_in_batch(sampled, tmp_path, number)
    lm = sampled(answers_dir=str(tmp_path))
    assert lm.generate_until(generations(PROMPTS)) == expected["texts"]
    assert work(finished(lm))[0] == 2 * (number - 1)


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize(("number", "word"), [("SIGTERM", "SIGTERM"), ("SIGINT", "Ctrl-C")])
def test_a_signal_ends_a_run_after_the_batch_and_the_next_goes_on(
    sampled, expected, tmp_path, monkeypatch, number, word
) -> None:
    monkeypatch.setattr(preemption, "_told", None)
    before = signal.getsignal(signal.SIGTERM)
    lm = sampled(answers_dir=str(tmp_path), batch_size=2)
    text_of = lm._text.text_of

    def told(*args: Any, **kwargs: Any) -> str:
        if not preemption.was_told():
            os.kill(os.getpid(), signal.Signals[number])
        return text_of(*args, **kwargs)

    lm._text.text_of = told
    preemption.watch()
    try:
        with pytest.raises(
            preemption.Preempted, match=f"stopped by {word} .* the same command goes on"
        ):
            lm.generate_until(generations(PROMPTS))
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    finished(lm)
    monkeypatch.setattr(preemption, "_told", None)
    rest = sampled(answers_dir=str(tmp_path))
    assert rest.generate_until(generations(PROMPTS)) == expected["texts"]
    assert work(finished(rest))[0] == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_process_ends_on_sigterm_while_its_parent_notes_it(monkeypatch) -> None:
    # Workers of the harness' bootstrap inherited the handler, noted the signal by which their pool
    # ends them, and waited on, and the run with them.
    monkeypatch.setattr(preemption, "_told", None)
    before = signal.getsignal(signal.SIGTERM)
    preemption.watch()
    try:
        waiting = multiprocessing.get_context("fork").Process(target=signal.pause)
        waiting.start()
        waiting.terminate()
        waiting.join(30)
        assert waiting.exitcode == -signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.was_told()
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_two_runs_at_once_on_one_folder_are_refused(sampled, folder) -> None:
    first = sampled(answers_dir=str(folder))
    first.generate_until(generations(PROMPTS))
    with pytest.raises(ValueError, match="Another run"):
        sampled(answers_dir=str(folder)).generate_until(generations(PROMPTS))
    finished(first)
