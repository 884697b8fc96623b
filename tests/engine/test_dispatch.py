"""Requests are dealt evenly, run once, and come back to where they were asked."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_llada.engine.dispatch import _shares, deal, redistribute
from lm_eval_llada.engine.jobs import Target
from lm_eval_llada.engine.ranks import Ranks, join_ranks, leave_ranks

costs = st.lists(st.floats(0, 1e12) | st.integers(0, 9), max_size=40)
counts = st.integers(1, 9)


def loads(dealt: list[list[int]], values: list[float]) -> list[float]:
    return [sum(values[i] for i in share) for share in dealt]


@given(costs, counts)
def test_every_index_is_dealt_once_and_shares_ascend(values, num_ranks) -> None:
    dealt = deal(values, num_ranks)
    assert len(dealt) == num_ranks
    assert sorted(i for share in dealt for i in share) == list(range(len(values)))
    for share in dealt:
        assert share == sorted(share, key=lambda i: (values[i], i))
    assert dealt == deal(list(values), num_ranks)


@given(costs, counts)
def test_no_rank_is_further_above_the_average_than_one_item(values, num_ranks) -> None:
    greatest = max(loads(deal(values, num_ranks), values))
    bound = sum(values) / num_ranks + max(values, default=0)
    assert greatest <= bound * (1 + 1e-12)


@given(costs, counts, st.randoms(use_true_random=False))
def test_loads_do_not_depend_on_the_order_of_requests(values, num_ranks, generator) -> None:
    shuffled = generator.sample(values, len(values))
    expected = loads(deal(values, num_ranks), values)
    assert loads(deal(shuffled, num_ranks), shuffled) == pytest.approx(expected)


@given(st.integers(0, 40), counts)
def test_equal_requests_are_dealt_in_turn(number, num_ranks) -> None:
    expected = [list(range(rank, number, num_ranks)) for rank in range(num_ranks)]
    assert deal([3.0] * number, num_ranks) == expected


def test_the_dearest_is_placed_first() -> None:
    assert deal([1, 1, 1, 1, 4], 2) == [[4], [0, 1, 2, 3]]
    assert deal([7, 6, 5, 4, 3], 2) == [[4, 3, 0], [2, 1]]


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_costs_are_finite_and_not_negative(value) -> None:
    with pytest.raises(ValueError, match="Each cost must be a number >= 0"):
        deal([1.0, value], 2)
    with pytest.raises(ValueError, match="num_ranks must be a whole number >= 1"):
        deal([1.0], 0)


# Each rank asks for these: rank 1 for nothing, rank 0 and 2 share keys, rank 2 repeats its last.
ASKED = [["a", "bb", "cccc"], [], ["bb", "dddddddd", "e", "e", "e"]]


def shout(ranks: Ranks, asked: list[str]) -> tuple[list[str], list[str]]:
    """What a rank ran, and what it was given back."""
    jobs = [
        Target(torch.tensor([len(text)]), torch.tensor([]), 0, text, len(text), text)
        for text in asked
    ]
    own, give_back = redistribute(ranks, jobs)
    results = {job.key: job.key.upper() * int(job.prefix) for job in own}
    return [job.key for job in own], give_back(results)


def check(outcomes: list[tuple[list[str], list[str]]], asked: list[list[str]]) -> None:
    for (_, answered), texts in zip(outcomes, asked, strict=True):
        assert answered == [text.upper() * len(text) for text in texts]
    ran = [text for own, _ in outcomes for text in own]
    assert sorted(ran) == sorted({text for texts in asked for text in texts})
    for own, _ in outcomes:
        assert own == sorted(own, key=len)


def test_one_rank_runs_each_distinct_request_once() -> None:
    asked = [text for texts in ASKED for text in texts]
    check([shout(Ranks(), asked)], [asked])


def run_rank(rank: int, world_size: int, tp: int | None, folder: Path, sender: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size))
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    ranks = join_ranks(tp)
    shouted, nothing = shout(ranks, ASKED[ranks.rank]), shout(ranks, [])
    gathered = [ranks.gather_object(rank, dst) for dst in range(ranks.world_size)]
    sender.send([shouted, nothing, gathered, ranks.rank, ranks.world_size])
    leave_ranks()


def outcomes_of(world_size: int, tp: int | None, folder: Path) -> list[list[Any]]:
    """What `run_rank` sends from each of some processes."""
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(world_size)]
    processes = [
        context.Process(target=run_rank, args=(rank, world_size, tp, folder, sender))
        for rank, (_, sender) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    try:
        assert all(receiver.poll(60) for receiver, _ in pipes), "a rank has not answered"
        return [receiver.recv() for receiver, _ in pipes]
    finally:
        for process in processes:
            process.join(5)
            process.kill()


@pytest.mark.skipif(os.name != "posix", reason="forks")
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_work_and_get_their_own_answers(tmp_path, world_size) -> None:
    outcomes = outcomes_of(world_size, None, tmp_path)
    shouted, nothing, gathered, places, _ = zip(*outcomes, strict=True)
    check(list(shouted), ASKED[:world_size])
    assert all(own for own, _ in shouted), "a rank had nothing to do"
    assert list(nothing) == [([], [])] * world_size
    assert places == tuple(range(world_size))
    for rank, found in enumerate(gathered):
        assert found == [[*places] if dst == rank else None for dst in places]


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_ranks_of_one_copy_do_the_same_work_and_copies_share_it(tmp_path) -> None:
    first, second, third, fourth = outcomes_of(4, 2, tmp_path)
    assert [outcome[3:] for outcome in (first, second)] == [[0, 2]] * 2
    assert [outcome[3:] for outcome in (third, fourth)] == [[1, 2]] * 2
    assert first[:2] == second[:2] and third[:2] == fourth[:2]
    check([first[0], third[0]], ASKED[:2])
    assert first[0][0] and third[0][0], "a copy had nothing to do"
    # Each rank exchanges with the one that has its place in the other copy.
    assert [first[2], second[2]] == [[[0, 2], None], [[1, 3], None]]
    assert [third[2], fourth[2]] == [[None, [0, 2]], [None, [1, 3]]]


def test_ranks_that_do_not_make_whole_copies_are_refused(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="tp=2 needs as many ranks or a multiple, but 3 run"):
        join_ranks(2)


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 100)), max_size=30), counts)
def test_requests_that_share_work_stay_on_one_rank(requests, num_ranks):
    table = [(f"key {i}", value, f"group {group}") for i, (group, value) in enumerate(requests)]
    tables = [table[rank::num_ranks] for rank in range(num_ranks)]
    shares, _ = _shares(tables)
    assert sorted(key for share in shares for key in share) == sorted(key for key, _, _ in table)
    rank_of = {key: rank for rank, share in enumerate(shares) for key in share}
    places = {(group, rank_of[key]) for key, _, group in table}
    assert len(places) == len({group for _, _, group in table})
